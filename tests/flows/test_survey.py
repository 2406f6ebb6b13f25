from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_engine.errors import RequestError
from flows import survey_page
from flows.progress import silent
from flows.survey import held, survey
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.flows.test_ingest import bring
from tests.recordings import write_robomimic


def look(*uris: Path | str, **options):
    return survey([str(uri) for uri in uris], progress=silent(), **options)


@pytest.fixture
def heap(tmp_path: Path) -> Path:
    """A folder with two sources, a copy of the first one in a deeper folder, and a file of nothing known."""
    root = tmp_path / "heap"
    (root / "more/deep").mkdir(parents=True)
    write_robomimic(root / "reach.hdf5", episodes=6, cameras=True)
    write_v3(root / "lerobot", [12, 9], video=True)
    shutil.copy(root / "reach.hdf5", root / "more/deep/copy.hdf5")
    (root / "notes.txt").write_text("not a recording")
    return root


def test_a_folder_of_sources_stands_for_those_in_it(heap):
    before = {path: path.stat().st_mtime_ns for path in heap.rglob("*")}
    found = look(heap)
    by_name = {item["uri"].removeprefix(f"{heap}/"): item for item in found["items"]}
    assert set(by_name) == {"reach.hdf5", "lerobot", "more/deep/copy.hdf5"}
    reach, lerobot = by_name["reach.hdf5"], by_name["lerobot"]
    with h5py.File(heap / "reach.hdf5") as file:
        steps = sum(len(demo["actions"]) for demo in file["data"].values())
    assert (reach["format"], reach["episodes"], reach["steps"]) == ("robomimic", 6, steps)
    assert reach["hours"] == pytest.approx(steps / 20 / 3600, abs=1e-4)
    assert reach["bytes"] == (heap / "reach.hdf5").stat().st_size
    assert [camera["class"] for camera in reach["cameras"]] == ["external"]
    assert (lerobot["format"], lerobot["episodes"], lerobot["steps"]) == ("lerobot_v3", 2, 21)
    assert not any(item["guessed"] for item in found["items"])
    assert found["total"]["episodes"] == 14
    assert {path: path.stat().st_mtime_ns for path in heap.rglob("*")} == before


def test_the_same_recordings_are_found_across_sources_and_in_the_lake(heap, lake):
    bring(lake, heap / "lerobot", name="known")
    pairs = look(heap, lake=lake)["duplicates"]
    ends = [{pair["first"].rsplit("/", 1)[-1], pair["second"].rsplit("/", 1)[-1]} for pair in pairs]
    assert {"reach.hdf5", "copy.hdf5"} in ends
    assert {"lerobot", "lake"} in ends
    assert len(pairs) == 2


def test_renumbered_copies_are_found_by_their_lengths(tmp_path):
    first = write_robomimic(tmp_path / "a.hdf5", episodes=9)
    with h5py.File(first) as one, h5py.File(tmp_path / "b.hdf5", "w") as two:
        one.copy("data/demo_4", two.create_group("data"), "demo_0")
        two["data"].attrs.update(one["data"].attrs)
    (pair,) = look(first, tmp_path / "b.hdf5")["duplicates"]
    assert ["demo_4", "demo_0"] in pair["episodes"]


def test_defects_of_the_sample_are_named(tmp_path):
    source = write_robomimic(tmp_path / "a.hdf5", episodes=3, cameras=True)
    with h5py.File(source, "r+") as file:
        file["data/demo_0/obs/front_image"][:] = 0
        file["data/demo_1/obs/robot0_eef_pos"][3] = np.nan
        del file["data/demo_2/actions"]
    codes = {defect["code"] for defect in look(source)["items"][0]["defects"]}
    assert {"camera_black", "not_finite"} <= codes
    assert codes & {"lengths_differ", "missing_column"}


def test_the_estimate_is_near_what_an_ingest_stores(tmp_path, lake):
    source = write_robomimic(tmp_path / "a.hdf5", episodes=12, cameras=True)
    estimate = look(source)["items"][0]["ingest"]["bytes"]
    bring(lake, source)
    stored = sum(lake.size(path) or 0 for folder in ("videos", "tables/steps") for path in lake.list(folder))
    assert 0.3 < estimate / stored < 3


def test_what_cannot_be_read_is_a_row_with_a_reason(tmp_path, heap):
    (heap / "broken.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    errors = {item["uri"]: item["error"] for item in look(heap, tmp_path / "absent")["items"] if "error" in item}
    assert set(errors) == {str(heap / "broken.hdf5"), str(tmp_path / "absent")}
    assert errors[str(tmp_path / "absent")]["code"] == "no_source"
    assert all(error["message"] for error in errors.values())


def test_on_an_object_store(s3, heap):
    import s3fs

    fs = s3fs.S3FileSystem()
    fs.put(str(heap), s3.removeprefix("s3://") + "/heap", recursive=True)
    remote, local = look(f"{s3}/heap"), look(heap)
    told = [
        [{k: v for k, v in item.items() if k not in ("uri", "ingest")} for item in found["items"]]
        for found in (remote, local)
    ]
    assert told[0] == told[1]
    assert len(remote["duplicates"]) == len(local["duplicates"]) == 1


def test_a_generic_folder_does_not_swallow_the_sources_in_it(heap, shared_data):
    shutil.copy(shared_data / "videos/clip_10s.mp4", heap / "clip.mp4")
    formats = sorted(item["format"] for item in look(heap)["items"])
    assert formats == ["lerobot_v3", "robomimic", "robomimic", "video_folder"]


def test_the_page_is_complete_escaped_and_self_contained(tmp_path):
    source = tmp_path / "<b>x.hdf5"
    write_robomimic(source, episodes=3)
    found = look(source, tmp_path / "absent")
    page = survey_page.render(found)
    assert "<b>x.hdf5" not in page
    assert "&lt;b&gt;x.hdf5" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "no such source" in page
    json.dumps(found)
    assert [row["format"] for row in survey_page.rows(found)] == ["robomimic", ""]


def test_a_chained_url_is_refused_as_a_row():
    (item,) = look("zip://x::file:///etc/passwd")["items"]
    assert item["error"]["code"] == RequestError("x", code="bad_uri").code


def test_a_folder_of_bags_does_not_swallow_the_sources_beside_them(shared_data):
    """A bag's columns are a guess too."""
    found = {item["uri"].rpartition("data/")[2]: item["format"] for item in survey_of(shared_data)["items"]}
    assert found["bags"] == "bag"
    assert {"rlds", "d4rl", "robosuite", "robomimic", "zarr_replay", "video_folder"} <= set(found.values())
    assert (str(shared_data / "bridge_rlds"), "rlds") in held(str(shared_data))
    assert held(str(shared_data / "bags")) == held(str(shared_data / "bags" / "sample_ros2.mcap")) == []


def survey_of(folder: Path):
    return survey([str(folder)], sample=0, progress=silent())
