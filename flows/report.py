"""The report of a curation: what was kept and why, as one HTML page and as the table that the run ends with.

Both are pure functions of the run's plain JSON-able report. Every part of it may be empty, null or missing. Names of
tasks, operators and datasets come from untrusted data: everything is escaped, and the page may load or run nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import polars as pl

from flows import charts
from flows.charts import Group, Mark, number
from flows.progress import printable

__all__ = ["render", "table"]

_COLOURS = 8
_PANELS = 12  # score metrics that get charts; the rest is in the table of scores
_MARKS = 1500  # episodes on the map
_POINTS = 24_000  # dots in all other charts together
_ROWS = 40  # of a table; the page says how many more there are

_EPISODE = {
    "episode_id": pl.String, "dataset": pl.String, "task": pl.String, "operator": pl.String, "success": pl.Boolean,
    "n_steps": pl.Float64, "chosen": pl.Boolean, "weight": pl.Float64, "is_target": pl.Boolean, "x": pl.Float64,
    "y": pl.Float64,
}  # fmt: skip


def render(report: Mapping[str, Any]) -> str:
    """``report`` of a curation as a self-contained HTML page, under 1 MB whatever the number of episodes.

    Keys (all optional): ``run_id``, ``recipe_hash``, ``mixture_id``, ``name``, ``created_at``, ``datasets``,
    ``scores``, ``labels``, ``selections``, ``episodes``, ``mixture``, ``exports``, ``receipts``, ``timings`` (seconds
    by stage), ``warnings``.
    """
    episodes = _episodes(report)
    groups = _groups(episodes)
    scores = [_score(score, episodes, groups) for score in _list(report, "scores")]
    limit = _POINTS // (2 * max(min(len(scores), _PANELS), 1) * max(len(groups), 1))
    mixture = report.get("mixture") or {}
    weights = [
        Group(label, css, rows.filter("chosen").get_column("weight").drop_nulls().to_list())
        for label, css, rows in groups
        if css != "ink"
    ]
    candidates = episodes.filter(~pl.col("is_target"))
    return _template().render(
        report=report,
        rows=_ROWS,
        groups=[(label, css) for label, css, _ in groups],
        grouped_by=_group_column(episodes),
        counts={
            "candidates": len(candidates),
            "kept": int(candidates.get_column("chosen").sum()),
            "targets": len(episodes) - len(candidates),
        },
        shares=[(key, _shares(episodes, key)) for key in ("operator", "task", "dataset")],
        chart_map=_map(groups),
        mapped=min(len(episodes), _MARKS),
        scores=scores,
        panels=[_panel(score, limit) for score in scores[:_PANELS]],
        labels=[_label(label) for label in _list(report, "labels")],
        selections=[_selection(selection) for selection in _list(report, "selections")],
        mixture=mixture,
        chart_weights=charts.histogram(weights, "weight") if any(len(group.x) for group in weights) else None,
        timings=_timings(report.get("timings") or {}),
        receipts=[_clip(json.dumps(r, indent=2, ensure_ascii=False, default=str)) for r in _list(report, "receipts")],
    )


def table(report: Mapping[str, Any], width: int = 110) -> str:
    """The end of a run in plain text: kept share, share of weight and score medians by operator, dataset and task.

    Then come mixture id and, where the report names one under ``report``, the path of the page.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    episodes = _episodes(report)
    headline = {str(score.get("scorer")): score for score in reversed(_list(report, "scores"))}
    headlines = [_score(score, episodes) for score in reversed(headline.values())]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("")
    for name in ("kept", "of", "share", "weight", *(printable(score["scorer"]) for score in headlines)):
        grid.add_column(Text(name), justify="right", overflow="fold")
    for key in ("operator", "dataset", "task"):
        shares = _shares(episodes, key)
        if not shares:
            continue
        grid.add_row(Text(f"by {key}", style="bold"))
        for share in shares:
            medians = [_median(score["frame"].filter(pl.col(key) == share["label"])) for score in headlines]
            kept = (f"{share['kept']}", f"{share['of']}", _percent(share["share"]), _percent(share["weight"]))
            cells = (f"  {printable(share['label'])}", *kept, *map(number, medians))
            grid.add_row(*map(Text, cells))
        grid.add_section()
    targets = episodes.filter("is_target")
    if len(targets):
        ids = targets.get_column("episode_id").implode()
        medians = [_median(score["targets"].filter(pl.col("episode_id").is_in(ids))) for score in headlines]
        grid.add_row(*map(Text, (f"targets ({len(targets)}, no candidates)", *"––––", *map(number, medians))))
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=False, color_system=None)
    if grid.row_count:
        console.print(grid)
    for label, value in (("mixture", report.get("mixture_id")), ("report", report.get("report"))):
        if value:
            console.print(Text(f"{label:8} {printable(str(value))}"), soft_wrap=True)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _episodes(report: Mapping[str, Any]) -> pl.DataFrame:
    """The report's episodes as a frame, by id; unnamed operators, tasks and datasets read ``unknown``."""
    rows = []
    for episode in _list(report, "episodes"):
        x, y = episode.get("xy") or (None, None)
        rows.append([x if name == "x" else y if name == "y" else episode.get(name) for name in _EPISODE])
    frame = pl.DataFrame(rows, schema=_EPISODE, orient="row", strict=False)
    named = [pl.col(name).fill_null("unknown") for name in ("dataset", "task", "operator")]
    flags = [pl.col(name).fill_null(False) for name in ("chosen", "is_target")]
    return frame.with_columns(*named, *flags, pl.col("x", "y", "weight").fill_nan(None)).sort("episode_id")


