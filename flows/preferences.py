"""``preferences``: pairs are drawn, a model or people compare them, a second judge reads again; all in one table.

What is asked follows from episodes, settings and seed alone, and what was answered is kept as it comes
(:mod:`flows.ask`), so a judging that was cut off goes on where it was and no preference is entered twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from data_engine.asking import Dialogue, Picture, instruction, steps_of
from data_engine.canonical import canonical_json, digest
from data_engine.endpoint import Endpoint
from data_engine.errors import RequestError
from data_engine.preferences import Item, Preference, Tally, parse, tally, unknown_columns
from data_engine.reference import key_of
from flows.ask import ask
from flows.progress import Progress
from flows.row_files import read_rows
from flows.score import again
from scorers.comparing import PROMPT, VERSION, Reading, Verdict, compare
from scorers.comparing import review as read_again
from storage.lake import Lake
from storage.preferences import held_preferences

__all__ = ["Judging", "bring", "draw", "enter", "judge", "review", "tallies"]

_TRIES = 20  # draws for each pair wanted
_REASONS = 5  # why pairs are undecided, the commonest


class Judging(BaseModel):
    """What is compared, by whom.

    ``pairs`` are drawn with ``seed`` within one task and kind of robot, as clips of ``steps`` steps (1: single frames)
    seen through ``camera`` (default: the first by name) in ``pictures`` frames each. ``both``: ask in both orders,
    which finds out a judge that chooses by the place and costs twice as much. ``annotator``: the judge's name in the
    table, else the model's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: Endpoint
    collection: str = Field(default="default", min_length=1, max_length=200)
    pairs: int = Field(default=500, ge=1, le=1_000_000)
    steps: int = Field(default=1, ge=1, le=100_000)
    pictures: int = Field(default=1, ge=1, le=32)
    camera: str | None = None
    both: bool = False
    seed: int = Field(default=0, ge=0, le=2**62)
    annotator: str | None = None

    @property
    def name(self) -> str:
        """The judge's name."""
        return self.annotator or self.endpoint.model


def draw(
    episodes: pl.DataFrame,
    *,
    pairs: int,
    steps: int = 1,
    camera: str | None = None,
    cameras: bool = False,
    seed: int = 0,
) -> list[tuple[str, Item, Item]]:
    """``pairs`` distinct pairs of distinct items of ``steps`` steps, each with its task, in the order drawn.

    Both items of a pair are of one task and one (embodiment, control mode); tasks, and episodes within, come up as
    often as they have steps. Depends on the episodes' content and ``seed`` alone, not on their order or names. With
    ``cameras`` an item is seen through ``camera``, or its first. There are fewer where the episodes hold no more.
    """
    ordered = episodes.sort("content_hash", "episode_id").unique("content_hash", keep="first", maintain_order=True)
    groups: dict[tuple[Any, ...], list[tuple[str, str, int, str | None]]] = {}
    for row in ordered.iter_rows(named=True):
        seen = sorted(video["camera"] for video in row["videos"] or ())
        through = (camera if camera in seen else None) if camera else next(iter(seen), None)
        task = instruction(row)
        if task is None or row["n_steps"] < steps or (cameras and through is None):
            continue
        place = (task, row["embodiment"], row["control_mode"])
        kept = (row["episode_id"], row["content_hash"], row["n_steps"] - steps + 1, through if cameras else None)
        groups.setdefault(place, []).append(kept)
    flat = [(place, episode) for place, members in sorted(groups.items(), key=repr) for episode in members]
    if not flat:
        return []
    random = np.random.default_rng(key_of(seed, "pairs", str(steps), *(content for _, (_, content, _, _) in flat)))
    ends = np.cumsum([choices for _, (_, _, choices, _) in flat])
    edges: dict[Any, tuple[int, int]] = {}  # of each group among all starts
    for (place, (_, _, choices, _)), end in zip(flat, ends.tolist(), strict=True):
        edges[place] = (edges.get(place, (end - choices, 0))[0], end)
    found: dict[frozenset[Item], tuple[str, Item, Item]] = {}
    for _ in range(_TRIES * pairs):
        if len(found) == pairs:
            break
        items, owners = [], []
        low, high = 0, int(ends[-1])
        for _ in range(2):
            at = int(random.integers(low, high))
            owner = int(np.searchsorted(ends, at, side="right"))
            place, (episode_id, content, choices, through) = flat[owner]
            start = at - int(ends[owner]) + choices
            items.append(Item(episode_id, start, start + steps, through, content))
            owners.append(owner)
            low, high = edges[place]
        first, second = items
        if owners[0] == owners[1] and abs(first.start - second.start) < steps:
            continue
        found.setdefault(frozenset(items), (place[0], first, second))
    return list(found.values())


