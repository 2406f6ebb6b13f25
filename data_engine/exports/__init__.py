"""The dialects that a frozen mixture is handed over in: one exporter a file.

An exporter reads a :class:`data_engine.mixture.Mixture` and nothing else, writes under one URI, publishes whole or not
at all, and can read back what it wrote and hold it against the mixture.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from data_engine.registry import Plugin

if TYPE_CHECKING:
    from data_engine.mixture import Mixture

__all__ = ["ExportReport", "Exporter"]


@dataclass(frozen=True)
class ExportReport:
    """What was written: counts that reconcile with the mixture, how its weights were translated, and ``notes`` on what
    the dialect could not hold as it was.
    """

    format: str
    uri: str
    episodes: int
    steps: int
    frames: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    weights: str = ""
    notes: tuple[str, ...] = ()


class Exporter(Plugin):
    """A dialect. Its fields are its options."""

    name: ClassVar[str]

    @abstractmethod
    def export(self, mixture: Mixture, uri: str) -> ExportReport:
        """Write ``mixture`` under ``uri`` (absent or empty before). Raises ``RequestError`` where it is not."""

    @abstractmethod
    def verify(self, mixture: Mixture, uri: str) -> list[str]:
        """Read ``uri`` back and hold every row and frame count against ``mixture``: one line for each difference."""