def _group_column(episodes: pl.DataFrame) -> str:
    """What colours stand for: the operator, or the dataset where no operator is known."""
    return "operator" if (episodes.get_column("operator") != "unknown").any() else "dataset"


def _groups(episodes: pl.DataFrame) -> list[tuple[str, str, pl.DataFrame]]:
    """(label, CSS class, episodes) a colour, most kept first; then the small rest, then the targets."""
    key = _group_column(episodes)
    candidates = episodes.filter(~pl.col("is_target"))
    labels = [share["label"] for share in _shares(episodes, key)]
    groups = [(label, f"c{i}", candidates.filter(pl.col(key) == label)) for i, label in enumerate(labels[:_COLOURS])]
    rest = candidates.filter(~pl.col(key).is_in(labels[:_COLOURS]))
    if len(rest):
        groups.append((f"{len(labels) - _COLOURS} more", "other", rest))
    targets = episodes.filter("is_target")
    if len(targets):
        groups.append(("targets", "ink", targets))
    return groups


def _shares(episodes: pl.DataFrame, key: str) -> list[dict[str, Any]]:
    """Candidates, kept, kept share and share of weight by ``key``, most kept first; empty where nothing is named."""
    weight = pl.when("chosen").then(pl.col("weight").fill_null(1.0)).otherwise(0.0)
    by = (
        episodes.filter(~pl.col("is_target"))
        .group_by(pl.col(key).alias("label"))
        .agg(pl.len().alias("of"), pl.col("chosen").sum().alias("kept"), weight.sum().alias("weight"))
        .with_columns((pl.col("kept") / pl.col("of")).alias("share"), pl.col("weight") / pl.col("weight").sum())
        .with_columns(pl.col("weight").fill_nan(0.0))
        .sort("share", "of", "label", descending=[True, True, False])
    )
    rows = by.to_dicts()
    return [] if [row["label"] for row in rows] == ["unknown"] else rows


def _score(
    score: Mapping[str, Any], episodes: pl.DataFrame, groups: Sequence[tuple[str, str, pl.DataFrame]] = ()
) -> dict[str, Any]:
    """One metric: its statement of itself, its values joined to the episodes, and what length alone would say."""
    values = pl.DataFrame(
        [[value.get("episode_id"), value.get("value")] for value in _list(score, "values")],
        schema={"episode_id": pl.String, "value": pl.Float64}, orient="row", strict=False,
    ).filter(pl.col("value").is_finite()).unique("episode_id", keep="first")  # fmt: skip
    joined = episodes.join(values, on="episode_id", maintain_order="left")
    frame = joined.filter(~pl.col("is_target"))
    ranked = frame.filter(pl.col("n_steps").is_not_null()).with_columns(
        (pl.col("value", "n_steps").rank() / pl.len()).over("task")
    )
    sign = {"higher": 1.0, "lower": -1.0}.get(str(score.get("better")))
    return {
        **score,
        "scorer": str(score.get("scorer")),
        "label": f"{score.get('scorer')}.{score.get('metric')}",
        "frame": frame,
        "targets": joined.filter("is_target"),
        "groups": [
            (label, css, rows.join(values, on="episode_id", maintain_order="left")) for label, css, rows in groups
        ],
        "length_rho": _finite(ranked.select(pl.corr("value", "n_steps", method="spearman")).item()),
        "auc": _auc(frame, "value", sign) if sign else None,
        "length_auc": _auc(frame, "n_steps", -1.0),
    }


