"""The script of the README's pictures takes them, on a small lake."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.api.service.conftest import curated

__all__ = ["curated"]

pytest.importorskip("playwright.sync_api", reason="the browser's driver, playwright, is not installed")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    not (shutil.which("chromium") or shutil.which("chromium-browser")), reason="there is no chromium here"
)
def test_every_picture_of_the_readme_is_taken_and_is_small(curated, tmp_path):
    shutil.copytree(curated, tmp_path / "lake")
    runpy.run_path(str(ROOT / "examples/screenshots.py"))["main"](str(tmp_path / "lake"), tmp_path / "pictures")
    taken = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert taken == {path.name for path in (ROOT / "docs").glob("console-*.png")}
    readme = (ROOT / "README.md").read_text()
    for name in taken:
        assert f"docs/{name}" in readme
        assert (ROOT / "docs" / name).stat().st_size < 150_000
        colours = Image.open(tmp_path / "pictures" / name).convert("RGB").getcolors(1 << 20)
        assert colours is not None and len(colours) > 20  # something is in it
