"""Shared fixtures: real recordings, skipped with a reason where a clone has none, and a real S3 server over HTTP."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import urllib.request
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.faulty_s3 import FaultyS3, faulty_s3
from tests.scheduling import Scheduling

# the same examples in every run; HYPOTHESIS_PROFILE=search looks for new ones
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("search", derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_configure(config: pytest.Config) -> None:
    """Where Python was told to keep no bytecode, keep it in the tests' cache: every process that a test starts would
    compile torch and Prefect anew, 3 s of CPU each.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", "") and config.cache is not None:
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real recordings, ../shared/data, is not here")
    return SHARED


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 server (moto) that runs for the session."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


_BUCKETS = count()


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """``s3://<a fresh bucket>`` over HTTP, with credentials, endpoint and a download cache in the environment."""
    bucket = f"bucket{next(_BUCKETS)}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_endpoint}/{bucket}", method="PUT"))
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "DATA_ENGINE_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    return f"s3://{bucket}"


@pytest.fixture
def faulty(s3: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """The way to the S3 server, which can be told to fail; ``s3`` goes through it. A stall is waited out one second."""
    with faulty_s3(s3_endpoint) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setattr("data_engine.fs.SILENCE_S", 1)
        yield server


@pytest.fixture(params=["local", "s3"])
def lake_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a test puts its lake: once a local folder, once a prefix on the S3 server."""
    return str(tmp_path / "lake") if request.param == "local" else request.getfixturevalue("s3") + "/lake"


@pytest.fixture(scope="session")
def eyes(pytestconfig: pytest.Config) -> Path:
    """The checkpoint of a small open_clip model that has learned the scenes of ``tests.scenes``; trained once, kept."""
    pytest.importorskip("open_clip")
    from filelock import FileLock

    from tests import scenes

    made_by = hashlib.sha256(Path(scenes.__file__).read_bytes()).hexdigest()[:16]
    folder = Path(pytestconfig.cache.mkdir("eyes")) / made_by
    with FileLock(f"{folder}.lock"):
        if not (folder / "clip.pt").exists():
            scenes.train(folder)
    return folder / "clip.pt"
