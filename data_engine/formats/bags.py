"""Recordings of robot middleware as episodes: ROS 1 bags, MCAP files, ROS 2 bags.

A bag holds topics at rates of their own. A column map says which fields of which topics become columns, a clock says
what a step is, and every other topic is aligned to it: the newest message at or before the step, never a later one,
with its age beside it. Images are decoded when they are asked for, so an episode in memory is its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import EpisodeRef, Format, Probe, Source, SourceEpisode, Unreadable
from data_engine.formats.bag.cameras import is_camera
from data_engine.formats.bag.cuts import at_gaps, at_marks
from data_engine.formats.bag.episode import read_episode
from data_engine.formats.bag.files import Recording, opened, recordings
from data_engine.formats.bag.plan import EVEN, Plan, Span
from data_engine.formats.bag.proposal import camera_name, leading, propose
from data_engine.formats.bag.samples import Samples, rate, sample
from data_engine.formats.bag.track import Field as TopicField
from data_engine.formats.bag.track import field_of, split
from data_engine.formats.column_map import ColumnMap

__all__ = ["Bags", "Cut"]


class Cut(BaseModel):
    """Where a recording is cut into episodes: at the messages of the topic ``marker``, or at gaps of ``gap_s`` seconds.

    A marker of truth values or numbers begins an episode where it turns from zero and ends it where it turns back; one
    of text or of nothing begins an episode with every message. Cuts are by the time of logging. A gap is one in the
    clock's topic, with an even clock in all mapped topics together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    marker: str | None = None
    gap_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one(self) -> Cut:
        if (self.marker is None) == (self.gap_s is None):
            raise ValueError("give marker or gap_s")
        return self


