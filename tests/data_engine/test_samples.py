from __future__ import annotations

import hashlib
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_engine import mixture as mixtures
from data_engine.errors import RequestError, SourceError
from data_engine.model import Feature
from data_engine.samples import Samples
from data_engine.transitions import Transitions
from data_engine.windows import Windows

LENGTHS = {"a": [12, 5, 9, 30], "b": [8, 20]}


@given(history=st.integers(1, 6), horizon=st.integers(1, 40), start=st.integers(0, 10), cut=st.integers(0, 10))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_never_leave_the_range_and_masks_say_where_they_would(
    toy_at, tmp_path_factory, history, horizon, start, cut
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    made = toy_at(str(folder), {"a": [25, 30, 28]})
    rows = [
        row | {"start": start, "stop": row["stop"] - cut, "row_start": row["row_start"] + start,
               "row_count": row["row_count"] - start - cut}
        for row in made.rows
    ]  # fmt: skip
    samples = Samples(made.mixture(folder / "cache", rows=rows, weight_kind="repeat"), Windows(history, horizon))
    batch = samples.read(0, np.arange(samples.size()))
    seen = set()
    for i, (episode, step) in enumerate(zip(batch["episode_id"], batch["step"].tolist(), strict=True)):
        number, stop = int(episode.removeprefix("ep_a_")), rows[int(episode.removeprefix("ep_a_"))]["stop"]
        seen.add((number, step))
        past, future = np.arange(step - history + 1, step + 1), np.arange(step, step + horizon)
        assert batch["observation.state"][i].tolist() == [[number, t] for t in past.clip(start, stop - 1)]
        assert batch["action"][i].tolist() == [[number, t] for t in future.clip(start, stop - 1)]
        assert batch["observation_is_pad"][i].tolist() == (past < start).tolist()
        assert batch["action_is_pad"][i].tolist() == (future >= stop).tolist()
        assert batch["timestamp"][i] == pytest.approx(step / 10)
    assert seen == {(number, t) for number, row in enumerate(rows) for t in range(start, row["stop"])}


@pytest.mark.parametrize("kind", ["probability", "repeat", "choose"])
def test_samples_follow_the_weights_through_the_loader(toy, tmp_path, kind) -> None:
    made = toy({"a": [10] * 4, "b": [10] * 4})
    entries = [{"selection": "a", "weight": 3}, {"selection": "b", "weight": 1}]
    size = {"epoch_size": 20_000} if kind == "probability" else {}
    samples = Samples(made.mixture(tmp_path, entries=entries, weight_kind=kind, unit="episode", **size))
    texts = samples.read(0, np.arange(samples.size()))["dataset"]
    share = texts.count("a") / len(texts)
    error = 4 * np.sqrt(0.75 * 0.25 / 20_000) if kind == "probability" else 0
    assert share == pytest.approx(0.75, abs=error + 1e-12)
    assert len(texts) == {"probability": 20_000, "repeat": 160, "choose": 40}[kind]


@pytest.mark.parametrize(("normalise", "low", "high"), [("mean_std", "mean", "std"), ("quantile", "q01", "q99")])
def test_normalising_uses_the_groups_own_statistics(toy, tmp_path, normalise, low, high) -> None:
    mixture = toy({"a": [9, 12], "b": [20, 7]}, {"b": 3}).mixture(tmp_path)
    raw, normal = list(mixture.samples(Windows(1, 1))), mixture.samples(Windows(1, 1, normalise=normalise))
    for before, after in zip(raw, normal, strict=True):
        found = mixture.statistics(f"{before['embodiment']}/delta")["action"]
        if normalise == "mean_std":
            wanted = (before["action"] - found[low]) / found[high]
        else:
            wanted = 2 * (before["action"] - found[low]) / (found[high] - found[low]) - 1
        assert after["action"] == pytest.approx(wanted, abs=1e-5)


def test_unlike_widths_are_refused_in_a_batch_or_padded(toy, tmp_path) -> None:
    mixture = toy({"a": [9, 12], "b": [20, 7]}, {"b": 3}).mixture(tmp_path)
    alone = list(mixture.samples(Windows(normalise="mean_std")))
    assert {sample["action"].shape[1] for sample in alone} == {2, 3}
    with pytest.raises(RequestError, match=r"whose action is .*pad_to=\{'action': WIDTH\}"):
        Samples(mixture).read(0, np.arange(len(alone)))
    windows = Windows(pad_to={"action": 5, "observation.state": 3}, normalise="mean_std")
    batch = Samples(mixture, windows).read(0, np.arange(len(alone)))
    for i, sample in enumerate(alone):
        width = sample["action"].shape[1]
        assert batch["action_dim_is_pad"][i].tolist() == [False] * width + [True] * (5 - width)
        assert not batch["action"][i, :, width:].any()
        assert np.array_equal(batch["action"][i, :, :width], sample["action"])
    with pytest.raises(RequestError, match="action is 3 wide, pad_to says 2"):
        Samples(mixture, Windows(pad_to={"action": 2}))


def test_a_dataset_without_actions_is_padded_whole(toy, tmp_path) -> None:
    made = toy({"a": [9], "b": [9]}, {"b": 3})
    without = tuple(f for f in made.datasets["b"].features if f.name != "action")
    made.datasets["b"] = made.datasets["b"].model_copy(update={"features": without})
    mixture = made.mixture(tmp_path)
    assert all((sample["dataset"] == "b") == sample["action_is_absent"] for sample in mixture.samples())
    batch = Samples(mixture, Windows(pad_to={"action": 2, "observation.state": 3})).read(0, np.arange(18))
    for name, mask in zip(batch["dataset"], batch["action_dim_is_pad"].tolist(), strict=True):
        assert mask == [name == "b"] * 2


def test_a_dataset_without_actions_gives_zeros_and_says_so(toy, tmp_path) -> None:
    made = toy({"a": [9], "video": [9], "b": [5]})
    without = tuple(f for f in made.datasets["video"].features if f.name == "reward")
    made.datasets["video"] = made.datasets["video"].model_copy(update={"features": without, "embodiment": "human"})
    mixture = made.mixture(tmp_path, weight_kind="repeat")
    windows = Windows(history=2, action_horizon=3, columns=("observation.state", "action", "reward"))
    batch = Samples(mixture, windows).read(0, np.arange(23))
    absent = np.array([name == "video" for name in batch["dataset"]])
    assert absent.sum() == 9
    for column in ("observation.state", "action"):
        assert (batch[f"{column}_is_absent"] == absent).all()
        assert not batch[column][absent].any()
    assert batch["action_is_pad"][absent].all()
    assert not batch["action_is_pad"][~absent][:, 0].any()
    assert "reward_is_absent" not in batch
    alone = {(sample["episode_id"], int(sample["step"])): sample for sample in mixture.samples(windows)}
    for i in np.flatnonzero(~absent):
        sample = alone[batch["episode_id"][i], int(batch["step"][i])]
        for name in ("observation.state", "action", "action_is_pad"):
            assert np.array_equal(batch[name][i], sample[name])


def test_what_no_dataset_has_is_left_out_and_its_mask_is_whole(toy, tmp_path) -> None:
    made = toy({"a": [9]})
    without = tuple(f for f in made.datasets["a"].features if f.name != "action")
    made.datasets["a"] = made.datasets["a"].model_copy(update={"features": without})
    batch = Samples(made.mixture(tmp_path)).read(0, np.arange(9))
    assert "action" not in batch
    assert batch["action_is_pad"].all()


def test_missing_values_come_as_nan(toy, tmp_path) -> None:
    made = toy({"a": [6]})
    file = Path(made.lake) / made.files[0]["path"]
    table = pq.read_table(file)
    holes = pa.array([None, [1.0, None], [2.0, 2.0], None, [4.0, 4.0], [5.0, 5.0]], pa.list_(pa.float64()))
    table = table.set_column(table.column_names.index("action"), "action", holes)
    ticks = [None, [2**62 + 1, None], [3, 4], [5, 6], None, [7, 8]]
    flags = [None, True, False, True, None, True]
    table = table.append_column("observation.ticks", pa.array(ticks, pa.list_(pa.int64())))
    table = table.append_column("observation.flag", pa.array(flags))
    table = table.append_column("observation.void", pa.array([None] * 6, pa.list_(pa.int32())))
    pq.write_table(table, file)
    made.files[0] |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    features = (
        *made.datasets["a"].features,
        Feature(name="observation.ticks", dtype="int64", shape=(2,)),
        Feature(name="observation.flag", dtype="bool"),
        Feature(name="observation.void", dtype="int32", shape=(3,)),
    )
    made.datasets["a"] = made.datasets["a"].model_copy(update={"features": features})
    mixture = made.mixture(tmp_path, weight_kind="repeat")
    for sample in mixture.samples(Windows(1, 1)):
        value = holes[int(sample["step"])].as_py() or [None, None]
        assert np.array_equal(sample["action"][0], np.array(value, np.float32), equal_nan=True)
    columns = ("observation.ticks", "observation.flag", "observation.void")
    windows = Windows(2, 1, columns=columns, transitions=Transitions())
    for sample in mixture.samples(windows):
        shown = [max(int(sample["step"]) - 1, 0), int(sample["step"])]
        following = [min(int(sample["step"]) + 1, 5) - 1, min(int(sample["step"]) + 1, 5)]
        for prefix, at in (("", shown), ("next.", following)):
            for name, values, width in (("ticks", ticks, 2), ("flag", flags, 1), ("void", [None] * 6, 3)):
                found = sample[f"{prefix}observation.{name}"].reshape(2, width).tolist()
                missing = sample[f"{prefix}observation.{name}_is_missing"]
                assert missing.shape == sample[f"{prefix}observation.{name}"].shape
                wanted = [np.broadcast_to(np.array(values[t], object), width).tolist() for t in at]
                assert missing.reshape(2, width).tolist() == [[v is None for v in row] for row in wanted]
                assert found == [[0 if v is None else v for v in row] for row in wanted]


def test_one_dtype_for_all_datasets_whoever_comes_first(toy, tmp_path) -> None:
    made = toy({"a": [6], "b": [7]})
    file = Path(made.lake) / made.files[0]["path"]
    table = pq.read_table(file)
    whole = pa.array([0, None, 1, 0, 0, 3], pa.int64())
    pq.write_table(table.set_column(table.column_names.index("reward"), "reward", whole), file)
    made.files[0] |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    features = tuple(f if f.name != "reward" else f.model_copy(update={"dtype": "int64"})
                     for f in made.datasets["a"].features)  # fmt: skip
    made.datasets["a"] = made.datasets["a"].model_copy(update={"features": features})
    samples = Samples(made.mixture(tmp_path, weight_kind="repeat"), Windows(columns=("reward",)))
    for order in (np.arange(13), np.arange(13)[::-1]):
        batch = samples.read(0, np.ascontiguousarray(order))
        assert batch["reward"].dtype == np.float32
        assert "reward_is_missing" not in batch
        for name, step, reward in zip(batch["dataset"], batch["step"], batch["reward"], strict=True):
            wanted = whole[int(step)].as_py() if name == "a" else float(step == 6)
            assert np.array_equal(reward, np.nan if wanted is None else wanted, equal_nan=True)


def test_uint64_comes_with_every_digit(toy, tmp_path) -> None:
    """Kept as decimals in the lake; with int64 of another dataset only as far as that holds it."""
    made, most = toy({"a": [4], "b": [3]}), 2**64 - 1
    values = {"a": [most, None, 7, 2**63], "b": [1, 2, 3]}
    kinds = {"a": ("uint64", pa.decimal128(20, 0)), "b": ("uint32", pa.int64())}

    def mixture(**options):
        for number, (name, said) in enumerate(values.items()):
            file = Path(made.lake) / made.files[number]["path"]
            table = pq.read_table(file)
            ticks = pa.array([None if v is None else Decimal(v) for v in said] if name == "a" else said, kinds[name][1])
            at = table.schema.get_field_index("ticks")
            table = table.append_column("ticks", ticks) if at < 0 else table.set_column(at, "ticks", ticks)
            pq.write_table(table, file)
            made.files[number] |= {
                "bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
            known = tuple(f for f in made.datasets[name].features if f.name != "ticks")
            added = Feature(name="ticks", dtype=kinds[name][0])
            made.datasets[name] = made.datasets[name].model_copy(update={"features": (*known, added)})
        return made.mixture(tmp_path, weight_kind="repeat", **options)

    batch = Samples(mixture(), Windows(columns=("ticks",))).read(0, np.arange(7))
    assert batch["ticks"].dtype == np.uint64
    for name, step, tick, missing in zip(
        batch["dataset"], batch["step"], batch["ticks"], batch["ticks_is_missing"], strict=True
    ):
        wanted = values[name][int(step)]
        assert (int(tick), bool(missing)) == (wanted or 0, wanted is None)
    kinds["b"] = ("int64", pa.int64())
    with pytest.raises(SourceError, match="no dtype fits both"):
        Samples(mixture(), Windows(columns=("ticks",))).read(0, np.arange(7))
    values["a"] = [5, None, 7, 8]
    batch = Samples(mixture(seed=1), Windows(columns=("ticks",))).read(0, np.arange(7))
    assert batch["ticks"].dtype == np.int64 and set(batch["ticks"].tolist()) == {0, 1, 2, 3, 5, 7, 8}


def test_wrong_requests_get_one_line(toy, tmp_path) -> None:
    mixture = toy(LENGTHS).mixture(tmp_path)
    for windows, message in (
        (Windows(columns=("acton",)), r"no dataset of mixture 'toy' has 'acton' \(known: action, observation\.state"),
        (Windows(cameras=("top",)), "has 'observation.images.top'"),
    ):
        with pytest.raises(RequestError, match=message):
            Samples(mixture, windows)
    with pytest.raises(RequestError, match=r"split 'test' holds no episodes \(known: train\)"):
        Samples(mixture, split="test")
    with pytest.raises(RequestError, match="at least 1"):
        Windows(action_horizon=0)
    Path(mixture.local(mixture.files[0])).unlink()
    with pytest.raises(SourceError, match="lacks its file"):
        list(mixtures.open(mixture.uri, cache_dir=tmp_path / "other").samples())


def test_recorded_texts_come_with_their_step_and_none_where_there_is_none(toy, tmp_path) -> None:
    made = toy({"a": [4, 3], "b": [5]})
    file = Path(made.lake) / made.files[0]["path"]
    said = ["reach", None, "reach", "grasp", "lift", "lift", None]
    pq.write_table(pq.read_table(file).append_column("language", pa.array(said)), file)
    made.files[0] |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    features = (*made.datasets["a"].features, Feature(name="language", dtype="string"))
    made.datasets["a"] = made.datasets["a"].model_copy(update={"features": features})
    mixture = made.mixture(tmp_path, weight_kind="repeat")
    batch = Samples(mixture, Windows(texts=("language",))).read(0, np.arange(12))
    wanted = {("ep_a_0", t): said[t] for t in range(4)} | {("ep_a_1", t): said[4 + t] for t in range(3)}
    for episode, step, text in zip(batch["episode_id"], batch["step"].tolist(), batch["language"], strict=True):
        assert text == wanted.get((episode, step))
    with pytest.raises(RequestError, match="has texts 'action'"):
        Samples(mixture, Windows(texts=("action",)))
