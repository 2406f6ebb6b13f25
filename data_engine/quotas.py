"""Quotas: how much of what a mixture draws comes from real robots, simulators, generators, people's videos.

A mixture's weights say how episodes compare; its quotas then say what share of an epoch's samples each provenance has,
whatever the weights, the lengths and the number of episodes of it. Inside a provenance all proportions stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from data_engine.errors import RequestError

__all__ = ["UNKNOWN", "check", "factors"]

UNKNOWN = "unknown"
"""The provenance of an episode that states none."""

_KNOWN = ("real", "sim", "synthetic", "human_video", UNKNOWN)


def check(quotas: Mapping[str, float], provenances: Iterable[str | None]) -> None:
    """Raise ``RequestError`` where ``quotas`` are not shares of 1 of just the ``provenances`` of a mixture's rows."""
    if not quotas:
        return
    found = {name or UNKNOWN for name in provenances}
    for name in quotas:
        if name not in _KNOWN:
            raise _refused(f"quota of {name!r}", f"known: {', '.join(_KNOWN)}")
    if not all(math.isfinite(share) and share > 0 for share in quotas.values()) or abs(sum(quotas.values()) - 1) > 1e-9:
        raise _refused(f"quotas {dict(quotas)} do not share out 1", "give positive shares that sum to 1")
    for name in sorted(found - set(quotas)):
        raise _refused(
            f"the mixture has episodes of provenance {name}, and no quota for them",
            "give one, leave them out, or state at ingest what they are: -o provenance=real",
        )
    for name in sorted(set(quotas) - found):
        raise _refused(f"no episode of the mixture is of provenance {name}, which has a quota", "select some first")


def factors(quotas: Mapping[str, float], names: list[str | None], of: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """float64 [R]: what to multiply each row's draws with. Their sum stays.

    ``of`` int [R]: which of the provenances ``names`` a row has; ``mass`` float64 [R]: how many samples it would give.
    What is not among the rows (a small split may lack one) leaves its share to the others, in proportion.
    """
    share = np.array([quotas[name or UNKNOWN] for name in names])
    held = np.bincount(of, mass, minlength=len(names))
    share = np.where(held > 0, share, 0.0)
    return (share / share.sum() * held.sum() / np.where(held > 0, held, 1.0))[of]


def _refused(message: str, fix: str) -> RequestError:
    return RequestError(message, code="bad_quotas", fix=fix)
