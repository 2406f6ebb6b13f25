from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine.errors import EngineError, RequestError
from data_engine.model import EMBEDDINGS, TABLES
from storage.lake import Lake
from storage.tables import GROUP_ROWS

ROWS = pa.schema([("a", pa.int32()), ("v", pa.list_(pa.float32())), ("observation.state", pa.string())])


def _rows(*values: int) -> pa.Table:
    return pa.table(
        {"a": values, "v": [[v / 3] for v in values], "observation.state": ["x"] * len(values)}, schema=ROWS
    )


@pytest.mark.parametrize("name", sorted(TABLES))
def test_an_absent_table_scans_as_empty_with_its_columns(local_lake: Lake, name: str) -> None:
    frame = local_lake.scan(name).collect()
    assert frame.columns == TABLES[name].names and len(frame) == 0
    assert local_lake.version(name) is None and not local_lake.exists_table(name) and local_lake.files(name) == []


def test_every_contract_schema_survives_the_table(local_lake: Lake) -> None:
    for name, schema in TABLES.items() | {("embeddings/trajectory", EMBEDDINGS)}:
        local_lake.create_table(name, schema)
        local_lake.create_table(name, schema)
        assert local_lake.schema(name) == schema
        assert local_lake.scan(name).collect().schema == pl.DataFrame(schema.empty_table()).schema
    assert local_lake.tables() == sorted([*TABLES, "embeddings/trajectory"])
    assert local_lake.tables("embeddings/") == ["embeddings/trajectory"]


def test_files_become_rows_at_the_commit_and_not_before(lake: Lake) -> None:
    lake.create_table("steps/set-1", ROWS)
    file = lake.write_file("steps/set-1", "shard", iter([_rows(1, 2), _rows(3)]))
    assert file == lake.write_file("steps/set-1", "shard", [_rows(1, 2), _rows(3)], ROWS)
    assert file.rows == 3 and lake.sha256(file.path) == file.sha256 and lake.size(file.path) == file.bytes
    assert file.path == f"tables/steps/set-1/shard-{file.sha256}.parquet"
    assert len(lake.scan("steps/set-1").collect()) == 0
    assert lake.commit("steps/set-1", [file], transaction="t", run_id="r", config_hash="c") == 1
    assert lake.files("steps/set-1") == [file]
    frame = lake.scan("steps/set-1").filter(pl.col("a") > 1).sort("a").collect()
    assert frame["a"].to_list() == [2, 3] and frame["v"].dtype == pl.List(pl.Float32)


def test_an_older_version_stays_readable(lake: Lake) -> None:
    for number in range(12 if lake.is_local else 4):
        lake.append("x", _rows(number), transaction=str(number))
    assert len(lake.scan("x", version=3).collect()) == 3
    assert len(lake.files("x", version=0)) == 0
    with pytest.raises(RequestError, match="no version 99"):
        lake.scan("x", version=99)


def test_a_commit_carries_run_configuration_and_transaction(local_lake: Lake) -> None:
    local_lake.append("x", _rows(1), transaction="t1", run_id="run_7", config_hash="abc")
    log = local_lake.read_bytes("tables/x/_delta_log/00000000000000000001.json").splitlines()
    actions = {key: value for line in log for key, value in json.loads(line).items()}
    info = actions["commitInfo"]
    assert (info["run_id"], info["config_hash"], info["transaction"]) == ("run_7", "abc", "t1")
    assert actions["txn"]["appId"] == "t1"


def test_a_file_that_is_not_there_is_not_committed(lake: Lake) -> None:
    lake.create_table("x", ROWS)
    file = lake.write_file("x", "k", _rows(1))
    with pytest.raises(EngineError, match="not 1"):
        lake.commit("x", [dataclasses.replace(file, bytes=1)], transaction="t")
    with pytest.raises(EngineError, match="missing"):
        lake.commit("x", [dataclasses.replace(file, path="tables/x/none.parquet")], transaction="t")
    lake.create_table("y", ROWS)
    with pytest.raises(EngineError, match="cannot commit"):
        lake.commit("y", [file], transaction="t")
    assert lake.version("x") == 0 and lake.version("y") == 0


def test_rows_must_fit_the_schema(local_lake: Lake) -> None:
    local_lake.create_table("x", ROWS)
    with pytest.raises(RequestError, match="differ in: v"):
        local_lake.write_file("x", "k", _rows(1).drop_columns("v"))
    wrong = _rows(1).set_column(0, "a", pa.array([2**40]))
    with pytest.raises(RequestError, match="do not fit"):
        local_lake.write_file("x", "k", wrong)
    precise = _rows(1).set_column(1, "v", pa.array([[0.1]], pa.list_(pa.float64())))
    with pytest.raises(RequestError, match="v would lose precision"):
        local_lake.write_file("x", "k", precise)
    with pytest.raises(RequestError, match="no column 'verbb'"):
        local_lake.append_rows("runs", [{"verbb": "score"}], transaction="t")
    assert not [path for path in local_lake.list("tables/x") if path.endswith(".parquet")]


