"""The service as it runs: uvicorn on loopback, over a lake that a recipe was run on."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from filelock import FileLock

from api.cli import main
from api.service.app import make_app
from api.service.environment import settle
from api.service.settings import Settings
from storage import keys
from storage.lake import Lake
from tests.recordings import write_robomimic

RECIPE = """
name: reach
source: {{uri: {source}, name: reach}}
score: [{{scorer: integrity}}, {{scorer: action_divergence}}]
select:
  - {{name: steady, method: filter, where: "operator = 'steady'"}}
  - {{name: anyone, method: random, budget: 4, seed: 3}}
mixture: {{entries: [{{selection: steady, weight: 3.0}}, {{selection: anyone, weigher: uniform}}]}}
"""


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A lake of 12 demonstrations with a camera, scores, selections and a mixture; tests only read it. Processes that
    run tests side by side share it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(pytestconfig, "workerinput") else base) / "served"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            folder.mkdir()
            source = write_robomimic(folder / "reach.hdf5", episodes=12, cameras=True)
            (folder / "recipe.yaml").write_text(RECIPE.format(source=source))
            lake = str(folder / "lake")
            with pytest.raises(SystemExit) as ended:
                main(["curate", str(folder / "recipe.yaml"), "--lake", lake, "--engine", "plain", "--json"])
                raise SystemExit(0)
            assert not ended.value.code
            (folder / "done").touch()
    return folder / "lake"


@dataclass
class Service:
    """A running service: its address, its lake, and a token of each scope."""

    url: str
    lake: Lake
    tokens: dict[str, str]
    app: Any

    def client(self, scope: str | None = "read", **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.tokens[scope]}"} if scope else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)


@contextmanager
def serving(lake: Path, **settings: Any) -> Iterator[Service]:
    """The service over ``lake`` on a free port, with a key of each scope."""
    settle()
    held = Lake.open(str(lake))
    tokens = {scope: keys.make(held, f"{scope}er", scope)[1] for scope in keys.SCOPES}
    folder = str(lake.parent / "runs")
    app = make_app(
        Settings(lake=str(lake), folder=folder, **{"refresh_s": 0.1, "rate": 1e6, "burst": 1000, **settings})
    )
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    service = Service(f"http://127.0.0.1:{port}", held, tokens, app)
    try:
        for _ in range(1000):  # asked inside: a request would be paced
            if server.started and app.state.live.age_s < 30:
                break
            threading.Event().wait(0.02)
        yield service
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def served(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service over a copy of the curated lake that tests only read, as a process of its own: it lives while other
    tests set variables, which no thread beside them survives for long that opens tables (``api.service.environment``).
    """
    folder = tmp_path_factory.mktemp("read")
    lake = Lake.open(str(shutil.copytree(curated, folder / "lake")))
    tokens = {scope: keys.make(lake, f"{scope}er", scope)[1] for scope in keys.SCOPES}
    command = ["serve", "--lake", lake.uri, "--port", "0", "--keys", "--rate", "1e6", "--no-schedules"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", *command], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stderr
    said = process.stderr.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+", said)
    assert url, said
    threading.Thread(target=process.stderr.read, daemon=True).start()
    try:
        while httpx.get(f"{url[0]}/v1/ready").status_code != 200:
            assert process.poll() is None
            time.sleep(0.05)
        yield Service(url[0], lake, tokens, None)
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.fixture
def writable(curated: Path, tmp_path: Path) -> Iterator[Service]:
    """The service over a lake of the test's own."""
    shutil.copytree(curated, tmp_path / "lake")
    with serving(tmp_path / "lake") as service:
        yield service


@pytest.fixture
def serve(curated: Path, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start the service over a lake of the test's own with other settings."""
    from contextlib import ExitStack

    shutil.copytree(curated, tmp_path / "lake")
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving(tmp_path / "lake", **settings))
