from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.api.commands import answer, call, refusal
from tests.judge_server import judge_server
from tests.squares import write_squares


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from data_engine.recipe import SourceRecipe
    from flows.executor import Local
    from flows.ingest import ingest
    from flows.progress import silent
    from storage.lake import Lake

    folder = tmp_path_factory.mktemp("squares")
    lake = Lake.open(str(folder / "lake"), create=True)
    source = SourceRecipe(name="squares", uri=str(write_squares(folder / "squares.hdf5", 6)))
    ingest(lake, source, on=Local(), progress=silent(), run_id="r")
    return folder / "lake"


@pytest.fixture
def lake(recorded: Path, tmp_path: Path) -> tuple[str, Path]:
    shutil.copytree(recorded, tmp_path / "lake")
    return "--lake", tmp_path / "lake"


def test_people_and_models_judge_and_a_reward_follows(capsys, lake, tmp_path):
    said = [{"first": "squares/demo_0", "second": "squares/demo_2", "verdict": "first"}]
    (tmp_path / "said.json").write_text(json.dumps(said))
    found = answer(capsys, "preferences", "import", tmp_path / "said.json", "--annotator", "ann", *lake)
    assert (found["added"], found["already"]) == (1, 0)
    code, out, _ = call(capsys, "preferences", "import", tmp_path / "said.json", "--annotator", "ann", *lake)
    assert (code, out) == (0, "default: 0 preferences added, 1 there already\n")
    with judge_server() as server:
        (tmp_path / "judge.yaml").write_text(
            f"endpoint: {{url: {server.url}, model: vlm}}\npairs: 30\ncollection: vlm\n"
        )
        code, out, err = call(capsys, "preferences", "judge", tmp_path / "judge.yaml", *lake)
        assert code == 0, err
        assert "60 questions to vlm (0 are answered already)" in err  # before it starts
        assert "vlm: 30 of 30 pairs decided, 30 added" in out
        again = answer(
            capsys, "preferences", "judge", tmp_path / "judge.yaml", "--set", "endpoint.concurrency=2", *lake
        )
        assert (again["added"], again["asked"]) == (0, 0)
        other = ("--set", "endpoint.model=other")
        found = answer(capsys, "preferences", "review", tmp_path / "judge.yaml", *other, *lake)
        assert (found["reviewed"], found["contradictions"]) == (30, 0)
        asked = f"endpoint={{url: {server.url}, model: vlm}}"
        found = answer(capsys, "label", "success", "-o", asked, *lake)
        assert found["items"][0]["labelled"] == 6
    items = {item["name"]: item for item in answer(capsys, "preferences", "list", *lake)["items"]}
    assert (items["default"]["annotators"], items["vlm"]["reviewed"]) == (["ann"], 30)
    rows = answer(capsys, "query", "--table", "preferences", "--where", "annotator = 'ann'", *lake)["items"]
    assert [row["probability"] for row in rows] == [0.0]
    fast = ("-o", "collection=vlm", "-o", "iterations=2")
    assert answer(capsys, "label", "preference_reward", *fast, *lake)["items"][0]["annotations"] == 12
    rows = answer(capsys, "query", "--where", "preference_reward > -100 AND success.success = 1", *lake)["items"]
    assert len(rows) == 4


def test_a_wrong_request_is_one_line(capsys, lake, tmp_path):
    assert "cannot read" in refusal(capsys, "preferences", "import", tmp_path / "none.json", *lake)
    path = tmp_path / "judge.yaml"
    path.write_text("endpoint: {url: 'file:///etc/passwd', model: m}")
    assert "an endpoint is http" in refusal(capsys, "preferences", "judge", path, *lake)
    path.write_text("endpoint: {url: 'http://127.0.0.1:9/v1', model: m, key_env: NO_SUCH_KEY}")
    assert "NO_SUCH_KEY" in refusal(capsys, "preferences", "judge", path, *lake)
    path.write_text("endpoint: {url: 'http://127.0.0.1:9/v1', model: m}\npears: 3")
    assert "did you mean 'pairs'?" in refusal(capsys, "preferences", "judge", path, *lake)
    path.write_text("endpoint: {url: 'http://127.0.0.1:9/v1', model: m, price_in: 5, budget: 0.001}\npairs: 200")
    code, out, err = call(capsys, "preferences", "judge", path, *lake)
    assert (code, out) == (2, "") and err.splitlines()[-1].startswith("error: it may cost 1.7")
    assert "endpoint is missing" in refusal(capsys, "label", "success", *lake)
