"""What the README and the guides name is there: files that they link to, verbs and options that they show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from api.cli import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "infra/README.md"]


def commands(page: Path) -> list[list[str]]:
    """The words of every ``data-engine`` command line in the page's fenced blocks, comments left out."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [
        shlex.split(found[1], comments=True) for line in lines if (found := re.match(r"\$?\s*data-engine (.*)", line))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", aim.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_shown_is_one(page: Path) -> None:
    for words in commands(page):
        command, rest = cli, words
        while isinstance(command, click.Group):
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        used = {word.partition("=")[0] for word in rest if word.startswith("-") and not re.fullmatch(r"-\d.*", word)}
        assert used <= known, words


def test_commands_are_found() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 40
