from __future__ import annotations

import pyarrow as pa
import pytest

from data_engine.errors import RequestError, SourceError
from data_engine.model import SCORES
from storage import ledger
from storage.lake import Lake


def test_a_shard_is_done_when_it_says_so(lake: Lake) -> None:
    assert lake.done("abc") is None
    lake.mark_done("abc", {"file": {"path": "x"}, "n": 1})
    lake.mark_done("abc", {"file": {"path": "x"}, "n": 1})
    assert lake.done("abc") == {"file": {"path": "x"}, "n": 1}


def test_rows_wait_for_their_commit_with_their_types(lake: Lake) -> None:
    rows = pa.Table.from_pylist([{"unit_id": "e", "value": None, "step_values": [0.5, None]}], schema=SCORES)
    lake.write_pending("abc", rows)
    assert lake.read_pending("abc").equals(rows)
    name = rows.column_names[-1]
    assert lake.read_pending("abc", [name]).equals(rows.select([name]))
    with pytest.raises(SourceError, match="missing"):
        lake.read_pending("other")


def test_forgetting_a_shard_makes_it_run_again(lake: Lake) -> None:
    lake.write_pending("abc", pa.table({"a": [1]}))
    lake.mark_done("abc", {})
    ledger.forget(lake, "abc")
    assert lake.done("abc") is None and lake.list("_pending") == []


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x"])
def test_a_fingerprint_cannot_be_a_path(local_lake: Lake, name: str) -> None:
    with pytest.raises(RequestError, match="cannot name a shard"):
        local_lake.mark_done(name, {})
