from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from data_engine.weighers import Drawn


def _drawn(n_steps, weights=None, rewards=None, states=None, **facts) -> Drawn:
    n = len(n_steps)
    tables = []
    for i in range(n):
        columns = {"observation.state": [[float(x) for x in (states[i] if states is not None else [i])]] * n_steps[i]}
        if rewards is not None and rewards[i] is not None:
            columns["reward"] = rewards[i] if isinstance(rewards[i], list) else [rewards[i] / n_steps[i]] * n_steps[i]
        tables.append(pa.table(columns))
    order = list(range(n))[::-1]  # the order of files is not that of the units
    defaults = {name: ["x"] * n for name in ("datasets", "tasks", "operators", "kinds")}
    return Drawn(
        weights=np.ones(n) if weights is None else np.asarray(weights, float),
        n_steps=np.asarray(n_steps, np.int64),
        **{**defaults, "steps": lambda: ((i, tables[i]) for i in order), **facts},
    )


@pytest.fixture
def drawn() -> Callable[..., Drawn]:
    """Makes the units of an entry; ``rewards`` are sums (or lists by step), ``states`` the first states."""
    return _drawn


@pytest.fixture
def rates() -> Callable[..., np.ndarray]:
    """How often each unit is drawn, as shares, under the mixture's own drawing."""
    from data_engine.sampling import Draws, Units

    def shares(given: Drawn, weights: np.ndarray) -> np.ndarray:
        zeros = np.zeros(len(weights), np.int64)
        units = Units(zeros, zeros, weights, given.n_steps, np.ones(1))
        found = Draws(units, "probability", given.unit, None, 0).rates() * given.n_steps
        return found / found.sum()

    return shares
