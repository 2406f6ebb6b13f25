"""``select``: a named, ordered set of episodes with weights, why each is in or out, and the exact inputs it came from.

The selector chooses among vectors of one (embodiment, control mode) at a time, and of one task or operator where the
recipe says ``within``; each such group is chosen in apart and shares the budget by its number of candidates. Targets
are never candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from data_engine import registry
from data_engine.canonical import canonical_json, digest, round_significant
from data_engine.errors import RequestError
from data_engine.recipe import SelectRecipe
from data_engine.scoring import Clips
from data_engine.selection import Budget, Candidates, Selector, resolve_budget
from flows.clips import clips, pinned
from flows.datasets import episodes_of, gathered
from flows.index import vectors
from flows.named import held, held_of
from flows.progress import Progress
from flows.query import matching, score_column, score_metric
from flows.segments import cut, mean_vectors, whole
from storage.lake import Lake

__all__ = ["oriented", "select", "stored"]

_KIND = ["embodiment", "control_mode"]
_UNIT = ["unit", "episode_id", "content_hash", "start", "stop"]
_PARTS = {"unit": pl.String, "of": pl.String, "start": pl.Int64, "stop": pl.Int64}
_Read = Callable[[pl.DataFrame, Sequence[int]], Sequence[Clips]]


def select(
    lake: Lake,
    recipe: SelectRecipe,
    episodes: pl.DataFrame,
    *,
    progress: Progress,
    run_id: str,
    fits: Mapping[str, str] | None = None,
    encoder_version: str | None = None,
    selections: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Choose among ``episodes`` and store the selection, which becomes the newest of its name.

    With ``segments`` in the recipe the units are step ranges, each with a rank and weight of its own; with ``unit:
    dataset`` whole datasets, whose episodes follow each other; else episodes.
    Returns ``{"selection_id", "name", "method", "candidates", "targets", "chosen", "undecided", "report"}``. ``fits``
    and ``encoder_version`` pin what scores and vectors count, ``selections`` (ids by name) what set algebra is done on.
    Raises ``RequestError`` where nothing can be chosen from.
    """
    selector: Selector = registry.make("selectors", recipe.method, recipe.params)
    targets, by = _targets(lake, recipe, episodes, fits, progress)
    rest = episodes.join(targets, on="episode_id", how="anti", maintain_order="left")
    admitted, undecided = matching(lake, rest, recipe.where, fits)
    if undecided:
        progress.warn(
            f"selection {recipe.name}: {undecided} episodes left out, where was null for them: {recipe.where}"
        )
    if not len(admitted):
        raise RequestError(
            f"selection {recipe.name!r} has nothing to choose from: {len(episodes)} episodes, "
            f"{len(targets)} of them targets{f', no other fits where: {recipe.where}' if len(rest) else ''}",
            code="no_candidates",
            fix="loosen where, or name fewer targets",
        )
    segments: dict[str, Any] | None = None
    reasons: dict[str, str] = {}
    if recipe.segments is not None:
        both = pl.concat([admitted, targets])
        units, fit = cut(lake, both, recipe.segments, fits, progress)
        uncut = both.join(units, on="episode_id", how="anti")["episode_id"]
        segments = {**recipe.segments.model_dump(mode="json"), "fit": fit}
        if not selector.needs_clips:
            reasons |= dict.fromkeys(uncut, "left out: it has no such segment")
        pieces = (
            units.join(group, on="episode_id", how="semi", maintain_order="left") for group in (admitted, targets)
        )
        admitted, targets = (whole(admitted), list(pieces)[1]) if selector.needs_clips else pieces
        if not len(admitted):
            raise RequestError(
                f"selection {recipe.name!r}: no segment of these episodes fits where: {recipe.segments.where}",
                code="no_candidates",
                fix="loosen segments.where",
            )
    else:
        admitted, targets = whole(admitted), whole(targets)
    sets: list[str] = []
    if selector.needs_selections:
        if segments is not None:
            raise RequestError(
                f"selection {recipe.name!r}: {recipe.method} chooses among what its selections hold",
                code="bad_recipe",
                fix="leave segments out",
            )
        of = {name: stored(lake, (selections or {}).get(name, name)) for name in selector.needs_selections}
        sets = [rows["selection_id"][0] for rows in of.values()]
        reasons |= dict.fromkeys(admitted["unit"], f"left out: none of {', '.join(of)} holds it")
        admitted = held(admitted, of, recipe.name, progress)
    offered = pl.concat([admitted.select(_UNIT), targets.select(_UNIT)])
    reasons |= dict.fromkeys(targets["unit"], "target")
    version = None
    if selector.needs_vectors:
        both = pl.concat([admitted, targets])
        of_units = vectors if segments is None else mean_vectors
        found, version = of_units(lake, recipe.space, both, encoder_version)
        lacking = both.join(found, on="unit", how="anti")["unit"].to_list()
        reasons |= dict.fromkeys(lacking, f"left out: space {recipe.space!r} holds no vector of it")
        if lacking:
            kind = "episodes" if segments is None else "segments"
            progress.warn(f"selection {recipe.name}: space {recipe.space!r} holds no vector of {len(lacking)} {kind}")
        for role, group in (("candidate", admitted), ("target", targets)):
            if len(group) and not found["unit"].is_in(group["unit"].implode()).any():
                raise RequestError(
                    f"selection {recipe.name!r}: no {role} has a vector in space {recipe.space!r}",
                    code="not_embedded",
                    fix="embed them, or choose others",
                )
        admitted, targets = (
            found.join(group, on="unit", how="semi", maintain_order="left") for group in (admitted, targets)
        )
    read: _Read | None = None
    if selector.needs_clips:
        space = f"space {recipe.space}"
        versions = {recipe.space: encoder_version} if encoder_version else None
        version = pinned(lake, [recipe.space], offered, versions)[space]
        read = partial(_parts_of, lake, recipe.space, version)
    ranked = None
    if selector.needs_score is not None:
        ranked = oriented(lake, admitted, selector.needs_score, fits)
        if not ranked.is_finite().any():
            raise RequestError(
                f"selection {recipe.name!r}: {selector.needs_score} is known of no candidate",
                code="no_scores",
                fix="score them first",
            )
        admitted = admitted.with_columns(score=ranked)
    fallback = selector.needs_targets and not len(targets)
    if fallback:
        progress.warn(f"selection {recipe.name}: no episode can serve as target; every candidate is kept, unweighed")
        selector = registry.make("selectors", "filter")
    if recipe.unit == "dataset":
        if selector.needs_selections or selector.needs_clips:
            raise RequestError(
                f"selection {recipe.name!r}: {recipe.method} chooses no whole datasets",
                code="bad_recipe",
                fix="leave unit out, or choose another method",
            )
        grouped = gathered(admitted)
        chosen, said, report, parts = _choose(selector, recipe, grouped, targets, fallback, read)
        chosen, said = episodes_of(grouped, chosen, said)
    else:
        chosen, said, report, parts = _choose(selector, recipe, admitted, targets, fallback, read)
    if parts is not None:  # in the place of the units that they are of
        taken = parts.join(offered.drop("start", "stop"), left_on="of", right_on="unit", maintain_order="left")
        said |= {name: said[of] for name, of in parts.select("unit", "of").iter_rows()}
        offered = pl.concat([offered.filter(~pl.col("unit").is_in(parts["of"].implode())), taken.select(_UNIT)])
    inputs = {
        "method": recipe.method if not fallback else "filter",
        "params": recipe.params,
        "budget": recipe.budget,
        "where": recipe.where,
        "within": list(recipe.within),
        "shares": recipe.shares,
        "target": recipe.target.model_dump(mode="json", exclude_none=True) if recipe.target else None,
        "target_metric": by,
        "targets": sorted(targets["content_hash"]),
        "candidates": digest(sorted(admitted["content_hash"])),
        "pool": digest(sorted(episodes["content_hash"])),
        "space": recipe.space if version else None,
        "encoder_version": version,
        "fits": dict(sorted((fits or {}).items())),
        "seed": recipe.seed,
    }
    if ranked is not None:  # the same fits may have scored more, or anew, since
        inputs["scores"] = digest(sorted(zip(admitted["unit"], ranked.fill_nan(None), strict=True)))
    if sets:
        inputs["selections"] = sets
    if recipe.unit == "dataset":
        inputs["unit"] = recipe.unit
    if segments is not None:
        spans = pl.concat_str("content_hash", "start", "stop", separator=":")
        inputs |= {"segments": segments, "candidates": digest(sorted(admitted.select(spans).to_series()))}
    if selector.needs_clips:
        inputs["targets"] = sorted(
            targets.select(pl.concat_str("content_hash", "start", "stop", separator=":")).to_series()
        )
    selection_id = "sel_" + digest(recipe.name, inputs, length=20)
    others = whole(episodes.join(offered, on="episode_id", how="anti", maintain_order="left")).select(_UNIT)
    rows = _rows(pl.concat([offered, others]), chosen, reasons | said)
    before = _newest(lake, recipe.name)
    kept = set(before["selection_id"]) == {selection_id} and set(before["episode_id"]) == set(episodes["episode_id"])
    if not kept:
        versions = {
            name: lake.version(name)
            for name in ("episodes", "scores", "selections", f"embeddings/{recipe.space}")
            if lake.exists_table(name)
        }
        document = canonical_json({**inputs, "report": report, "table_versions": versions})
        now = datetime.now(UTC)
        common = {"selection_id": selection_id, "name": recipe.name, "method": inputs["method"], "inputs": document}
        lake.append_rows(
            "selections", [{**row, **common, "run_id": run_id, "created_at": now} for row in rows],
            transaction=digest(selection_id, sorted(episodes["episode_id"]), str(before["created_at"].max())),
            run_id=run_id, config_hash=digest(inputs, length=16),
        )  # fmt: skip
    return {
        "selection_id": selection_id,
        "name": recipe.name,
        "method": inputs["method"],
        "candidates": len(admitted),
        "targets": len(targets),
        "chosen": len(chosen),
        "undecided": undecided,
        "report": report,
    }


