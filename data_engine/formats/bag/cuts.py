"""Where a recording is cut into episodes: at the messages of a marker, or where nothing is said for long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats.bag import aligned
from data_engine.formats.bag.codec import codec
from data_engine.formats.bag.files import Joined, Recording
from data_engine.formats.bag.plan import Span

__all__ = ["at_gaps", "at_marks"]


def at_marks(bag: Joined, recording: Recording, marker: str) -> list[Span]:
    """Episodes by the topic ``marker``, in order of log time.

    Truth values and numbers: an episode begins where the value leaves zero, or goes from one number to another, and
    ends where that value ends. Texts and empty messages: each begins an episode, which ends at the next. Raises
    ``SourceError`` where the recording has no such topic.
    """
    if marker not in {channel.topic for channel in bag.channels.values()}:
        raise SourceError(f"{recording.key} has no topic {marker}", code="no_topic")
    found: list[Span] = []
    since: int | None = None
    before: Any = 0
    for logged, value in sorted(_marks(bag, marker), key=lambda mark: mark[0]):
        edge = value is None or isinstance(value, str) or value != before
        if not edge:
            continue
        if since is not None:
            found.append(Span(recording, since, logged, _text(before)))
        since, before = (None if value in (0, False) else logged), value
    if since is not None:
        found.append(Span(recording, since, None, _text(before)))
    return found


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _marks(bag: Joined, marker: str) -> Iterator[tuple[int, Any]]:
    """(log time, the message's first value; None where it has none)."""
    channels, readers = bag.of([marker]), {}
    for message in bag.messages(channels):
        number = message.channel
        if number not in readers:
            how = codec(channels[number])
            values = [leaf.path for leaf in how.leaves(message.data) if leaf.length is None and not leaf.time]
            values = [path for path in values if not path.startswith("header.")]
            readers[number] = how.reader(values[:1]) if values else None
        reader = readers[number]
        yield message.logged, reader(message.data)[0] if reader else None


def at_gaps(bag: Joined, recording: Recording, topics: Sequence[str], longest_s: float) -> list[Span]:
    """Episodes between gaps of more than ``longest_s`` seconds of log time in ``topics`` together."""
    logged = np.sort(np.fromiter((message.logged for message in bag.messages(bag.of(topics))), np.int64))
    return [Span(recording, first, last + 1) for first, last in aligned.gaps(logged, longest_s)]
