"""Erasing: removed episodes leave the lake for good, whatever pins them, and nothing else changes what it means.

What will be done is written down first (``_erase/plan.json``, gone at the end): which episodes, the files that take the
place of those they lie in, and where the frames of the others move to. Every step after that looks at what is there and
does what is left, so an erase that was killed goes on when it is run again. New files come before the commits that name
them, old ones go last.

The Delta logs stay, for they say which commits were made: they hold hashes, sizes and counts. What an erase cannot
reach: exports, other machines' caches, videos that the lake only refers to, the store's own backups and object
versions. A content hash stays where it is evidence of what a fit or a selection saw.
"""

from __future__ import annotations

from typing import Any

from storage import fits
from storage.blobs import Blobs
from storage.checkpoints import drop_checkpoints
from storage.erase.documents import (
    Rebuild,
    drop_answers,
    forget_shards,
    rebuild_indices,
    remove_reports,
    rewrite_mixtures,
)
from storage.erase.leavings import delete, leftovers
from storage.erase.plan import PLAN, Plan, load, make
from storage.erase.tables import mark_broken, rewrite, swap_steps
from storage.lake import Lake

__all__ = ["PLAN", "Rebuild", "erase", "pending"]


def erase(lake: Lake, rebuild: Rebuild) -> dict[str, Any]:
    """Erase every removed episode. ``rebuild(space, encoder version, episode ids)`` makes an index anew without them.

    Returns ``{"erased", "steps_files", "videos": {"deleted", "recut", "encoded"}, "mixtures", "fits", "checkpoints",
    "indices", "reports", "answers", "settings", "elsewhere", "left"}``: counts, names of what is broken, flagged or
    gone with its mixture, the settings of what had to be encoded again, files outside the lake that still show an
    episode, and files of it that still name one.
    Raises ``EngineError`` where a file cannot be read or written; run it again then.
    """
    plan = load(lake) or make(lake)
    if plan is None:
        return {"erased": 0, "left": []}
    why = f"erase {plan.id}"
    swap_steps(lake, plan, why)
    rewrite(lake, plan, why)
    broken = rewrite_mixtures(lake, plan)
    mark_broken(lake, broken, why)
    report: dict[str, Any] = {
        "erased": len(plan.ids),
        "mixtures": broken,
        "fits": [f"{producer}/{fit}" for producer, fit in fits.flag(lake, plan.hashes, plan.at)],
        "checkpoints": drop_checkpoints(lake, broken),
        "indices": rebuild_indices(lake, plan, rebuild),
        "reports": remove_reports(lake, plan, broken),
        "answers": drop_answers(lake, plan),
    }
    forget_shards(lake, plan, report["fits"])
    report["left"] = delete(lake, plan)
    report["left"] += leftovers(lake, plan)
    lake.remove(PLAN)
    return report | _told(plan)


def pending(lake: Blobs) -> list[str]:
    """The episodes of an erase that was cut off; none where there is no such."""
    plan = load(lake)
    return plan.ids if plan else []


def _told(plan: Plan) -> dict[str, Any]:
    spans = [span for spans in plan.videos.values() for span in spans]
    return {
        "steps_files": len(plan.steps),
        "videos": {
            "deleted": sum(not spans for spans in plan.videos.values()),
            "recut": sum(bool(spans) for spans in plan.videos.values()),
            "encoded": sum(span["settings"] is not None for span in spans),
        },
        "elsewhere": plan.elsewhere,
        "settings": next((span["settings"] for span in spans if span["settings"]), None),
    }