def judge(lake: Lake, recipe: Judging, episodes: pl.DataFrame, *, progress: Progress, run_id: str) -> dict[str, Any]:
    """Draw pairs of ``episodes``, have the model compare them, and enter what it prefers.

    Returns ``{"collection", "pairs", "added", "decided", "undecided", "reasons" (why, and how many were left undecided
    for it), "flip_rate", "asked", "stored", ...}``. Raises
    ``RequestError`` where no two items can be compared or the budget forbids, ``EngineError`` where some were not
    answered, after the others are entered.
    """
    pairs = draw(episodes, pairs=recipe.pairs, steps=recipe.steps, camera=recipe.camera, cameras=True, seed=recipe.seed)
    if not pairs:
        seen = f"camera {recipe.camera!r}" if recipe.camera else "a camera"
        raise RequestError(
            f"no two items to compare: none of {len(episodes)} episodes has a task, {seen} and {recipe.steps} steps",
            code="nothing_to_compare",
            fix="state the task when ingesting (-o task=...), or choose others with --where",
        )
    if len(pairs) < recipe.pairs:
        progress.warn(f"there are only {len(pairs)} pairs to compare, not {recipe.pairs}")
    begins = [partial(_comparison, recipe, task, first, second) for task, first, second in pairs]
    asked = ask(
        lake, recipe.endpoint, begins, episodes, rounds=4 if recipe.both else 2, progress=progress, title="judging"
    )
    found = [
        _judged(recipe, task, first, second, verdict)
        for (task, first, second), verdict in zip(pairs, asked.results, strict=True)
        if verdict is not None
    ]
    added = _enter(lake, found, run_id)
    facts = asdict(tally(recipe.collection, found))
    reasons = dict(Counter(one.reason for one in found if one.reason and one.ranks is None).most_common(_REASONS))
    answer = {**facts, "pairs": len(pairs), "added": added, "reasons": reasons, "annotators": [recipe.name],
              **asked.facts()}  # fmt: skip
    asked.complete()
    return answer


def review(lake: Lake, recipe: Judging, episodes: pl.DataFrame, *, progress: Progress, run_id: str) -> dict[str, Any]:
    """Have a second model read every pair of the collection again that a first one decided about ``episodes``.

    Its verdict is entered as a preference of its own that names the one it reviews, and whether it contradicts it.
    Raises ``RequestError`` where there is none, or where the second judge is the first one.
    """
    known = set(episodes["content_hash"])
    rows = [
        row
        for row in held_preferences(lake, recipe.collection).iter_rows(named=True)
        if row["reviews"] is None and row["annotator_kind"] == "model" and row["ranks"] is not None
        and len(row["items"]) == 2 and all(item["content_hash"] in known for item in row["items"])
    ]  # fmt: skip
    if not rows:
        raise RequestError(
            f"collection {recipe.collection!r} holds nothing that a model decided about these episodes",
            code="nothing_to_review",
            fix="run `data-engine preferences judge` first",
        )
    if any(recipe.endpoint.model == row["model"] for row in rows):
        raise RequestError(
            f"{recipe.endpoint.model} judged this collection itself", code="same_judge", fix="name another model"
        )
    first = [(row["preference_id"], Preference.of_row(row)) for row in rows]
    begins = [partial(_reading_again, recipe, preference) for _, preference in first]
    asked = ask(lake, recipe.endpoint, begins, episodes, rounds=1, progress=progress, title="reviewing")
    found = [
        _reviewed(recipe, name, preference, reading)
        for (name, preference), reading in zip(first, asked.results, strict=True)
        if reading is not None
    ]
    added = _enter(lake, found, run_id)
    answer = {
        "collection": recipe.collection, "reviewed": len(found), "added": added,
        "contradictions": sum(one.contradicts is True for one in found),
        "undecided": sum(one.ranks is None for one in found),
        "contradiction_rate": tally(recipe.collection, found).contradiction_rate, **asked.facts(),
    }  # fmt: skip
    asked.complete()
    return answer


