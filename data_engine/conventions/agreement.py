"""Whether datasets that train together mean the same by a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_engine.conventions.convert import KINDS
from data_engine.conventions.infer import CONFIDENT
from data_engine.errors import RequestError
from data_engine.model import Dataset, Feature, Finding

__all__ = ["refuse_unlike"]

_MUST_AGREE = ("unit", "quaternion", "gripper_polarity", "rotation", "action_mode", "frame")
_NORMALISED = ("range_m100_100", "range_m1_1", "range_0_1", "ticks")


def refuse_unlike(datasets: Mapping[str, Dataset], groups: Mapping[str, str]) -> None:
    """Raise ``RequestError`` where two datasets of one group differ in width, stated unit or a confident convention.

    ``groups``: dataset -> what it shares statistics with. The line names datasets, column, values and what would do.
    """
    seen: dict[tuple[str, str], list[tuple[str, Feature]]] = {}
    for name, dataset in datasets.items():
        for feature in dataset.features:
            if feature.is_camera:
                continue
            others = seen.setdefault((groups[name], feature.name), [])
            for other, first in others:
                clash = _clash(first, feature)
                if clash is not None:
                    differs, fix = clash
                    fix = fix.replace("{one}", other).replace("{other}", name)
                    raise RequestError(
                        f"datasets {other!r} and {name!r} are both {groups[name]}, but {feature.name} has {differs}",
                        code="unlike_datasets",
                        fix=fix,
                    )
            others.append((name, feature))


def _clash(one: Feature, other: Feature) -> tuple[str, str] | None:
    """What two features of one name differ in, and what would help; None where they may be pooled."""
    apart = "state an embodiment or control_mode of its own for one of the sources"
    if one.size != other.size:
        return f"{one.size} and {other.size} values", f"{apart}, or convert it"
    if one.unit and other.unit and one.unit != other.unit:
        return f"units {one.unit!r} and {other.unit!r}", _remedy(one.name, "unit", one.unit, other.unit, None)
    mine, theirs = _known(one), _known(other)
    for kind, i in sorted(mine.keys() & theirs.keys(), key=lambda key: (_MUST_AGREE.index(key[0]), key[1])):
        a, b = mine[kind, i], theirs[kind, i]
        if a.value != b.value:
            both = [k for k in b.components if (kind, k) in mine and mine[kind, k].value == a.value]
            where = f"components {both[0]} to {both[-1]}" if len(both) > 1 else f"component {i}"
            differs = f"{kind.replace('_', ' ')} {a.value!r} and {b.value!r} in {where}"
            return differs, _remedy(one.name, kind, a.value, b.value, both)
    return None


def _known(feature: Feature) -> dict[tuple[str, int], Finding]:
    """The confident conventions of each component that must agree."""
    return {
        (finding.kind, i): finding
        for finding in feature.findings
        if finding.kind in _MUST_AGREE and finding.confidence >= CONFIDENT and finding.value != "unknown"
        for i in finding.components
    }


def _remedy(column: str, kind: str, one: str, other: str, components: Any) -> str:
    """The conversion that would make the two alike, or why there is none."""
    if (one, other) in KINDS:
        more = ", range: [LOW, HIGH]" if kind == "gripper_polarity" else ""
        return f"mixture.conversions: [{{dataset: {{one}}, column: {column}, from: {one}, to: {other}{more}}}]"
    apart = "state an embodiment of its own for one of the sources"
    if kind == "action_mode":
        return "state the control_mode of both sources: they are not one"
    if one in _NORMALISED or other in _NORMALISED:
        return (
            f"normalised values need the robot's calibration and are not converted here: {apart}, or convert it there"
        )
    return f"{apart}, or convert it before it is ingested"
