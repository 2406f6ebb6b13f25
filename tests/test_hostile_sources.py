"""Hostile and broken sources through the command line: each ends in an answer, none reads, runs or holds too much.

All of :mod:`tests.hostile` goes through one process with a limit on its memory; a few are run as a user runs them.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.hostile import OPTIONS, SECRET, SOURCES, URIS, WORD, canary, payload, robomimic, write_outside

REPO = Path(__file__).resolve().parents[1]
MAPPED = {"mcap_": "map={columns: {observation.state: /joint_states.position}}"}  # read where nothing is proposed
MOST_BYTES = 1 << 30  # with all that Python and its packages hold
pytestmark = pytest.mark.timeout(600)  # the first test waits for all of it


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sources``, the files ``outside`` that nobody may see, and the lakes."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "sources").mkdir()
    write_outside(folder / "outside")
    return folder


@pytest.fixture(scope="module")
def sources(ground: Path) -> dict[str, str]:
    """Every source of the corpus, by name."""
    folder = ground / "sources"
    made = {}
    for name, (build, _) in SOURCES.items():
        made[name] = str(build(folder / name, ground / "outside") or folder / name)
    assert not canary(ground / "outside").exists()
    return made


def in_child(ground: Path, plan: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What ``tests.hostile_child`` says of each name; a process that dies or wedges fails with the name it was at."""
    path = ground / "plan.json"
    path.write_text(json.dumps(plan))
    command = [sys.executable, "-m", "tests.hostile_child", str(path)]
    with (ground / "said").open("w") as out, (ground / "shouted").open("w") as err:
        code = subprocess.run(command, cwd=REPO, stdout=out, stderr=err, timeout=550).returncode
    lines = [json.loads(line) for line in (ground / "said").read_text().splitlines()]
    last = next((line["begins"] for line in reversed(lines) if "begins" in line), None)
    assert code == 0, f"the process ended with {code} at {last}: {(ground / 'shouted').read_text()[-500:]}"
    return {line["name"]: line for line in lines if "name" in line}


