"""Rounds of measures, and one readable table of their figures: medians with the least and the most, and ratios."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
Found = dict[str, list[Figures]]


def options(doc: str | None) -> argparse.Namespace:
    """The command line of a benchmark that has no options of its own."""
    return options_of(doc).parse_args()


def options_of(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has: where the recordings are, ``--quick`` and ``--json``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(__file__).resolve().parents[2] / "shared/data"
    parser.add_argument("--data", type=Path, default=data, help="the folder of recordings")
    parser.add_argument("--quick", action="store_true", help="one short round of each measure")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    return parser


def rounds(measures: Mapping[str, Callable[[int], Figures]], times: int) -> Found:
    """Every measure in turn, ``times`` over, so that a busy minute falls on all of them; given the number of the round.

    A measure that fails keeps its figures with the ``error`` and is not tried again.
    """
    found: Found = {name: [] for name in measures}
    for number in range(times):
        for name, measure in measures.items():
            if not any("error" in figures for figures in found[name]):
                found[name].append(measure(number))
    return found


@dataclass(frozen=True)
class Row:
    """A line of a table: the rate of each round, and what else the rounds' figures say."""

    label: str
    rates: Sequence[float]
    figures: Sequence[Figures] = ()
    error: str | None = None

    @classmethod
    def of(cls, label: str, figures: Sequence[Figures], rate: Callable[[Figures], float] | None = None) -> Row:
        """The row of one measure's figures; ``rate`` where it is not their ``rates`` or ``per_second``."""
        error = next((str(each["error"]) for each in figures if "error" in each), None)
        good = [each for each in figures if "error" not in each]
        rates = [[rate(each)] if rate else each.get("rates", [each["per_second"]]) for each in good]
        return cls(label, [value for several in rates for value in several], good, error)

    @property
    def rate(self) -> float | None:
        """The median."""
        return statistics.median(self.rates) if self.rates else None

    def median(self, name: str) -> float | None:
        """The median of a figure that every round has."""
        values = [each[name] for each in self.figures if name in each]
        return statistics.median(values) if values else None

    def as_dict(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        return {"what": self.label, "per_second": self.rate, "rounds": list(self.rates), "error": self.error} | {
            name: self.median(name)
            for name in ("startup_s", "warm_up_s", "first_batch_s", "cpu_s", "peak_mb", "worker_mb")
            if self.median(name) is not None
        }


def ratio(row: Row, other: Row) -> float | None:
    """How many times as fast as ``other`` a row is."""
    return row.rate / other.rate if row.rate and other.rate else None


@dataclass(frozen=True)
class Table:
    """Rows of one unit. ``ratio`` says how many times as fast as each other row the first one is; ``more``: further
    columns, the figure by the head.
    """

    title: str
    unit: str
    rows: Sequence[Row]
    more: Mapping[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The table for people."""
        head = ("", f"{self.unit}/s", "least to most", "ratio", "CPU s", "start-up s", "first run s", "peak MB",
                *self.more)  # fmt: skip
        lines = [self._line(row) for row in self.rows if row.error is None]
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
        text = [self.title, ""]
        for cells in (head, ["-" * width for width in widths], *lines):
            first, *rest = cells
            padded = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
            text.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
        text += [f"not measured: {row.label}: {row.error}" for row in self.rows if row.error is not None]
        return "\n".join([*text, ""])

    def _line(self, row: Row) -> list[str]:
        times = ratio(self.rows[0], row) if row is not self.rows[0] else None
        span = f"{_short(min(row.rates))} to {_short(max(row.rates))}" if row.rates else ""
        more = [row.median(name) for name in ("cpu_s", "startup_s", "warm_up_s", "peak_mb", *self.more.values())]
        return [
            row.label,
            _short(row.rate),
            span,
            "" if times is None else f"{times:.2f}x" if times < 10 else f"{times:.0f}x",
            *(_short(value) for value in more),
        ]


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Machine:
    """What else the machine did: the share of its processors that other programs used since ``Machine()``."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), *_processor_seconds()
        self.load = os.getloadavg()

    def facts(self) -> dict[str, Any]:
        """Load averages before and after (with this benchmark's own work), and what others used of the processors."""
        busy, own = _processor_seconds()
        seconds, cores = time.monotonic() - self._began, os.cpu_count() or 1
        others = max(busy - self._busy - (own - self._own), 0.0) / (seconds * cores)
        return {
            "seconds": seconds, "cores": cores, "load_before": self.load, "load_after": os.getloadavg(),
            "others": others, "busy": others > 0.1,
        }  # fmt: skip


def _processor_seconds() -> tuple[float, float]:
    """Seconds of work of all processors since the machine started, and of this process and its ended children."""
    user, nice, system, _, _, irq, soft, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    own = os.times()
    mine = own.user + own.system + own.children_user + own.children_system
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK"), mine


def show(tables: Sequence[Table], targets: Sequence[str], machine: Machine, *, as_json: bool) -> None:
    """Print the tables, what was aimed at, and how busy the machine was."""
    facts = machine.facts()
    if as_json:
        rows = {table.title: [row.as_dict() for row in table.rows] for table in tables}
        print(json.dumps({"tables": rows, "targets": list(targets), "machine": facts}))
        return
    for table in tables:
        print(table.text())
    for line in targets:
        print(line)
    load = " ".join(f"{value:.2f}" for value in facts["load_before"])
    after = " ".join(f"{value:.2f}" for value in facts["load_after"])
    print(
        f"{facts['seconds']:.0f} s on {facts['cores']} cores; load average {load} before, {after} after (this work "
        f"included); other programs used {facts['others']:.0%} of the processors"
        + (": the machine was busy, figures are low and scattered" if facts["busy"] else "")
    )


def target(what: str, reached: float | None, least: float) -> str:
    """One line: a ratio and whether it is at least what was aimed at."""
    if reached is None:
        return f"{what}: no rival to compare with (at least {least:g}x is aimed at)"
    return f"{what}: {reached:.2f}x, at least {least:g}x is aimed at: {'reached' if reached >= least else 'MISSED'}"
