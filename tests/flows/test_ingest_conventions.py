"""Conventions from ingest to export: found, stated, refused, converted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine import mixture as mixtures
from data_engine.conventions.convert import Conversion
from data_engine.errors import RequestError
from data_engine.recipe import MixtureRecipe, SelectRecipe, SourceRecipe
from data_engine.samples import Samples
from data_engine.windows import Windows
from flows.export import export
from flows.ingest import ingest
from flows.mix import mix
from flows.progress import silent
from flows.select import select
from storage.lake import Lake
from tests.data_engine.conventions.generated import recording
from tests.data_engine.formats.lerobot_sets import rewrite_info, write_v3

NAMES = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos"]


def write(root: Path, era: str, seed: int = 0, scale: float = 1.0) -> Path:
    """Recordings of an arm as a LeRobot v3.0 set; ``scale`` multiplies its joints."""
    made = recording(era, seed)
    columns = {name: [np.nan_to_num(e[name]) for e in made.episodes] for name in ("observation.state", "action")}
    info = write_v3(root, [len(values) for values in columns["action"]])
    path = next(root.glob("data/*/*.parquet"))
    table = pq.read_table(path)
    for name, parts in columns.items():
        values = np.concatenate(parts)
        values[:, :5] *= scale
        flat = pa.array(values.astype(np.float32).reshape(-1))
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.FixedSizeListArray.from_arrays(flat, 6))
        info["features"][name] = {"dtype": "float32", "shape": [6], "names": NAMES}
    pq.write_table(table, path)
    rewrite_info(root, info)
    return root


def bring(lake: Lake, common: dict, name: str, root: Path, **options) -> dict:
    recipe = SourceRecipe(name=name, uri=str(root), options={"control_mode": "joint_absolute", **options})
    return ingest(lake, recipe, **common)


def mixed(lake: Lake, *conversions: dict) -> mixtures.Mixture:
    select(
        lake, SelectRecipe(name="all", method="filter"), lake.episodes(), progress=silent(), run_id="run_test"
    )  # fmt: skip
    found = tuple(Conversion.model_validate(one) for one in conversions)
    recipe = MixtureRecipe(entries=[{"selection": "all"}], conversions=found)
    return mixtures.open(mix(lake, recipe, run_id="run_test")["uri"])


@pytest.fixture
def two_eras(lake: Lake, common: dict, tmp_path: Path) -> Lake:
    bring(lake, common, "old", write(tmp_path / "old", "deg_old", seed=1))
    bring(lake, common, "new", write(tmp_path / "new", "rad_servo", seed=2))
    return lake


def test_what_is_found_is_kept_with_the_dataset_and_in_the_receipt(lake, common, tmp_path):
    receipt = bring(lake, common, "old", write(tmp_path / "old", "deg_old"))
    action = lake.datasets()["old"].feature("action")
    assert action.unit == "deg"
    kept = {(f.kind, f.components[0]): f for f in action.findings}
    assert kept["unit", 0].components == (0, 1, 2, 3, 4)
    assert kept["gripper_polarity", 5].value == "larger_opens"
    assert kept["action_mode", 0].evidence == "stated"
    assert [f.model_dump(mode="json") for f in action.findings] == [
        item for item in receipt["inferred"] if item["column"] == "action"
    ]
    assert all(item["evidence"] and 0 <= item["confidence"] <= 1 for item in receipt["inferred"])
    stored = json.loads(lake.scan("receipts").collect()["receipt"][0])
    assert stored["inferred"] == receipt["inferred"]
    assert receipt["notes"] == []


def test_stated_wins_and_what_the_data_says_otherwise_is_noted(lake, common, tmp_path):
    root = write(tmp_path / "old", "deg_old")
    receipt = bring(lake, common, "old", root, units={"observation.state": "rad"}, control_mode="joint_delta")
    assert lake.datasets()["old"].feature("observation.state").unit == "rad"
    notes = " ".join(receipt["notes"])
    assert "observation.state is stated to be in rad, but reads as deg" in notes
    assert "action is stated to be in delta, but reads as absolute" in notes
    with pytest.raises(RequestError, match="no column 'actions'"):
        bring(lake, common, "other", root, units={"actions": "rad"})
    assert "other" not in lake.datasets()


def test_degrees_with_radians_are_refused(two_eras):
    with pytest.raises(RequestError) as caught:
        mixed(two_eras)
    assert caught.value.exit_code == 2
    assert "'new' and 'old' are both so100/joint_absolute" in caught.value.message
    assert "observation.state has units 'rad' and 'deg'" in caught.value.message
    assert "{dataset: new, column: observation.state, from: rad, to: deg}" in caught.value.fix
    assert not two_eras.scan("mixtures").collect().height


def test_a_calibrated_range_is_refused_with_the_reason(lake, common, tmp_path):
    bring(lake, common, "old", write(tmp_path / "old", "deg_old"))
    bring(lake, common, "new", write(tmp_path / "new", "range_m100_100"))
    with pytest.raises(RequestError, match="units 'range_m100_100' and 'deg'") as caught:
        mixed(lake)
    assert "need the robot's calibration" in caught.value.fix


def test_named_conversions_reach_loader_statistics_and_export(two_eras, tmp_path):
    conversions = [
        {"dataset": "old", "column": column, "from": "deg", "to": "rad"} for column in ("observation.state", "action")
    ]
    mixture = mixed(two_eras, *conversions)
    assert [c.components for c in mixture.document.conversions] == [(0, 1, 2, 3, 4)] * 2
    assert {d.feature("action").unit for d in mixture.datasets.values()} == {"rad"}
    raw = {
        row["episode_id"]: np.array(steps["action"].to_pylist(), np.float64)
        for row, steps in two_eras.steps(two_eras.episodes())
    }
    owners = dict(two_eras.episodes().select("episode_id", "dataset").iter_rows())
    assert max(np.abs(x[:, :5]).max() for who, x in raw.items() if owners[who] == "old") > 100  # the lake is as it was
    for who, values in raw.items():
        if owners[who] == "old":
            values[:, :5] *= np.pi / 180
    expected = {who: values.astype(np.float32) for who, values in raw.items()}
    for sample in Samples(mixture, Windows(action_horizon=1)).iterate():
        np.testing.assert_array_equal(sample["action"][0], expected[sample["episode_id"]][int(sample["step"])])
    told = mixture.statistics("so100/joint_absolute")["action"]
    np.testing.assert_allclose(told["mean"], np.concatenate(list(expected.values())).astype(float).mean(0), rtol=1e-4)

    out = tmp_path / "out"
    report = export(mixture.uri, "lerobot_v3", str(out), verify=True)
    assert report["steps"] == sum(map(len, raw.values()))
    traced = pl.read_parquet(out / "meta" / "provenance.parquet")
    rows = pl.concat([pl.read_parquet(path) for path in sorted(out.glob("data/*/*.parquet"))])
    for number, who in traced.select("episode_index", "episode_id").iter_rows():
        written = rows.filter(pl.col("episode_index") == number)["action"].to_numpy()
        np.testing.assert_array_equal(np.stack(written), expected[who])


def test_conversions_are_part_of_the_identity(two_eras):
    there = [{"dataset": "old", "column": c, "from": "deg", "to": "rad"} for c in ("observation.state", "action")]
    back = [{"dataset": "new", "column": c, "from": "rad", "to": "deg"} for c in ("observation.state", "action")]
    ids = [mixed(two_eras, *some).id for some in (there, back, there)]
    assert ids[0] == ids[2] != ids[1]
    with pytest.raises(RequestError, match=r"mixture\.conversions\.0: .* is in deg"):
        mixed(two_eras, {"dataset": "old", "column": "action", "from": "rad", "to": "deg"})


def test_delta_with_absolute_under_one_stated_mode_is_refused(lake, common, tmp_path):
    bring(lake, common, "old", write(tmp_path / "old", "deg_old"), control_mode="joint")
    bring(lake, common, "new", write(tmp_path / "new", "deg_old", seed=3), control_mode="joint",
          conventions={"action": {"action_mode": "delta"}})  # fmt: skip
    with pytest.raises(RequestError, match="action has action mode 'delta' and 'absolute'") as caught:
        mixed(lake)
    assert "state the control_mode" in caught.value.fix
