from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_engine.errors import SourceError
from data_engine.exports.rows import rows_and_steps
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.mixtures import mixture_of


def test_any_order_gives_the_mixtures_own_steps(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [5, 3, 8, 2])
    ranges = [(f"episode_{i:06d}", start, None, 1.0) for i, start in ((0, 0), (0, 2), (1, 0), (2, 3), (3, 1))]
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")}, ranges=ranges)
    order = [*np.random.default_rng(0).permutation(len(mixture)).tolist(), 0, 0]
    for i, (row, steps) in zip(order, rows_and_steps(mixture, order), strict=True):
        assert steps.equals(mixture.steps(i))
        assert row == mixture.episodes.slice(i, 1).to_pylist()[0]


def test_rows_that_are_not_the_episodes_are_refused(tmp_path: Path) -> None:
    write_v3(tmp_path / "set", [5, 3])
    mixture = mixture_of(tmp_path / "lake", {"made": ("lerobot_v3", tmp_path / "set")})
    at = mixture.episodes.column_names.index("row_start")
    shifted = np.asarray(mixture.episodes["row_start"]) + 1
    mixture.episodes = mixture.episodes.set_column(at, "row_start", [shifted])
    with pytest.raises(SourceError, match="are not episode"):
        list(rows_and_steps(mixture, [0, 1]))
