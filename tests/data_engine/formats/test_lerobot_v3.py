from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.formats import EncodedVideo, Probe, RawFrames, Source, SourceEpisode, Unreadable
from data_engine.formats.lerobot_v3 import LeRobotV3
from data_engine.model import ACTION, STATE
from data_engine.video import FrameReader
from tests.data_engine.formats.lerobot_sets import FPS, image, rewrite_info, write_v3

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def opened(root: Path, **options: Any) -> tuple[Probe, list[SourceEpisode | Unreadable]]:
    reader, source = LeRobotV3(**options), Source(str(root))
    probe = reader.probe(source)
    assert probe is not None
    return probe, list(reader.read(source, probe, [ref.key for ref in probe.episodes]))


def good(root: Path, **options: Any) -> list[SourceEpisode]:
    _, episodes = opened(root, **options)
    assert all(isinstance(episode, SourceEpisode) for episode in episodes), episodes
    return episodes  # type: ignore[return-value]


def change(root: Path, path: str, **columns: Any) -> None:
    """Replace, add or (None) drop columns of a Parquet file, keeping its row groups."""
    file = pq.ParquetFile(root / path)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    table = file.read()
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
    with pq.ParquetWriter(root / path, table.schema) as writer:
        start = 0
        for size in sizes:
            writer.write_table(table.slice(start, size))
            start += size


def test_real_set_reads_to_the_values_in_its_file(shared_data: Path) -> None:
    root = shared_data / "metaworld_tiers" / "lerobot_v3"
    truth = json.loads((root.parent / "truth.json").read_text())
    probe, episodes = opened(root)
    table = pq.read_table(root / DATA)
    assert (probe.fps, probe.embodiment, probe.notes, len(episodes)) == (20.0, "sawyer", (), 180)
    assert [f.name for f in probe.features] == [STATE, ACTION, "reward", "next.success", "timestamp"]
    action = probe.features[1]
    assert (action.components, action.shape, action.dtype) == (("dx", "dy", "dz", "gripper"), (4,), "float32")
    for episode, told in zip(episodes, truth, strict=True):
        assert isinstance(episode, SourceEpisode)
        assert (episode.steps.num_rows, episode.success) == (told["length"], told["success"])
        assert episode.task == told["task"].removesuffix("-v3").replace("-", " ")
        assert episode.notes == ()
    whole = pa.concat_tables([episode.steps for episode in episodes])  # type: ignore[union-attr]
    for name, source in ((STATE, STATE), (ACTION, ACTION), ("reward", "next.reward")):
        assert whole[name].to_pylist() == table[source].to_pylist()
    assert whole["timestamp"].type == pa.float64()


def test_reading_follows_the_order_of_the_keys(tmp_path: Path) -> None:
    write_v3(tmp_path, [4, 7, 5])
    reader, source = LeRobotV3(), Source(str(tmp_path))
    probe = reader.probe(source)
    assert probe is not None
    keys = ["episode_000002", "nobody", "episode_000000"]
    found = list(reader.read(source, probe, keys))
    assert [episode.key for episode in found] == keys
    assert isinstance(found[1], Unreadable)
    assert found[0].steps[STATE][0].as_py()[0] == 11.0  # type: ignore[union-attr]
    assert pickle.loads(pickle.dumps(probe)) == probe


