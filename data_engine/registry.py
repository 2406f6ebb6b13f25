"""Plug-ins: one new file and one entry point in ``data_engine.<kind>`` is all that a new one takes.

A plug-in is a frozen Pydantic model: its fields are its options, checked when it is made and part of the resolved
recipe's hash. Installed packages of other people register the same way as the engine's own.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from data_engine.canonical import digest
from data_engine.errors import EngineError, RequestError

__all__ = ["KINDS", "Plugin", "explain", "load", "make", "names"]

KINDS = ("formats", "exporters", "selectors", "weighers", "scorers", "labellers", "encoders", "simulators")


class Plugin(BaseModel):
    """Base of every plug-in: frozen, unknown options refused, hashable by its configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def config(self) -> dict[str, Any]:
        """Every option with its default filled in, as plain JSON values."""
        return self.model_dump(mode="json")

    @property
    def identity(self) -> dict[str, Any]:
        """What of ``config`` decides what comes out: all of it, unless a plug-in knows better."""
        return self.config

    @property
    def config_hash(self) -> str:
        """Hash of ``identity``, 16 hex digits."""
        return digest(self.identity, length=16)


P = TypeVar("P", bound=Plugin)


@cache
def _registered(kind: str) -> dict[str, EntryPoint]:
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; one of {', '.join(KINDS)}")
    return {point.name: point for point in entry_points(group=f"data_engine.{kind}")}


def names(kind: str) -> list[str]:
    """The registered names of one kind, sorted."""
    return sorted(_registered(kind))


def load(kind: str, name: str) -> type[Any]:
    """The plug-in class registered as ``name``. Raises ``RequestError`` with the nearest name for an unknown one."""
    point = _registered(kind).get(name)
    if point is None:
        near = difflib.get_close_matches(name, names(kind), n=1)
        known = ", ".join(names(kind)) or "none installed"
        fix = f"did you mean {near[0]!r}?" if near else f"known: {known}"
        raise RequestError(
            f"unknown {kind.removesuffix('s')} {name!r}", code=f"unknown_{kind.removesuffix('s')}", fix=fix
        )
    try:
        return point.load()
    except ImportError as error:
        raise EngineError(
            f"{kind.removesuffix('s')} {name!r} needs a package that is not installed: {error.name or error}",
            code="missing_package",
        ) from error


def make(kind: str, name: str, options: Mapping[str, Any] | None = None) -> Any:
    """An instance of the plug-in ``name`` with ``options``. Raises ``RequestError`` for an unknown or wrong option."""
    plugin = load(kind, name)
    try:
        return plugin(**(options or {}))
    except ValidationError as error:
        said = explain(error, plugin)
        fix = "give it with -o NAME=VALUE, or in a recipe's params or options" if said.endswith(" is missing") else None
        raise RequestError(f"{kind.removesuffix('s')} {name!r}: {said}", code="bad_option", fix=fix) from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a Pydantic ``error`` as one line; an unknown key comes first, with the nearest known."""
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_at(model, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known)) or 'none'}"
        return f"unknown key {where!r}; {hint}"
    if first["type"] == "missing":
        return f"{where} is missing"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: ".removeprefix(": ") + first["msg"].removeprefix("Value error, ") + more


def _keys_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Field names of the nested model at ``path``, following lists and options."""
    for part in path:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        inner = _model_in(model.model_fields[part].annotation)
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
