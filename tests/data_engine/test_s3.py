"""The S3 client over real HTTP to a server that fails."""

from __future__ import annotations

import contextlib
import itertools
import random
from pathlib import Path

import pyarrow.fs
import pytest

from data_engine.errors import EngineError
from data_engine.fs import filesystem, options
from data_engine.outages import Outage, reaching
from tests.faulty_s3 import Fault, FaultyS3

DATA = random.Random(0).randbytes(300_000)
KINDS = ("internal", "slow_down", "reset", "lost", "truncated", "stalled")


@pytest.fixture
def stored(faulty: FaultyS3, s3: str):
    fs, root = filesystem(s3)
    fs.pipe_file(f"{root}/a.bin", DATA)
    return fs, root


@pytest.mark.parametrize("kind", KINDS)
def test_a_failing_request_is_made_again(stored, faulty, kind, tmp_path):
    fs, root = stored
    faulty.plan(Fault(kind, times=2, method="GET"))
    assert fs.cat_file(f"{root}/a.bin") == DATA
    faulty.plan(Fault(kind, times=1, method="GET"))
    fs.get_file(f"{root}/a.bin", str(tmp_path / "a"))
    assert Path(tmp_path / "a").read_bytes() == DATA
    faulty.plan(Fault(kind, times=1, method="GET"))
    with fs.open(f"{root}/a.bin", "rb") as file:
        file.seek(1000)
        assert file.read(1000) == DATA[1000:2000]
    assert faulty.spoilt == 1
    if kind not in ("truncated", "stalled"):  # these have no body to break off
        faulty.plan(Fault(kind, method="PUT"))
        fs.pipe_file(f"{root}/b.bin", DATA)
        faulty.plan(Fault(kind, method="HEAD"))
        assert fs.info(f"{root}/b.bin")["size"] == len(DATA)
        assert faulty.spoilt == 1


def test_a_listing_of_several_pages_survives_a_fault_in_each(stored, faulty):
    fs, root = stored
    for index in range(7):
        fs.pipe_file(f"{root}/many/{index}", b"x")
    kinds = itertools.cycle(("internal", "truncated", "reset"))
    faulty.plan(*(Fault(kind, path="list-type=2") for kind, _ in zip(kinds, range(3), strict=False)))
    found = fs.find(f"{root}/many")
    assert [path.rpartition("/")[2] for path in found] == [str(index) for index in range(7)]
    assert faulty.spoilt == 3


@pytest.mark.parametrize("kind", ["internal", "reset", "truncated"])
def test_what_is_given_up_on_is_an_outage(stored, faulty, monkeypatch, kind):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    fs, root = filesystem(f"s3://{stored[1]}")
    faulty.plan(Fault(kind, path=r"a\.bin", times=None, method="GET"))
    with pytest.raises(Outage):
        fs.cat_file(f"{root}/a.bin")
    with (
        pytest.raises(EngineError, match="a store did not answer while the set was read") as caught,
        reaching("the set"),
        contextlib.suppress(OSError),
    ):  # as a container library would, that takes it for a damaged file
        fs.open(f"{root}/a.bin", "rb").read()
    assert caught.value.code == "unreachable"


def test_what_is_not_there_is_no_outage(stored):
    fs, root = stored
    with reaching("the set"):
        assert not fs.exists(f"{root}/none.bin")
        with pytest.raises(FileNotFoundError):
            fs.cat_file(f"{root}/none.bin")


def test_credentials_come_from_a_profile(stored, faulty, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id=AKIDOTHER\naws_secret_access_key=x\n"
        "[lab]\naws_access_key_id=AKIDLAB\naws_secret_access_key=y\n"
    )
    (tmp_path / "config").write_text("[profile lab]\nregion=eu-west-3\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    uri = f"s3://{stored[1]}"
    made = options(uri)
    assert made.delta["AWS_ACCESS_KEY_ID"] == made.polars["AWS_ACCESS_KEY_ID"] == "AKIDLAB"
    assert made.delta["AWS_REGION"] == made.pyarrow["region"] == "eu-west-3"
    fs, root = filesystem(uri)
    faulty.requests.clear()
    assert fs.cat_file(f"{root}/a.bin") == DATA
    pyarrow.fs.S3FileSystem(**made.pyarrow).get_file_info(f"{root}/a.bin")
    assert {key for _, _, key in faulty.requests} == {"AKIDLAB"}
