"""What was inferred of a dataset's columns and what its source's options state, brought together. Stated wins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from data_engine.conventions.infer import CONFIDENT
from data_engine.conventions.roles import parts
from data_engine.errors import RequestError
from data_engine.model import Feature, Finding

__all__ = ["VALUES", "settle"]

VALUES: Mapping[str, tuple[str, ...]] = {
    "unit": ("deg", "rad", "m", "mm", "px", "ticks", "range_m100_100", "range_m1_1", "range_0_1"),
    "quaternion": ("xyzw", "wxyz"),
    "rotation": ("euler", "rotation_vector", "rot6d"),
    "gripper_polarity": ("larger_opens", "larger_closes"),
    "frame": ("world", "base", "end_effector"),
    "action_mode": ("absolute", "delta"),
}
_ANGULAR, _LINEAR = ("deg", "rad", "ticks"), ("m", "mm", "px")
_ROLES = {
    "quaternion": ("quaternion",),
    "gripper_polarity": ("gripper",),
    "rotation": ("rotation",),
    "frame": ("position",),
}


def settle(
    features: Sequence[Feature],
    inferred: Iterable[Finding],
    units: Mapping[str, str] | None = None,
    conventions: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[tuple[Feature, ...], tuple[str, ...]]:
    """``features`` with their findings and, where all of a column is of one, their unit; and a note for each stated
    value that the data contradicts.

    ``units``: column -> unit; ``conventions``: column -> kind -> value of :data:`VALUES`. Raises ``RequestError`` for a
    column, kind or value that is not there.
    """
    found: dict[str, list[Finding]] = {feature.name: [] for feature in features}
    for finding in inferred:
        found[finding.column].append(finding)
    by_name = {feature.name: feature for feature in features}
    stated = {(column, "unit"): value for column, value in (units or {}).items()}
    stated |= {(c, kind): value for c, kinds in (conventions or {}).items() for kind, value in kinds.items()}
    notes: list[str] = []
    for (column, kind), value in stated.items():
        feature = by_name.get(column)
        if feature is None or feature.is_camera:
            known = ", ".join(name for name, feature in by_name.items() if not feature.is_camera)
            raise RequestError(f"options: no column {column!r}", code="unknown_column", fix=f"known: {known}")
        if value not in VALUES.get(kind, ()):
            known = ", ".join(VALUES.get(kind, VALUES))
            raise RequestError(f"{column}: no {kind} {value!r}", code="bad_option", fix=f"known: {known}")
        components = _meant(feature, kind, value, found[column])
        for old in found[column]:
            clash = old.kind == kind and set(old.components) & set(components) and old.value not in (value, "unknown")
            if clash and old.confidence >= CONFIDENT:
                notes.append(f"{column} is stated to be in {value}, but reads as {old.value}: {old.evidence}")
        new = Finding(
            column=column, components=components, kind=kind, value=value, confidence=1.0, evidence="stated"
        )  # fmt: skip
        kept = [left for old in found[column] if (left := _without(old, kind, components))]
        found[column] = [new, *kept]
    done = tuple(
        feature.model_copy(
            update={
                "findings": tuple(found[feature.name]),
                "unit": feature.unit or _whole(feature, found[feature.name]),
            }
        )
        for feature in features
    )
    return done, tuple(notes)


def _meant(feature: Feature, kind: str, value: str, inferred: Sequence[Finding]) -> tuple[int, ...]:
    """The components that a statement about a column is of: those whose role fits it, all of a column without names."""
    named = parts(feature)
    if kind == "unit":
        roles: tuple[str, ...] = ("joint", "rotation", "position", "hand")
        roles = ("joint", "rotation", "hand") if value in _ANGULAR else ("position",) if value in _LINEAR else roles
    else:
        roles = _ROLES.get(kind, ())
    of_role = tuple(i for part in named if part.role in roles for i in part.components)
    seen = tuple(dict.fromkeys(i for finding in inferred if finding.kind == kind for i in finding.components))
    if kind == "unit":
        return of_role or tuple(range(feature.size))
    components = tuple(range(feature.size)) if kind == "action_mode" else seen or of_role
    if not components:
        raise RequestError(f"{feature.name}: nothing in it is known to have a {kind}", code="bad_option")
    return components


def _without(old: Finding, kind: str, components: tuple[int, ...]) -> Finding | None:
    """``old`` without what was stated anew; None where nothing of it is left."""
    if old.kind != kind:
        return old
    left = tuple(i for i in old.components if i not in components)
    return old.model_copy(update={"components": left}) if left else None


def _whole(feature: Feature, findings: Sequence[Finding]) -> str | None:
    """The one unit that the findings are sure of for every component but grippers, or None."""
    told = {i for finding in findings if finding.kind in ("unit", "gripper") for i in finding.components}
    if len(told) < feature.size:
        return None
    units = [(finding.value, finding.confidence >= CONFIDENT) for finding in findings if finding.kind == "unit"]
    values = {value for value, sure in units if sure}
    return values.pop() if len(values) == 1 and all(sure for _, sure in units) else None
