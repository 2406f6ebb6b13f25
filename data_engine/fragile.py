"""Reading that can end the process: a C library which meets damaged data may crash, or never return.

A reader says so just before it goes there (:func:`fragile`), and over which episode it is (:func:`reading`). Inside
:func:`spared` the former raises, and whoever cares for this process does the work again in one of its own, where the
latter is heard. A file without such parts never pays for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Fragile", "avoided", "avoiding", "fragile", "hear", "reading", "spared"]

_spared: ContextVar[bool] = ContextVar("spared", default=False)
_avoided: ContextVar[frozenset[str]] = ContextVar("avoided", default=frozenset())
_hears: Callable[[str | None], None] | None = None


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


@contextmanager
def avoiding(keys: Iterable[str]) -> Iterator[None]:
    """Inside, in this thread, episodes ``keys`` are :func:`avoided`: looking at them ended a process before."""
    token = _avoided.set(frozenset(keys))
    try:
        yield
    finally:
        _avoided.reset(token)


def avoided(key: str) -> bool:
    """Whether a probe must not look into episode ``key``."""
    return key in _avoided.get()


def hear(hears: Callable[[str | None], None] | None) -> None:
    """Have ``hears`` called with whatever this process is :func:`reading` from now on; None: nobody listens."""
    global _hears
    _hears = hears


def reading(what: str | None) -> None:
    """Say which episode is read from now on: it is to blame if this process ends. Nothing, where nobody hears it."""
    if _hears is not None:
        _hears(what)