def bring(
    lake: Lake, path: str, *, collection: str, annotator: str | None, progress: Progress, run_id: str
) -> dict[str, Any]:
    """Enter the preferences in a JSON, JSON Lines, CSV or Parquet file; what is there already is left as it is.

    Returns ``{"collection", "rows", "added", "already", "rejected": [{"row", "reason"}], "ignored"}``: a row that
    cannot be understood is named and the rest goes in. Raises ``RequestError`` where that leaves none, or for no such
    file.
    """
    return enter(
        lake, read_rows(path), path, collection=collection, annotator=annotator, progress=progress, run_id=run_id
    )


def enter(
    lake: Lake,
    rows: Sequence[Mapping[str, Any]],
    source: str,
    *,
    collection: str,
    annotator: str | None,
    progress: Progress,
    run_id: str = "",
    whole: bool = False,
) -> dict[str, Any]:
    """Enter preferences as :func:`bring` does, from rows that came from ``source``. ``whole``: all of them or none."""
    ignored = unknown_columns({name for row in rows for name in row})
    if ignored:
        progress.warn(f"columns that say nothing here are left out: {', '.join(ignored)}")
    episodes = _Episodes(lake)
    found, rejected = [], []
    for number, row in enumerate(rows, 1):
        try:
            preference = parse(row)
            items = tuple(episodes.find(item) for item in preference.items)
            if len(set(items)) < len(items):
                raise RequestError("an item is there twice", code="bad_preference")
            who = preference.annotator if preference.annotator != "unknown" else annotator or "unknown"
            task = preference.task or episodes.task(items)
            found.append(replace(preference, items=items, collection=collection, annotator=who, task=task))
        except RequestError as error:
            if whole:
                raise RequestError(f"row {number}: {error.message}", code=error.code, fix=error.fix) from error
            rejected.append({"row": number, "reason": str(error)})
    if not found:
        why = f": row {rejected[0]['row']}: {rejected[0]['reason']}" if rejected else ""
        raise RequestError(f"{source} holds no preference{why}", code="bad_preferences")
    if rejected:
        first = rejected[0]
        progress.warn(f"{len(rejected)} of {len(rows)} rows are left out, row {first['row']} first: {first['reason']}")
    added = _enter(lake, found, run_id)
    return {
        "collection": collection, "rows": len(rows), "added": added, "already": len(found) - added,
        "rejected": rejected, "ignored": ignored,
    }  # fmt: skip


def tallies(lake: Lake) -> list[Tally]:
    """What each collection holds, by name."""
    parts = held_preferences(lake).partition_by("collection", as_dict=True)
    return [
        tally(str(name), [Preference.of_row(row) for row in part.iter_rows(named=True)])
        for (name,), part in sorted(parts.items())
    ]


def _comparison(recipe: Judging, task: str, first: Item, second: Item) -> Dialogue[Verdict]:
    shown = (_pictures(item, recipe.pictures) for item in (first, second))
    swapped = bool(key_of(recipe.seed, "order", *_name(first), *_name(second)) & 1)
    return compare(task, *shown, swapped=swapped, both=recipe.both)


