"""Small charts as inline SVG, drawn in the page's own colours so that light and dark both read well.

Every function takes plain numbers and returns escaped markup of one ``<svg>``. Colours are CSS classes: ``c0`` to
``c7`` for groups, ``ink`` for what stands out, ``other`` for the rest. Clouds of points are one path a group, which
keeps a page of thousands of points small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

__all__ = ["Group", "Mark", "box_strips", "curve", "histogram", "number", "places", "scatter"]

WIDTH = 440
_PAD = 16
_TOP = 30  # of a plot area, below the name of the vertical axis


@dataclass(frozen=True)
class Group:
    """Points of one colour: ``x`` and ``y`` of equal length, or ``x`` alone for a distribution."""

    label: str
    css: str
    x: Sequence[float]
    y: Sequence[float] = field(default=())


@dataclass(frozen=True)
class Mark:
    """One place on a map, with the line shown when the pointer rests on it. ``shape``: dot, ring or diamond."""

    x: float
    y: float
    css: str
    shape: str
    tip: str


def number(value: float | None, digits: int = 3) -> str:
    """``value`` for a reader: ``digits`` significant digits, thousands set apart, an en dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    whole = value == int(value) or abs(value) >= 10**digits
    text = f"{value:,.0f}" if whole and abs(value) < 1e12 else f"{value:.{digits}g}"
    return text if "e" in text else text.replace("-", "−")


def box_strips(groups: Sequence[Group], label: str) -> Markup:
    """The distribution of each group along one axis: a dot a value, box from quartile to quartile, median line."""
    row, left = 34, 92
    height = row * len(groups) + 44
    axis = _Axis.over([value for group in groups for value in group.x], left, WIDTH - _PAD)
    parts = [_x_axis(axis, height - 36, label, top=4)]
    for i, group in enumerate(groups):
        middle = 4 + row * i + row / 2
        parts.append(_text(left - 10, middle + 4, _short(group.label, 13), "end"))
        if not len(group.x):
            continue
        spread = 9 * (_van_der_corput(len(group.x)) - 0.5) * 2
        parts.append(_cloud([axis(x) for x in group.x], middle + spread, group.css, 3.2))
        low, median, high = (axis(float(q)) for q in np.percentile(group.x, (25, 50, 75)))
        parts.append(_svg('<rect class="box {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="18" rx="2"/>',
                          group.css, low, middle - 9, max(high - low, 0.5)))  # fmt: skip
        parts.append(_svg('<path class="median" d="M{:.1f} {:.1f}v24"/>', median, middle - 12))
    return _figure(height, parts)


def scatter(groups: Sequence[Group], x_label: str, y_label: str) -> Markup:
    """Two quantities against each other, one cloud a group."""
    height, left = 210, 56
    x_axis = _Axis.over([x for group in groups for x in group.x], left, WIDTH - _PAD)
    y_axis = _Axis.over([y for group in groups for y in group.y], height - 36, _TOP)
    parts = [_x_axis(x_axis, height - 36, x_label), _y_axis(y_axis, left, y_label)]
    parts += [_cloud([x_axis(x) for x in g.x], [y_axis(y) for y in g.y], g.css, 4) for g in groups if len(g.x)]
    return _figure(height, parts)


def places(marks: Sequence[Mark]) -> Markup:
    """A map without scales: what lies close together is alike. Later marks lie on top."""
    height, width = 420, 640
    x_axis = _Axis.over([mark.x for mark in marks], 14, width - 14, ticks=False)
    y_axis = _Axis.over([mark.y for mark in marks], height - 14, 14, ticks=False)
    parts = [_svg('<rect class="frame" x="0.5" y="0.5" width="{}" height="{}" rx="6"/>', width - 1, height - 1)]
    for mark in marks:
        x, y = x_axis(mark.x), y_axis(mark.y)
        if mark.shape == "diamond":
            shape = _svg('<path class="diamond {}" d="M{:.1f} {:.1f}l6 6-6 6-6-6z">', mark.css, x, y - 6)
            parts.append(shape + _svg("<title>{}</title></path>", mark.tip))
        else:
            shape = _svg('<circle class="{} {}" cx="{:.1f}" cy="{:.1f}" r="4">', mark.shape, mark.css, x, y)
            parts.append(shape + _svg("<title>{}</title></circle>", mark.tip))
    return _figure(height, parts, width)


