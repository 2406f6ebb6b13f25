"""The bar that a person watches on a terminal: how much is done, how fast, and the time left. Drawn on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

__all__ = ["Bars"]


class Bars(Progress):
    """One bar over ``total`` units; see :meth:`flows.progress.Progress.stage`."""

    def __init__(self, title: str, total: int, done: Callable[[], tuple[int, int]] | None, unit: str) -> None:
        self._done = done
        self._bar: TaskID | None = None
        rate = [] if done is None else [_Rate()]
        named = [TextColumn(unit, table_column=_whole())] if unit else []
        title_column = TextColumn("{task.description:<28}", table_column=_whole())
        bar = BarColumn(bar_width=None, table_column=Column(ratio=1))  # what room the words leave
        count, left = MofNCompleteColumn(table_column=_whole()), TimeRemainingColumn(table_column=_whole())
        console = Console(stderr=True)
        super().__init__(title_column, bar, count, *named, *rate, left, console=console, expand=True)
        self._bar = self.add_task(title, total=total, completed=done()[0] if done else 0, frames=0)

    def forward(self, done: int) -> None:
        """``done`` more units are done."""
        if self._bar is not None:
            self.advance(self._bar, done)

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn, by what is done at this moment."""
        if self._done is not None and self._bar is not None:
            units, frames = self._done()
            self.update(self._bar, completed=units, frames=frames)
        yield from super().get_renderables()


def _whole() -> Column:
    """Of the line's columns: it is never broken into two lines."""
    return Column(no_wrap=True)


class _Rate(ProgressColumn):
    """Frames a second since the bar appeared; nothing where none are counted."""

    def __init__(self) -> None:
        super().__init__(table_column=_whole())
        self._began = time.monotonic()

    def render(self, task: Task) -> Text:
        frames = task.fields["frames"]
        seconds = max(time.monotonic() - self._began, 1e-3)
        return Text(f"{frames / seconds:,.0f} frames/s" if frames else "", style="progress.data.speed")
