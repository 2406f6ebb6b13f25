"""Conversions of a mixture: named in its recipe, part of its identity, applied to its steps and never to the lake.

Loader, statistics and exporters all read converted steps through :func:`convert` (or :func:`convert_steps`, which is
the same on a table): factors, mirrors and permutations of components, computed in float64 and rounded once to the
column's own type. Each acts on single numbers or on the entries of one step, so it does not matter which steps are read
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)  # fmt: skip

from data_engine.arrays import to_array
from data_engine.conventions.infer import CONFIDENT
from data_engine.errors import RequestError
from data_engine.model import Dataset, Feature, Finding
from data_engine.registry import explain

__all__ = ["KINDS", "Conversion", "convert", "convert_steps", "converted", "resolve"]

_FACTORS: Mapping[tuple[str, str], float] = {
    ("deg", "rad"): np.pi / 180, ("rad", "deg"): 180 / np.pi, ("mm", "m"): 1e-3, ("m", "mm"): 1e3,
}  # fmt: skip
_ORDERS: Mapping[tuple[str, str], list[int]] = {("wxyz", "xyzw"): [1, 2, 3, 0], ("xyzw", "wxyz"): [3, 0, 1, 2]}
_MIRRORS = {("larger_closes", "larger_opens"), ("larger_opens", "larger_closes")}
_NORMALISED = ("range_m100_100", "range_m1_1", "range_0_1", "range_0_100", "ticks")
KINDS = {**dict.fromkeys(_FACTORS, "unit"), **dict.fromkeys(_ORDERS, "quaternion"),
          **dict.fromkeys(_MIRRORS, "gripper_polarity")}  # fmt: skip


class Conversion(BaseModel):
    """One conversion: components of a column of a dataset, ``from`` one convention ``to`` another.

    ``deg`` and ``rad``, ``mm`` and ``m``, ``wxyz`` and ``xyzw``, ``larger_closes`` and ``larger_opens`` (which needs
    the gripper's ``range``: x becomes low + high - x). ``components``: by default those that the dataset's findings say
    are ``from``; filled in when a mixture is frozen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    dataset: str
    column: str
    from_: str = Field(alias="from")
    to: str
    components: tuple[int, ...] | None = None
    range: tuple[float, float] | None = None

    @property
    def kind(self) -> str:
        """The kind of finding that it changes."""
        return KINDS[self.from_, self.to]

    @model_validator(mode="after")
    def _known(self) -> Conversion:
        if (self.from_, self.to) not in KINDS:
            known = ", ".join(f"{one} to {other}" for one, other in KINDS)
            if self.from_ in _NORMALISED or self.to in _NORMALISED:
                raise ValueError(f"{self.from_} to {self.to} needs the robot's calibration; known: {known}")
            raise ValueError(f"no conversion from {self.from_!r} to {self.to!r}; known: {known}")
        if (self.range is not None) != ((self.from_, self.to) in _MIRRORS):
            raise ValueError("range goes with the polarity of a gripper, which needs it: range: [low, high]")
        if self.range is not None and not (np.isfinite(self.range).all() and self.range[0] < self.range[1]):
            raise ValueError(f"range {list(self.range)} is no range")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value = handler(self)
        return {"from" if key == "from_" else key: inner for key, inner in value.items()}


def resolve(conversions: Iterable[Any], datasets: Mapping[str, Dataset], used: Iterable[str]) -> tuple[Conversion, ...]:
    """``conversions`` (of a recipe) with their components filled in, those of datasets in ``used`` only.

    Raises ``RequestError`` for a dataset or column that is not there, for components that are not known to be ``from``
    and not named either, for some that are confidently something else, and for whole numbers that would be rounded.
    """
    current, wanted = dict(datasets), set(used)
    found = []
    for number, given in enumerate(conversions):
        try:
            conversion = given if isinstance(given, Conversion) else Conversion.model_validate(given)
        except ValidationError as error:
            raise _refused(number, explain(error, Conversion), None) from error
        dataset = current.get(conversion.dataset)
        if dataset is None:
            raise _refused(number, f"no dataset {conversion.dataset!r}", f"known: {', '.join(sorted(datasets))}")
        feature = dataset.feature(conversion.column)
        if feature is None or feature.is_camera or feature.dtype in ("string", "bytes", "bool"):
            known = ", ".join(f.name for f in dataset.features if not f.is_camera)
            raise _refused(
                number, f"dataset {dataset.name!r} has no numeric column {conversion.column!r}", f"known: {known}"
            )
        conversion = conversion.model_copy(update={"components": _components(number, conversion, feature)})
        if conversion.kind != "quaternion" and not feature.dtype.startswith("float"):
            raise _refused(number, f"{conversion.column!r} holds {feature.dtype}, which would be rounded", None)
        current[dataset.name] = converted(dataset, [conversion])
        if dataset.name in wanted:
            found.append(conversion)
    return tuple(found)


def converted(dataset: Dataset, conversions: Iterable[Conversion]) -> Dataset:
    """``dataset`` as it is after its (resolved) ``conversions``: units and findings say what the steps then hold."""
    features = {feature.name: feature for feature in dataset.features}
    for conversion in conversions:
        if conversion.dataset == dataset.name:
            feature = features[conversion.column]
            unit = conversion.to if feature.unit == conversion.from_ else feature.unit
            findings = tuple(after for finding in feature.findings for after in _after(finding, conversion))
            if not any(
                f.kind == conversion.kind and set(f.components) & set(conversion.components or ()) for f in findings
            ):
                findings += (_found(conversion, conversion.components or ()),)
            features[feature.name] = feature.model_copy(update={"unit": unit, "findings": findings})
    return dataset.model_copy(update={"features": tuple(features.values())})


def convert(values: np.ndarray, conversions: Sequence[Conversion]) -> np.ndarray:
    """``values`` [n, d] (or [n] of a scalar column) of one column after its (resolved) ``conversions``, in order.

    Float64 in between, the dtype of ``values`` in the end; NaN stays NaN. A new array; ``values`` where there is none.
    """
    if not conversions or not values.size:
        return values
    wide = values.astype(np.float64).reshape(len(values), -1)
    for conversion in conversions:
        components = list(conversion.components or ())
        pair = (conversion.from_, conversion.to)
        if pair in _FACTORS:
            wide[:, components] *= _FACTORS[pair]
        elif conversion.range is not None:
            wide[:, components] = sum(conversion.range) - wide[:, components]
        else:
            for at in range(0, len(components), 4):
                four = np.array(components[at : at + 4])
                wide[:, four] = wide[:, four[_ORDERS[pair]]]
    return wide.reshape(values.shape).astype(values.dtype, copy=False)


def convert_steps(steps: pa.Table, conversions: Sequence[Conversion]) -> pa.Table:
    """A dataset's ``steps`` after the ``conversions`` of that dataset. Types stay, and missing values stay missing."""
    for name in dict.fromkeys(conversion.column for conversion in conversions):
        if name not in steps.column_names:
            continue
        array = pa.concat_arrays(steps[name].chunks or [pa.array([], steps.schema.field(name).type)])
        mine = [conversion for conversion in conversions if conversion.column == name]
        is_list = hasattr(array.type, "value_type")
        flat = array.drop_null().flatten() if is_list else array
        before = to_array(pa.chunked_array([array.drop_null() if is_list else array]), name)
        missing = flat.is_null().to_numpy(zero_copy_only=False).reshape(before.shape)
        moved = convert(missing, [conversion for conversion in mine if conversion.kind == "quaternion"])
        made = pa.array(convert(before, mine).reshape(-1), type=flat.type, mask=moved.reshape(-1))
        if is_list:
            lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
            offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
            mask = array.is_null() if array.null_count else None
            made = pa.ListArray.from_arrays(offsets, made, type=array.type, mask=mask)
        steps = steps.set_column(steps.column_names.index(name), steps.schema.field(name), made)
    return steps


def _components(number: int, conversion: Conversion, feature: Feature) -> tuple[int, ...]:
    """The components that a conversion is of, checked against what is known of the column."""
    known = [finding for finding in feature.findings if finding.kind == conversion.kind]
    given = conversion.components
    if given is None:
        given = tuple(sorted({i for finding in known if finding.value == conversion.from_ for i in finding.components}))
    if not given and feature.unit == conversion.from_:
        given = tuple(range(feature.size))
    where = f"{conversion.column!r} of dataset {conversion.dataset!r}"
    for finding in known:
        sure = finding.confidence >= CONFIDENT and finding.value not in (conversion.from_, "unknown")
        if sure and (set(finding.components) & set(given) or not given):
            raise _refused(
                number, f"{where} is in {finding.value} ({finding.evidence}), not in {conversion.from_}",
                "state at ingest what it is, if that is wrong",
            )  # fmt: skip
    if not given:
        raise _refused(
            number, f"nothing in {where} is known to be in {conversion.from_}", "name its components: [0, 1, ...]"
        )
    if len(set(given)) != len(given) or min(given) < 0 or max(given) >= feature.size:
        raise _refused(number, f"components {list(given)} of {where}, which has {feature.size}", None)
    if conversion.kind == "quaternion" and len(given) % 4:
        raise _refused(number, f"a quaternion has 4 components, not {len(given)}", "name its components: [a, b, c, d]")
    return given


def _after(finding: Finding, conversion: Conversion) -> tuple[Finding, ...]:
    """``finding`` after ``conversion``: of what it touches, and as it was of what it leaves."""
    components = set(conversion.components or ())
    touched = tuple(i for i in finding.components if i in components)
    if not touched or finding.kind != conversion.kind:
        return (finding,)
    left = tuple(i for i in finding.components if i not in components)
    kept = (finding.model_copy(update={"components": left}),) if left else ()
    return (_found(conversion, touched), *kept)


def _found(conversion: Conversion, components: tuple[int, ...]) -> Finding:
    return Finding(
        column=conversion.column, components=components, kind=conversion.kind, value=conversion.to, confidence=1.0,
        evidence=f"converted from {conversion.from_}",
    )  # fmt: skip


def _refused(number: int, message: str, fix: str | None) -> RequestError:
    return RequestError(f"mixture.conversions.{number}: {message}", code="bad_conversion", fix=fix)
