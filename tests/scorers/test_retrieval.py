from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.scoring import Clips
from data_engine.selection import Candidates
from scorers.retrieval import Retrieval


def walk(rng: np.random.Generator, n: int) -> np.ndarray:
    return (np.cumsum(rng.normal(size=(n, 6)), axis=0) + 5 * rng.normal(size=6)).astype(np.float32)


def units(paths: Sequence[np.ndarray | None], prefix: str, every: int = 2, camera: str = "front") -> Candidates:
    """A vector stands for ``every`` steps; beside it a camera that shows nothing of interest."""
    held = []
    for path in paths:
        if path is None:
            held.append(Clips.none())
            continue
        starts = np.arange(len(path)) * every
        both = np.concatenate([path, np.ones_like(path)])
        held.append(
            Clips(np.tile(starts, 2), np.tile(starts + every, 2), (camera,) * len(path) + ("z",) * len(path), both)
        )
    return Candidates(
        ids=[f"{prefix}{i}" for i in range(len(paths))],
        content_hashes=[f"{prefix}h{i}" for i in range(len(paths))],
        n_steps=np.array([0 if path is None else every * len(path) for path in paths]),
        clips=lambda rows: [held[row] for row in rows],
    )


@pytest.fixture
def planted() -> tuple[Candidates, Candidates]:
    """Two pieces. The first lies in candidate 1 (slower) and, with noise, in 3; the second in 1 and, noisy, in 2."""
    rng = np.random.default_rng(0)
    first, second = walk(rng, 15), walk(rng, 12)

    def around(*parts):
        return np.concatenate([piece for part in parts for piece in (part, walk(rng, 8))])

    paths = [
        walk(rng, 40),
        around(walk(rng, 5), np.repeat(first, 2, axis=0), second),
        around(walk(rng, 9), second + rng.normal(0, 0.2, second.shape).astype(np.float32)),
        around(first + rng.normal(0, 0.2, first.shape).astype(np.float32)),
        None,
    ]
    return units(paths, "c"), units([first, second, walk(rng, 3)], "t")


def test_every_pieces_best_part_comes_before_any_ones_second(planted):
    candidates, targets = planted
    chosen = Retrieval().select(candidates, targets, budget=4, seed=0)
    assert chosen.spans is not None
    found = [(int(at), *map(int, span)) for at, span in zip(chosen.order, chosen.spans, strict=True)]
    assert set(found[:2]) <= {(1, a, b) for a in range(200) for b in range(200)}
    (slow,) = [part for part in found[:2] if part[1] in (26, 28)]  # of 5 + 8 vectors before it, two steps each
    assert slow[2] in (84, 86)
    assert {part[0] for part in found[2:]} == {2, 3}
    assert chosen.report["pieces"] == 2 and chosen.report["targets"] == 3  # one is too short
    assert chosen.reasons[1].count("nearest of a piece") == 2 and chosen.reasons[1].startswith("chosen")
    assert chosen.reasons[0].startswith("left out: steps")
    assert chosen.reasons[4] == "left out: the space holds no frames of it"
    for at in set(chosen.order.tolist()):
        mine = sorted(part[1:] for part in found if part[0] == at)
        assert all(a[1] <= b[0] for a, b in pairwise(mine))


def test_neither_names_nor_row_order_change_it(planted):
    candidates, targets = planted
    one = Retrieval().select(candidates, targets, budget=3, seed=0)
    order = np.array([3, 0, 4, 2, 1])
    other = Candidates(
        ids=[f"x{i}" for i in range(5)],
        content_hashes=[candidates.content_hashes[i] for i in order],
        n_steps=candidates.n_steps[order],
        clips=lambda rows: candidates.clips([order[row] for row in rows]),
    )
    two = Retrieval().select(other, targets, budget=3, seed=0)
    assert order[two.order].tolist() == one.order.tolist() and np.array_equal(one.spans, two.spans)


def test_a_copy_of_a_target_is_none_of_the_chosen_and_wrong_requests_are_one_line(planted):
    candidates, targets = planted
    same = Candidates(candidates.ids, ["c0", "th0", "c2", "c3", "c4"], candidates.n_steps, clips=candidates.clips)
    chosen = Retrieval().select(same, targets, budget=None, seed=0)
    assert 1 not in chosen.order and chosen.reasons[1] == "left out: the same recording as a target"
    with pytest.raises(RequestError, match="no piece of the targets has 100 steps"):
        Retrieval(shortest=100).select(candidates, targets, budget=1, seed=0)
    with pytest.raises(RequestError, match="no piece of the targets has a vector"):
        Retrieval(camera="side").select(candidates, targets, budget=1, seed=0)
    with pytest.raises(RequestError, match="not a count or a share"):
        Retrieval().select(candidates, targets, budget="auto", seed=0)
    with pytest.raises(RequestError, match="no candidate has a vector"):
        Retrieval().select(units([None], "n"), targets, budget=1, seed=0)