def test_columns_get_their_canonical_names(tmp_path: Path) -> None:
    write_v3(tmp_path, [3], wide=True)
    (episode,) = good(tmp_path)
    assert set(episode.steps.column_names) == {
        STATE, ACTION, "reward", "terminated", "timestamp", "keypoints", "counter", "half",
    }  # fmt: skip
    assert episode.steps["terminated"].to_pylist() == [False, False, True]
    assert episode.steps["keypoints"].to_pylist()[1] == [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    assert episode.steps["half"].type.value_type == pa.float16()
    assert (episode.task, episode.language, episode.success) == ("push", ("push",), None)
    probe, _ = opened(tmp_path)
    assert {f.name: f.source for f in probe.features}["reward"] == "next.reward"


def test_metadata_columns_become_fields_and_attributes(tmp_path: Path) -> None:
    extra = {"success": [True, False], "operator": ["ann", "bob"], "scene": ["lab", None], "grade": [0.5, float("nan")]}
    write_v3(tmp_path, [3, 3], extra=extra)
    one, two = good(tmp_path)
    assert (one.success, one.operator, one.scene, one.attributes) == (True, "ann", "lab", {"grade": 0.5})
    assert (two.success, two.operator, two.scene, two.attributes) == (False, "bob", None, {"grade": None})


def test_options_win_over_the_source(tmp_path: Path) -> None:
    write_v3(tmp_path, [3])
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# set\n")
    probe, _ = opened(tmp_path)
    assert (probe.licence, probe.embodiment) == ("mit", "so100")
    probe, episodes = opened(
        tmp_path,
        embodiment="arm",
        fps=25,
        licence="cc0",
        control_mode="joint",
        provenance="sim",
        task="t",
        operator="me",
    )
    assert (probe.embodiment, probe.fps, probe.licence, probe.control_mode) == ("arm", 25.0, "cc0", "joint")
    assert probe.provenance == "sim"
    assert (episodes[0].task, episodes[0].operator) == ("t", "me")  # type: ignore[union-attr]


def test_tasks_that_change_within_an_episode_all_count_as_language(tmp_path: Path) -> None:
    write_v3(tmp_path, [4, 2])
    change(tmp_path, DATA, task_index=[1, 1, 0, 7, 0, 0])
    pq.write_table(pa.table({"task": ["push", "reach"], "task_index": [0, 1]}), tmp_path / "meta" / "tasks.parquet")
    one, two = good(tmp_path)
    assert (one.task, one.language) == ("reach", ("reach", "push"))
    assert one.notes == (
        "its task changes over its steps, which the metadata do not list: no step keeps its own",
        "task_index 7 has no task, or several",
    )
    assert two.language == ("push",)


def test_tasks_that_the_metadata_list_are_kept_by_step(tmp_path: Path) -> None:
    write_v3(tmp_path, [4, 2], extra={"tasks": [["reach", "push"], ["push"]]})
    change(tmp_path, DATA, task_index=[1, 1, 0, 7, 0, 0])
    pq.write_table(pa.table({"task": ["push", "reach"], "task_index": [0, 1]}), tmp_path / "meta" / "tasks.parquet")
    one, two = good(tmp_path)
    assert one.steps["language"].to_pylist() == ["reach", "reach", "push", None]
    assert two.steps["language"].to_pylist() == ["push", "push"]
    assert (one.language, two.language) == (("reach", "push"), ("push",))


@pytest.mark.parametrize("column", ["__index_level_0__", "subtask"])
def test_subtasks_are_kept_by_step_with_their_texts(tmp_path: Path, column: str) -> None:
    info = write_v3(tmp_path, [3, 2])
    info["features"]["subtask_index"] = {"dtype": "int64", "shape": [1], "names": None}
    rewrite_info(tmp_path, info)
    change(tmp_path, DATA, subtask_index=[1, 0, 0, -1, 1])
    probe, _ = opened(tmp_path)
    assert "subtask" not in {feature.name for feature in probe.features}
    texts = pa.table({column: ["grasp", "lift"], "subtask_index": [0, 1]})
    pq.write_table(texts, tmp_path / "meta" / "subtasks.parquet")
    probe, _ = opened(tmp_path)
    assert all("meta/subtasks.parquet" in ref.files for ref in probe.episodes)
    one, two = good(tmp_path)
    assert one.steps["subtask"].to_pylist() == ["lift", "grasp", "grasp"]
    assert two.steps["subtask"].to_pylist() == [None, "lift"]
    assert one.steps["subtask_index"].to_pylist() == [1, 0, 0]


def test_a_column_of_the_sets_own_keeps_its_name(tmp_path: Path) -> None:
    info = write_v3(tmp_path, [2], extra={"tasks": [["push", "reach"]]})
    info["features"]["language"] = {"dtype": "string", "shape": [1], "names": None}
    rewrite_info(tmp_path, info)
    change(tmp_path, DATA, language=["one", "two"])
    probe, (one,) = opened(tmp_path)
    assert one.steps["language"].to_pylist() == ["one", "two"]  # type: ignore[union-attr]
    assert any("'language' of its own" in note for note in probe.notes)


@settings(max_examples=10, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    place=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    data=st.data(),
)
def test_many_files_and_chunks(tmp_path_factory, lengths, place, data) -> None:
    root = tmp_path_factory.mktemp("set")
    write_v3(root, lengths)
    whole = pq.read_table(root / DATA)
    listed = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet")
    (root / DATA).unlink()
    (root / "meta/episodes/chunk-000/file-000.parquet").unlink()
    where = sorted(place[: len(lengths)])
    for number in set(where):
        mine = [i for i, at in enumerate(where) if at == number]
        chunk, file = number // 2, number % 2
        rows = pa.concat_tables([whole.filter(pc.equal(whole["episode_index"], i)) for i in mine])
        about = listed.take(mine)
        for name, value in (("data/chunk_index", chunk), ("data/file_index", file)):
            about = about.set_column(about.column_names.index(name), name, pa.array([value] * len(mine)))
        for folder, table in (("data", rows), ("meta/episodes", about)):
            path = root / folder / f"chunk-{chunk:03d}" / f"file-{file:03d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path, row_group_size=data.draw(st.integers(1, 9)))
    start = 0
    for length, episode in zip(lengths, good(root), strict=True):
        part = whole.slice(start, length)
        assert episode.steps["observation.state"].to_pylist() == part["observation.state"].to_pylist()
        assert episode.steps["action"].to_pylist() == part["action"].to_pylist()
        start += length


def test_a_clock_that_starts_late_is_shifted_with_its_video(tmp_path: Path) -> None:
    write_v3(tmp_path, [4], video=True)
    change(tmp_path, DATA, timestamp=pa.array([0.2, 0.3, 0.4, 0.5], pa.float32()))
    (episode,) = good(tmp_path)
    np.testing.assert_allclose(episode.steps["timestamp"].to_numpy(), [0, 0.1, 0.2, 0.3], atol=1e-6)
    assert episode.notes == ("timestamps start at 0.2 s; shifted to 0",)
    assert episode.cameras["top"].start_s == pytest.approx(0.2)  # type: ignore[union-attr]


def test_videos_are_spans_of_shared_files(tmp_path: Path) -> None:
    write_v3(tmp_path, [4, 6], video=True)
    probe, (_, two) = opened(tmp_path)
    camera = next(feature for feature in probe.features if feature.is_camera)
    assert (camera.name, camera.dtype, camera.shape) == ("observation.images.top", "video", (64, 80, 3))
    video = two.cameras["top"]  # type: ignore[union-attr]
    assert isinstance(video, EncodedVideo)
    assert (video.start_s, video.end_s) == (0.4, 1.0)
    assert dict(video.declared) == {"codec": "av1", "width": 80, "height": 64, "fps": FPS}
    with FrameReader(tmp_path / video.path) as frames:
        assert frames.count(video.start_s, video.end_s) == two.steps.num_rows  # type: ignore[union-attr]
    assert video.path in probe.episodes[1].files


def test_stored_images_come_as_raw_frames_one_a_step(tmp_path: Path) -> None:
    write_v3(tmp_path, [3, 4], images=True)
    probe, (_, two) = opened(tmp_path)
    assert next(f for f in probe.features if f.is_camera).name == "observation.images.image"
    camera = two.cameras["image"]  # type: ignore[union-attr]
    assert isinstance(camera, RawFrames)
    assert (camera.height, camera.width) == (64, 80)
    for _ in range(2):  # a fresh iterator each time
        frames = list(pickle.loads(pickle.dumps(camera.frames))())
        np.testing.assert_array_equal(np.stack(frames), np.stack([image(i) for i in range(3, 7)]))


def test_a_broken_image_quarantines_its_episode_alone(tmp_path: Path) -> None:
    write_v3(tmp_path, [3, 4], images=True)
    cells = pq.read_table(tmp_path / DATA)["observation.image"].to_pylist()
    cells[0] = {"bytes": b"\x89PNG no", "path": None}
    change(tmp_path, DATA, **{"observation.image": pa.array(cells)})
    _, (one, two) = opened(tmp_path)
    assert isinstance(one, Unreadable)
    assert one.code == "bad_image"
    assert isinstance(two, SourceEpisode)


def test_memory_is_bounded_by_row_groups(tmp_path: Path) -> None:
    write_v3(tmp_path, [50] * 40)
    reader, source = LeRobotV3(), Source(str(tmp_path))
    probe = reader.probe(source)
    assert probe is not None
    import data_engine.formats.lerobot_v3 as module

    before, module._BATCH_BYTES = module._BATCH_BYTES, 8_000
    try:
        pa.default_memory_pool().release_unused()
        held = []
        for episode in reader.read(source, probe, [ref.key for ref in probe.episodes]):
            assert isinstance(episode, SourceEpisode)
            assert episode.steps.num_rows == 50
            held.append(pa.total_allocated_bytes())
            del episode
        assert max(held[20:]) <= max(held[:20]) + 50_000
    finally:
        module._BATCH_BYTES = before


def test_columns_with_dots_in_their_names_count_for_the_bound(tmp_path: Path) -> None:
    write_v3(tmp_path, [50] * 40)
    table = pq.read_table(tmp_path / DATA)
    noise = np.random.default_rng(0).random(len(table) * 100)
    table = table.append_column("observation.wide", pa.FixedSizeListArray.from_arrays(pa.array(noise), 100))
    pq.write_table(table, tmp_path / DATA, row_group_size=50)
    reader, source = LeRobotV3(), Source(str(tmp_path))
    probe = reader.probe(source)
    assert probe is not None
    del table, noise
    before = pa.total_allocated_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_engine.formats.lerobot_v3._BATCH_BYTES", 100_000)  # 40 kB an episode
        for _ in reader.read(source, probe, [ref.key for ref in probe.episodes]):
            assert pa.total_allocated_bytes() - before < 400_000


# lies


def test_fewer_episodes_than_declared_is_noted(tmp_path: Path) -> None:
    declared = write_v3(tmp_path, [3, 3])
    rewrite_info(tmp_path, {**declared, "total_episodes": 105, "total_frames": 9000})
    probe, episodes = opened(tmp_path)
    assert probe.defects == (
        ("episodes_absent", "declares 105 episodes, 2 present"),
        ("steps_differ", "declares 9000 steps, its episodes 6"),
    )
    assert len(episodes) == 2


def test_a_missing_data_file_quarantines_its_episodes(tmp_path: Path) -> None:
    write_v3(tmp_path, [3, 3, 2])
    change(tmp_path, EPISODES, **{"data/file_index": [0, 1, 0]})
    probe, (one, two, three) = opened(tmp_path)
    assert ("episodes_absent", "declares 3 episodes, 2 present") in probe.defects
    assert isinstance(two, Unreadable)
    assert two.code == "missing_file"
    assert isinstance(one, SourceEpisode)
    assert isinstance(three, SourceEpisode)
    (tmp_path / DATA).unlink()
    with pytest.raises(SourceError, match="none of the data files"):
        LeRobotV3().probe(Source(str(tmp_path)))


def test_a_video_elsewhere_is_found_and_noted(tmp_path: Path) -> None:
    declared = write_v3(tmp_path, [3], video=True)
    rewrite_info(tmp_path, {**declared, "video_path": "movies/{video_key}/{chunk_index:03d}/file-{file_index:03d}.mp4"})
    (episode,) = good(tmp_path)
    ((code, what),) = episode.defects
    assert code == "video_elsewhere"
    assert what.startswith("the video declared at movies/")
    assert episode.cameras["top"].path.startswith("videos/")  # type: ignore[union-attr]


def test_a_missing_video_quarantines_its_episode_and_no_video_at_all_drops_the_camera(tmp_path: Path) -> None:
    write_v3(tmp_path, [3, 3], video=True)
    change(tmp_path, EPISODES, **{"videos/observation.images.top/file_index": [0, 1]})
    _, (one, two) = opened(tmp_path)
    assert isinstance(one, SourceEpisode)
    assert isinstance(two, Unreadable)
    assert two.code == "missing_video"
    change(tmp_path, EPISODES, **{"videos/observation.images.top/file_index": [4, 4]})
    probe, (one, two) = opened(tmp_path)
    assert probe.defects[0].code == "camera_absent"
    assert not any(feature.is_camera for feature in probe.features)
    assert isinstance(one, SourceEpisode)
    assert isinstance(two, SourceEpisode)


def test_a_span_that_ends_before_it_starts_is_quarantined(tmp_path: Path) -> None:
    write_v3(tmp_path, [3], video=True)
    change(tmp_path, EPISODES, **{"videos/observation.images.top/to_timestamp": [0.0]})
    _, (one,) = opened(tmp_path)
    assert isinstance(one, Unreadable)
    assert one.code == "bad_span"


def test_a_declared_column_that_is_not_there_quarantines(tmp_path: Path) -> None:
    write_v3(tmp_path, [3])
    change(tmp_path, DATA, action=None)
    _, (one,) = opened(tmp_path)
    assert isinstance(one, Unreadable)
    assert (one.code, one.reason) == ("missing_column", "column 'action' is declared and not there")


def test_an_undeclared_column_is_left_out_and_noted(tmp_path: Path) -> None:
    write_v3(tmp_path, [3])
    change(tmp_path, DATA, secret=[1, 2, 3])
    (one,) = good(tmp_path)
    assert "secret" not in one.steps.column_names
    assert one.notes == ("column 'secret' is not declared and left out",)


def test_rows_of_another_width_spoil_their_episode_alone(tmp_path: Path) -> None:
    write_v3(tmp_path, [2, 3])
    rows = [[1.0, 2.0], [3.0], [4.0, 5.0], [6.0, 7.0], [8.0, 9.0]]
    change(tmp_path, DATA, action=pa.array(rows, pa.list_(pa.float32())))
    _, (one, two) = opened(tmp_path)
    assert isinstance(one, Unreadable)
    assert one.code == "bad_column"
    assert isinstance(two, SourceEpisode)
    assert two.steps[ACTION].to_pylist() == rows[2:]


def test_nulls_stay_null(tmp_path: Path) -> None:
    write_v3(tmp_path, [2, 3])
    rows = [[1.0, 2.0], None, [4.0, 5.0], [6.0, 7.0], [8.0, 9.0]]
    change(tmp_path, DATA, action=pa.array(rows, pa.list_(pa.float32())))
    change(tmp_path, DATA, **{"next.reward": pa.array([None, 1.0, 2.0, 3.0, 4.0], pa.float32())})
    one, two = good(tmp_path)
    assert one.steps[ACTION].to_pylist() == rows[:2]
    assert one.steps["reward"].to_pylist() == [None, 1.0]
    assert two.steps[ACTION].to_pylist() == rows[2:]


def test_types_wider_than_declared_are_believed_and_noted(tmp_path: Path) -> None:
    write_v3(tmp_path, [2])
    change(tmp_path, DATA, action=pa.array([[1.0, 2.0], [1e-30, 4.0]], pa.list_(pa.float64())))
    probe, (one,) = opened(tmp_path)
    assert probe.notes == ("action: declared float32, the file holds float64",)
    assert next(f for f in probe.features if f.name == ACTION).dtype == "float64"
    assert one.steps[ACTION].to_pylist()[1] == [1e-30, 4.0]  # type: ignore[union-attr]


def test_lengths_and_indices_that_lie_are_noted(tmp_path: Path) -> None:
    write_v3(tmp_path, [2, 3])
    change(tmp_path, EPISODES, length=[5, 3])
    change(tmp_path, DATA, frame_index=[0, 1, 0, 2, 1])
    one, two = good(tmp_path)
    assert one.defects == (("steps_differ", "declares 5 steps and has 2"),)
    assert two.notes == ("frame_index does not count from 0",)


def test_rows_that_are_absent_or_torn_apart_are_quarantined(tmp_path: Path) -> None:
    write_v3(tmp_path, [2, 3, 2])
    change(tmp_path, DATA, episode_index=[0, 0, 2, 2, 2, 0, 0])
    _, (one, two, three) = opened(tmp_path)
    assert isinstance(one, Unreadable)
    assert one.code == "scattered"
    assert isinstance(two, Unreadable)
    assert two.code == "no_rows"
    assert isinstance(three, SourceEpisode)


def test_a_truncated_data_file_is_quarantined_or_refused(tmp_path: Path) -> None:
    write_v3(tmp_path, [3])
    whole = (tmp_path / DATA).read_bytes()
    probe = LeRobotV3().probe(Source(str(tmp_path)))
    assert probe is not None
    (tmp_path / DATA).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="not readable"):
        LeRobotV3().probe(Source(str(tmp_path)))
    (found,) = LeRobotV3().read(Source(str(tmp_path)), probe, ["episode_000000"])
    assert isinstance(found, Unreadable)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fps", 0, "declares fps 0"),
        ("fps", "30", "declares fps '30'"),
        ("fps", True, "declares fps True"),
        ("features", {}, "no features"),
        ("features", {"action": {"shape": [2]}}, "no dtype"),
        ("features", {"action": {"dtype": "float32", "shape": [0]}}, "has shape"),
        ("features", {"action": {"dtype": "object", "shape": [2]}}, "has dtype 'object'"),
        ("data_path", "data/{chunk_index.__class__}.parquet", "not allowed"),
        ("data_path", "data/{chunk_index[0]}.parquet", "not allowed"),
        ("data_path", "data/{secret}.parquet", "not allowed"),
        ("data_path", "data/{chunk_index!r}.parquet", "not allowed"),
        ("data_path", "data/{chunk_index:>99999999}.parquet", "not allowed"),
        ("data_path", "../{chunk_index}/{file_index}.parquet", "leaves the source"),
        ("data_path", "/etc/passwd", "leaves the source"),
        ("data_path", "{", "path template"),
        ("data_path", "", "leaves the source"),
    ],
)
def test_info_that_is_broken_is_one_clear_line(tmp_path: Path, key: str, value: Any, message: str) -> None:
    declared = write_v3(tmp_path, [2])
    rewrite_info(tmp_path, {**declared, key: value})
    with pytest.raises(SourceError, match=message) as raised:
        LeRobotV3().probe(Source(str(tmp_path)))
    assert "\n" not in str(raised.value)


def test_other_things_are_not_recognised(tmp_path: Path) -> None:
    assert LeRobotV3().probe(Source(str(tmp_path))) is None
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text('{"codebase_version": "v2.1"}')
    assert LeRobotV3().probe(Source(str(tmp_path))) is None
    (tmp_path / "meta" / "info.json").write_text("{")
    with pytest.raises(SourceError, match=r"info\.json"):
        LeRobotV3().probe(Source(str(tmp_path)))
