"""The whole wheel carries what is no Python: the console's pages, and the licences of what others wrote of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
UV = shutil.which("uv", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}")


@pytest.mark.skipif(UV is None, reason="uv is not installed")
def test_the_console_goes_with_the_wheel(tmp_path):
    subprocess.run([UV, "build", "-q", "--wheel", "--out-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("data_engine-*.whl")
    held = {name: zipfile.ZipFile(wheel).read(name) for name in zipfile.ZipFile(wheel).namelist() if "console" in name}
    pages = [path for path in (ROOT / "api/console/static").rglob("*") if path.is_file()]
    assert len(pages) > 15
    for path in pages:
        assert held[str(path.relative_to(ROOT))] == path.read_bytes()
    assert "api/console/static/vendor/uplot/LICENSE" in held
