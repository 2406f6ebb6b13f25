from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.samples import Samples
from data_engine.single import Single
from data_engine.transitions import Transitions
from data_engine.windows import Windows

LENGTHS = {"a": [12, 5, 9, 30], "b": [8, 20, 1]}


def same(samples: Samples, epoch: int, k: int) -> None:
    """One sample and a batch of it are the same: names, values, dtypes, shapes, and memory of its own to write to."""
    one, batch = samples.one(epoch, k), samples.read(epoch, np.array([k]))
    assert one.keys() == batch.keys()
    for name, values in batch.items():
        if isinstance(values, np.ndarray):
            assert (one[name].dtype, one[name].shape) == (values.dtype, values.shape[1:]), name
            np.testing.assert_array_equal(one[name], values[0], err_msg=name)
            assert one[name].flags.writeable, name
        else:
            assert one[name] == values[0], name


def is_cut(samples: Samples, k: int) -> bool:
    """Whether sample ``k`` is cut out of columns, and not read as a batch of one."""
    return Single(samples).read(*(int(part[0]) for part in samples.locate(0, np.array([k])))) is not None


@given(history=st.integers(1, 6), horizon=st.integers(1, 40), start=st.integers(0, 3), cut=st.integers(0, 3),
       normalise=st.sampled_from(["none", "mean_std", "quantile"]))  # fmt: skip
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_sample_is_a_batch_of_one(toy_at, tmp_path_factory, history, horizon, start, cut, normalise) -> None:
    folder = tmp_path_factory.mktemp("lake")
    made = toy_at(str(folder), {"a": [25, 30, 28], "b": [7]})
    rows = [
        row | {"start": start, "stop": row["stop"] - cut, "row_start": row["row_start"] + start,
               "row_count": row["row_count"] - start - cut}
        for row in made.rows
    ]  # fmt: skip
    columns = ("observation.state", "action", "reward", "timestamp")
    windows = Windows(history, horizon, columns=columns, normalise=normalise)
    samples = Samples(made.mixture(folder / "cache", rows=rows, weight_kind="repeat"), windows)
    assert is_cut(samples, 0)
    for k in range(samples.size()):
        same(samples, 0, k)


@pytest.mark.parametrize("kind", ["probability", "repeat", "choose"])
def test_the_order_of_asking_changes_nothing(toy, tmp_path, kind) -> None:
    mixture = toy(LENGTHS).mixture(tmp_path, weight_kind=kind, unit="episode")
    whole = Samples(mixture)
    wanted = {epoch: whole.read(epoch, np.arange(whole.size(epoch))) for epoch in (0, 3)}
    asked = np.random.default_rng(0).permutation([(epoch, k) for epoch in wanted for k in range(whole.size(epoch))])
    scattered = Samples(mixture)
    for epoch, k in asked.tolist():
        one = scattered.one(epoch, k)
        assert (one["episode_id"], int(one["step"])) == (wanted[epoch]["episode_id"][k], int(wanted[epoch]["step"][k]))
    for k in (-1, whole.size(0)):
        for samples in (Samples(mixture), scattered):
            for _ in range(2):
                with pytest.raises(IndexError):
                    samples.one(0, k)


def test_whatever_is_more_than_plain_numbers_is_read_as_a_batch_of_one(toy, tmp_path) -> None:
    made = toy({"a": [9, 12], "b": [20, 7]}, {"b": 3})
    mixture = made.mixture(tmp_path)
    columns = ("observation.state", "action", "reward")
    for windows in (
        Windows(pad_to={"action": 5}),
        Windows(columns=columns, transitions=Transitions(n_step=2, returns=True)),
    ):
        samples = Samples(mixture, windows)
        assert not is_cut(samples, 3)
        for k in range(samples.size()):
            same(samples, 0, k)
    without = tuple(f for f in made.datasets["b"].features if f.name != "action")
    made.datasets["b"] = made.datasets["b"].model_copy(update={"features": without})
    lacking = Samples(made.mixture(tmp_path, seed=1))
    assert not any(is_cut(lacking, k) for k in range(lacking.size()))
    for k in range(lacking.size()):
        same(lacking, 0, k)


def test_integers_come_with_their_mask_alone_too(toy, tmp_path) -> None:
    made = toy({"a": [4]})
    file = Path(made.lake) / made.files[0]["path"]
    pq.write_table(pq.read_table(file).append_column("ticks", pa.array([3, None, 5, 6], pa.int64())), file)
    made.files[0] |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    feature = made.datasets["a"].features[-1].model_copy(update={"name": "ticks", "dtype": "int64"})
    made.datasets["a"] = made.datasets["a"].model_copy(update={"features": (*made.datasets["a"].features, feature)})
    samples = Samples(made.mixture(tmp_path, weight_kind="repeat"), Windows(columns=("ticks", "action")))
    for k in range(4):
        same(samples, 0, k)
    assert sum(int(samples.one(0, k)["ticks_is_missing"]) for k in range(4)) == 1


def test_a_file_that_is_too_short_is_named(toy, tmp_path) -> None:
    made = toy({"a": [9]})
    rows = [made.rows[0] | {"row_start": 3}]
    samples = Samples(made.mixture(tmp_path, rows=rows, weight_kind="repeat"))
    with pytest.raises(SourceError, match="has 9 rows, fewer than the mixture needs"):
        for k in range(9):
            samples.one(0, k)