def histogram(groups: Sequence[Group], label: str, bins: int = 24) -> Markup:
    """How many units have which value, groups stacked."""
    height, left = 190, 44
    values = np.concatenate([np.asarray(group.x, dtype=float) for group in groups]) if groups else np.zeros(0)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if high - low < 1e-9 * max(abs(low), 1.0):
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    counts = [np.histogram(group.x, edges)[0] for group in groups]
    tallest = max(float(np.sum(counts, axis=0).max()) if counts else 1.0, 1.0)
    x_axis = _Axis(low, high, left, WIDTH - _PAD)
    y_axis = _Axis(0.0, tallest, height - 36, _TOP)
    parts = [_x_axis(x_axis, height - 36, label), _y_axis(y_axis, left, "episodes", whole=True)]
    base = np.zeros(bins)
    for group, count in zip(groups, counts, strict=True):
        for edge, below, tall in zip(edges[:-1], base, count, strict=True):
            if tall:
                width = (x_axis.stop - x_axis.start) / bins - 1
                top = y_axis(below + tall)
                parts.append(_svg('<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>',
                                  group.css, x_axis(edge) + 0.5, top, width, y_axis(below) - top))  # fmt: skip
        base += count
    return _figure(height, parts)


def curve(groups: Sequence[Group], x_label: str, y_label: str) -> Markup:
    """Lines through the points of each group, in order."""
    height, left = 210, 56
    x_axis = _Axis.over([x for group in groups for x in group.x], left, WIDTH - _PAD)
    y_axis = _Axis.over([y for group in groups for y in group.y], height - 36, _TOP)
    parts = [_x_axis(x_axis, height - 36, x_label), _y_axis(y_axis, left, y_label)]
    for group in groups:
        points = list(zip([x_axis(x) for x in group.x], [y_axis(y) for y in group.y], strict=True))
        line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(_svg('<path class="line {}" d="{}"/>', group.css, line))
        parts.append(_cloud([x for x, _ in points], [y for _, y in points], group.css, 4))
    return _figure(height, parts)


@dataclass(frozen=True)
class _Axis:
    """A linear scale from values ``low`` to ``high`` onto pixels ``start`` to ``stop``."""

    low: float
    high: float
    start: float
    stop: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, stop: float, ticks: bool = True) -> _Axis:
        low, high = (min(values), max(values)) if len(values) else (0.0, 1.0)
        if high - low <= 1e-9 * max(abs(low), abs(high), 1e-12):
            room = abs(low) * 0.1 or 1.0
            low, high = low - room, high + room
        if ticks:
            step = _step(low, high)
            low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        return cls(low, high, start, stop)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, whole: bool = False) -> list[float]:
        step = max(_step(self.low, self.high), 1.0 if whole else 0.0)
        first, last = math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6)
        return [i * step for i in range(first, last + 1)]


def _step(low: float, high: float) -> float:
    """The round distance (1, 2 or 5 times a power of ten) that cuts a range into about four."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough * 0.999)


def _x_axis(axis: _Axis, y: float, label: str, top: float = _TOP) -> Markup:
    parts = [_svg('<path class="axis" d="M{:.1f} {:.1f}H{:.1f}"/>', axis.start, y, axis.stop)]
    for tick in axis.ticks():
        parts.append(_svg('<path class="grid" d="M{:.1f} {:.1f}V{:.1f}"/>', axis(tick), top, y))
        parts.append(_text(axis(tick), y + 14, number(tick, 4), "middle", "tick"))
    parts.append(_text((axis.start + axis.stop) / 2, y + 30, label, "middle"))
    return Markup("").join(parts)


def _y_axis(axis: _Axis, x: float, label: str, whole: bool = False) -> Markup:
    parts = [_text(2, 12, label, "start")]
    for tick in axis.ticks(whole):
        parts.append(_svg('<path class="grid" d="M{} {:.1f}H{}"/>', x, axis(tick), WIDTH - _PAD))
        parts.append(_text(x - 6, axis(tick) + 4, number(tick, 4), "end", "tick"))
    return Markup("").join(parts)


def _cloud(xs: Sequence[float], ys: Sequence[float] | np.ndarray, css: str, size: float) -> Markup:
    """Round dots as one path: a line of no length with round ends is a dot."""
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in zip(xs, ys, strict=True))
    return _svg('<path class="cloud {}" stroke-width="{}" d="{}"/>', css, size * 1.6, path)


def _van_der_corput(n: int) -> np.ndarray:
    """The first ``n`` points of the base-2 sequence in [0, 1): evenly spread without a random number."""
    index, value, part = np.arange(1, n + 1), np.zeros(n), 0.5
    while index.any():
        value, index, part = value + part * (index & 1), index >> 1, part / 2
    return value


def _short(label: str, length: int) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


def _text(x: float, y: float, text: str, anchor: str, css: str = "label") -> Markup:
    return _svg('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>', css, x, y, anchor, text)


def _svg(template: str, *values: object) -> Markup:
    """``template`` with every value escaped: labels come from untrusted data."""
    return Markup(template).format(*values)


def _figure(height: float, parts: Sequence[Markup], width: int = WIDTH) -> Markup:
    return _svg('<svg viewBox="0 0 {} {:.0f}" role="img">', width, height) + Markup("").join(parts) + Markup("</svg>")
