"""``evaluate plan``: what to collect next, from what the mixtures held whose policies were evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

import polars as pl

from data_engine.errors import RequestError
from data_engine.planning import fit_law
from flows.describe import held_episodes
from storage.lake import Lake

__all__ = ["Factor", "plan"]

Factor = Literal["scenes", "objects", "demonstrations"]
_BREADTH: tuple[Factor, ...] = ("scenes", "objects")
_SURE = 0.95


def plan(
    lake: Lake,
    *,
    factors: Sequence[Factor] = (),
    task: str | None = None,
    success: float = 0.9,
    costs: Mapping[str, float] | None = None,
    here: str | None = None,
) -> dict[str, Any]:
    """``{"collect", "likeliest", "sure", "here", "target", "items", "points", "dispersion", "notes"}``: of which factor
    one more lowers failure most for its cost; ``collect`` is ``None`` where that is less than 95 % sure.

    ``factors``: those of the law (:func:`data_engine.planning.fit_law`); by default scenes and objects, as far as the
    evaluated mixtures differ in them. ``demonstrations`` are episodes for each scene with its objects. ``task``: whose
    rollouts count; all by default. ``costs``: of one more of a factor, 1 by default. ``here``: the mixture to go on
    from, by its id or the beginning of it; by default the one that was evaluated with the most. ``items``: by factor
    its ``have``, ``exponent``, by how much one more and twice as many raise success, and how many ``success`` takes.

    Raises ``RequestError`` where the evaluations are too few or too alike to tell.
    """
    if not 0 < success < 1:
        raise RequestError(f"success {success:g} is not between 0 and 1", code="bad_option", fix="give 0.9")
    strange = sorted({*factors, *(costs or {})} - set(get_args(Factor)))
    if strange:
        raise RequestError(
            f"unknown factor {strange[0]!r}", code="bad_option", fix=f"choose among {', '.join(get_args(Factor))}"
        )
    if any(not cost > 0 for cost in (costs or {}).values()):
        raise RequestError("a cost must be above 0", code="bad_option", fix="give scenes=3")
    points, notes = _points(lake, task)
    named: list[str] = list(factors) or [name for name in _BREADTH if len({point[name] for point in points} - {0}) > 1]
    for name in named:
        without = [point["mixture_id"][:12] for point in points if not point[name]]
        if without:
            notes.append(f"left out, they name no {name}: {', '.join(without)}")
    points = [point for point in points if all(point[name] for name in named)]
    if not named:
        raise RequestError(
            f"the {len(points)} evaluated mixtures do not differ in scenes or objects",
            code="too_few_points",
            fix="evaluate mixtures of unlike breadth; scene and objects come with the source",
        )
    found = fit_law(
        {name: [point[name] for point in points] for name in named},
        [point["failures"] for point in points],
        [point["rollouts"] for point in points],
    )
    at = _here(points, named, here)
    counts = {name: float(at[name]) for name in named}
    if found.dispersion > 2:
        notes.append(f"mixtures lie {found.dispersion:.1f} times as far from the law as their rollouts explain")
    items = []
    for name in named:
        exponent = found.exponent(name)
        if exponent.high is not None and exponent.high >= 0:
            notes.append(f"{name}: more of them may not help at all, the interval of the exponent holds 0")
        items.append(
            {
                "factor": name,
                "have": at[name],
                "exponent": asdict(exponent),
                "one_more": asdict(found.gain(name, counts, 1.0)),
                "doubled": asdict(found.gain(name, counts, counts[name])),
                "needed": asdict(found.needed(name, counts, success)),
            }
        )
    best, sure = found.best(counts, costs or {})
    falls = next(item["exponent"]["high"] for item in items if item["factor"] == best) < 0
    return {
        "collect": best if sure >= _SURE and falls else None,
        "likeliest": best,
        "sure": sure,
        "here": {
            **at,
            "predicted": {k: None if v is None else 1 - v for k, v in _turned(found.failure(counts)).items()},
        },
        "target": success,
        "items": items,
        "points": points,
        "dispersion": found.dispersion,
        "notes": notes,
    }


def _turned(failure: Any) -> dict[str, float | None]:
    return {"value": failure.value, "low": failure.high, "high": failure.low}


def _points(lake: Lake, task: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for every mixture that was evaluated and is still there, and what is said of the others."""
    rows = lake.scan("evaluations").filter(pl.col("success").is_not_null() & pl.col("mixture_id").is_not_null())
    if task is not None:
        rows = rows.filter(pl.col("task") == task)
    counted = rows.group_by("mixture_id").agg(failures=(~pl.col("success")).sum(), rollouts=pl.len()).collect()
    points: list[dict[str, Any]] = []
    notes = []
    for mixture, failures, rollouts in counted.sort("mixture_id").iter_rows():
        held = held_episodes(lake, str(mixture))
        if held is None:
            notes.append(f"left out, the mixture is no longer there: {str(mixture)[:12]}")
            continue
        objects = held["objects"].list.sort().list.join(",")
        pairs = held.select("scene", objects=objects).unique().height
        points.append(
            {
                "mixture_id": mixture,
                "scenes": held["scene"].drop_nulls().n_unique(),
                "objects": held["objects"].explode().drop_nulls().n_unique(),
                "demonstrations": len(held) / max(pairs, 1),
                "success": 1 - failures / rollouts,
                "failures": failures,
                "rollouts": rollouts,
            }
        )
    return points, notes


def _here(points: Sequence[Mapping[str, Any]], named: Sequence[str], mixture: str | None) -> dict[str, Any]:
    if mixture is None:
        return dict(max(points, key=lambda point: ([point[name] for name in named], point["mixture_id"])))
    mine = [point for point in points if point["mixture_id"].startswith(mixture)]
    if len(mine) != 1:
        raise RequestError(
            f"{len(mine)} evaluated mixtures begin with {mixture!r}",
            code="unknown_mixture",
            fix=f"choose one of {', '.join(point['mixture_id'][:12] for point in points)}",
        )
    return dict(mine[0])
