from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.canonical import canonical_json
from data_engine.errors import SourceError
from data_engine.model import EMBEDDINGS, SCORES
from storage.check import fingerprint
from storage.fingerprint import steps_digest
from storage.lake import Lake

_COUNT = itertools.count()


def _lake(folder: Path, run_id: str, filler, shards: list[list[str]], seed: int = 0) -> Lake:
    lake = Lake.open(str(folder / f"lake{next(_COUNT)}"), create=True)
    fill = filler(lake, run_id)
    fill.dataset()
    for keys in shards:
        fill.shard(keys, seed=seed)
    return lake


def _episodes_only(lake: Lake) -> str:
    """Receipts tell of shards here: leave them out where shards differ."""
    import shutil

    shutil.rmtree(Path(lake.root, "tables/receipts"))
    return fingerprint(lake)


def test_it_is_the_same_whatever_the_shards_order_run_and_orphans(tmp_path: Path, filler) -> None:
    one = _lake(tmp_path, "run1", filler, [["a", "bb", "ccc"]])
    two = _lake(tmp_path, "run2", filler, [["ccc"], ["bb"], ["a"]])
    fill = filler(two)
    two.write_file("steps/arms", "orphan", fill.steps("z", 3))
    two.mark_done("shard", {})
    two.append_rows("runs", [{"run_id": "run2"}], transaction="run")
    two.append_rows("scores", [], transaction="nothing")
    assert _episodes_only(one) == _episodes_only(two)


def test_a_lake_on_s3_has_the_fingerprint_of_one_on_a_folder(tmp_path: Path, s3: str, filler) -> None:
    prints = set()
    for uri in (str(tmp_path / "lake"), f"{s3}/lake"):
        lake = Lake.open(uri, create=True)
        filler(lake, uri).dataset()
        filler(lake, uri).shard(["a", "bb"])
        prints.add(fingerprint(lake))
    assert len(prints) == 1


def test_every_difference_shows(tmp_path: Path, filler) -> None:
    plain = _lake(tmp_path, "r", filler, [["a", "bb"]])
    prints = [fingerprint(plain), fingerprint(_lake(tmp_path, "r", filler, [["a", "bb"]], seed=1))]
    prints.append(fingerprint(_lake(tmp_path, "r", filler, [["a", "bc"]])))
    row = {"unit_id": "e", "scorer": "s", "metric": "m", "value": 0.5, "step_values": [0.5, None]}
    for change in ({}, {"value": 0.25}, {"value": None}, {"step_values": [0.5, 0.0]}, {"step_values": None}):
        plain.append("scores", pa.Table.from_pylist([row | change], schema=SCORES), transaction=canonical_json(change))
        prints.append(fingerprint(plain))
    plain.append("scores", pa.Table.from_pylist([row], schema=SCORES), transaction="doubled")
    prints.append(fingerprint(plain))
    vector = pa.Table.from_pylist([{"episode_id": "e", "vector": [1.0, 2.0]}], schema=EMBEDDINGS)
    plain.append("embeddings/trajectory", vector, transaction="v")
    prints.append(fingerprint(plain))
    assert len(set(prints)) == len(prints)
    plain.append("embeddings/trajectory", vector.set_column(9, "run_id", pa.array(["other"])), transaction="v")
    assert fingerprint(plain) == prints[-1]


def test_a_damaged_lake_has_none(tmp_path: Path, filler) -> None:
    for name in ("scores", "episodes", "steps/arms"):
        lake = _lake(tmp_path, "r", filler, [["a"]])
        lake.append_rows("scores", [{"value": 1.0}], transaction="t")
        path = Path(lake.root, lake.files(name)[0].path)
        path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(SourceError, match=r"damaged|cannot be read"):
            fingerprint(lake)


def test_versions_and_durations_inside_json_are_left_out(tmp_path: Path) -> None:
    prints = []
    for versions in (3, 4):
        lake = Lake.open(str(tmp_path / f"v{versions}"), create=True)
        inputs = canonical_json({"seed": 1, "versions": {"episodes": versions}, "deep": [{"seconds": versions}]})
        lake.append_rows("selections", [{"name": "s", "inputs": inputs}], transaction="t")
        prints.append(fingerprint(lake))
    assert prints[0] == prints[1]


values = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.floats(width=32)), max_size=4))


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(values, max_size=8), cut=st.integers(0, 8), lead=st.integers(0, 3))
def test_a_steps_digest_sees_values_and_not_their_layout(rows: list, cut: int, lead: int) -> None:
    kind = pa.list_(pa.float32())
    whole = pa.table({"x": pa.array(rows, kind), "s": pa.array([str(row) for row in rows])})
    padded = pa.table({"s": ["?"] * lead + [str(row) for row in rows], "x": pa.array([[9.0]] * lead + rows, kind)})
    chunked = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    assert steps_digest(whole) == steps_digest(chunked) == steps_digest(padded.slice(lead))
    for at, row in enumerate(rows):
        changed = [*rows[:at], [] if row is None else None, *rows[at + 1 :]]
        assert steps_digest(whole.set_column(0, "x", pa.array(changed, kind))) != steps_digest(whole)


def test_a_null_is_no_zero() -> None:
    kinds = [pa.int64(), pa.float64(), pa.bool_(), pa.string(), pa.binary(), pa.decimal128(20, 0)]
    for kind in kinds:
        zero = pa.array([0]).cast(pa.string()).cast(kind) if kind != pa.decimal128(20, 0) else pa.array([0]).cast(kind)
        assert steps_digest(pa.table({"x": zero})) != steps_digest(pa.table({"x": pa.nulls(1, kind)}))
    nested = pa.struct([("a", pa.int8())])
    assert steps_digest(pa.table({"x": pa.array([None], nested)})) != steps_digest(
        pa.table({"x": pa.array([{"a": None}], nested)})
    )
    assert steps_digest(pa.table({"x": np.zeros(2)})) != steps_digest(pa.table({"x": np.zeros(3)}))
