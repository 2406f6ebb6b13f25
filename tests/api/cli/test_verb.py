from __future__ import annotations

import click
import pytest

from api.cli.verb import cli, episodes, options
from data_engine.errors import RequestError
from storage.lake import Lake
from tests.api.commands import call


def test_help_shows_every_verb_once_in_its_section(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    context = click.Context(cli)
    names = cli.list_commands(context)
    assert sorted(names) == sorted(cli.commands)
    shown = [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line.split()[0] in names]
    assert shown == names
    titles = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == [
        "Options:", "Recordings and the lake:", "Evidence:", "Preferences:", "Selections, mixtures, exports:",
        "Trained policies:", "The service:", "Schedules:", "What there is:",
    ]  # fmt: skip


def test_every_verb_takes_a_lake_and_json():
    def verbs(group: click.Group):
        for command in group.commands.values():
            yield from verbs(command) if isinstance(command, click.Group) else [command]

    for command in verbs(cli):
        assert {"lake", "as_json"} <= {parameter.name for parameter in command.params}, command.name


def test_options_are_yaml_and_a_wrong_one_is_named():
    assert options(["a=1", "b=[x, 2]", "c=", "d=e=f"]) == {"a": 1, "b": ["x", 2], "c": None, "d": "e=f"}
    for wrong in ("a", "=1", "a=[1"):
        with pytest.raises(RequestError):
            options([wrong])


def test_no_episodes_names_the_datasets(curated):
    lake = Lake.open(str(curated / "lake"))
    assert len(episodes(lake, "reach", None)) == 18
    with pytest.raises(RequestError, match=r"no episodes of dataset 'rech' \(datasets: reach\)"):
        episodes(lake, "rech", None)
    with pytest.raises(RequestError, match="no episode matches n_steps > 9999"):
        episodes(lake, None, "n_steps > 9999")
