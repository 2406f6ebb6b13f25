"""What a request may name: only what the server's configuration allows.

A recipe could otherwise read local files or internal addresses through a source, write anywhere through an export, run
code through an import path or a checkpoint, and send frames and keys to an endpoint of the asker's. Plug-ins are
installed entry points by construction; this looks at the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from api.service.settings import Settings
from data_engine.errors import RequestError
from data_engine.fs import is_local, resolve
from data_engine.recipe import (
    EntryRecipe,
    ExportRecipe,
    LabelRecipe,
    Recipe,
    ScoreRecipe,
    SelectRecipe,
    SourceRecipe,
    SpaceRecipe,
)

__all__ = ["check_export", "check_plugin", "check_recipe", "check_source"]

Part = SpaceRecipe | ScoreRecipe | LabelRecipe | SelectRecipe | EntryRecipe
"""A part of a recipe that names a plug-in, and its options as ``params``."""

_NAMING = frozenset(
    {"uri", "url", "path", "file", "checkpoint", "weights", "model", "pretrained", "factory", "module", "endpoint",
     "base_url", "sources"}
)  # fmt: skip
"""Options of plug-ins that reach out of the engine: to a file, a host, a hub of models, or a module to import."""
_HOLDING = frozenset({"sources"})  # of those, mappings of which every value is such a name, whatever its key


def check_recipe(recipe: Recipe, settings: Settings) -> None:
    """Raise ``RequestError`` for the first thing that a resolved recipe names and may not."""
    for source in recipe.sources:
        check_source(source, settings)
    for part in (*recipe.spaces, *recipe.score, *recipe.label, *recipe.select, *recipe.mixture.entries):
        check_plugin(part, settings)
    for export in recipe.export:
        check_export(export, settings)


def check_source(source: SourceRecipe, settings: Settings) -> None:
    """Raise ``RequestError`` where a source, or an address in its options, is none that may be read."""
    _allowed(source.uri, settings, "source")
    for value in _texts(source.options):
        if "://" in value:
            _allowed(value, settings, "an option of the source")


def check_export(export: ExportRecipe, settings: Settings) -> None:
    """Raise ``RequestError`` where an export goes where none may."""
    _allowed(export.uri, settings, "export")
    check_plugin(export, settings)


def check_plugin(part: Part | ExportRecipe, settings: Settings) -> None:
    """Raise ``RequestError`` where options name a model, a module, a file, an endpoint or a secret that may not be."""
    params = part.options if isinstance(part, ExportRecipe) else part.params
    for key, value in _named(params):
        if key == "key_env":
            if value is not None and value not in settings.environment:
                raise RequestError(
                    f"{key} names {value!r}, which requests may not", code="not_allowed", fix="serve with --allow-env"
                )
        elif isinstance(value, str) and (key in _NAMING or "://" in value):
            _allowed(value, settings, key)


def _allowed(value: str, settings: Settings, what: str) -> None:
    if any(_under(value, prefix) for prefix in settings.allow):
        return
    shown = value if len(value) <= 100 else value[:100] + "..."
    raise RequestError(
        f"{what} names {shown!r}, which requests may not", code="not_allowed", fix="serve with --allow PREFIX"
    )


def _under(value: str, prefix: str) -> bool:
    """Whether ``value`` is ``prefix`` or lies below it, links followed where it is local. No ``..`` is followed."""
    if value == prefix:
        return True
    if "\x00" in value or ".." in value.replace("\\", "/").split("/"):
        return False
    value, prefix = (_place(each) for each in (value, prefix))
    return value == prefix or value.startswith(prefix.rstrip("/") + "/")


def _place(uri: str) -> str:
    at = resolve(uri)
    return os.path.realpath(at) if is_local(at) else at


def _named(value: Any, key: str = "") -> Iterable[tuple[str, Any]]:
    """Every plain value in a document, with the key that it stands under."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _named(inner, key if key in _HOLDING else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named(inner, key)
    else:
        yield key, value


def _texts(value: Any) -> Iterable[str]:
    return (each for _, each in _named(value) if isinstance(each, str))
