from __future__ import annotations

import json

import pytest

from api.cli import main
from data_engine.errors import RequestError
from data_engine.recipe import Base, ScoreRecipe
from flows.judge import judge
from flows.score import score
from tests.recordings import write_robomimic


@pytest.fixture
def base_fit(filled, common) -> str:
    """A fit of compatibility on the steady arm's demonstrations."""
    recipe = ScoreRecipe(
        scorer="compatibility",
        params={"iterations": 100, "members": 2},
        base=Base(where="operator = 'steady' AND dataset = 'reach'"),
    )
    return score(filled, recipe, filled.episodes(dataset="reach"), **common)["fit_id"]


def test_judges_what_is_not_in_the_lake(filled, base_fit, tmp_path, capsys):
    source = write_robomimic(tmp_path / "new.hdf5", episodes=9, seed=11)
    version = filled.version("episodes")
    found = judge(filled, str(source), base_fit)
    assert filled.version("episodes") == version
    assert [item["key"] for item in found] == [f"demo_{i}" for i in range(9)]
    assert {type(item["accepted"]) for item in found} == {bool}
    known = set(filled.episodes(dataset="reach")["episode_id"])
    assert {window["nearest"] for item in found for window in item["windows"]} <= known
    with pytest.raises(SystemExit):
        main(["judge", str(source), "--fit", base_fit, "--lake", filled.uri, "--json"])
        raise SystemExit(0)
    assert json.loads(capsys.readouterr().out)["items"] == found
    unlike = judge(filled, str(source), base_fit, options={"embodiment": "hand", "control_mode": "delta"})
    assert all(item["accepted"] is None and "too few demonstrations of hand" in item["reason"] for item in unlike)
    with pytest.raises(RequestError, match="no fit 'fit_0' of 'compatibility'"):
        judge(filled, str(source), "fit_0")
