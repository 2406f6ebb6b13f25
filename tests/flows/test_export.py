from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine.errors import DefectError, RequestError
from data_engine.recipe import MixtureRecipe, SelectRecipe
from flows.export import export
from flows.mix import mix
from flows.progress import silent
from flows.select import select
from storage.lake import Lake


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory, measured):
    """URIs of two mixtures: of 3 and of 5 episodes of the arm."""
    folder = tmp_path_factory.mktemp("mixed") / "lake"
    shutil.copytree(measured, folder)
    lake = Lake.open(str(folder))
    made = []
    for budget in (3, 5):
        recipe = SelectRecipe(name="some", method="random", budget=budget)
        select(lake, recipe, lake.episodes(dataset="reach"), progress=silent(), run_id="run_test")
        made.append(mix(lake, MixtureRecipe(entries=[{"selection": "some"}]), run_id="run_test"))
    return made


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_counts_reconcile_and_it_verifies(mixtures, tmp_path):
    answer = export(mixtures[0]["uri"], "lerobot_v3", str(tmp_path / "out"), verify=True)
    assert (answer["episodes"], answer["steps"]) == (3, mixtures[0]["steps"])
    assert answer["verified"]
    assert answer["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert "verified" not in export(mixtures[0]["uri"], "lerobot_v3", str(tmp_path / "out"))


def test_exporting_it_again_leaves_it_as_it_is(mixtures, tmp_path):
    first = export(mixtures[0]["uri"], "lerobot_v3", str(tmp_path / "out"), verify=True)
    before = contents(tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert export(mixtures[0]["uri"], "lerobot_v3", str(tmp_path / "out"), verify=True) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == stamps
    export(mixtures[0]["uri"], "lerobot_v3", str(tmp_path / "elsewhere"))
    assert contents(tmp_path / "elsewhere") == before


def test_a_place_named_after_the_mixture_keeps_exports_apart(mixtures, tmp_path):
    made = [export(mixture["uri"], "lerobot_v3", str(tmp_path / "set-{mixture}")) for mixture in mixtures]
    assert [Path(answer["uri"]).name for answer in made] == [f"set-{mix['mixture_id'][:12]}" for mix in mixtures]
    assert [answer["steps"] for answer in made] == [mixture["steps"] for mixture in mixtures]


@pytest.mark.parametrize("what", ["another mixture", "other options", "somebody's file", "a file"])
def test_something_else_at_the_place_is_refused_and_left_alone(mixtures, tmp_path, what):
    out, options = tmp_path / "out", {}
    if what == "a file":
        out.write_text("mine")
    elif what == "somebody's file":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    else:
        export(mixtures[1 if what == "another mixture" else 0]["uri"], "lerobot_v3", str(out))
        options = {"columns": "common"} if what == "other options" else {}
    before = contents(tmp_path)
    with pytest.raises(RequestError, match="is not empty") as caught:
        export(mixtures[0]["uri"], "lerobot_v3", str(out), options=options)
    assert caught.value.code == "occupied"
    assert contents(tmp_path) == before


def flip_a_value(out: Path) -> None:
    (path,) = (out / "data").rglob("*.parquet")
    table = pq.read_table(path)
    actions = table["action"].to_pylist()
    actions[17][0] += 1e-3
    at = table.schema.get_field_index("action")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(actions, table.schema.field(at).type)), path)


def lose_a_row(out: Path) -> None:
    (path,) = (out / "data").rglob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table.slice(0, 5), table.slice(6)]), path)


def cut_a_file(out: Path) -> None:
    (path,) = (out / "data").rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:-100])


def swap_origins(out: Path) -> None:
    path = out / "meta/provenance.parquet"
    table = pq.read_table(path)
    keys = table["source_key"].to_pylist()
    at = table.schema.get_field_index("source_key")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(keys[::-1])), path)


@pytest.mark.parametrize("defect", [flip_a_value, lose_a_row, cut_a_file, swap_origins])
def test_verify_finds_a_planted_difference(mixtures, tmp_path, defect):
    out = tmp_path / "out"
    export(mixtures[0]["uri"], "lerobot_v3", str(out))
    defect(out)
    with pytest.raises(DefectError, match=f"{out} differs from mixture {mixtures[0]['mixture_id'][:12]}: ") as caught:
        export(mixtures[0]["uri"], "lerobot_v3", str(out), verify=True)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


def test_a_wrong_request_is_one_line(mixtures, tmp_path):
    uri = mixtures[0]["uri"]
    with pytest.raises(RequestError, match="unknown exporter 'lerobot_3'"):
        export(uri, "lerobot_3", str(tmp_path / "out"))
    with pytest.raises(RequestError, match="unknown key 'colums'"):
        export(uri, "lerobot_v3", str(tmp_path / "out"), options={"colums": "all"})
    with pytest.raises(RequestError, match="no mixture at"):
        export(uri[:-4] + "0000", "lerobot_v3", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
