"""Take the README's pictures of the console: ``python examples/screenshots.py LAKE [FOLDER]``.

Serves the lake on loopback, drives Debian's headless Chromium through Playwright (both are in the extra ``dev`` or from
the system's packages) and leaves PNGs of at most 256 colours in FOLDER, ``docs`` by default. The README's are of the
lake that ``examples/pusht.yaml`` makes of the human PushT recordings, scored by ``composite`` and ``consistency`` too.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, TimeoutError, sync_playwright

READY_TRIES = 600
SIZE = {"width": 1180, "height": 760}


@contextmanager
def served(lake: str) -> Iterator[str]:
    """The address of a service over ``lake``, for as long as it is needed."""
    command = [sys.executable, "-P", "-m", "api.cli", "serve", "--lake", lake, "--port", "0", "--no-schedules"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"at (http://\S+)/v1", line):
                until_ready(found[1])
                yield found[1]
                return
        raise SystemExit("the service did not start")
    finally:
        process.terminate()
        process.wait()


def until_ready(address: str) -> None:
    """Return once the service has read its lake: it answers 503 until then."""
    for _ in range(READY_TRIES):
        try:
            urllib.request.urlopen(f"{address}/v1/ready").close()
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.2)
        else:
            return
    raise SystemExit("the service did not get ready")


def episode(page: Page) -> None:
    """An episode, a little way in."""
    page.get_by_role("table", name="Episodes").locator("tbody tr").nth(1).click()
    page.get_by_role("button", name="Play").click()
    page.wait_for_timeout(2500)
    with suppress(TimeoutError):  # a short one has ended by itself
        page.get_by_role("button", name="Pause").click(timeout=2000)


def brush(page: Page) -> None:
    """Two brushes over histograms."""
    for number, (low, high) in ((0, (0.0, 0.4)), (1, (0.5, 1.0))):
        box = page.locator(".histogram svg").nth(number).bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * low + 1, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * high - 1, box["y"] + 20, steps=5)
        page.mouse.up()
        page.wait_for_timeout(1500)


def lasso(page: Page) -> None:
    """Some of the map's episodes, ringed."""
    box = page.locator("canvas").bounding_box()
    assert box is not None
    corners = [(0.24, 0.55), (0.44, 0.5), (0.46, 0.72), (0.36, 0.9), (0.25, 0.8)]
    places = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=6)
    page.mouse.up()


def queue(page: Page) -> None:
    """The review queue, its first flag playing."""
    page.get_by_role("button", name=re.compile("Pause|Play")).wait_for()
    page.wait_for_timeout(1500)


PICTURES: dict[str, tuple[str, str, Callable[[Page], None]]] = {
    "episode": ("episodes?order=-{score}", "table[aria-label=Episodes] tbody tr", episode),
    "scores": ("scores", ".histogram svg", brush),
    "map": ("map?colour={score}", ".legend", lasso),
    "review": ("review", "table[aria-label=Reasons]", queue),
}
"""By name: the view, of a score where it has one, what shows that it is there, and what a person does in it."""


def main(lake: str, folder: Path) -> None:
    """Take every picture and say how large it is."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("there is no chromium here: apt-get install chromium")
    folder.mkdir(parents=True, exist_ok=True)
    with served(lake) as address, sync_playwright() as driver:
        with urllib.request.urlopen(f"{address}/v1/overview") as answer:
            scores = [each["name"] for each in json.load(answer)["scores"]]
        score = "composite" if "composite" in scores else scores[0]
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.set_default_timeout(90_000)  # a service that has just begun imports its scorers first
        for name, (view, there, act) in PICTURES.items():
            page.goto(f"{address}/console/#/{view.format(score=score)}")
            page.reload()
            page.locator(there).first.wait_for()
            act(page)
            page.wait_for_timeout(500)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(256)
            picture.save(folder / f"console-{name}.png", optimize=True)
            print(f"console-{name}.png {(folder / f'console-{name}.png').stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "docs"))
