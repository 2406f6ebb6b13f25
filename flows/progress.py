"""What a person sees while a flow runs: a bar on a terminal, nothing elsewhere. Always on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "silent", "terminal"]


class Progress:
    """Where flows report: ``stage`` opens a bar and yields the function that advances it; ``warn`` says one line."""

    def __init__(self, *, bars: bool, warnings: bool = True) -> None:
        self.bars = bars
        self.warnings = warnings
        self.warned: list[str] = []

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar called ``title`` over ``total`` units."""
        if not self.bars or total == 0:
            yield lambda done: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task(title, total=total)
            yield lambda done: bars.advance(task, done)

    def warn(self, line: str) -> None:
        """One line that a person should read; kept for the report."""
        self.warned.append(line)
        if self.warnings:
            print(f"warning: {line}", file=sys.stderr)


def silent() -> Progress:
    """Reports nothing, keeps the warnings."""
    return Progress(bars=False, warnings=False)


def terminal() -> Progress:
    """Bars where stderr is a terminal, warnings always."""
    return Progress(bars=sys.stderr.isatty())