def oriented(lake: Lake, units: pl.DataFrame, name: str, fits: Mapping[str, str] | None = None) -> pl.Series:
    """The score ``name`` of each unit's episode, float64, turned so that larger is better, NaN where it is not known.

    Raises ``RequestError`` for one that has no better direction.
    """
    better = score_metric(name).better
    if better == "neither":
        raise RequestError(f"{name} has no better direction to choose by", code="bad_score", fix="name another score")
    episodes = units.unique("episode_id", maintain_order=True)  # of which a unit may be a part
    values = dict(zip(episodes["episode_id"], score_column(lake, episodes, name, fits), strict=True))
    sign = 1.0 if better == "higher" else -1.0
    found = [math.nan if (value := values[unit]) is None else sign * value for unit in units["episode_id"]]
    return pl.Series("score", found, dtype=pl.Float64)


def stored(lake: Lake, name: str) -> pl.DataFrame:
    """The rows of a selection by its id, or of the newest of that name, chosen first in order.

    Raises ``RequestError`` where there is none.
    """
    rows = _newest(lake, name)
    if not len(rows):
        known = lake.scan("selections").select(pl.col("name").unique().sort()).collect()["name"].to_list()
        raise RequestError(
            f"no selection {name!r}", code="unknown_selection", fix=f"there are: {', '.join(known) or 'none'}"
        )
    return rows.sort("rank", "episode_id", nulls_last=True)


