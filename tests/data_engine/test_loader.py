from __future__ import annotations

import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.utils.data import DataLoader

from data_engine.errors import RequestError
from data_engine.loader import MixtureDataset, MixtureSampler, MixtureStream, Windows, collate

LENGTHS = {"a": [12, 5, 9, 30], "b": [8, 20]}


def identity(batch) -> list[tuple[int, str, int]]:
    return list(zip(batch["index"].tolist(), batch["episode_id"], batch["step"].tolist(), strict=True))


def expected_order(dataset: MixtureDataset) -> list[tuple[int, str, int]]:
    return identity(collate(dataset.__getitems__(list(range(len(dataset))))))


@pytest.mark.parametrize("kind", ["probability", "repeat"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_the_global_order_is_the_same_over_ranks(toy, tmp_path, kind, world_size) -> None:
    dataset = MixtureDataset(toy(LENGTHS).mixture(tmp_path, weight_kind=kind))
    whole = expected_order(dataset)
    ranks = []
    for rank in range(world_size):
        sampler = MixtureSampler(dataset, rank, world_size, even=False)
        batches = [identity(b) for b in DataLoader(dataset, batch_size=5, sampler=sampler, collate_fn=collate)]
        assert sum(map(len, batches)) == len(sampler)
        ranks.append([sample for batch in batches for sample in batch])
    assert all(sample[0] % world_size == rank for rank, samples in enumerate(ranks) for sample in samples)
    assert sorted(sample for samples in ranks for sample in samples) == whole


def test_even_ranks_have_as_many_samples_each(toy, tmp_path) -> None:
    dataset = MixtureDataset(toy(LENGTHS).mixture(tmp_path))
    for start in (0, 5, 83, 84):
        samplers = [MixtureSampler(dataset, rank, 8, start=start) for rank in range(8)]
        assert {len(list(sampler)) for sampler in samplers} == {(84 - start) // 8}


@pytest.mark.parametrize("unit", ["episode", "step"])
def test_two_ranks_together_draw_each_step_as_the_weights_say(toy, tmp_path, unit) -> None:
    made = toy({"a": [10, 20, 5], "b": [8, 30]})
    rows = [row | {"weight": weight} for row, weight in zip(made.rows, (1.0, 2.0, 4.0, 3.0, 0.5), strict=True)]
    entries = [{"selection": "a", "weight": 3}, {"selection": "b", "weight": 1}]
    dataset = MixtureDataset(made.mixture(tmp_path, rows=rows, entries=entries, unit=unit, epoch_size=40_000))
    drawn: Counter[tuple[str, int]] = Counter()
    for rank in range(2):
        loader = DataLoader(dataset, batch_size=500, sampler=MixtureSampler(dataset, rank, 2), collate_fn=collate)
        for batch in loader:
            drawn.update(zip(batch["episode_id"], batch["step"].tolist(), strict=True))
    chances, alike = [], []
    for row in rows:
        entry = {"a": 0.75, "b": 0.25}[row["dataset"]]
        peers = [other for other in rows if other["dataset"] == row["dataset"]]
        if unit == "episode":
            each = entry * row["weight"] / sum(other["weight"] for other in peers) / row["stop"]
        else:
            each = entry * row["weight"] / sum(other["weight"] * other["stop"] for other in peers)
        chances += [each] * row["stop"]
        alike += [entry / sum(other["stop"] for other in peers)] * row["stop"]
    seen = [drawn[row["episode_id"], step] for row in rows for step in range(row["stop"])]
    assert sum(seen) == 40_000
    assert chisquare(seen, 40_000 * np.array(chances)).pvalue > 1e-3
    assert chisquare(seen, 40_000 * np.array(alike)).pvalue < 1e-9  # it would see weights that are not there


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_workers_change_nothing(toy, tmp_path, workers) -> None:
    mixture = toy(LENGTHS).mixture(tmp_path)
    dataset, stream = MixtureDataset(mixture), MixtureStream(mixture, batch_size=7, world_size=2, rank=1)
    mapped = DataLoader(
        dataset, batch_size=7, sampler=MixtureSampler(dataset, 1, 2), collate_fn=collate, num_workers=workers,
        multiprocessing_context="fork",
    )  # fmt: skip
    streamed = DataLoader(stream, batch_size=None, num_workers=workers, multiprocessing_context="fork")
    alone = [identity(batch) for batch in stream]
    assert [identity(batch) for batch in mapped] == alone
    assert [identity(batch) for batch in streamed] == alone


@pytest.mark.parametrize("worlds", [(1, 3, 2), (3, 2, 4), (2, 8, 3), (8, 1, 5)])
def test_a_stream_resumes_under_other_world_sizes(toy, tmp_path, worlds) -> None:
    mixture = toy(LENGTHS).mixture(tmp_path, weight_kind="repeat")
    whole, had, state = expected_order(MixtureDataset(mixture)), [], {"epoch": 0, "position": 0}
    for world_size in worlds:
        states = []
        for rank in range(world_size):
            stream = MixtureStream(mixture, batch_size=3, rank=rank, world_size=world_size, even=False)
            stream.load_state_dict(state)
            batches = list(stream if world_size == worlds[-1] else islice(stream, 1))
            had += [sample for batch in batches for sample in identity(batch)]
            assert not batches or stream.state_dict() == stream.state_dict(batches[-1])
            states.append(stream.state_dict())
        assert world_size == worlds[-1] or all(found == states[0] for found in states)
        assert len(json.dumps(states[0])) < 50
        state = states[0]
    assert sorted(had) == whole


def test_a_stream_goes_on_with_its_workers_from_a_batchs_state(toy, tmp_path) -> None:
    mixture = toy(LENGTHS).mixture(tmp_path)
    stream = MixtureStream(mixture, batch_size=6)
    loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork")
    batches = list(loader)
    stream.load_state_dict(stream.state_dict(batches[4]))
    assert [identity(batch) for batch in loader] == [identity(batch) for batch in batches[5:]]
    assert len(stream) == len(batches) - 5


def test_epochs_differ_and_a_pair_names_one(toy, tmp_path) -> None:
    dataset = MixtureDataset(toy(LENGTHS).mixture(tmp_path))
    first = expected_order(dataset)
    pairs = identity(collate(dataset.__getitems__([(1, k) for k in range(84)])))
    dataset.set_epoch(1)
    assert expected_order(dataset) == pairs != first
    other_seed = MixtureDataset(dataset.samples.mixture, seed=1)
    assert expected_order(other_seed) != first
    sampler = MixtureSampler(dataset, start=80)
    assert len(sampler) == 4
    sampler.set_epoch(5)
    assert next(iter(sampler)) == (5, 0)
    with pytest.raises(RequestError, match="two epochs"):
        dataset.__getitems__([(0, 1), (1, 1)])
    with pytest.raises(IndexError):
        dataset[84]


def test_single_samples_batches_and_numpy_are_the_same(toy, tmp_path) -> None:
    mixture = toy(LENGTHS).mixture(tmp_path)
    windows = Windows(history=2, action_horizon=4, columns=("observation.state", "action", "reward"))
    dataset = MixtureDataset(mixture, windows)
    plain = list(mixture.samples(windows))
    batch = dataset.__getitems__([3, 70, 5])
    assert plain[3]["action"].shape == (4, 2)
    for i, k in enumerate((3, 70, 5)):
        single = dataset[k]
        assert single.keys() == batch[i].keys() == plain[k].keys()
        for name, value in single.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, batch[i][name]), name
                assert np.array_equal(value.numpy(), plain[k][name]), name
            else:
                assert value == batch[i][name] == plain[k][name]
    assert single["observation.state"].dtype == single["action"].dtype == torch.float32
    assert (single["timestamp"].dtype, single["reward"].shape) == (torch.float64, ())
    by_torch = next(iter(DataLoader(dataset, batch_size=3, sampler=[3, 70, 5])))
    assert torch.equal(by_torch["action"], collate(batch)["action"])
    assert [sample["index"] for sample in mixture.samples(windows, start=80)] == [80, 81, 82, 83]


def test_a_mixture_on_an_object_store_is_read_through_the_cache(toy_at, s3, tmp_path) -> None:
    mixture = toy_at(f"{s3}/lake", {"a": [6, 7]}).mixture(tmp_path / "cache")
    order = expected_order(MixtureDataset(mixture))
    loader = DataLoader(MixtureDataset(mixture), batch_size=13, collate_fn=collate, num_workers=1,
                        multiprocessing_context="spawn")  # fmt: skip
    assert [sample for batch in loader for sample in identity(batch)] == order
    assert len(list((tmp_path / "cache").glob("files/??/*/blob.parquet"))) == 1


def test_wrong_requests_get_one_line(toy, tmp_path) -> None:
    mixture = toy({"a": [6]}).mixture(tmp_path)
    with pytest.raises(RequestError, match="rank 2 of 2"):
        MixtureStream(mixture, rank=2, world_size=2)
    with pytest.raises(RequestError, match="rank -1 of 2"):
        MixtureSampler(MixtureDataset(mixture), rank=-1, world_size=2)
    with pytest.raises(RequestError, match="batch_size 0"):
        MixtureStream(mixture, batch_size=0)


def test_real_recordings_of_two_robots_with_and_without_video_load(shared_data, tmp_path) -> None:
    from tests.mixtures import mixture_of

    sources = {
        "tiers": ("lerobot_v3", shared_data / "metaworld_tiers/lerobot_v3"),
        "g1": ("lerobot_v2", shared_data / "g1_lerobot_v21"),
    }
    mixture = mixture_of(tmp_path / "lake", sources, weight_kind="choose", unit="dataset")
    assert len(mixture.document.statistics) == 2
    alone = MixtureDataset(mixture, Windows(history=2, action_horizon=8), seed=3)
    cameras = {name: mixture.datasets[name].cameras for name in sources}
    assert not cameras["tiers"]
    assert cameras["g1"]
    for name, row in zip(mixture.episodes["dataset"].to_pylist(), range(len(mixture)), strict=True):
        assert mixture.steps(row).num_rows == mixture.rows["row_count"][row], name
    for k in range(0, len(alone), max(len(alone) // 12, 1)):
        sample = alone[k]
        for camera in cameras[sample["dataset"]]:
            image = sample[f"observation.images.{camera}"]
            assert image.dtype == torch.uint8
            assert image.float().std() > 1
    widths = {"action": 64, "observation.state": 64}
    padded = MixtureDataset(mixture, Windows(cameras=(), pad_to=widths, normalise="mean_std"))
    loader = DataLoader(padded, batch_size=256, sampler=MixtureSampler(padded), collate_fn=collate)
    values = torch.cat([batch["action"][:, 0] for batch in loader])
    masks = torch.cat([batch["action_dim_is_pad"] for batch in loader])
    assert torch.isfinite(values).all()
    assert not values[masks].any()
