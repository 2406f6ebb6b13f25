from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.kernels import subsequence
from scorers.kernels.subsequence import matches, warped


def brute(costs: np.ndarray) -> tuple[float, set[tuple[int, int]]]:
    """The least sum over every path of ``costs`` [q, n], and where such paths begin and end; cell by cell."""
    rows, width = costs.shape
    table: list[list[tuple[float, set[int]]]] = []
    for i in range(rows):
        line: list[tuple[float, set[int]]] = []
        for j in range(width):
            if i == 0:
                line.append((costs[0, j], {j}))
                continue
            ways = [table[i - 1][j]] + ([table[i - 1][j - 1], line[j - 1]] if j else [])
            least = min(way[0] for way in ways)
            starts = set().union(*(way[1] for way in ways if way[0] <= least + 1e-9))
            line.append((costs[i, j] + least, starts))
        table.append(line)
    best = min(cell[0] for cell in table[-1])
    ends = {(a, j + 1) for j, (total, starts) in enumerate(table[-1]) if total <= best + 1e-9 for a in starts}
    return best, ends


@settings(max_examples=60, deadline=None)
@given(
    q=st.integers(1, 6),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 999),
    levels=st.sampled_from([2, 4, 1000]),  # few: many paths are equal
)
def test_it_is_the_cheapest_of_all_paths(q, lengths, seed, levels):
    rng = np.random.default_rng(seed)
    costs = rng.integers(0, levels, (len(lengths), q, max(lengths))).astype(float)
    total, start, stop = warped(costs, np.array(lengths))
    for row, length in enumerate(lengths):
        best, ends = brute(costs[row, :, :length])
        assert np.isclose(total[row], best)
        assert (start[row], stop[row]) in ends


def test_a_part_played_slower_is_found_where_it_is_and_the_others_cost_more(monkeypatch):
    monkeypatch.setattr(subsequence, "_CELLS", 500)  # in many blocks
    rng = np.random.default_rng(0)
    walks = [np.cumsum(rng.normal(size=(n, 8)), axis=0) + rng.normal(size=8) * 4 for n in (30, 61, 12, 45)]
    query = walks[1][20:35]
    slower = np.repeat(query, 2, axis=0) + rng.normal(0, 1e-3, (30, 8))
    walks.append(np.concatenate([rng.normal(size=(7, 8)), slower, rng.normal(size=(9, 8))]))
    offsets = np.cumsum([0, *map(len, walks)])
    cost, start, stop = matches(query, np.concatenate(walks), offsets)
    assert (start[1], stop[1]) == (20, 35) and cost[1] < 1e-6
    assert start[4] in (7, 8) and stop[4] in (36, 37) and cost[4] < 1e-4  # every row of it is there twice
    assert np.delete(cost, [1, 4]).min() > 0.01
    for at, walk in enumerate(walks):  # each is what it would be by itself
        alone = matches(query, walk, np.array([0, len(walk)]))
        assert np.allclose([alone[0][0], alone[1][0], alone[2][0]], [cost[at], start[at], stop[at]])
