"""One episode out of a recording: its topics' messages brought onto the steps of its clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from data_engine.errors import SourceError
from data_engine.formats import RawFrames, Source, SourceEpisode
from data_engine.formats.bag import aligned
from data_engine.formats.bag.cameras import Frames
from data_engine.formats.bag.container import Where
from data_engine.formats.bag.files import Joined, opened
from data_engine.formats.bag.plan import AGE, EVEN, Plan, Span
from data_engine.formats.bag.track import Field, Track
from data_engine.model import ACTION, IMAGES, STATE, TIMESTAMP, Feature

__all__ = ["read_episode"]

_LEAP_S = 1.0  # between two steps of a clock, and ten times its usual distance
_TEXTS = ("task", "operator", "scene", "provenance")


@dataclass(frozen=True)
class _Stream:
    """One topic by ascending stamp. ``order`` says where each of its messages stood as stored, None for as they are."""

    track: Track
    stamps: np.ndarray
    order: np.ndarray | None

    def of(self, field: Field) -> tuple[np.ndarray, np.ndarray]:
        """(values, stamps) of the messages that hold ``field``."""
        at = self.track.fields.index(field)
        taken = np.array(self.track.taken[at], np.int64)
        values = np.array(self.track.rows[at], object if field.dtype == "string" else field.dtype)
        if self.order is None:
            return values, self.stamps[taken]
        rank = np.full(len(self.order), -1)
        rank[taken] = np.arange(len(taken))
        rank = rank[self.order]
        return values[rank[rank >= 0]], self.stamps[rank >= 0]

    @property
    def where(self) -> Sequence[Where]:
        """Where its messages lie."""
        where = self.track.where
        return where if self.order is None else [where[at] for at in self.order]


def read_episode(source: Source, plan: Plan, span: Span, key: str, fps: float) -> SourceEpisode:
    """The episode of ``span``. Raises ``SourceError`` where it is unreadable, or lacks the clock, the state, the
    action or a camera.
    """
    with opened(source, span.recording) as bag:
        tracks = _tracks(plan, bag, span)
        notes = [f"{key}: {note}" for note in bag.notes]
        published = bag.has_published
    stamp, why = _stamp(plan, tracks, published)
    notes.append(why)
    streams = {topic: _stream(topic, tracks[topic], stamp, notes) for topic in plan.timed}
    steps = _steps(plan, streams, fps, notes)
    columns: dict[str, Any] = {TIMESTAMP: pa.array((steps - steps[0]) / 1e9)}
    for feature in plan.features:
        if feature.name in plan.columns:
            columns[feature.name], columns[feature.name + AGE] = _column(plan, feature, streams, steps, notes)
    cameras = {}
    for name, (topic, size) in plan.cameras.items():
        stream = streams[topic]
        chosen = aligned.newest(stream.stamps, steps)
        age = aligned.ages(stream.stamps, steps, chosen)
        columns[IMAGES + name + AGE] = pa.array(age)
        if plan.max_age_s is not None and (old := int((age > plan.max_age_s).sum())):
            notes.append(f"camera {name}: {old} steps show a frame older than {plan.max_age_s:g} s, as its age says")
        cameras[name] = RawFrames(Frames(source, span.recording, topic, stream.where, chosen, size), *size)
    attributes = {"start_ns": int(steps[0]), "clock": plan.clock, "stamp": stamp}
    return SourceEpisode(
        key=key,
        steps=pa.table(columns),
        cameras=cameras,
        attributes=attributes if span.marker is None else {**attributes, "marker": span.marker},
        notes=tuple(notes),
        **_facts(plan, tracks),
    )


def _tracks(plan: Plan, bag: Joined, span: Span) -> dict[str, Track]:
    images = {topic for topic, _ in plan.cameras.values()}
    tracks = {topic: Track(fields, topic in images) for topic, fields in plan.fields.items()}
    channels = bag.of(tracks)
    for message in bag.messages(channels, span.start, span.stop):
        channel = channels[message.channel]
        tracks[channel.topic].add(message, channel)
    return tracks


def _stamp(plan: Plan, tracks: Mapping[str, Track], published: bool) -> tuple[str, str]:
    """Which stamps count in this episode, and why in a line. One kind for all topics: two clocks would differ."""
    silent = [topic for topic in plan.timed if not tracks[topic].logged]
    if plan.clock in silent or len(silent) == len(plan.timed):
        raise SourceError(f"no messages of {', '.join(silent)}", code="empty_episode")
    for topic, _ in plan.cameras.values():
        if topic in silent:
            raise SourceError(f"no frames of {topic}", code="missing_camera")
    lacking = [topic for topic in plan.timed if topic not in silent and not tracks[topic].has_headers]
    if plan.stamp == "publish" and not published:
        raise SourceError("only MCAP keeps the time of publishing", code="no_stamp", fix="stamp: log")
    if plan.stamp == "header" and lacking:
        raise SourceError(
            f"not every message of {', '.join(lacking)} has a header's stamp", code="no_stamp", fix="stamp: log"
        )
    if plan.stamp is not None:
        return plan.stamp, f"stamps are those of {plan.stamp}, as asked"
    if lacking:
        return "log", f"stamps are log times: not every message of {', '.join(lacking)} has a header's stamp"
    return "header", "stamps are the headers', which every message has"


def _stream(topic: str, track: Track, stamp: str, notes: list[str]) -> _Stream:
    stamps = track.stamps(stamp)
    order, late, longest = aligned.order(stamps)
    if order is not None:
        stamps = stamps[order]
        notes.append(
            f"{topic}: {late} messages are stamped before the one that they follow, by up to {longest / 1e9:.3g} s"
        )
    for field, taken in zip(track.fields, track.taken, strict=True):
        if len(taken) < len(stamps):
            what = "no such value" if field.width is None else "another width or other joints"
            notes.append(f"{topic}: {len(stamps) - len(taken)} messages hold {what} in {field} and are passed over")
    return _Stream(track, stamps, order)


def _steps(plan: Plan, streams: Mapping[str, _Stream], fps: float, notes: list[str]) -> np.ndarray:
    """int64 nanoseconds of each step, ascending, from the first at which every camera has a frame."""
    if plan.clock == EVEN:
        spoken = [stream.stamps for stream in streams.values() if len(stream.stamps)]
        steps = aligned.even(min(int(s[0]) for s in spoken), max(int(s[-1]) for s in spoken), fps)
    else:
        stamps = streams[plan.clock].stamps
        steps = np.unique(stamps)
        if len(steps) < len(stamps):
            doubles = len(stamps) - len(steps)
            notes.append(f"{plan.clock}: {doubles} messages share a stamp with another; the last of each counts")
        apart = np.diff(steps)
        if len(apart) and apart.max() > max(10 * float(np.median(apart)), _LEAP_S * 1e9):
            notes.append(f"{plan.clock}: the clock leaps by {apart.max() / 1e9:.3g} s after step {int(apart.argmax())}")
    first = {topic: int(streams[topic].stamps[0]) for topic, _ in plan.cameras.values()}
    if first:
        latest = max(first, key=lambda topic: first[topic])
        before = int((steps < first[latest]).sum())
        if before:
            notes.append(f"{before} steps before the first frame of {latest} are left out")
        steps = steps[before:]
    if not len(steps):
        raise SourceError("the episode holds no steps", code="empty_episode")
    return steps


def _column(
    plan: Plan, feature: Feature, streams: Mapping[str, _Stream], steps: np.ndarray, notes: list[str]
) -> tuple[pa.Array, pa.Array]:
    """One column and its age, the oldest part's where several are joined: null before the first message of any."""
    blocks = []
    absent, age = np.zeros(len(steps), bool), np.zeros(len(steps))
    for part in plan.columns[feature.name]:
        values, stamps = streams[part.topic].of(part)
        if not len(stamps):
            if feature.name in (STATE, ACTION):
                raise SourceError(f"no messages of {part.topic} for {feature.name}", code="missing_column")
            notes.append(f"no messages of {part.topic}: {feature.name} is null")
            shape = (1,) if part.size is None else (1, part.size)
            values = np.zeros(shape, object if part.dtype == "string" else part.dtype)
        chosen = aligned.newest(stamps, steps)
        absent |= chosen < 0
        age = np.maximum(age, aligned.ages(stamps, steps, chosen))  # NaN stays
        blocks.append(values[np.maximum(chosen, 0)])
    if plan.max_age_s is not None:
        absent |= age > plan.max_age_s
    return _array(blocks, absent, feature), pa.array(age, mask=np.isnan(age))