def _newest(lake: Lake, name: str) -> pl.DataFrame:
    rows = lake.scan("selections").filter((pl.col("name") == name) | (pl.col("selection_id") == name)).collect()
    last = rows.sort("created_at", "selection_id").tail(1)
    return rows.join(last, on=["created_at", "selection_id"], how="semi")


def _targets(
    lake: Lake, recipe: SelectRecipe, episodes: pl.DataFrame, fits: Mapping[str, str] | None, progress: Progress
) -> tuple[pl.DataFrame, str | None]:
    """The target episodes and, for ``top``, the metric's better direction. The top are among those ``where`` admits."""
    target = recipe.target
    if target is None:
        return episodes.clear(), None
    if target.where is not None:
        found, undecided = matching(lake, episodes, target.where, fits)
        if undecided:
            progress.warn(f"{undecided} episodes are no targets, target.where was null for them: {target.where}")
        if not len(found):
            raise RequestError(f"no episode is a target: {target.where}", code="no_targets", fix="loosen target.where")
        return found, None
    if target.ids is not None:
        missing = sorted(set(target.ids) - set(episodes["episode_id"]))
        if missing:
            raise RequestError(
                f"target {missing[0]!r} is not among the episodes",
                code="unknown_episode",
                fix="see `data-engine query`",
            )
        return episodes.filter(pl.col("episode_id").is_in(list(target.ids))), None
    assert target.top is not None and target.by is not None
    better = score_metric(target.by).better
    if better == "neither":
        raise RequestError(f"{target.by} has no better direction to take the top by", code="bad_target")
    admitted, _ = matching(lake, episodes, recipe.where, fits)
    ranked = episodes.with_columns(score_column(lake, episodes, target.by, fits).alias("_score"))
    ranked = ranked.filter(pl.col("_score").is_not_null()).join(admitted, on="episode_id", how="semi")
    order = [better == "higher", False, False]  # of equal scores the content decides, not the order of rows
    ranked = ranked.sort("_score", "content_hash", "episode_id", descending=order).drop("_score")
    count = min(target.top, len(admitted) // 2, len(ranked))
    if count < target.top:
        progress.warn(
            f"selection {recipe.name}: {count} targets instead of {target.top}: {target.by} is known of {len(ranked)}"
            f" of the {len(admitted)} episodes that may be chosen, and at least half of those stay candidates"
        )
    return ranked.head(count), better


def _choose(
    selector: Selector,
    recipe: SelectRecipe,
    admitted: pl.DataFrame,
    targets: pl.DataFrame,
    fallback: bool,
    read: _Read | None,
) -> tuple[list[tuple[str, float]], dict[str, str], dict[str, Any], pl.DataFrame | None]:
    """(unit, weight) in order, the reason of every candidate, the report; and where parts of candidates were chosen,
    these as rows of ``unit``, ``of``, ``start`` and ``stop``."""
    budget = None if fallback else recipe.budget
    if selector.needs_vectors and selector.needs_targets:
        alone = admitted.join(targets, on=_KIND, how="anti")
        if len(alone):
            kinds = sorted({f"{row[0]}/{row[1]}" for row in alone.select(_KIND).iter_rows()})
            raise RequestError(
                f"selection {recipe.name!r}: candidates of {', '.join(kinds)} have no target of their kind",
                code="unlike_spaces",
                fix="narrow where to the targets' embodiment and control mode, or add targets",
            )
    chosen: list[tuple[str, float]] = []
    parts: list[tuple[str, str, int, int]] = []
    reasons: dict[str, str] = {}
    reports: dict[str, Any] = {}
    groups = []
    for kind, group, mine in _groups([*(_KIND if selector.needs_vectors else ()), *recipe.within], admitted, targets):
        if selector.needs_targets and not len(mine):
            reasons |= dict.fromkeys(group["unit"], f"left out: no target of the same {', '.join(recipe.within)}")
        else:
            groups.append((kind, group, mine))
    if not groups:
        raise RequestError(
            f"selection {recipe.name!r}: no candidate has a target of the same {', '.join(recipe.within)}",
            code="no_targets",
            fix="leave within out, or add targets",
        )
    shares = _shares(budget, [len(group) for _, group, _ in groups], equal=recipe.shares == "equal")
    for (kind, group, mine), share in zip(groups, shares, strict=True):
        if share == 0:
            reasons |= dict.fromkeys(group["unit"], f"left out: the budget leaves none for {kind}")
            continue
        result = selector.select(
            _candidates(group, read), _candidates(mine, read) if len(mine) else None, budget=share, seed=recipe.seed
        )
        ids = group["unit"].to_list()
        reasons |= dict(zip(ids, result.reasons, strict=True))
        names = [ids[at] for at in result.order]
        if result.spans is not None:
            spans = [(of, int(start), int(stop)) for of, (start, stop) in zip(names, result.spans, strict=True)]
            parts += [(f"{of}:{start}:{stop}", of, start, stop) for of, start, stop in spans]
            names = [name for name, *_ in parts[-len(spans) :]]
        chosen += [
            (name, float(round_significant(float(weight), 9) or 0.0))
            for name, weight in zip(names, result.weights, strict=True)
        ]
        reports[kind] = dict(result.report)
    report = next(iter(reports.values())) if len(groups) == 1 else reports
    return chosen, reasons, report, pl.DataFrame(parts, _PARTS, orient="row") if selector.needs_clips else None


def _groups(
    apart: list[str], admitted: pl.DataFrame, targets: pl.DataFrame
) -> Iterator[tuple[str, pl.DataFrame, pl.DataFrame]]:
    """The name, candidates and targets of every group that is chosen in apart, in the order of the values of ``apart``.

    Null is a value of its own; so is each set of objects.
    """
    if not apart:
        yield "", admitted, targets
        return
    if "objects" in apart:
        joined = pl.col("objects").list.sort().list.join(", ")
        admitted, targets = admitted.with_columns(objects=joined), targets.with_columns(objects=joined)
    parts = admitted.partition_by(apart, as_dict=True, maintain_order=True)
    for values in sorted(parts, key=lambda values: [(value is not None, value or "") for value in values]):
        group = parts[values]
        mine = targets.join(group, on=apart, how="semi", maintain_order="left", nulls_equal=True)
        yield "/".join("none" if value is None else value for value in values), group, mine


def _shares(budget: Budget | None, sizes: list[int], *, equal: bool = False) -> list[Budget | None]:
    """``budget`` shared out among groups by their sizes, to the last unit (the largest remainders round up).

    ``equal``: alike, and what the smaller ones cannot fill goes to the others; a unit that is left, to the first.
    """
    if budget is None or budget == "auto" or len(sizes) == 1:
        return [budget] * len(sizes)
    whole, everyone = resolve_budget(budget, sum(sizes)), sum(sizes)
    if equal:
        filled, left = [0] * len(sizes), whole
        waiting = sorted(range(len(sizes)), key=lambda at: (sizes[at], -at))  # the smallest first, the first last
        for count, at in zip(range(len(sizes), 0, -1), waiting, strict=True):
            filled[at] = min(sizes[at], left // count)
            left -= filled[at]
        return list(filled)
    shares = [whole * size // everyone for size in sizes]
    remainders = [whole * size % everyone for size in sizes]
    for at in sorted(range(len(sizes)), key=lambda at: (-remainders[at], at))[: whole - sum(shares)]:
        shares[at] += 1
    return list(shares)


def _parts_of(lake: Lake, space: str, version: str, units: pl.DataFrame, rows: Sequence[int]) -> Sequence[Clips]:
    """The vectors of the parts of some of ``units``, those that begin in each."""
    asked = units[list(rows)]
    found = clips(lake, space, version, asked["episode_id"].to_list(), asked["content_hash"].to_list())
    return [each.within(start, stop) for each, start, stop in zip(found, asked["start"], asked["stop"], strict=True)]


def _candidates(episodes: pl.DataFrame, read: _Read | None) -> Candidates:
    matrix = np.asarray(episodes["vector"].to_list(), np.float32) if "vector" in episodes.columns else None
    return Candidates(
        ids=episodes["unit"].to_list(),
        content_hashes=episodes["content_hash"].to_list(),
        n_steps=episodes["n_steps"].to_numpy(),
        vectors=matrix,
        scores=episodes["score"].to_numpy() if "score" in episodes.columns else None,
        held=held_of(episodes),
        clips=partial(read, episodes) if read is not None else None,
    )


def _rows(units: pl.DataFrame, chosen: list[tuple[str, float]], reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    rank = {name: (place, weight) for place, (name, weight) in enumerate(chosen)}
    rows = []
    for unit, name, content, start, stop in units.select(_UNIT).iter_rows():
        place, weight = rank.get(unit, (None, None))
        reason = reasons.get(unit, "not admitted by where")
        rows.append(
            {"rank": place, "episode_id": name, "content_hash": content, "start": start, "stop": stop, "weight": weight,
             "reason": reason}
        )  # fmt: skip
    return rows
