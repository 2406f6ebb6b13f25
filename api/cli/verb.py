"""What verbs share: the group they hang on, ``--lake`` and ``--json``, and the options that several of them take."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

import click
from pydantic import BaseModel, ValidationError

from api.cli.printing import show
from data_engine import __version__, registry
from data_engine.errors import RequestError

__all__ = [
    "EXECUTOR",
    "FITS",
    "OPTION",
    "SET",
    "WHERE",
    "WORKERS",
    "cli",
    "episodes",
    "existing",
    "options",
    "parsed",
    "pinned",
    "seconds",
    "verb",
]

Model = TypeVar("Model", bound=BaseModel)
_SECTIONS = {
    "data": "Recordings and the lake",
    "evidence": "Evidence",
    "preferences": "Preferences",
    "curation": "Selections, mixtures, exports",
    "evaluation": "Trained policies",
    "serving": "The service",
    "schedules": "Schedules",
    "listings": "What there is",
}  # by the module that a verb lies in


class _Group(click.Group):
    """Verbs as they were written, each told in its whole first sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([_told(command) for command in self.commands.values()])


class _Verbs(click.Group):
    """Verbs by section, in the order they were written, not by the alphabet."""

    group_class = _Group

    def list_commands(self, ctx: click.Context) -> list[str]:
        places = list(_SECTIONS)
        return sorted(self.commands, key=lambda name: places.index(_module(self.commands[name])))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = self.list_commands(ctx)
        for module, title in _SECTIONS.items():
            with formatter.section(title):
                mine = [self.commands[name] for name in names if _module(self.commands[name]) == module]
                formatter.write_dl([_told(command) for command in mine])


def _told(command: click.Command) -> tuple[str, str]:
    return str(command.name), command.get_short_help_str(150)


def _module(command: click.Command) -> str:
    return command.callback.__module__.rpartition(".")[2] if command.callback else ""


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="data-engine")
def cli() -> None:
    """Turn heterogeneous robot demonstrations into curated, weighted, reproducible training mixtures."""


def verb(name: str | None = None, group: click.Group = cli) -> Callable[[Callable[..., Any]], click.Command]:
    """A command with ``--lake`` and ``--json``; what it returns is shown, its ``text`` to a person only."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @wraps(function)
        def run(lake: str, as_json: bool, **given: Any) -> None:
            show(function(lake, **given), as_json)

        run = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")(run)
        default = os.environ.get("DATA_ENGINE_LAKE", "./lake")
        run = click.option("--lake", default=default, help="The lake's folder or s3:// URI.", show_default=True)(run)
        return group.command(name or function.__name__)(run)

    return decorate


def existing(lake: str) -> Any:
    """The lake at ``lake``. Raises ``RequestError`` where there is none."""
    from storage.lake import Lake

    return Lake.open(lake)


def options(pairs: Sequence[str]) -> dict[str, Any]:
    """``name=value`` pairs, values read as YAML. Raises ``RequestError`` for anything else."""
    from data_engine.recipe import parse

    found = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise RequestError(f"{pair!r} is not of the form name=value", code="bad_option")
        try:
            found[key] = parse(value)
        except ValueError as error:
            raise RequestError(f"{key}: {value!r} is not YAML", code="bad_option") from error
    return found


def episodes(lake: Any, dataset: str | None, where: str | None, fits: Sequence[str] = ()) -> Any:
    """The lake's episodes of ``dataset`` that ``where`` admits, by the scores of ``fits`` (``SCORER=FIT``).

    Raises ``RequestError`` where there is none.
    """
    from flows.query import matching

    held = lake.episodes(dataset=dataset)
    if not len(held):
        known = ", ".join(lake.datasets()) or "none"
        what = f"no episodes of dataset {dataset!r}" if dataset else "the lake holds no episodes"
        raise RequestError(what, code="no_episodes", fix=f"datasets: {known}")
    found, _ = matching(lake, held, where, pinned(fits))
    if not len(found):
        raise RequestError(f"no episode matches {where}", code="no_episodes")
    return found


def pinned(pairs: Sequence[str]) -> dict[str, str]:
    """The fit whose scores count, by scorer, of ``SCORER=FIT`` pairs. Raises ``RequestError`` for anything else."""
    lone = next((pair for pair in pairs if "=" not in pair), None)
    if lone is not None:
        raise RequestError(f"--fit {lone!r} does not say of which scorer", code="bad_option", fix=f"SCORER={lone}")
    return {key: str(value) for key, value in options(pairs).items()}


OPTION = click.option(
    "-o", "--option", "pairs", multiple=True, metavar="NAME=VALUE", help="An option, as YAML; may be given again."
)


def parsed(model: type[Model], facts: Mapping[str, Any]) -> Model:
    """``facts`` as a part of a recipe. Raises ``RequestError`` with one line where they are none."""
    try:
        return model.model_validate(facts)
    except ValidationError as error:
        raise RequestError(registry.explain(error, model), code="bad_request") from error


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(text: str) -> float:
    """The seconds of a time as in ``90s``, ``15m``, ``6h``, ``1d``. Raises ``RequestError`` for anything else."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])", text.strip())
    if match is None:  # a bare number is none either: of days meant, seconds would be made
        raise RequestError(f"{text!r} is no time", code="bad_time", fix="with its unit, as in 90s, 15m, 6h, 1d")
    return float(match[1]) * _UNITS[match[2]]


EXECUTOR = click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True,
                        envvar="DATA_ENGINE_EXECUTOR", show_envvar=True)  # fmt: skip
WORKERS = click.option("--workers", type=click.IntRange(1), help="Processes or Ray workers; as many as pay by default.")
WHERE = click.option(
    "--where",
    metavar="EXPR",
    help="As in \"success AND task LIKE '%drawer%' AND n_steps > 50\": over episodes and scores.",
)
FITS = click.option("--fit", "fits", multiple=True, metavar="SCORER=FIT",
                    help="The fit whose scores count, where a scorer has several (`data-engine fits`).")  # fmt: skip
SET = click.option(
    "--set", "overrides", multiple=True, metavar="A.B=C", help="Override a key, as in select.0.budget=50."
)