@pytest.mark.parametrize("name", ["../x", "steps/../x", "", "a/b/c", "a b", ".x"])
def test_a_name_that_is_none_is_refused(local_lake: Lake, name: str) -> None:
    with pytest.raises(RequestError):
        local_lake.create_table(name, ROWS)
    with pytest.raises(RequestError):
        local_lake.write_file("x", name or "/", _rows(1), ROWS)


def test_an_unknown_table_is_a_wrong_request(local_lake: Lake) -> None:
    with pytest.raises(RequestError, match="no table 'steps/none'"):
        local_lake.scan("steps/none")


def test_rows_from_polars_and_fixed_size_lists_fit(local_lake: Lake) -> None:
    local_lake.create_table("x", ROWS)
    local_lake.append("x", pl.DataFrame(_rows(1, 2)).to_arrow(), transaction="polars")
    fixed = _rows(3).set_column(1, "v", pa.array([[1.0]], pa.list_(pa.float32(), 1)))
    local_lake.append("x", fixed, transaction="fixed")
    assert sorted(local_lake.scan("x").collect()["a"]) == [1, 2, 3]


def test_writing_again_heals_a_damaged_file(lake: Lake) -> None:
    lake.append("x", _rows(1), transaction="t")
    (file,) = lake.files("x")
    lake.write_bytes(file.path, b"?" * file.bytes)
    lake.write_file("x", file.path.split("/")[-1].split("-")[0], _rows(1))
    assert lake.sha256(file.path) == file.sha256


def test_row_groups_are_bounded_and_follow_the_stream(local_lake: Lake) -> None:
    local_lake.create_table("x", ROWS)
    file = local_lake.write_file("x", "k", iter([_rows(*range(10)), _rows(*range(GROUP_ROWS + 5))]))
    metadata = pq.ParquetFile(local_lake.local(file.path)).metadata
    assert [metadata.row_group(i).num_rows for i in range(3)] == [10, GROUP_ROWS, 5]


def test_what_breaks_off_leaves_no_file_behind(local_lake: Lake) -> None:
    local_lake.create_table("x", ROWS)
    wrong = _rows(1).drop_columns("v")
    for parts in ((_rows(*range(100)) if number < 20 else wrong for number in range(30)), iter([_rows(1), wrong])):
        with pytest.raises(RequestError, match="differ in: v"):
            local_lake.write_file("x", "k", parts)
    assert [path for path in local_lake.list("tables/x") if path.endswith(".parquet")] == []


def test_no_rows_make_the_table_and_record_the_transaction(lake: Lake) -> None:
    lake.append_rows("quarantine", [], transaction="t")
    assert lake.exists_table("quarantine") and lake.files("quarantine") == [] and lake.committed("quarantine", "t")


def _less(value: int) -> Callable[[pa.Table], pa.Table]:
    """Drops the rows where ``a`` is ``value``."""

    def change(table: pa.Table) -> pa.Table:
        keep = [a != value for a in table["a"].to_pylist()]
        return table if all(keep) else table.filter(pa.array(keep))

    return change


def test_a_rewrite_touches_only_the_files_that_change(lake: Lake) -> None:
    for number in range(3):
        lake.append("x", _rows(number, number + 10), transaction=str(number))
    before = lake.files("x")
    assert lake.rewrite("x", _less(99), why="test") == 0 and lake.version("x") == 3
    assert lake.rewrite("x", _less(11), why="test") == 1
    after = lake.files("x")
    assert len(set(before) & set(after)) == 2 and sorted(lake.scan("x").collect()["a"]) == [0, 1, 2, 10, 12]
    assert lake.retired("x") == [next(file.path for file in before if file not in after)]
    assert lake.committed("x", "1")  # what was written before stays known
    assert lake.rewrite("x", _less(11), why="test") == 0


def test_a_file_without_rows_leaves_the_table(local_lake: Lake) -> None:
    local_lake.append("x", _rows(1), transaction="t")
    (file,) = local_lake.files("x")
    assert local_lake.rewrite("x", _less(1), why="test") == 1
    assert local_lake.files("x") == [] and len(local_lake.scan("x").collect()) == 0
    assert local_lake.retired("x") == [path for path in local_lake.list("tables/x") if path.endswith(".parquet")]
    assert local_lake.retired("x") == [file.path] and local_lake.rewrite("none", _less(1), why="test") == 0


def test_racing_rewrites_and_appends_lose_nothing(local_lake: Lake) -> None:
    for number in range(4):
        local_lake.append("x", _rows(number, number + 100), transaction=f"start {number}")
    work = [lambda n=n: Lake(local_lake.uri).rewrite("x", _less(n + 100), why="test") for n in range(4)]
    work += [lambda n=n: Lake(local_lake.uri).append("x", _rows(n + 50), transaction=f"more {n}") for n in range(8)]
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(item) for item in work]:
            done.result()
    assert sorted(local_lake.scan("x").collect()["a"]) == [*range(4), *range(50, 58)]
