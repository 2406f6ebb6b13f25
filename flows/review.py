"""``review``: which episodes a person should look at next, what people said of them, and what that says of scorers.

A flag is a span of an episode that a scorer gave a reason for. A verdict is an annotation of kind ``verdict`` on such a
span: ``keep`` contradicts the reason, ``drop``, ``trim`` and ``relabel`` confirm it. About a hundred tell how often
each reason is right here, which no figure from elsewhere does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_engine.outcomes import wilson
from flows.annotate import Said, annotate
from flows.query import matching
from storage.lake import Lake

__all__ = ["VERDICTS", "Verdict", "alpha", "candidates", "judge", "queue", "tally"]

VERDICTS = ("keep", "drop", "trim", "relabel")
_KIND = "verdict"
_PERSON = "person:"
_UNFLAGGED = "unflagged"  # the reason of what no scorer gave one for
_KEY = ["episode_id", "content_hash", "reason"]
_STRATUM = ["dataset", "task", "reason"]


class Verdict(BaseModel):
    """What a person says of the steps [start, stop) of an episode that are flagged for ``reason``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    episode_id: str = Field(max_length=200)
    reason: str = Field(default=_UNFLAGGED, min_length=1, max_length=1000)
    start: int = Field(default=0, ge=0, lt=2**62)
    stop: int | None = Field(default=None, ge=1, lt=2**62)
    verdict: Literal["keep", "drop", "trim", "relabel"]
    text: Annotated[str, Field(min_length=1, max_length=10_000)] | None = Field(
        default=None, description="What it should be called, where it is to be relabelled; a remark otherwise."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Verdict:
        if self.stop is not None and self.stop <= self.start:
            raise ValueError("stop is not after start")
        return self


def candidates(lake: Lake) -> pl.DataFrame:
    """What there is to look at: ``episode_id, content_hash, dataset, task, n_steps, reason, scorer, start, stop, steps,
    spans, disagreement, stratum``, a row for each reason that an episode is flagged for (``start``, ``stop``: its
    longest span), and one of reason ``unflagged`` where it has none. What is disagreed about most comes first;
    ``stratum`` numbers (dataset, task, reason).

    ``disagreement`` is the standard deviation of what the scorers hold of the episode, each the mean percentile of its
    metrics in the better direction, of the largest there can be: 0 where all agree, 1 where half call it the best and
    half the worst, null under two scorers (query by committee, Seung et al. 1992). Reads the spans of every score:
    O(scores).
    """
    facts = ["episode_id", "content_hash", "dataset", "task", "n_steps"]
    episodes = lake.episodes().select(facts)
    version = lake.version("scores")
    if version is None or not len(episodes):
        flags = pl.DataFrame(schema={**dict.fromkeys((*_KEY, "scorer"), pl.String), **_NUMBERS})
        scores = pl.DataFrame(schema={"episode_id": pl.String, "content_hash": pl.String, "disagreement": pl.Float64})
    else:
        told = ["unit_id", "content_hash", "scorer", "metric", "percentile", "better", "spans"]
        rows = lake.scan("scores", version=version).filter(pl.col("unit_kind") == "episode").select(told)
        rows = rows.rename({"unit_id": "episode_id"})
        rows = rows.join(episodes.lazy(), on=["episode_id", "content_hash"], how="semi")
        flags, scores = _flags(rows), _disagreement(rows)
    found = episodes.join(flags, on=["episode_id", "content_hash"], how="left", maintain_order="left")
    found = found.with_columns(
        pl.col("reason").fill_null(_UNFLAGGED), pl.col("start").fill_null(0),
        pl.col("stop").fill_null(pl.col("n_steps")), pl.col("steps").fill_null(pl.col("n_steps")),
        pl.col("spans").fill_null(0),
    )  # fmt: skip
    found = found.join(scores, on=["episode_id", "content_hash"], how="left", maintain_order="left")
    places = found.select(_STRATUM).unique().sort(_STRATUM).with_row_index("stratum")
    found = found.join(places, on=_STRATUM, how="left", nulls_equal=True)
    return found.sort("disagreement", "episode_id", "reason", descending=[True, False, False], nulls_last=True)


_NUMBERS = dict.fromkeys(("start", "stop", "steps", "spans"), pl.Int64)


def _flags(rows: pl.LazyFrame) -> pl.DataFrame:
    spans = rows.filter(pl.col("spans").list.len() > 0).select("episode_id", "content_hash", "scorer", "spans")
    each = spans.explode("spans").unnest("spans").unique().with_columns(steps=pl.col("stop") - pl.col("start"))
    longest = each.sort("steps", "start", "scorer", descending=[True, False, False])
    return longest.group_by(_KEY, maintain_order=True).agg(
        pl.col("scorer").first(), pl.col("start").first(), pl.col("stop").first(),
        pl.col("steps").sum(), pl.len().cast(pl.Int64).alias("spans"),
    ).sort(_KEY).collect()  # fmt: skip


def _disagreement(rows: pl.LazyFrame) -> pl.DataFrame:
    held = pl.when(pl.col("better") == "higher").then("percentile").otherwise(100 - pl.col("percentile"))
    known = rows.filter(pl.col("percentile").is_not_null() & pl.col("better").is_in(["higher", "lower"]))
    mean = known.group_by("episode_id", "content_hash", "scorer").agg(held.mean().alias("held"))
    return mean.group_by("episode_id", "content_hash").agg(
        pl.when(pl.len() > 1).then(pl.col("held").std(ddof=0) / 50).alias("disagreement")
    ).collect()  # fmt: skip


def queue(
    lake: Lake, items: pl.DataFrame, reviewer: str, *, where: str | None = None, reason: str | None = None,
    again: bool = False, limit: int = 50,
) -> tuple[list[dict[str, Any]], int]:  # fmt: skip
    """The next ``limit`` of ``items`` (as :func:`candidates`) for ``reviewer``, and how many there are in all.

    Strata are (dataset, task, reason). What comes first teaches most: the k-th of a stratum, by falling disagreement of
    the scorers, has the priority of a judgement about a share p of which n + k are known, sqrt(p (1 - p) / (n + k +
    3)), with p and n as verdicts so far tell them (Laplace's estimate). So reasons nobody has judged yet, and strata of
    which little is known, come before the hundredth of its kind. ``again``: also what the reviewer has judged. Raises
    ``RequestError`` for a wrong expression.
    """
    found = items
    if where:
        admitted, _ = matching(lake, lake.episodes(), where)
        found = found.filter(pl.col("episode_id").is_in(admitted["episode_id"].implode()))
    if reason is not None:
        found = found.filter(pl.col("reason") == reason)
    said = _verdicts(lake)
    mine = said.filter(pl.col("reviewer") == reviewer).select(*_KEY, pl.col("label").alias("mine"))
    counted = said.group_by(_KEY).agg(pl.len().alias("verdicts"), pl.col("reviewer").sort().alias("reviewers"))
    told = _settled(said).join(items.select(*_KEY, "stratum"), on=_KEY, how="inner")
    known = told.group_by("stratum").agg(pl.len().alias("n"), pl.col("confirmed").sum().alias("yes"))
    if not again:
        found = found.join(mine, on=_KEY, how="anti", maintain_order="left")
    found = found.join(known, on="stratum", how="left", maintain_order="left")
    n, yes = pl.col("n").fill_null(0), pl.col("yes").fill_null(0)
    share = (yes + 1) / (n + 2)
    nth = pl.int_range(pl.len()).over("stratum")
    found = found.with_columns(priority=(share * (1 - share) / (n + nth + 3)).sqrt())
    edge = found["priority"].top_k(limit).min()  # few are left to be sorted
    first = (
        found.filter(pl.col("priority") >= pl.lit(edge, pl.Float64))
        .sort("priority", descending=True, maintain_order=True)
        .head(limit)
    )
    for more in (counted, mine):
        first = first.join(more, on=_KEY, how="left", maintain_order="left")
    first = first.with_columns(pl.col("verdicts").fill_null(0)).drop("n", "yes", "stratum", "content_hash")
    return first.to_dicts(), len(found)


def judge(lake: Lake, said: Sequence[Verdict], author: str) -> dict[str, int]:
    """Enter verdicts by ``author``: ``{"added", "already"}``. A later one on the same flag takes the place of the
    earlier, which stays in the annotations; said again it is not entered again. All go in or none.

    Raises ``RequestError`` for an episode that is not there and for steps that it does not have.
    """
    before = _verdicts(lake, newest=False).filter(pl.col("reviewer") == author)
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for row in before.sort("turn").iter_rows(named=True):
        last[row["episode_id"], row["reason"]] = row
    rows, already = [], 0
    for each in said:
        held = last.get((each.episode_id, each.reason))
        facts = {"label": each.verdict, "text": each.text, "start": each.start}
        if held is not None and all(held[name] == value for name, value in facts.items()) and each.stop in (
            None, held["stop"]
        ):  # fmt: skip
            already += 1
            continue
        turn = 0 if held is None else int(held["turn"]) + 1
        last[each.episode_id, each.reason] = facts | {"turn": turn, "stop": each.stop}
        rows.append(
            Said(episode_id=each.episode_id, kind=_KIND, start=each.start, stop=each.stop, label=each.verdict,
                 text=each.text, reason=each.reason, value=float(turn))
        )  # fmt: skip
    done = annotate(lake, rows, author) if rows else {"added": 0, "already": 0}
    return {"added": done["added"], "already": done["already"] + already}


def tally(lake: Lake, items: pl.DataFrame) -> dict[str, Any]:
    """``{"verdicts", "reviewers": [{"reviewer", "verdicts", "keep", "drop", "trim", "relabel"}], "shared", "alpha",
    "pairs": [{"first", "second", "shared", "agree"}], "reasons": [{"reason", "dataset", "flagged", "judged",
    "confirmed", "precision", "low", "high"}]}``.

    ``alpha`` over the ``shared`` flags that several judged, None where that says nothing. A reason's ``precision`` is
    the share of judged flags that the majority did not keep, with Wilson's 95 % interval; ``dataset`` None is all of
    them. Even votes settle nothing and are left out.
    """
    said = _verdicts(lake).join(items.select(_KEY).unique(), on=_KEY, how="semi")
    per = said.group_by("reviewer").agg(
        pl.len().alias("verdicts"), *((pl.col("label") == name).sum().alias(name) for name in VERDICTS)
    )
    voted = said.group_by(_KEY, maintain_order=True).agg("reviewer", "label").filter(pl.col("label").list.len() > 1)
    votes = [dict(zip(row["reviewer"], row["label"], strict=True)) for row in voted.iter_rows(named=True)]
    pairs = []
    for first, second in combinations(sorted(per["reviewer"]), 2):
        both = [(each[first], each[second]) for each in votes if first in each and second in each]
        if both:
            agree = sum(one == other for one, other in both) / len(both)
            pairs.append({"first": first, "second": second, "shared": len(both), "agree": agree})
    settled = _settled(said).join(items.select(*_KEY, "dataset"), on=_KEY, how="inner")
    flagged = items.filter(pl.col("reason") != _UNFLAGGED)
    reasons = []
    for by in (["reason"], ["reason", "dataset"]):
        counted = flagged.group_by(by).agg(pl.len().alias("flagged"))
        known = settled.group_by(by).agg(pl.len().alias("judged"), pl.col("confirmed").sum())
        for row in counted.join(known, on=by, how="left").fill_null(0).sort(by).iter_rows(named=True):
            low, high = wilson(row["confirmed"], row["judged"]) if row["judged"] else (None, None)
            share = row["confirmed"] / row["judged"] if row["judged"] else None
            reasons.append({"dataset": None, **row, "precision": share, "low": low, "high": high})
    return {"verdicts": len(said), "reviewers": per.sort("reviewer").to_dicts(), "shared": len(votes),
            "alpha": alpha([list(each.values()) for each in votes]), "pairs": pairs, "reasons": reasons}  # fmt: skip


def alpha(units: Sequence[Sequence[str]]) -> float | None:
    """Krippendorff's alpha for names (Krippendorff 2004): 1 where all agree, 0 where they agree as by chance; None
    where fewer than two said something of the same unit, or all said one thing everywhere. ``units``: what was said of
    each.
    """
    shared = [list(unit) for unit in units if len(unit) > 1]
    names = sorted({each for unit in shared for each in unit})
    if len(names) < 2:
        return None
    together = np.zeros((len(names), len(names)))
    for unit in shared:
        counts = np.array([unit.count(name) for name in names], float)
        together += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    sums, total = together.sum(axis=1), together.sum()
    expected = (total**2 - (sums**2).sum()) / (total - 1)
    return float(1 - (total - np.trace(together)) / expected)


def _verdicts(lake: Lake, *, newest: bool = True) -> pl.DataFrame:
    """``episode_id, content_hash, reason, reviewer, label, text, start, stop, turn`` of what people said of flags."""
    mine = (pl.col("kind") == _KIND) & pl.col("producer").str.starts_with(_PERSON)
    rows = lake.scan("annotations").filter(mine & pl.col("label").is_in(VERDICTS)).collect()
    rows = rows.select(
        "episode_id", "content_hash", pl.col("reason").fill_null(_UNFLAGGED),
        pl.col("producer").str.strip_prefix(_PERSON).alias("reviewer"), "label", "text", "start", "stop",
        pl.col("value").fill_null(0.0).alias("turn"),
    )  # fmt: skip
    if not newest:
        return rows
    return rows.sort("turn", maintain_order=True).unique([*_KEY, "reviewer"], keep="last", maintain_order=True)


def _settled(said: pl.DataFrame) -> pl.DataFrame:
    """Each flag that the majority confirmed or kept; even votes are left out."""
    votes = said.group_by(_KEY).agg((pl.col("label") != "keep").mean().alias("share"))
    decided = votes.filter(pl.col("share") != 0.5)
    return decided.select(*_KEY, (pl.col("share") > 0.5).cast(pl.Int64).alias("confirmed"))
