from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save

from data_engine.errors import RequestError, SourceError
from storage.check import check
from storage.checkpoints import describe_checkpoint, drop_checkpoints, get_checkpoint, list_checkpoints, put_checkpoint
from storage.lake import Lake


def checkpoint(mixture: str) -> bytes:
    return save({"weight": np.ones(3, np.float32)}, metadata={"policy": json.dumps({"mixture_id": mixture})})


def test_it_comes_back_by_its_hash(lake_uri):
    lake = Lake.open(lake_uri, create=True)
    data = checkpoint("one")
    name = put_checkpoint(lake, data)
    assert name == hashlib.sha256(data).hexdigest() == put_checkpoint(lake, data)
    assert get_checkpoint(lake, name) == data
    assert list_checkpoints(lake) == [name]
    assert describe_checkpoint(lake, name) == {"mixture_id": "one"}


def test_a_damaged_one_is_said(tmp_path):
    lake = Lake.open(str(tmp_path), create=True)
    name = put_checkpoint(lake, checkpoint("one"))
    lake.write_bytes(f"checkpoints/{name}.safetensors", b"\xff" * 40)
    with pytest.raises(SourceError, match="another hash"):
        get_checkpoint(lake, name)
    with pytest.raises(SourceError, match="is damaged"):
        describe_checkpoint(lake, name)


@pytest.mark.parametrize("name", ["../lake", "ab", "0" * 63 + "/"])
def test_no_name_leaves_the_folder(tmp_path, name):
    with pytest.raises(RequestError, match="is no checkpoint"):
        get_checkpoint(Lake.open(str(tmp_path), create=True), name)


def test_those_of_a_mixture_can_be_dropped(tmp_path):
    lake = Lake.open(str(tmp_path), create=True)
    one, two, unreadable = (put_checkpoint(lake, data) for data in (checkpoint("one"), checkpoint("two"), b"none"))
    assert drop_checkpoints(lake, []) == []
    assert drop_checkpoints(lake, ["one"]) == sorted([one, unreadable])
    assert list_checkpoints(lake) == [two]
    with pytest.raises(RequestError, match="evaluate again"):
        get_checkpoint(lake, one)


def test_check_finds_one_whose_bytes_changed(tmp_path):
    lake = Lake.open(str(tmp_path), create=True)
    name = put_checkpoint(lake, checkpoint("one"))
    assert check(lake) == []
    lake.write_bytes(f"checkpoints/{name}.safetensors", checkpoint("two"))
    (problem,) = check(lake)
    assert problem["path"] == f"checkpoints/{name}.safetensors"
    assert "do not have the hash" in problem["what"]
