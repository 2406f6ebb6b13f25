"""What the three containers have in common once open: channels, and messages in the order they are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from data_engine.formats.bag.codec import Channel

__all__ = ["Bag", "Message", "Where"]

Where = tuple[int, ...]
"""Where a message lies in its bag: opaque, plain, and good for :meth:`Bag.load` until the bag is closed or reopened."""


class Message(NamedTuple):
    """One message. Times are nanoseconds; ``published`` is None where the container has only the time of logging."""

    channel: int
    logged: int
    published: int | None
    where: Where
    data: Any  # bytes or a view of them, good until the next message is asked for


class Bag(ABC):
    """One open file. ``channels`` by the container's own number; ``notes`` say what is odd about it."""

    channels: Mapping[int, Channel]
    notes: list[str]
    has_published = False

    @abstractmethod
    def messages(
        self, channels: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Message]:
        """Messages of ``channels`` logged from ``start`` up to, not including, ``stop``, in the order they are stored.

        ``channels`` may shrink meanwhile. Raises ``SourceError`` where what is stored is damaged.
        """

    @abstractmethod
    def load(self, where: Where) -> bytes:
        """The bytes of one message. Cheap for messages asked for in stored order."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""
