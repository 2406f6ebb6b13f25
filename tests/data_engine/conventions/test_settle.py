from __future__ import annotations

import pytest

from data_engine.conventions.settle import settle
from data_engine.errors import RequestError
from data_engine.model import Feature, Finding

NAMES = ("shoulder_pan.pos", "elbow_flex.pos", "gripper.pos")
ACTION = Feature(name="action", dtype="float32", shape=(3,), components=NAMES)
CAMERA = Feature(name="observation.images.top", dtype="video", shape=(4, 4, 3))


def seen(kind: str, value: str, at: tuple[int, ...], sure: float = 0.9) -> Finding:
    return Finding(column="action", components=at, kind=kind, value=value, confidence=sure, evidence="seen")


GRIPPER = seen("gripper", "continuous", (2,), 0.95)


def test_the_unit_of_a_column_is_filled_when_all_of_it_is_sure():
    for findings, unit in (
        ([seen("unit", "deg", (0, 1)), GRIPPER], "deg"),
        ([seen("unit", "deg", (0, 1), 0.7), GRIPPER], None),
        ([seen("unit", "deg", (0, 1))], None),  # nothing is known of the third
        ([seen("unit", "deg", (0,)), seen("unit", "m", (1,)), GRIPPER], None),
        ([], None),
    ):
        (feature, _), notes = settle((ACTION, CAMERA), findings)
        assert (feature.unit, feature.findings, notes) == (unit, tuple(findings), ())


def test_stated_wins_and_a_contradiction_is_noted():
    features, notes = settle((ACTION,), [seen("unit", "rad", (0, 1)), GRIPPER], {"action": "deg"})
    stated = features[0].findings[0]
    assert (stated.value, stated.components, stated.confidence, stated.evidence) == ("deg", (0, 1), 1.0, "stated")
    assert features[0].unit == "deg"
    assert notes == ("action is stated to be in deg, but reads as rad: seen",)
    assert settle((ACTION,), [seen("unit", "rad", (0, 1), 0.5)], {"action": "deg"})[1] == ()
    polarity = {"action": {"gripper_polarity": "larger_closes"}}
    features, notes = settle((ACTION,), [seen("gripper_polarity", "unknown", (2,), 0)], None, polarity)
    assert [(f.value, f.components) for f in features[0].findings] == [("larger_closes", (2,))]


@pytest.mark.parametrize(
    ("units", "conventions", "message"),
    [
        ({"act": "deg"}, None, "no column 'act'"),
        ({"observation.images.top": "m"}, None, "no column"),
        ({"action": "furlong"}, None, "no unit 'furlong'"),
        (None, {"action": {"quaternion": "zyxw"}}, "no quaternion 'zyxw'"),
        (None, {"action": {"colour": "red"}}, "no colour 'red'"),
        (None, {"action": {"quaternion": "xyzw"}}, "nothing in it is known to have a quaternion"),
    ],
)
def test_what_is_stated_of_nothing_is_refused(units, conventions, message):
    with pytest.raises(RequestError, match=message):
        settle((ACTION, CAMERA), [], units, conventions)
