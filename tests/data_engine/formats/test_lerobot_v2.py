from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_engine.errors import SourceError
from data_engine.formats import EncodedVideo, Probe, RawFrames, Source, SourceEpisode, Unreadable
from data_engine.formats.lerobot_v2 import LeRobotV2
from data_engine.formats.lerobot_v3 import LeRobotV3
from data_engine.fs import filesystem
from data_engine.model import ACTION, STATE
from data_engine.video import FrameReader
from tests.data_engine.formats.lerobot_sets import image, rewrite_info, write_lines, write_v2


def opened(root: Path | str, **options: Any) -> tuple[Probe, list[SourceEpisode | Unreadable]]:
    reader, source = LeRobotV2(**options), Source(str(root))
    probe = reader.probe(source)
    assert probe is not None
    return probe, list(reader.read(source, probe, [ref.key for ref in probe.episodes]))


def test_real_set_with_video(shared_data: Path) -> None:
    root = shared_data / "g1_lerobot_v21"
    probe, episodes = opened(root)
    assert (probe.fps, probe.embodiment, probe.notes, len(episodes)) == (30.0, "Unitree_G1_Inspire", (), 6)
    state = probe.features[0]
    assert state.components is not None
    assert (state.components[0], state.shape) == ("kLeftShoulderPitch", (26,))
    for number, episode in enumerate(episodes):
        assert isinstance(episode, SourceEpisode)
        table = pq.read_table(root / f"data/chunk-000/episode_{number:06d}.parquet")
        assert episode.steps[STATE].to_pylist() == table[STATE].to_pylist()
        assert episode.steps[ACTION].to_pylist() == table[ACTION].to_pylist()
        assert episode.language == ("Pick up the yellow bottle on the table.",)
        video = episode.cameras["cam_high"]
        assert isinstance(video, EncodedVideo)
        assert dict(video.declared) == {"codec": "av1", "width": 640, "height": 480, "fps": 30, "pix_fmt": "yuv420p"}
        with FrameReader(root / video.path) as frames:
            assert frames.count(video.start_s, video.end_s) == episode.steps.num_rows


def test_reads_the_same_from_an_object_store(tmp_path: Path, s3: str) -> None:
    write_v2(tmp_path / "set", [3, 4], video=True)
    fs, path = filesystem(f"{s3}/set")
    fs.put(str(tmp_path / "set"), path, recursive=True)
    _, there = opened(f"{s3}/set")
    _, here = opened(tmp_path / "set")
    for one, other in zip(here, there, strict=True):
        assert isinstance(one, SourceEpisode)
        assert isinstance(other, SourceEpisode)
        assert one.steps.equals(other.steps)
        assert (one.cameras, one.language) == (other.cameras, other.language)


def test_version_2_0_reads_too_and_v3_does_not(tmp_path: Path) -> None:
    declared = write_v2(tmp_path, [3])
    assert LeRobotV3().probe(Source(str(tmp_path))) is None
    rewrite_info(tmp_path, {**declared, "codebase_version": "v2.0"})
    _, (one,) = opened(tmp_path)
    assert isinstance(one, SourceEpisode)


def test_metadata_lines_become_fields_and_attributes(tmp_path: Path) -> None:
    extra = {"success": False, "operator": "ann", "scene": "lab", "notes": {"light": "dim"}, "stats/x": 1}
    write_v2(tmp_path, [3], extra=extra)
    _, (one,) = opened(tmp_path)
    assert isinstance(one, SourceEpisode)
    assert (one.success, one.operator, one.scene) == (False, "ann", "lab")
    assert one.attributes == {"notes": {"light": "dim"}}


def test_stored_images_come_as_raw_frames(tmp_path: Path) -> None:
    write_v2(tmp_path, [2, 3], images=True)
    _, (_, two) = opened(tmp_path)
    camera = two.cameras["image"]  # type: ignore[union-attr]
    assert isinstance(camera, RawFrames)
    np.testing.assert_array_equal(np.stack(list(camera.frames())), np.stack([image(i) for i in range(2, 5)]))


def test_105_declared_19_present(tmp_path: Path) -> None:
    declared = write_v2(tmp_path, [2] * 19)
    rewrite_info(tmp_path, {**declared, "total_episodes": 105, "total_frames": 38})
    probe, episodes = opened(tmp_path)
    assert probe.defects == (("episodes_absent", "declares 105 episodes, 19 present"),)
    assert all(isinstance(episode, SourceEpisode) for episode in episodes)
    listed = [{"episode_index": i, "tasks": ["push"], "length": 2} for i in range(105)]
    write_lines(tmp_path / "meta" / "episodes.jsonl", listed)
    probe, episodes = opened(tmp_path)
    assert probe.defects[0] == ("episodes_absent", "declares 105 episodes, 19 present")
    assert [isinstance(episode, Unreadable) for episode in episodes] == [False] * 19 + [True] * 86
    assert {episode.code for episode in episodes if isinstance(episode, Unreadable)} == {"missing_file"}


