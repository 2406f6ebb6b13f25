from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import polars as pl
import pytest

from api.cli import main
from tests.recordings import write_recipe, write_robomimic


def call(capsys, *arguments):
    """(exit code, stdout, stderr) of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
        raise SystemExit(0)
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def answer(capsys, *arguments):
    """The JSON answer of a command that must succeed."""
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, out + err
    return json.loads(out)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_robomimic(tmp_path_factory.mktemp("recording") / "reach.hdf5", episodes=18)


@pytest.fixture(scope="module")
def curated(tmp_path_factory, recording):
    """A lake that a recipe was run on, and the recipe."""
    folder = tmp_path_factory.mktemp("curated")
    recipe = write_recipe(folder, recording)
    with pytest.raises(SystemExit) as ended:
        main(["curate", str(recipe), "--lake", str(folder / "lake"), "--engine", "plain", "--json"])
        raise SystemExit(0)
    assert not ended.value.code
    return folder


def test_every_verb_of_the_main_job_works_alone(capsys, tmp_path, recording):
    lake = ("--lake", tmp_path / "lake")
    proposal = answer(capsys, "ingest", recording, "--dry-run", *lake)
    assert {item["column"] for item in proposal["items"]} >= {"observation.state", "action"}
    assert not (tmp_path / "lake").exists()
    assert answer(capsys, "ingest", recording, "--dataset", "reach", *lake)["stored"]["episodes"] == 18
    assert len(answer(capsys, "score", "integrity", "action_divergence", *lake)["items"]) == 2
    assert answer(capsys, "embed", "trajectory", *lake)["items"][0]["embedded"] == 18
    assert answer(capsys, "index", *lake)["items"][0]["form"] == "Flat"
    episode = answer(capsys, "query", "--where", "operator = 'steady'", "--limit", 1, *lake)["items"][0]["episode_id"]
    hits = answer(capsys, "search", "--episode", episode, "-k", 3, *lake)["items"]
    assert len(hits) == 3
    assert hits[0]["similarity"] >= hits[1]["similarity"] >= hits[2]["similarity"]
    chosen = answer(
        capsys, "select", "--method", "transport", "--name", "near", "--target", "contains(labels, 'target')",
        "--budget", "auto", *lake,
    )  # fmt: skip
    assert 0 < chosen["chosen"] <= chosen["candidates"]
    answer(capsys, "select", "--method", "random", "--name", "some", "--budget", "0.5", *lake)
    listed = answer(capsys, "selections", "list", *lake)["items"]
    assert {item["name"] for item in listed} == {"near", "some"}
    assert answer(capsys, "selections", "diff", "near", "some", *lake)["both"] >= 0
    recipe = write_recipe(tmp_path, recording)
    entries = "mixture.entries=[{selection: near}]"
    frozen = answer(
        capsys, "mix", recipe, "--set", "select=[{name: near, method: filter}]", "--set", entries, *lake,
    )  # fmt: skip
    assert frozen["episodes"] == chosen["chosen"]
    out = answer(
        capsys,
        "export",
        frozen["mixture_id"][:12],
        "--format",
        "lerobot_v3",
        "--out",
        tmp_path / "set",
        "--verify",
        *lake,
    )
    assert out["verified"]
    assert out["episodes"] == frozen["episodes"]
    assert answer(capsys, "check", "--fingerprint", *lake)["sound"]
    assert answer(capsys, "datasets", *lake)["items"][0]["name"] == "reach"
    assert answer(capsys, "mixtures", *lake)["items"][0]["mixture_id"] == frozen["mixture_id"]
    assert {item["state"] for item in answer(capsys, "runs", *lake)["items"]} == {"completed"}
    assert answer(capsys, "doctor", *lake)["ok"]
    assert {item["name"] for item in answer(capsys, "scorers", *lake)["items"]} >= {"integrity", "mutual_information"}
    assert {item["name"] for item in answer(capsys, "formats", *lake)["items"]} >= {"lerobot_v3", "robomimic"}


def test_query_filters_orders_and_writes(capsys, curated, tmp_path):
    lake = ("--lake", curated / "lake")
    rows = answer(
        capsys, "query", "--where", "operator <> 'lost' AND integrity = 0", "--columns",
        "source_key,operator,action_divergence", "--order-by", "-action_divergence", *lake,
    )  # fmt: skip
    values = [row["action_divergence"] for row in rows["items"] if row["action_divergence"] is not None]
    assert values == sorted(values, reverse=True)
    assert {row["operator"] for row in rows["items"]} == {"steady", "shaky"}
    call(capsys, "query", "--format", "parquet", "--out", tmp_path / "rows.parquet", *lake)
    assert len(pl.read_parquet(tmp_path / "rows.parquet")) == 18
    assert answer(capsys, "query", "--table", "scores", "--where", "metric = 'length'", *lake)["rows"] >= 18
    code, out, _ = call(capsys, "query", "--limit", "2", *lake)
    assert code == 0
    assert "episode_id" in out


def test_recipes_are_shown_checked_and_resolved(capsys, curated):
    recipe = curated / "recipe.yaml"
    assert answer(capsys, "recipe", "validate", recipe)["valid"]
    rendered = answer(capsys, "recipe", "render", recipe, "--set", "mixture.seed=5")
    assert rendered["mixture"]["seed"] == 5
    assert "properties" in answer(capsys, "recipe", "schema")
    code, out, _ = call(capsys, "recipe", "template")
    assert code == 0
    assert out.startswith("# A recipe")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("ingest", "/nowhere/at.all"), "no such source"),
        (("ingest", "{file}"), "no format recognises"),
        (("ingest", "{recording}", "--format", "zar"), "unknown format 'zar'"),
        (("ingest", "{recording}", "--format", "lerobot_v3"), "is not of format"),
        (("ingest", "{recording}", "-o", "fbs=3"), "fbs"),
        (("ingest", "{recording}", "--dataset", "../up"), "is no name"),
        (("score", "integrty"), "did you mean 'integrity'"),
        (("query", "--where", "tsk = 'a'"), "tsk"),
        (("query", "--where", "task ="), "expression"),
        (("query", "--where", "task > 3"), "task"),
        (("query", "--where", "__import__('os')"), ""),
        (("query", "--columns", "nothing"), "nothing"),
        (("query", "--table", "nothing"), "unknown table"),
        (("search", "--episode", "ep_nothing"), "no episode 'ep_nothing'"),
        (("search", "--text", "a red cup"), "takes no text"),
        (("search",), "nothing to search for"),
        (("select", "--method", "transport", "--name", "a"), "needs a target"),
        (("select", "--method", "filter", "--name", "a", "--where", "n_steps > 99999"), "nothing to choose from"),
        (("select", "--method", "random", "--name", "a", "--budget", "-3"), "chooses nothing"),
        (("export", "nothing", "--format", "lerobot_v3", "--out", "{folder}/x"), "no mixture 'nothing'"),
        (("mix", "{folder}/absent.yaml"), "cannot read recipe"),
        (("curate", "{bad}"), "did you mean 'select'"),
        (("selections", "diff", "a", "b"), "no selection 'a'"),
        (("frobnicate",), "No such command"),
        (("query", "--limit", "many"), "many"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_json", [False, True])
def test_a_wrong_request_gets_one_clear_line_and_exit_2(capsys, curated, recording, tmp_path, arguments, line, as_json):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "bad.yaml").write_text("source: {uri: a}\nselct: []\nselect: []")
    places = {"file": tmp_path / "notes.txt", "folder": tmp_path, "recording": recording, "bad": tmp_path / "bad.yaml"}
    filled = [argument.format(**places) for argument in arguments]
    options = ["--json"] if as_json else []
    code, out, err = call(capsys, *filled, "--lake", curated / "lake", *options)
    assert code == 2
    assert "Traceback" not in out + err
    message = json.loads(out)["error"]["message"] + str(json.loads(out)["error"]["fix"]) if as_json else err
    assert line in message
    if not as_json:
        assert out == ""


def test_a_lake_that_is_not_there_is_named(capsys, tmp_path):
    code, _, err = call(capsys, "datasets", "--lake", tmp_path / "none")
    assert code == 2
    assert "no lake at" in err
    assert not (tmp_path / "none").exists()


def test_check_names_a_flipped_byte_and_exits_1(capsys, tmp_path, recording):
    lake = tmp_path / "lake"
    answer(capsys, "ingest", recording, "--lake", lake)
    victim = next(Path(lake).glob("tables/steps/*/*.parquet"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    code, out, _ = call(capsys, "check", "--lake", lake, "--json")
    assert code == 1
    assert victim.name in json.loads(out)["error"]["message"]


def test_broken_sources_get_one_line(capsys, tmp_path, recording):
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(recording.read_bytes()[:5000])
    empty = tmp_path / "empty.hdf5"
    with h5py.File(empty, "w") as file:
        file.create_group("data")
    for path in (cut, empty):
        code, _, err = call(capsys, "ingest", path, "--lake", tmp_path / "lake")
        assert code == 2
        assert err.startswith("error: ")
        assert len(err.strip().splitlines()) == 1


def test_light_verbs_import_neither_torch_nor_prefect_nor_ray(curated):
    code = (
        "import sys; from api.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'prefect', 'ray'} & set(sys.modules), file=sys.stderr)"
    )
    for arguments in (["query", "--where", "n_steps > 3"], ["datasets"], ["recipe", "template"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, "--lake", str(curated / "lake")], capture_output=True, text=True
        )
        assert done.stderr.strip().splitlines()[-1] == "set()", (arguments, done.stderr)