@pytest.fixture(scope="module")
def answers(ground: Path, sources: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What everything came to, in one process: a dry run and an ingest of each source, and a check of its lake;

    ``options <name>`` and ``uri <number>``: an ingest; ``survey``: of the folder of all sources.
    """

    def ingest(uri: str, lake: str, *more: str) -> list[str]:
        return ["ingest", uri, "--lake", str(ground / "lakes" / lake), "--dataset", "it", *more, "--json"]

    plan = []
    for name, uri in sources.items():
        commands = [ingest(uri, name, "--dry-run"), ingest(uri, name, "--options", "PROPOSAL")]
        commands += [ingest(uri, name, "-o", option) for start, option in MAPPED.items() if name.startswith(start)]
        plan.append({"name": name, "commands": commands})
        if SOURCES[name][1]:
            check = ["check", "--lake", str(ground / "lakes" / name), "--json"]
            plan.append({"name": f"check {name}", "commands": [check]})
    sound = str(robomimic(ground / "sound"))
    for name, text in OPTIONS.items():
        file = ground / f"{name}.yaml"
        file.write_bytes(text.replace("{canary}", str(canary(ground / "outside"))).encode())
        plan.append({"name": f"options {name}", "commands": [ingest(sound, name, "--options", str(file))]})
    for number, uri in enumerate(URIS):
        named = uri.replace("{outside}", str(ground / "outside"))
        plan.append({"name": f"uri {number}", "commands": [ingest(named, f"uri{number}")]})
    survey = ["survey", str(ground / "sources"), "--lake", str(ground / "none"), "--json"]
    return in_child(ground, [*plan, {"name": "survey", "commands": [survey]}])


def answered(answer: dict[str, Any]) -> dict[str, Any]:
    """The JSON that a command answers with: its result, or one clear line of error. Nothing else is said."""
    assert answer["code"] in (0, 1, 2), answer
    assert "Traceback" not in answer["out"] + answer["err"]
    assert all(line.startswith("warning: ") for line in answer["err"].splitlines()), answer["err"]
    value = json.loads(answer["out"])
    if answer["code"]:
        assert set(value) == {"error"}
        assert value["error"]["code"] != "internal", value
        assert "\n" not in value["error"]["message"]
    return value


@pytest.mark.parametrize("name", SOURCES)
def test_it_ends_in_an_answer_and_what_is_sound_comes_in(answers: dict[str, dict[str, Any]], name: str) -> None:
    found = answers[name]
    for answer in found["answers"]:
        value = answered(answer)
    stored = value.get("stored", {}).get("episodes", 0)
    assert stored == SOURCES[name][1], value
    assert (answer["code"] == 0) == (stored > 0)
    if stored:
        assert len(value["quarantined"]) + stored == value["in"]["episodes"]
    assert found["peak"] < MOST_BYTES, f"{found['peak'] >> 20} MiB"


def test_nothing_outside_was_seen_or_run(ground: Path, answers: dict[str, dict[str, Any]]) -> None:
    outside = ground / "outside"
    assert not canary(outside).exists()
    assert not list(outside.glob("planted*")) and not Path("/tmp/planted").exists()
    said = json.dumps(answers)
    assert WORD not in said and str(SECRET) not in said
    for lake in (ground / "lakes").iterdir():
        for path in lake.rglob("*.parquet"):
            assert str(SECRET) not in str(pq.read_table(path).to_pylist()), path
        for path in lake.rglob("*.mp4"):
            assert not magenta(path), path
        for path in lake.rglob("*"):
            if path.is_file():
                assert WORD.encode() not in path.read_bytes(), path


def magenta(path: Path) -> bool:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    return bool(np.abs(frame - (255, 0, 255)).mean() < 40)


def test_the_secrets_would_be_found(ground: Path) -> None:
    """The test above can fail: what it looks for is what the files outside hold."""
    outside = ground / "outside"
    assert magenta(outside / "secret.mp4")
    assert str(SECRET) in str(pq.read_table(outside / "secret.parquet").to_pylist())
    pickle.loads(payload(outside))
    assert canary(outside).exists()
    canary(outside).unlink()


@pytest.mark.parametrize("name", [name for name, (_, stored) in SOURCES.items() if stored])
def test_a_lake_that_took_in_a_part_is_sound(answers: dict[str, dict[str, Any]], name: str) -> None:
    assert answered(answers[f"check {name}"]["answers"][0])["sound"]


def test_a_survey_of_all_of_them_answers_with_rows(answers: dict[str, dict[str, Any]]) -> None:
    items = answered(answers["survey"]["answers"][0])["items"]
    errors = [item["error"] for item in items if "error" in item]
    assert len(items) > len(SOURCES) / 2 and 0 < len(errors) < len(items)
    assert all(error["code"] != "internal" and "\n" not in error["message"] for error in errors)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_a_stranger_are_refused(answers: dict[str, dict[str, Any]], name: str) -> None:
    answer = answers[f"options {name}"]["answers"][0]
    assert answered(answer)["error"]["message"]
    assert answer["code"] == 2


@pytest.mark.parametrize("number", range(len(URIS)))
def test_a_uri_that_is_no_source_is_refused(answers: dict[str, dict[str, Any]], number: int) -> None:
    assert answered(answers[f"uri {number}"]["answers"][0])["error"]["message"]


@pytest.mark.parametrize("name", ["hdf5_cut", "lerobot_cut_parquet", "playlists", "lerobot_template_attribute"])
def test_as_a_user_sees_it(ground: Path, sources: dict[str, str], name: str) -> None:
    """On stderr: one line of error, or warnings; and never more."""
    command = [sys.executable, "-m", "api.cli", "ingest", sources[name], "--lake", str(ground / "user" / name)]
    ran = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    lines = [line for line in ran.stderr.splitlines() if not line.startswith("warning: ")]
    if SOURCES[name][1]:
        assert (ran.returncode, lines) == (0, [])
        assert "1 episodes" in ran.stdout and "quarantined" in ran.stdout
    else:
        assert ran.returncode == 2
        assert len(lines) == 1 and lines[0].startswith("error: ")
        assert ran.stdout == ""
