"""Charts: well-formed, escaped, and their numbers readable."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.charts import Group, Mark, box_strips, curve, histogram, number, places, scatter

VALUES = st.lists(st.floats(-1e12, 1e12, allow_subnormal=False), max_size=20)
HOSTILE = "<script>\"&'"


@settings(max_examples=40, deadline=None)
@given(VALUES, VALUES)
def test_any_finite_numbers_draw_well_formed_svg(first, second):
    n = min(len(first), len(second))
    groups = [Group(HOSTILE, "c0", first), Group("b", "ink", second)]
    pairs = [Group(HOSTILE, "c0", first[:n], second[:n])]
    lines = pairs if n else []
    marks = [Mark(x, y, "c0", "dot", HOSTILE) for x, y in zip(first, second, strict=False)]
    drawn = [box_strips(groups, HOSTILE), histogram(groups, HOSTILE), scatter(pairs, HOSTILE, HOSTILE)]
    drawn += [curve(lines, HOSTILE, "y"), places(marks)]
    for svg in drawn:
        ElementTree.fromstring(svg)
        assert "<script" not in svg
        assert "nan" not in svg
        assert "inf" not in svg


def test_a_histogram_holds_every_value():
    svg = ElementTree.fromstring(histogram([Group("a", "c0", [1.0] * 7), Group("b", "c1", [1.0] * 3)], "weight"))
    bars = list(svg.iter("rect"))
    heights = [float(bar.get("height")) for bar in bars]
    assert len(bars) == 2
    assert heights[0] / heights[1] == pytest.approx(7 / 3, rel=0.01)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (float("inf"), "–"), (0.0, "0"), (12.0, "12"), (24278, "24,278"),
     (0.33333, "0.333"), (-1.5, "−1.5"), (123456.7, "123,457"), (1e-9, "1e-09")],
)  # fmt: skip
def test_numbers_read_well(value, text):
    assert number(value) == text
