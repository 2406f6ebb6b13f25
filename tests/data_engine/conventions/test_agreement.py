from __future__ import annotations

import pytest

from data_engine.conventions.agreement import refuse_unlike
from data_engine.conventions.convert import converted, resolve
from data_engine.errors import RequestError
from data_engine.model import Dataset, Feature, Finding


def dataset(
    name: str, kind: str, value: str, sure: float = 0.9, at: tuple[int, ...] = (0, 1), size: int = 7
) -> Dataset:
    finding = Finding(column="action", components=at, kind=kind, value=value, confidence=sure, evidence="seen")
    action = Feature(name="action", dtype="float32", shape=(size,), findings=(finding,))
    return Dataset(name=name, fps=10, features=(action,), origin="here", format="toy")


def hold(*datasets: Dataset, apart: bool = False) -> None:
    refuse_unlike(
        {d.name: d for d in datasets}, {d.name: f"arm/{d.name}" if apart else "arm/absolute" for d in datasets}
    )


@pytest.mark.parametrize(
    ("kind", "one", "other", "fix"),
    [
        ("unit", "deg", "rad", "{dataset: a, column: action, from: deg, to: rad}"),
        ("unit", "mm", "m", "{dataset: a, column: action, from: mm, to: m}"),
        ("quaternion", "wxyz", "xyzw", "from: wxyz, to: xyzw}"),
        ("gripper_polarity", "larger_closes", "larger_opens", r"to: larger_opens, range: [LOW, HIGH]}"),
        ("unit", "range_m100_100", "deg", "need the robot's calibration"),
        ("action_mode", "delta", "absolute", "state the control_mode of both sources"),
        ("rotation", "euler", "rotation_vector", "convert it before it is ingested"),
    ],
)
def test_conflicts_are_refused_with_what_would_do(kind, one, other, fix):
    a, b = dataset("a", kind, one), dataset("b", kind, other)
    with pytest.raises(RequestError) as caught:
        hold(a, b)
    message = (
        f"datasets 'a' and 'b' are both arm/absolute, but action has {kind.replace('_', ' ')} {one!r} and {other!r}"
    )
    assert caught.value.message == f"{message} in components 0 to 1"
    assert fix in (caught.value.fix or "")
    assert caught.value.exit_code == 2


def test_the_named_conversion_resolves_it():
    a, b = dataset("a", "unit", "deg"), dataset("b", "unit", "rad")
    given = [{"dataset": "a", "column": "action", "from": "deg", "to": "rad"}]
    resolved = resolve(given, {"a": a, "b": b}, ["a", "b"])
    hold(converted(a, resolved), converted(b, resolved))


def test_what_is_no_conflict():
    hold(dataset("a", "unit", "deg"), dataset("b", "unit", "deg"))
    hold(dataset("a", "unit", "deg"), dataset("b", "unit", "unknown", 0.0))
    hold(dataset("a", "unit", "deg"), dataset("b", "unit", "rad", 0.7))  # a hint refuses nothing
    hold(dataset("a", "unit", "deg"), dataset("b", "unit", "m", at=(2, 3)))
    hold(dataset("a", "unit", "deg"), dataset("b", "unit", "rad"), apart=True)
    hold(dataset("a", "latency", "2"), dataset("b", "latency", "3"))


def test_every_pair_is_held_against_each_other():
    with pytest.raises(RequestError, match="datasets 'b' and 'c'"):
        hold(dataset("a", "unit", "unknown", 0.0), dataset("b", "unit", "deg"), dataset("c", "unit", "rad"))
    with pytest.raises(RequestError, match="7 and 6 values"):
        hold(dataset("a", "unit", "deg"), dataset("b", "unit", "deg", size=6))
