"""A first look at recordings: their topics, the first message of each, whether images can be read, the clock's rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import Source
from data_engine.formats.bag import aligned
from data_engine.formats.bag.cameras import frame_size, is_camera
from data_engine.formats.bag.codec import Channel
from data_engine.formats.bag.files import Joined, Recording, opened
from data_engine.formats.bag.track import Track

__all__ = ["Samples", "rate", "sample"]

_LOOK = 16  # recordings that are looked into
_RATE_MESSAGES = 500


@dataclass
class Samples:
    """``known`` topics; of those asked for the channel and first message, the ``sizes`` of cameras' frames, and why
    the images of others are ``refused``.
    """

    known: set[str] = field(default_factory=set)
    topics: dict[str, tuple[Channel, bytes]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    refused: dict[str, SourceError] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def held(self, topic: str) -> tuple[Channel, bytes]:
        """The channel and first message of ``topic``. Raises ``SourceError`` where it never speaks."""
        if topic not in self.topics:
            raise SourceError(f"no messages of {topic}: what it holds is not known", code="no_topic")
        return self.topics[topic]

    def add(self, bag: Joined, wanted: Callable[[str], bool]) -> None:
        """Take in the first message of each wanted topic of ``bag`` that has none yet."""
        waiting = {
            number: channel
            for number, channel in bag.channels.items()
            if channel.topic not in self.topics and wanted(channel.topic)
        }
        if not waiting:
            return
        for message in bag.messages(waiting):
            channel = bag.channels[message.channel]
            self.topics[channel.topic] = channel, bytes(message.data)
            if is_camera(channel):
                try:
                    self.sizes[channel.topic] = frame_size(channel, bag, message.where)
                except SourceError as error:
                    self.refused[channel.topic] = error
            for number in [number for number, other in waiting.items() if other.topic == channel.topic]:
                del waiting[number]
            if not waiting:
                return


def sample(
    source: Source, recordings: Sequence[Recording], named: Callable[[set[str]], set[str]] | None = None
) -> Samples:
    """Look into recordings until every topic that ``named`` picks out of the known ones has spoken; without ``named``
    into the first that opens, for all of its topics.

    Raises ``SourceError`` where none opens, and what ``named`` raises where it does so for the last.
    """
    found = Samples()
    failed: EngineError | None = None
    for recording in recordings[:_LOOK]:
        try:
            with opened(source, recording) as bag:
                found.known |= {channel.topic for channel in bag.channels.values()}
                wanted = named(found.known) if named else found.known
                if named is None:
                    found.notes += bag.notes
                found.add(bag, wanted.__contains__)
        except EngineError as error:  # a later one may open, or have the topic
            failed = error
            continue
        if named is None or wanted <= found.topics.keys():
            return found
    if failed is not None and (named is None or isinstance(failed, RequestError) or not found.known):
        raise failed
    return found


def rate(source: Source, recordings: Sequence[Recording], topic: str, stamp: str | None) -> float | None:
    """Messages a second of ``topic`` by the median distance of its first stamps; None where too few are there."""
    for recording in recordings[:_LOOK]:
        track = Track()
        try:
            with opened(source, recording) as bag:
                channels = bag.of([topic])
                for message, _ in zip(bag.messages(channels), range(_RATE_MESSAGES), strict=False):
                    track.add(message, channels[message.channel])
        except SourceError:
            pass  # what came before it counts
        for kind in (stamp or ("header" if track.has_headers else "log"), "log"):
            found = aligned.rate(track.stamps(kind))
            if found is not None:
                return found
    return None