def _judged(recipe: Judging, task: str, first: Item, second: Item, verdict: Verdict) -> Preference:
    models = sorted({model for reading in verdict.readings for model in reading.models})
    return Preference.pair(
        first, second, verdict.probability, reason=verdict.reason, collection=recipe.collection, task=task,
        annotator=recipe.name, annotator_kind="model", model=recipe.endpoint.model,
        version=f"compare {VERSION}; {', '.join(models)}", prompt=PROMPT, flipped=verdict.flipped,
        answer=canonical_json([asdict(reading) for reading in verdict.readings]),
    )  # fmt: skip


def _reading_again(recipe: Judging, preference: Preference) -> Dialogue[Reading]:
    said = json.loads(preference.answer or "[]")[0]
    shown = (_pictures(item, recipe.pictures) for item in preference.items)
    return read_again(preference.task or "", *shown, said["description"], swapped=said["swapped"])


def _reviewed(recipe: Judging, name: str, preference: Preference, reading: Reading) -> Preference:
    decided = reading.verdict if reading.verdict in (0, 1) else None
    return Preference.pair(
        *preference.items, None if decided is None else float(decided), reason=reading.reason,
        collection=recipe.collection, task=preference.task, annotator=recipe.name, annotator_kind="model",
        model=recipe.endpoint.model, version=f"review {VERSION}; {', '.join(reading.models)}",
        answer=canonical_json([asdict(reading)]), reviews=name,
        contradicts=None if decided is None else decided != preference.probability,
    )  # fmt: skip


def _pictures(item: Item, count: int) -> list[Picture]:
    assert item.stop is not None and item.camera is not None
    return [
        Picture(item.episode_id, item.content_hash, item.camera, step)
        for step in steps_of(item.start, item.stop, count)
    ]


def _name(item: Item) -> tuple[str, ...]:
    """What an item shows, whatever its episode is called."""
    return item.content_hash, str(item.start), str(item.stop), item.camera or ""


def _enter(lake: Lake, preferences: Sequence[Preference], run_id: str) -> int:
    """Enter the preferences that the table does not hold; how many."""
    known = set(lake.scan("preferences").select("preference_id").collect()["preference_id"])
    new = {one.id: one for one in preferences if one.id not in known}
    if new:
        now = datetime.now(UTC)
        rows = [{**new[name].row(), "run_id": run_id, "created_at": now} for name in sorted(new)]
        lake.append_rows("preferences", rows, transaction=digest("preferences", sorted(new), again(lake)),
                         run_id=run_id)  # fmt: skip
    return len(new)


class _Episodes:
    """The lake's episodes, found by id or as ``DATASET/SOURCE_KEY``."""

    def __init__(self, lake: Lake) -> None:
        columns = ["episode_id", "dataset", "source_key", "content_hash", "n_steps", "task", "videos"]
        rows = list(lake.episodes(columns=columns).iter_rows(named=True))
        self._rows = {row["episode_id"]: row for row in rows}
        self._ids = {f"{row['dataset']}/{row['source_key']}": row["episode_id"] for row in rows}

    def find(self, item: Item) -> Item:
        """``item`` with its episode's id, content and end. Raises ``RequestError`` where the lake has no such steps."""
        row = self._rows.get(self._ids.get(item.episode_id, item.episode_id))
        if row is None:
            raise RequestError(f"no episode {item.episode_id!r} in the lake", code="unknown_episode")
        stop = row["n_steps"] if item.stop is None else item.stop
        if not item.start < stop <= row["n_steps"]:
            raise RequestError(f"{item} is not within its {row['n_steps']} steps", code="bad_item")
        if item.camera is not None and item.camera not in {video["camera"] for video in row["videos"] or ()}:
            raise RequestError(f"{item.episode_id} has no camera {item.camera!r}", code="no_camera")
        return replace(item, episode_id=row["episode_id"], stop=stop, content_hash=row["content_hash"])

    def task(self, items: Iterable[Item]) -> str | None:
        """The task that all of ``items`` show. Raises ``RequestError`` where they show several."""
        tasks = {self._rows[item.episode_id]["task"] for item in items}
        if len(tasks) > 1:
            raise RequestError("its items are of several tasks", code="several_tasks", fix="state the task")
        return tasks.pop()