def _array(blocks: Sequence[np.ndarray], absent: np.ndarray, feature: Feature) -> pa.Array:
    if feature.dtype == "string":
        return pa.array(blocks[0], pa.string(), mask=absent)
    if feature.dtype == "bool" and not np.isin(blocks[0][~absent], (0, 1)).all():
        raise SourceError(f"{feature.source} holds values other than 0 and 1", code="bad_flag")
    if not feature.shape:
        return pa.array(blocks[0].astype(feature.dtype, copy=False), mask=absent)
    joined = np.concatenate([block.reshape(len(absent), -1) for block in blocks], axis=1, dtype=feature.dtype)
    items = pa.array(np.ascontiguousarray(joined).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(items, feature.size, mask=pa.array(absent) if absent.any() else None)


def _facts(plan: Plan, tracks: Mapping[str, Track]) -> dict[str, Any]:
    """The episode's fields: a text of the map, or the first value of a topic. Raises ``SourceError`` for a success that
    is no truth value.
    """
    found: dict[str, Any] = {}
    for name, fact in plan.facts.items():
        if isinstance(fact, Field):
            track = tracks[fact.topic]
            value = next(iter(track.rows[track.fields.index(fact)]), None)
        else:
            value = fact.removeprefix("=")
        if value is None:
            continue
        text = str(value)
        if name in _TEXTS:
            found[name] = text
        elif name == "language":
            found[name] = (text,)
        elif text.lower() in ("true", "1", "1.0", "false", "0", "0.0"):
            found[name] = text.lower() in ("true", "1", "1.0")
        else:
            raise SourceError(f"{name} is {text!r}, neither true nor false", code="bad_flag")
    return found