class Bags(Format):
    """ROS 1 bags, MCAP files and ROS 2 bags: one file, one ROS 2 folder, or a folder of either, one episode each.

    ``map``: fields are ``topic.path`` (``/arm/joint_states.position[0:6]``, ``/cmd_vel.linear.x``,
    ``/plan.points.0.positions``); a path to a nested message of numbers takes all of them in order, a topic alone the
    whole message but its header. Joint states are taken by joint name. Without a map the probe proposes one by the
    topics' types.

    ``clock``: the topic whose messages are the steps (default: the first of ``observation.state``, else of a camera, of
    another column, of ``action``), or ``fps`` for even steps at the option ``fps``. Each column and camera has a column
    ``<name>.age_s`` (float64 seconds) of the age of its message; a value before the first message, or older than
    ``max_age_s``, is null. A camera shows the frame that its age speaks of; steps before its first frame are left out.
    An episode sees the messages inside its cut only.

    ``stamp``: ``header``, ``log`` or ``publish`` time; by default the header's where every message of every mapped
    topic has one that is not zero, else the time of logging for all. ``cut``: see :class:`Cut`. An episode's key is
    its file or ROS 2 folder, and where it is cut ``#0000`` and so on.
    """

    name: ClassVar[str] = "bag"

    map: ColumnMap | None = None
    clock: str | None = None
    stamp: Literal["header", "log", "publish"] | None = None
    max_age_s: float | None = Field(default=None, ge=0)
    cut: Cut | None = None

    def probe(self, source: Source) -> Probe | None:
        """See :meth:`Format.probe`. Reads the first message of each topic; where it is to be cut, each recording."""
        found = recordings(source)
        if not found:
            return None
        if self.map is None:
            return self._proposed(source, found)
        return self._mapped(source, found, self.map)

    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
        """See :meth:`Format.read`."""
        stated = {"task": self.task, "operator": self.operator, "provenance": self.provenance}
        given: dict[str, Any] = {name: value for name, value in stated.items() if value is not None}
        for key in keys:
            found: SourceEpisode | Unreadable
            try:
                span = probe.context["places"][key]
                found = replace(read_episode(source, probe.context["plan"], span, key, probe.fps), **given)
            except EngineError as error:
                found = Unreadable(key, error.code, str(error))
            except OSError as error:
                found = Unreadable(key, "missing_file", f"{key} cannot be read: {error}")
            yield found

    def _mapped(self, source: Source, found: Sequence[Recording], given: ColumnMap) -> Probe:
        if given.clock is not None:
            raise RequestError("a bag's clock is an option, not in the map", code="bad_option", fix="clock: /topic")
        samples = sample(source, found, lambda known: self._named(given, known))
        plan = Plan(
            columns={name: _fields(given, name, samples) for name in given.columns},
            cameras={name: _camera(text, samples) for name, text in given.cameras.items()},
            facts={name: _fact(text, samples) for name, text in given.episode.items()},
            clock=self.clock or "",
            stamp=self.stamp,
            max_age_s=self.max_age_s,
        )
        notes = list(samples.notes)
        if not self.clock:
            plan = replace(plan, clock=leading(given, samples.known))
            notes.append(f"the clock is {plan.clock}")
        fps = self._fps(source, found, plan, notes)
        spans = self._spans(source, found, plan, notes)
        left = sorted(samples.known - plan.fields.keys() - {self.cut.marker if self.cut else None})
        if left:
            notes.append(f"topics that the map leaves out: {', '.join(left)}")
        return Probe(
            format=self.name,
            fps=fps,
            features=plan.features,
            episodes=tuple(EpisodeRef(key, None, span.recording.files) for key, span in spans.items()),
            embodiment=self.embodiment or "unknown",
            control_mode=self.control_mode,
            licence=self.licence,
            provenance=self.provenance,
            notes=tuple(notes),
            context={"plan": plan, "places": spans},
        )

    def _named(self, given: ColumnMap, known: set[str]) -> set[str]:
        """The topics that map and clock name. Raises ``RequestError`` for one that no recording so far has."""
        texts = [*given.fields, *([self.clock] if self.clock and self.clock != EVEN else [])]
        return {split(text, known)[0] for text in texts}

    def _proposed(self, source: Source, found: Sequence[Recording]) -> Probe:
        samples = sample(source, found)
        cameras: dict[str, str] = {}
        for topic in samples.sizes:
            cameras[camera_name(topic, cameras)] = topic
        guessed, notes = propose(samples.topics, cameras)
        notes += [f"{topic}: {error.message}" for topic, error in samples.refused.items()]
        silent = sorted(samples.known - samples.topics.keys())
        notes += [f"no messages of {', '.join(silent)}"] if silent else []
        clock = {"clock": leading(guessed, samples.known)} if guessed.fields else {}
        return Probe(
            format=self.name,
            fps=self.fps or 1.0,
            features=(),
            episodes=tuple(EpisodeRef(recording.key, None, recording.files) for recording in found),
            notes=(*samples.notes, *notes),
            proposal={"map": guessed.as_options(), **clock, **self.model_dump(mode="json", exclude_unset=True)},
        )

    def _fps(self, source: Source, found: Sequence[Recording], plan: Plan, notes: list[str]) -> float:
        if self.fps is not None:
            return self.fps
        if plan.clock == EVEN:
            raise RequestError("an even clock needs a rate", code="bad_option", fix="give the option fps")
        told = rate(source, found, plan.clock, self.stamp)
        if told is None:
            raise SourceError(
                f"too few messages of {plan.clock} to tell a rate", code="bad_fps", fix="give the option fps"
            )
        notes.append(f"fps is not stated: {told:g} by the median distance of {plan.clock}'s messages")
        return told

    def _spans(self, source: Source, found: Sequence[Recording], plan: Plan, notes: list[str]) -> Mapping[str, Span]:
        if self.cut is None:
            return {recording.key: Span(recording) for recording in found}
        spans: dict[str, Span] = {}
        for recording in found:
            try:
                with opened(source, recording) as bag:
                    if self.cut.marker is not None:
                        cuts = at_marks(bag, recording, self.cut.marker)
                    else:
                        topics = plan.timed if plan.clock == EVEN else (plan.clock,)
                        cuts = at_gaps(bag, recording, topics, self.cut.gap_s or 0)
            except SourceError as error:
                notes.append(f"{recording.key} is not cut: {error.message}")
                cuts = [Span(recording)]
            if not cuts:
                notes.append(f"{recording.key} has no cut: nothing of it is read")
            spans |= {f"{recording.key}#{at:04d}": span for at, span in enumerate(cuts)}
        return spans


def _fields(given: ColumnMap, column: str, samples: Samples) -> tuple[TopicField, ...]:
    parts = [(split(part.path, samples.known), part) for part in given.parts(column)]
    found = tuple(field_of(*samples.held(topic), path, part.start, part.stop) for (topic, path), part in parts)
    if len(found) > 1 and any(field.dtype == "string" for field in found):
        raise RequestError(f"{column} joins text with something else", code="bad_option")
    return found


def _camera(text: str, samples: Samples) -> tuple[str, tuple[int, int]]:
    topic, path = split(text, samples.known)
    channel, _ = samples.held(topic)
    if path or not is_camera(channel):
        raise RequestError(
            f"{text} is no image topic but of {channel.type}", code="bad_camera", fix="name an image topic"
        )
    if topic in samples.refused:
        raise samples.refused[topic]
    return topic, samples.sizes[topic]


def _fact(text: str, samples: Samples) -> str | TopicField:
    if text.startswith("="):
        return text
    topic, path = split(text, samples.known)
    found = field_of(*samples.held(topic), path)
    if found.width is not None:
        raise RequestError(f"{text} is no single value", code="bad_option")
    return found
