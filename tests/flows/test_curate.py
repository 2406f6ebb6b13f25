"""The whole of a run: the same lake from every executor, engine and store, and after being killed at any point."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_engine import mixture as mixtures
from data_engine.errors import RequestError
from data_engine.recipe import render
from flows.curate import curate
from flows.progress import silent
from storage.check import check, fingerprint
from storage.lake import Lake
from tests import recordings
from tests.flows.test_executor import wait_for
from tests.recordings import write_robomimic

pytestmark = pytest.mark.timeout(900)


def run(lake, recipe_path, *overrides, **options):
    return curate(str(lake), render(str(recipe_path), overrides), progress=silent(), **options)


def write_recipe(folder: Path, source: Path) -> Path:
    """A recipe that uses every stage, labels too."""
    labels = "label:\n  - {labeller: keyposes, params: {still_m_s: 0.3, apart: 3}}\n"
    return recordings.write_recipe(folder, source, labels)


def bytes_of(folder: Path) -> dict[str, str]:
    """sha256 of every file of an export."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def command(*arguments) -> list[str]:
    return [str(Path(sys.executable).parent / "data-engine"), *map(str, arguments)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, recording):
    """One uninterrupted run in this process: its folder, answer and fingerprint."""
    folder = tmp_path_factory.mktemp("plain")
    answer = run(folder / "lake", write_recipe(folder, recording))
    return folder, answer, fingerprint(Lake.open(str(folder / "lake")))


def test_goes_from_a_recording_to_a_mixture_an_export_and_a_report(plain):
    _, answer, _ = plain
    lake = Lake.open(answer["mixture"].rpartition("/mixtures/")[0])
    assert check(lake) == []
    mixture = mixtures.open(answer["mixture"])
    assert mixture.id == answer["mixture_id"]
    assert set(mixture.episodes["selection"].to_pylist()) == {"towards", "anyone"}
    assert {scorer.scorer for scorer in mixture.document.scorers} >= {"integrity", "action_divergence", "trajectory"}
    rows = lake.scan("selections").filter(pl.col("name") == "towards").collect()
    assert len(rows) == 24
    assert rows["reason"].null_count() == 0
    targets = set(rows.filter(pl.col("reason") == "target")["episode_id"])
    assert len(targets) == 4
    assert not targets & set(rows.filter(pl.col("rank").is_not_null())["episode_id"])
    page = Path(answer["report"]).read_text()
    assert answer["mixture_id"][:12] in page
    said = lake.scan("annotations").filter(pl.col("kind") == "segment").collect()
    assert said["episode_id"].n_unique() == 24
    assert f'<td class="n">{len(said)}</td><td class="n">24</td>' in page.partition("<h2>Labels</h2>")[2]
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert answer["batch"]["action"][0] == 16
    assert answer["exports"][0]["verified"]


def test_every_row_of_the_export_traces_to_source_episode_and_step(plain, recording):
    import h5py

    folder, answer, _ = plain
    provenance = pq.read_table(folder / "out/meta/provenance.parquet").to_pylist()
    data = pq.read_table(folder / "out/data/chunk-000/file-000.parquet")
    assert sum(row["stop"] - row["start"] for row in provenance) == len(data) == answer["exports"][0]["steps"]
    with h5py.File(recording) as file:
        for row in provenance:
            mine = data.filter(pc.field("episode_index") == row["episode_index"])["action"].to_pylist()
            source = file["data"][row["source_key"]]["actions"][row["start"] : row["stop"]]
            assert mine == source.tolist()


def test_running_it_again_changes_nothing_but_the_list_of_runs(plain):
    folder, answer, before = plain
    exported = bytes_of(folder / "out")
    again = run(folder / "lake", folder / "recipe.yaml")
    assert again["mixture_id"] == answer["mixture_id"]
    assert [item["selection_id"] for item in again["selections"]] == [
        item["selection_id"] for item in answer["selections"]
    ]
    assert fingerprint(Lake.open(str(folder / "lake"))) == before
    assert bytes_of(folder / "out") == exported


def test_a_pool_of_processes_gives_the_same_lake_and_export(plain, recording, tmp_path):
    folder, answer, expected = plain
    other = run(tmp_path / "lake", write_recipe(tmp_path, recording), executor="local", workers=2)
    assert other["mixture_id"] == answer["mixture_id"]
    assert fingerprint(Lake.open(str(tmp_path / "lake"))) == expected
    assert bytes_of(tmp_path / "out") == bytes_of(folder / "out")


