"""Outages: that a store could not be reached, as against that what it holds is damaged.

A format hands an episode that it cannot read over as unreadable, whatever the reason, and container libraries turn a
broken connection into errors of their own. Were that believed, an outage would quarantine good recordings for good. So
the store's client notes every request that it gave up on, and whoever judges what was read asks here first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from data_engine.errors import EngineError

__all__ = ["Outage", "is_outage", "note", "reaching"]


class Outage(OSError):
    """A store did not answer, after all retries, or refused: nothing is known of what was asked for."""


def is_outage(error: BaseException) -> bool:
    """Whether ``error`` says that a store did not answer; deltalake and polars have no class of their own for it."""
    return isinstance(error, Outage) or ("Generic S3 error" in str(error) and not isinstance(error, EngineError))


_count = 0  # of this process; another thread's outage may stop our work, which then only runs again
_last = ""


def note(error: BaseException) -> Outage:
    """Keep that a request was given up on with ``error``; the exception to raise instead."""
    global _count, _last
    _count += 1
    _last = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return Outage(_last)


@contextmanager
def reaching(what: str) -> Iterator[Callable[[], None]]:
    """Work that must not go on, nor be believed, after an outage; the value raises as soon as there was one.

    Raises ``EngineError`` with code ``unreachable``, at the latest at the end of the block, also in place of the error
    that the outage became.
    """
    before = _count

    def check(cause: BaseException | None = None) -> None:
        if _count > before:
            raise EngineError(
                f"a store did not answer while {what} was read: {_last}",
                code="unreachable",
                fix="run it again: it goes on where it was",
            ) from cause

    try:
        yield check
    except Exception as error:
        check(error)
        raise
    check()