def _panel(score: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """The charts of one metric, ``limit`` dots a group: values by group, and values against length."""
    unit = ", ".join(str(part) for part in (score.get("metric"), score.get("unit")) if part)
    strips, clouds = [], []
    for label, css, rows in score["groups"]:
        drawn = _thin(rows, limit)
        strips.append(Group(label, css, drawn.get_column("value").to_list()))
        known = drawn.filter(pl.col("n_steps").is_not_null())
        clouds.append(Group(label, css, known.get_column("n_steps").to_list(), known.get_column("value").to_list()))
    length = charts.scatter(clouds, "steps", unit) if any(len(cloud.x) for cloud in clouds) else None
    return {
        "score": score,
        "medians": [(label, css, _median(rows)) for label, css, rows in score["groups"]],
        "strips": charts.box_strips(strips, unit) if any(len(strip.x) for strip in strips) else None,
        "length": length,
    }


def _label(label: Mapping[str, Any]) -> dict[str, Any]:
    """One labeller: the kinds of its annotations, and the course of those that have a number a step as a chart."""
    kinds, curves = [], []
    for kind in _list(label, "kinds"):
        kinds.append({**kind, "named": [(name, count) for name, count in (kind.get("labels") or [])]})
        if lines := _lines(kind.get("course")):
            curves.append((kind.get("kind"), charts.curve(lines, "twentieth of the episode", "")))
    return {**label, "kinds": kinds, "curves": curves}


def _map(groups: Sequence[tuple[str, str, pl.DataFrame]]) -> Any:
    """The embedding map: left out as rings below, kept as dots, targets as diamonds on top; None without places."""
    total = sum(len(rows) for _, _, rows in groups)
    marks = []
    for label, css, rows in groups:
        share = max(_MARKS * len(rows) // max(total, 1), 1)
        for row in _thin(rows.drop_nulls(["x", "y"]), share).to_dicts():
            shape = "diamond" if css == "ink" else "dot" if row["chosen"] else "ring"
            fate = (
                "target" if css == "ink" else f"kept, weight {number(row['weight'])}" if row["chosen"] else "left out"
            )
            tip = f"{row['episode_id']} · {label} · {row['task']} · {number(row['n_steps'])} steps · {fate}"
            marks.append(Mark(row["x"], row["y"], css, shape, tip))
    order = {"ring": 0, "dot": 1, "diamond": 2}
    return charts.places(sorted(marks, key=lambda mark: order[mark.shape])) if marks else None


def _selection(selection: Mapping[str, Any]) -> dict[str, Any]:
    """One selection: what it reports as facts by dotted name, and every list of numbers by step in it as a chart."""
    facts: list[tuple[str, str]] = []
    curves: list[Any] = []

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            for key in value[0]:
                walk(f"{name}.{key}", [row.get(key) for row in value])
        elif lines := _lines(value):
            entries = [("one line each" if len(lines) > 1 else name.rsplit(".", 1)[-1], "c0")]
            curves.append((name, entries, charts.curve(lines, "step", "")))
        elif isinstance(value, float):
            facts.append((name, number(value, 4)))
        elif value is not None:
            facts.append((name, _clip(value if isinstance(value, str) else json.dumps(value, default=str), 200)))

    walk("", selection.get("report") or {})
    return {**selection, "facts": facts, "curves": curves}


def _lines(value: Any) -> list[Group]:
    """A list of lists of numbers, or one of at least three floats, as lines over 1, 2, 3, ...; else none."""
    rows = value if isinstance(value, list) and value and all(isinstance(row, list) for row in value) else [value]
    lines = []
    for row in rows:
        if not isinstance(row, list) or not all(x is None or _finite(x) is not None for x in row):
            return []
        points = [(i, float(x)) for i, x in enumerate(row, start=1) if x is not None]
        lines.append(Group("", "c0", [x for x, _ in points], [y for _, y in points]))
    whole = rows is not value and all(isinstance(x, int) for x in rows[0])
    return [] if whole or max(len(line.x) for line in lines) < 3 else [line for line in lines if line.x]


def _auc(frame: pl.DataFrame, column: str, sign: float) -> float | None:
    """Chance that a success ranks above a failure of its task, pairs pooled over tasks; None without such pairs."""
    known = frame.drop_nulls([column, "success"])
    by = known.with_columns((pl.col(column) * sign).rank().over("task").alias("rank")).group_by("task").agg(
        pl.col("rank").filter("success").sum().alias("ranks"),
        pl.col("success").sum().cast(pl.Float64).alias("good"),
        (~pl.col("success")).sum().cast(pl.Float64).alias("bad"),
    )  # fmt: skip
    good, bad, ranks = (by.get_column(name).to_numpy() for name in ("good", "bad", "ranks"))
    pairs, above = good * bad, ranks - good * (good + 1) / 2
    return float(above[bad > 0].sum() / pairs.sum()) if pairs.any() else None


def _median(rows: pl.DataFrame) -> float | None:
    return rows.get_column("value").median()  # type: ignore[return-value]


def _thin(rows: pl.DataFrame, limit: int) -> pl.DataFrame:
    """At most ``limit`` of ``rows``, evenly spaced."""
    if len(rows) <= limit:
        return rows
    return rows[[i * len(rows) // limit for i in range(limit)]]


def _timings(timings: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(stage, seconds, share of the longest)."""
    known = {str(stage): float(seconds) for stage, seconds in timings.items() if _finite(seconds) is not None}
    longest = max(known.values(), default=0.0) or 1.0
    return [(stage, seconds, seconds / longest) for stage, seconds in known.items()]


def _finite(value: Any) -> float | None:
    number_like = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number_like and abs(value) < float("inf") else None


def _list(report: Mapping[str, Any], key: str) -> list[Any]:
    return [item for item in report.get(key) or [] if item is not None]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _clip(text: str, length: int = 4000) -> str:
    return text if len(text) <= length else f"{text[:length]}… ({len(text) - length:,} more characters)"


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("flows", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["percent"] = _percent
    environment.filters["fixed"] = lambda value: "–" if value is None else f"{value:.2f}".replace("-", "−")
    return environment.get_template("report.html.j2")
