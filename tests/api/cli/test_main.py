from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.api.commands import answer, call


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
    recipe = tmp_path / "mixture.yaml"
    recipe.write_text("mixture: {entries: [{selection: near}]}")
    frozen = answer(capsys, "mix", recipe, *lake)
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


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("ingest", "/nowhere/at.all"), "no such source"),
        (("ingest", "{file}"), "no format recognises"),
        (("ingest", "{recording}", "--format", "zar"), "unknown format 'zar'"),
        (("ingest", "{recording}", "--format", "lerobot_v3"), "is not of format"),
        (("ingest", "{recording}", "-o", "fbs=3"), "did you mean 'fps'"),
        (("ingest", "{recording}", "-o", "fps=twenty"), "format 'robomimic': fps: "),
        (("ingest", "{recording}", "--dataset", "../up"), "is no name"),
        (("score", "integrty"), "did you mean 'integrity'"),
        (("query", "--where", "tsk = 'a'"), "tsk"),
        (("query", "--where", "task ="), "expression"),
        (("query", "--where", "task > 3"), "task"),
        (("query", "--where", "__import__('os')"), ""),
        (("query", "--columns", "nothing"), "nothing"),
        (("query", "--table", "nothing"), "unknown table"),
        (("query", "--where", 'task = "lift the cube"'), "a text takes single quotes"),
        (("query", "--where", "vlm_reward.gain > 0"), "`data-engine label vlm_reward`"),
        (("query", "--where", "composite > 0", "--fit", "fit_1"), "SCORER=fit_1"),
        (("survey", "/nowhere/at.all"), "no such source"),
        (("survey", "{recording}", "--html", "{file}/x.html"), "cannot write"),
        (("search", "--episode", "ep_nothing"), "no episode 'ep_nothing'"),
        (("search", "--text", "a red cup"), "takes no text"),
        (("search",), "nothing to search for"),
        (("select", "--method", "transport", "--name", "a"), "needs a target"),
        (("select", "--method", "filter", "--name", "a", "--where", "n_steps > 99999"), "nothing to choose from"),
        (("select", "--method", "random", "--name", "a", "--budget", "-3"), "chooses nothing"),
        (("select", "--method", "random", "--name", "a", "--budget", "0"), "chooses nothing"),
        (("select", "--method", "random", "--name", "a", "--budget", "1.5"), "50 for a count"),
        (("select", "--method", "top_fraction", "--name", "a"), "give it with -o NAME=VALUE"),
        (("evaluate", "compare", "a", "b"), "there are none"),
        (("export", "nothing", "--format", "lerobot_v3", "--out", "{folder}/x"), "no mixture 'nothing'"),
        (("mix", "{folder}/absent.yaml"), "cannot read"),
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


def test_an_interrupt_is_one_line_and_exit_1(capsys, monkeypatch, curated):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.query.query", interrupted)
    code, out, _ = call(capsys, "query", "--lake", curated / "lake", "--json")
    assert code == 1
    assert json.loads(out)["error"]["code"] == "interrupted"


def test_a_reader_that_left_is_no_error(curated):
    line = f"{sys.executable} -m api.cli runs --lake {curated / 'lake'} | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stderr == ""


def test_without_a_verb_it_shows_its_help(capsys):
    code, out, err = call(capsys)
    assert code == 2
    assert "Recordings and the lake:" in out + err


def test_the_help_tells_each_verb_whole(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert "curate" in out
    assert "..." not in out.partition("Options:")[2]
