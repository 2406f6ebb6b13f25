from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from data_engine.formats import Source, SourceEpisode, Unreadable
from data_engine.model import ACTION, STATE, TIMESTAMP, Dataset, Feature
from data_engine.steps import content_hash
from flows import ingest_runs
from flows.ingest_cameras import Cameras
from flows.ingest_runs import RunWriter, grouped

FEATURES = (Feature(name=STATE, dtype="float32", shape=(2,)), Feature(name=ACTION, dtype="float32"))
DATASET = Dataset(name="reach", fps=10, features=FEATURES, origin="here", format="robomimic")


def episode(key: str, n: int = 4, **columns) -> SourceEpisode:
    state = np.arange(2.0 * n, dtype=np.float32)
    steps = {STATE: pa.FixedSizeListArray.from_arrays(state, 2), ACTION: pa.array(state[:n]), **columns}
    return SourceEpisode(key, pa.table(steps))


@pytest.fixture
def writer(lake, tmp_path):
    with Cameras(lake, Source(str(tmp_path)), DATASET.fps) as cameras:
        yield RunWriter(cameras, DATASET)


def parts(stored) -> dict[str, tuple[pa.Table, dict]]:
    """Each stored episode's steps and row, by key."""
    found = {}
    for run in stored:
        at = 0
        for one, row in zip(run.episodes, run.rows, strict=True):
            found[one.key] = run.steps.slice(at, row["n_steps"]), row
            at += row["n_steps"]
        assert at == len(run.steps)
    return found


def test_episodes_of_a_run_are_stored_as_if_each_were_alone(writer):
    clock = {TIMESTAMP: pa.array([0.0, 0.1, 0.4])}
    items = [episode("a"), episode("b", 7), episode("c", 3, **clock), episode("d", 1)]
    together = parts(writer.store(items))
    alone = parts(run for item in items for run in writer.store([item]))
    assert together.keys() == alone.keys()
    for key, (steps, row) in together.items():
        assert steps.equals(alone[key][0].combine_chunks())
        assert steps["step"].to_pylist() == list(range(len(steps)))
        assert row == alone[key][1]
        assert row["content_hash"] == content_hash(steps.drop_columns(["episode_id", "step"]))
    assert together["c"][1]["duration_s"] == pytest.approx(0.5)


def test_one_that_cannot_be_stored_takes_no_other_with_it(writer):
    wide = pa.FixedSizeListArray.from_arrays(np.arange(12, dtype=np.float32), 3)
    ragged = pa.array([[1, 2], [1], [1, 2], [1, 2]], pa.list_(pa.float32()))
    lists = {STATE: ragged.take(pa.array([0, 0, 2, 3]))}
    items = [
        episode("good"), episode("empty", 0), episode("other"), episode("wide", **{STATE: wide}),
        episode("even", **lists), episode("ragged", **{STATE: ragged}), episode("last", **lists),
    ]  # fmt: skip
    stored = list(writer.store(items))
    bad = {item.key: item.code for item in stored if isinstance(item, Unreadable)}
    assert bad == {"empty": "empty_episode", "wide": "wrong_shape", "ragged": "wrong_shape"}
    good = parts(item for item in stored if not isinstance(item, Unreadable))
    assert list(good) == ["good", "other", "even", "last"]


def test_what_could_not_be_read_keeps_its_place(writer):
    stored = list(writer.store([episode("a"), Unreadable("b", "torn", "it is torn"), episode("c")]))
    assert [item.key if isinstance(item, Unreadable) else item.episodes[0].key for item in stored] == ["a", "b", "c"]


@pytest.mark.parametrize("text", [False, True])
def test_a_run_is_bounded_in_bytes(writer, monkeypatch, text):
    columns = {"note": pa.array(["x" * 20] * 100)} if text else {}
    features = (*FEATURES, Feature(name="note", dtype="string")) if text else FEATURES
    writer = RunWriter(writer.cameras, DATASET.model_copy(update={"features": features}))
    monkeypatch.setattr(ingest_runs, "_RUN_BYTES", 5000)
    runs = list(writer.store(episode(str(i), 100, **columns) for i in range(20)))
    assert sum(len(run.episodes) for run in runs) == 20
    assert max(len(run.episodes) for run in runs) == (2 if text else 5)


def test_a_row_group_ends_with_the_episode_that_fills_it():
    steps = pa.table({"a": np.arange(3000)})
    groups = list(grouped(iter([(steps, [1000, 30, 500, 600, 870]), (steps.slice(0, 90), [40, 50])])))
    assert [len(group) for group in groups] == [1030, 1100, 870 + 90]
    assert pa.concat_tables(groups)["a"].to_pylist() == [*range(3000), *range(90)]


def test_a_row_group_is_bounded_in_bytes_too():
    wide = pa.table({"a": pa.array([b"x" * 65536] * 50)})
    assert [len(group) for group in grouped(iter([(wide, [10] * 5)]))] == [20, 20, 10]
