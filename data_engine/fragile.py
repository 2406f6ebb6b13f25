"""Reading that can end the process: a C library which meets damaged data may crash instead of returning an error.

A reader says so just before it goes there. Inside :func:`spared` that raises, and whoever cares for this process does
the work again in one of its own. A file without such parts never pays for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Fragile", "fragile", "spared"]

_spared: ContextVar[bool] = ContextVar("spared", default=False)


class Fragile(Exception):
    """What comes next can end the process. No ``EngineError``: a reader must not take it for a bad episode."""


@contextmanager
def spared() -> Iterator[None]:
    """Inside, in this thread, :func:`fragile` raises :class:`Fragile`."""
    token = _spared.set(True)
    try:
        yield
    finally:
        _spared.reset(token)


def fragile(what: str) -> None:
    """Say that ``what`` is about to be read, over which a C library can crash. Raises ``Fragile`` if spared."""
    if _spared.get():
        raise Fragile(what)
