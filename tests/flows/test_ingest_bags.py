"""Bags of all three kinds go into a lake and come back as they were recorded."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from data_engine.errors import RequestError
from data_engine.recipe import SourceRecipe
from data_engine.video import FrameReader
from flows.executor import Local
from flows.ingest import ingest
from flows.progress import silent
from storage.check import check, fingerprint
from tests.api.commands import call, refusal
from tests.data_engine.formats.bag.bag_sets import KINDS, START, image, joints, write

TICK = 50_000_000


def bring(lake, path, **options):
    recipe = SourceRecipe(name="bags", uri=str(path), options=options)
    return ingest(lake, recipe, on=Local(), progress=silent(), run_id="run_test")


def record(folder, n=24):
    """The same in three containers, one of them cut in the middle; the shade of a frame says which it is."""
    ramp = np.broadcast_to(np.linspace(0, 60, 64, dtype=np.uint8)[:, None, None], (64, 64, 3))
    shades = [ramp + np.uint8(7 * i) for i in range(n)]
    topics = {
        "/arm": ("sensor_msgs/msg/JointState", [(START + i * TICK, joints([i, -i])) for i in range(n)]),
        "/goal": ("sensor_msgs/msg/JointState", [(START + i * 2 * TICK + 5, joints([i])) for i in range(n // 2)]),
        "/cam": ("sensor_msgs/msg/Image", [(START + i * TICK - 9, image(shade)) for i, shade in enumerate(shades)]),
    }
    folder.mkdir(exist_ok=True)
    for kind in KINDS:
        write(folder / kind, kind, topics)
    return np.stack(shades)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_comes_back_from_the_lake(lake, tmp_path, kind):
    shades = record(tmp_path)
    path = tmp_path / ("ros1.bag" if kind == "ros1" else kind)
    given = {"columns": {"observation.state": "/arm.position", "action": "/goal.position"}, "cameras": {"cam": "/cam"}}
    receipt = bring(lake, path, map=given, clock="/arm", max_age_s=0.06, task="reach")
    assert receipt["stored"] == {"episodes": 1, "steps": 24, "frames": {"cam": 24}}
    row, steps = next(iter(lake.steps(lake.episodes())))
    assert steps["observation.state"].to_pylist() == [[float(i), -float(i)] for i in range(24)]
    assert steps["action"].to_pylist() == [float(i // 2) if i % 2 else None for i in range(24)]  # older than 0.06 s
    ages = steps["action.age_s"].to_pylist()
    assert ages[0] is None
    np.testing.assert_allclose(ages[1:], [0.05 - 5e-9 if i % 2 else 0.1 - 5e-9 for i in range(1, 24)], atol=1e-12)
    assert steps["observation.images.cam.age_s"].to_pylist() == [9e-9] * 24
    assert (row["task"], row["n_steps"], row["fps"]) == ("reach", 24, 20.0)
    video = row["videos"][0]
    with FrameReader(lake.local(video["blob"])) as reader:
        found = reader.at(video["start_s"] + steps["timestamp"].to_numpy())
    assert np.abs(found.astype(int) - shades).mean() < 3
    assert check(lake) == []
    before = fingerprint(lake)
    assert bring(lake, path, map=given, clock="/arm", max_age_s=0.06, task="reach")["stored"]["episodes"] == 0
    assert fingerprint(lake) == before


def test_a_guess_is_shown_confirmed_and_only_then_ingested(tmp_path, capsys):
    record(tmp_path / "runs")
    (tmp_path / "runs" / "broken.mcap").write_bytes(b"noise")
    uri, lake = str(tmp_path / "runs"), ["--lake", str(tmp_path / "lake")]
    assert "only a guess" in refusal(capsys, "ingest", uri, "--dataset", "runs", *lake)
    _, text, _ = call(capsys, "ingest", uri, "--dry-run", *lake)
    options = yaml.safe_load(text)
    assert options["clock"] == "/arm" and options["map"]["cameras"] == {"cam": "/cam"}
    (tmp_path / "options.yaml").write_text(text)
    code, _, said = call(capsys, "ingest", uri, "--dataset", "runs", "--options", tmp_path / "options.yaml", *lake)
    assert code == 0 and "broken.mcap is quarantined" in said


def test_an_unconfirmed_map_writes_nothing(lake, tmp_path):
    record(tmp_path)
    with pytest.raises(RequestError, match="only a guess"):
        bring(lake, tmp_path)
    assert lake.tables() == []
