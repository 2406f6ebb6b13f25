from collections.abc import Callable

import numpy as np
import pytest

from data_engine.selection import Candidates


def _units(vectors: np.ndarray | None, prefix: str, n: int | None = None) -> Candidates:
    n = len(vectors) if vectors is not None else n
    return Candidates(
        ids=[f"ep_{prefix}{i:05d}" for i in range(n)],
        content_hashes=[f"{(i * 2654435761) % 2**32:08x}{prefix}" for i in range(n)],
        n_steps=np.full(n, 100, dtype=np.int64),
        vectors=None if vectors is None else np.asarray(vectors, dtype=np.float32),
    )


@pytest.fixture
def units() -> Callable[..., Candidates]:
    """Makes candidates or targets from vectors, with content hashes in another order than their ids."""
    return _units


@pytest.fixture
def permuted() -> Callable[..., Candidates]:
    """The same units in another order, under other names."""

    def permute(given: Candidates, order: np.ndarray) -> Candidates:
        return Candidates(
            ids=[f"renamed_{i}" for i in range(len(given))],
            content_hashes=[given.content_hashes[i] for i in order],
            n_steps=given.n_steps[order],
            vectors=None if given.vectors is None else given.vectors[order],
        )

    return permute
