from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data_engine.errors import RequestError
from data_engine.loader import MixtureDataset, MixtureSampler, MixtureStream, Windows, collate
from data_engine.pairs import Pairs
from data_engine.preferences import Item, Preference, comparisons

LENGTHS = {"a": [12, 5, 9, 30]}


def said() -> tuple:
    """Five comparisons, of whole episodes, of pieces, and two of what is not there."""
    preferences = [
        Preference.pair(Item("ep_a_0"), Item("ep_a_1"), 1.0),
        Preference.pair(Item("ep_a_3", 4, 25), Item("ep_a_3", 25, 28), 0.5, task="reach"),
        Preference(items=(Item("ep_a_0", 0, 3), Item("ep_a_2", 2, 9), Item("ep_a_1")), ranks=(0, 1, 2), kind="ranking"),
        Preference.pair(Item("ep_a_1"), Item("ep_a_1", 2, 6), 0.0),
        Preference.pair(Item("ep_gone"), Item("ep_a_1"), 0.0),
    ]
    return tuple(pair for preference in preferences for pair in comparisons(preference))


def test_each_pair_comes_once_an_epoch_with_its_own_steps(toy, tmp_path) -> None:
    mixture = toy(LENGTHS).mixture(tmp_path)
    windows = Windows(columns=("observation.state", "action", "reward"), pairs=Pairs(said(), steps=4))
    dataset = MixtureDataset(mixture, windows)
    assert (len(dataset), dataset.samples.left_out) == (5, 2)
    orders = set()
    for epoch in range(6):
        batch = dataset.samples.read(epoch, np.arange(5))
        pieces = []
        for i in range(5):
            key = []
            for side in ("first", "second"):
                episode, step = batch[f"{side}.episode_id"][i], int(batch[f"{side}.step"][i])
                number, pad = int(episode[-1]), batch[f"{side}_is_pad"][i]
                shown = np.minimum(step + np.arange(4), step + 3 - pad.sum())
                assert batch[f"{side}.observation.state"][i].tolist() == [[number, t] for t in shown]
                assert batch[f"{side}.action"][i].tolist() == [[number, t] for t in shown]
                assert batch[f"{side}.reward"][i].tolist() == [float(t == LENGTHS["a"][number] - 1) for t in shown]
                key.append((episode, step, int(pad.sum())))
            pieces.append((*key, batch["probability"][i], batch["task"][i], batch["weight"][i]))
        orders.add(tuple(piece[0][0] + piece[1][0] for piece in pieces))
        task = next(piece for piece in pieces if piece[3] == "reach")
        assert 4 <= task[0][1] <= 21
        assert task[1][1:] == (25, 1)
        assert sorted(piece[2] for piece in pieces) == [0.0, 0.0, 0.0, 0.5, 1.0]
        assert sorted(piece[4] for piece in pieces) == [0.5, 0.5, 0.5, 1.0, 1.0]
        assert {piece[1][1] for piece in pieces if piece[1][0] == "ep_a_2"} <= {2, 3, 4, 5}
    assert len(orders) > 1


def test_it_is_a_pure_function_for_every_loader(toy, tmp_path) -> None:
    mixture = toy(LENGTHS).mixture(tmp_path)
    windows = Windows(pairs=Pairs(said(), steps=3))
    dataset = pickle.loads(pickle.dumps(MixtureDataset(mixture, windows)))
    whole = collate(dataset.__getitems__(list(range(5))))
    plain = list(mixture.samples(windows))
    loader = DataLoader(dataset, batch_size=2, sampler=MixtureSampler(dataset), collate_fn=collate, num_workers=1,
                        multiprocessing_context="fork")  # fmt: skip
    batches = list(loader)
    streamed = list(MixtureStream(mixture, windows, batch_size=2))
    for name, values in whole.items():
        for parts in (batches, streamed):
            if isinstance(values, torch.Tensor):
                assert torch.equal(torch.cat([part[name] for part in parts]), values), name
                assert np.array_equal(np.stack([sample[name] for sample in plain]), values.numpy()), name
            else:
                assert [text for part in parts for text in part[name]] == values
    with pytest.raises(IndexError):
        dataset[5]


def test_wrong_requests_get_one_line(toy, tmp_path) -> None:
    mixture = toy({"b": [8]}).mixture(tmp_path)
    with pytest.raises(RequestError, match="none of 7 comparisons is of steps"):
        MixtureDataset(mixture, Windows(pairs=Pairs(said())))
    with pytest.raises(RequestError, match="pairs of 0 steps"):
        Pairs(said(), steps=0)