def test_ray_on_an_object_store_beside_decoy_folders_gives_the_same_lake_and_export(plain, recording, tmp_path, s3):
    """Ray into a folder is test_apart's and test_ray_executor's; here everything goes over the network besides."""
    folder, answer, expected = plain
    for name in ("storage", "api", "flows", "scorers", "data_engine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a decoy was imported')")
    lake = f"{s3}/lake"
    recipe = write_recipe(tmp_path, recording)
    arguments = command(
        "curate", recipe, "--lake", lake, "--engine", "plain", "--executor", "ray", "--workers", 2, "--json"
    )
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["mixture_id"] == answer["mixture_id"]
    assert fingerprint(Lake.open(lake)) == expected
    assert bytes_of(tmp_path / "out") == bytes_of(folder / "out")


def test_prefect_beside_decoy_folders_gives_the_same_lake_and_leaves_nothing_running(plain, recording, tmp_path):
    _, answer, expected = plain
    for name in ("storage", "api", "flows"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('a decoy was imported')")
    mark = {"DATA_ENGINE_TEST_RUN": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {**{k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}, **mark}
    recipe = write_recipe(tmp_path, recording)
    done = subprocess.run(
        command("curate", recipe, "--lake", "lake", "--json"),
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["mixture_id"] == answer["mixture_id"]
    assert fingerprint(Lake.open(str(tmp_path / "lake"))) == expected
    assert not wait_for(lambda: marked(str(tmp_path)), lambda found: not found)
    states = flow_states(next((tmp_path / "cache/data-engine/prefect").glob("*/prefect.db")))
    assert states["curate"] == ["COMPLETED"]
    assert states["mix"] == ["COMPLETED"]


def test_killed_at_ten_random_points_and_run_again_it_is_the_same_lake(plain, recording, tmp_path):
    """Eight plain runs with a pool and two under Prefect are killed; what each left is what the next goes on from."""
    folder, answer, expected = plain
    recipe = write_recipe(tmp_path, recording)
    rng = random.Random(20)
    mark = {"DATA_ENGINE_TEST_RUN": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {**{k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}, **mark}
    work = sum(answer["timings"].values())
    for attempt in range(10):
        engine = ("--engine", "prefect") if attempt in (4, 8) else ("--engine", "plain", "--workers", 2)
        before = runs_started(tmp_path / "lake")
        victim = subprocess.Popen(
            command("curate", recipe, "--lake", tmp_path / "lake", *engine),
            env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(lambda: runs_started(tmp_path / "lake") > before or victim.poll() is not None, bool)  # noqa: B023
        time.sleep(rng.uniform(0, work))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        assert not wait_for(lambda: marked(str(tmp_path)), lambda found: not found)
    final = run(tmp_path / "lake", recipe)
    lake = Lake.open(str(tmp_path / "lake"))
    assert final["mixture_id"] == answer["mixture_id"]
    assert fingerprint(lake) == expected
    assert check(lake) == []
    assert bytes_of(tmp_path / "out") == bytes_of(folder / "out")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") or "partial" in path.name]


def test_one_source_too_small_for_targets_still_becomes_a_mixture(tmp_path):
    source = write_robomimic(tmp_path / "one.hdf5", episodes=1)
    recipe = write_recipe(tmp_path, source)
    progress = silent()
    top = "select=[{name: best, method: transport, target: {top: 8, by: action_divergence}, budget: auto}]"
    resolved = render(str(recipe), [top, "mixture.entries=[]"])
    answer = curate(str(tmp_path / "lake"), resolved, progress=progress)
    assert answer["selections"][0]["chosen"] == 1
    assert any("no episode can serve as target" in line for line in progress.warned)


def test_nothing_is_made_of_nothing(tmp_path, recording):
    recipe = write_recipe(tmp_path, recording)
    with pytest.raises(RequestError, match="nothing to choose from"):
        run(tmp_path / "lake", recipe, "select.1.where=n_steps > 100000")
    assert not (tmp_path / "out").exists()
    states = Lake.open(str(tmp_path / "lake")).scan("runs").collect()
    assert states["state"].to_list().count("failed") == 1


def marked(mark: str) -> set[int]:
    """Live processes that carry ``mark`` in their environment."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes()
            state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if f"DATA_ENGINE_TEST_RUN={mark}\0".encode() in environment and state != "Z":
            found.add(int(name))
    return found


def runs_started(lake: Path) -> int:
    """Commits to the table of runs."""
    return len(list((lake / "tables/runs/_delta_log").glob("*.json")))


def flow_states(database: Path) -> dict[str, list[str]]:
    """The states of the flows and of the task runs (stages) in a Prefect database, by name."""
    import sqlite3

    with sqlite3.connect(database) as connection:
        flows = connection.execute(
            "select f.name, r.state_type from flow_run r join flow f on f.id = r.flow_id"
        ).fetchall()
        tasks = connection.execute("select name, state_type from task_run").fetchall()
    found: dict[str, list[str]] = {}
    for name, state in [*flows, *((name.rpartition("-")[0], state) for name, state in tasks)]:
        found.setdefault(name, []).append(state)
    return found