def test_files_of_no_listed_episode_are_noted(tmp_path: Path) -> None:
    write_v2(tmp_path, [2, 2])
    write_lines(tmp_path / "meta" / "episodes.jsonl", [{"episode_index": 0, "length": 2}])
    probe, (one,) = opened(tmp_path)
    assert probe.notes[0] == "1 data files of no listed episode left out: data/chunk-000/episode_000001.parquet, ..."
    assert isinstance(one, SourceEpisode)
    assert one.task == "push"


def test_old_numbers_inside_a_renumbered_file_do_not_matter(tmp_path: Path) -> None:
    write_v2(tmp_path, [2, 3], images=True)
    data = tmp_path / "data" / "chunk-000"
    (data / "episode_000001.parquet").replace(data / "episode_000000.parquet")
    write_lines(tmp_path / "meta" / "episodes.jsonl", [{"episode_index": 0, "length": 3}])
    _, (one,) = opened(tmp_path)
    assert isinstance(one, SourceEpisode)
    assert one.steps.num_rows == 3
    camera = one.cameras["image"]
    assert isinstance(camera, RawFrames)
    assert len(list(camera.frames())) == 3


def test_a_missing_video_or_a_broken_file_quarantines_its_episode_alone(tmp_path: Path) -> None:
    write_v2(tmp_path, [2, 2, 2], video=True)
    (tmp_path / "videos/chunk-000/observation.images.top/episode_000000.mp4").unlink()
    for number in (0, 1):
        (tmp_path / f"data/chunk-000/episode_{number:06d}.parquet").write_bytes(b"PAR1 not")
    reader, source = LeRobotV2(), Source(str(tmp_path))
    probe = reader.probe(source)
    assert probe is not None
    found = list(reader.read(source, probe, [ref.key for ref in probe.episodes]))
    assert [getattr(episode, "code", "read") for episode in found] == ["missing_video", "bad_file", "read"]


def test_a_video_elsewhere_is_found_and_noted(tmp_path: Path) -> None:
    write_v2(tmp_path, [2], video=True)
    (tmp_path / "videos/chunk-000").rename(tmp_path / "videos/chunk-007")
    _, (one,) = opened(tmp_path)
    assert isinstance(one, SourceEpisode)
    assert one.cameras["top"].path == "videos/chunk-007/observation.images.top/episode_000000.mp4"  # type: ignore[union-attr]
    assert [defect.code for defect in one.defects] == ["video_elsewhere"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"episode_index": 0}\n{"episode', "line 2 is not JSON"),
        ("[1]\n", "a line that is no object"),
        ('{"episode_index": 0}\n{"episode_index": 0}\n', "twice"),
        ('{"length": 3}\n', "wrongly"),
        ("\n", "lists no episodes"),
        ("\xff", "readable|JSON"),
    ],
)
def test_broken_episode_lines_are_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    write_v2(tmp_path, [2])
    (tmp_path / "meta" / "episodes.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=message) as raised:
        LeRobotV2().probe(Source(str(tmp_path)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_metadata_of_every_coding_say_the_same(tmp_path: Path, coding: str) -> None:
    """Editors and shells write byte order marks; LeRobot writes a text's own line separators as they are."""
    write_v2(tmp_path, [2, 3])
    task = "pousser \u00e0\u2028c\u00f4t\u00e9\x85"
    for name in ("info.json", "episodes.jsonl", "tasks.jsonl"):
        path = tmp_path / "meta" / name
        path.write_bytes(path.read_text().replace("push", task).encode(coding))
    probe, episodes = opened(tmp_path)
    assert probe.notes == ()
    assert [episode.task for episode in episodes] == [task, task]  # type: ignore[union-attr]


def test_a_task_that_was_cut_inside_an_emoji_is_spelt_out(tmp_path: Path) -> None:
    write_v2(tmp_path, [2])
    for name in ("episodes.jsonl", "tasks.jsonl"):
        path = tmp_path / "meta" / name
        path.write_text(path.read_text().replace("push", "push \\ud83d"))
    _, (one,) = opened(tmp_path)
    assert isinstance(one, SourceEpisode)
    assert one.language == ("push \\ud83d",)


def test_no_tasks_file_is_noted_by_the_episodes(tmp_path: Path) -> None:
    write_v2(tmp_path, [2])
    (tmp_path / "meta" / "tasks.jsonl").unlink()
    _, (one,) = opened(tmp_path)
    assert isinstance(one, SourceEpisode)
    assert (one.task, one.notes) == ("push", ("task_index 0 has no task, or several",))


def test_a_linked_file_never_leads_out_of_the_source(tmp_path: Path) -> None:
    write_v2(tmp_path / "set", [2, 2])
    secret = tmp_path / "secret.parquet"
    data = tmp_path / "set" / "data" / "chunk-000" / "episode_000001.parquet"
    data.rename(secret)
    data.symlink_to(secret)
    _, (one, two) = opened(tmp_path / "set")
    assert isinstance(one, SourceEpisode)
    assert isinstance(two, Unreadable)
