from __future__ import annotations

import io
import json
import pickle
import zlib
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from data_engine.errors import RequestError, SourceError
from data_engine.formats import Probe, Source, SourceEpisode, Unreadable, detect
from data_engine.formats.rlds import RLDS
from data_engine.fs import options
from data_engine.recipe import SourceRecipe
from flows.executor import Local
from flows.ingest import ingest
from flows.progress import silent
from storage.check import check
from storage.lake import Lake
from tests.data_engine.formats.rlds_sets import (
    Image,
    Label,
    Sequence,
    Tensor,
    Text,
    proto_values,
    record,
    records,
    serialise,
    shard_name,
    steps,
    write_set,
)
from tests.data_engine.formats.test_images import png

FLAGS = {name: Tensor("bool") for name in ("is_first", "is_last", "is_terminal")}
FRAME = Image((64, 80, 3), format="png")


def read(source: Source, **given) -> tuple[Probe, dict[str, SourceEpisode | Unreadable]]:
    form = RLDS(**given)
    probe = form.probe(source)
    assert probe is not None
    pickle.dumps(probe)  # a worker gets it whole
    return probe, {item.key: item for item in form.read(source, probe, [ref.key for ref in probe.episodes])}


def column(episode: SourceEpisode, name: str) -> np.ndarray:
    values = episode.steps[name].combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten().to_numpy().reshape(len(values), -1)
    return values.to_numpy(zero_copy_only=False)


def codes(episodes: dict) -> list[str]:
    return [getattr(item, "code", "ok") for item in episodes.values()]


def episode(n: int, seed: int = 0, **beside) -> dict:
    """An episode of ``SPEC``."""
    rng = np.random.default_rng(seed)
    return {
        "steps": [
            {
                "observation": {
                    "state": rng.normal(size=5).astype(np.float32),
                    "gripper": rng.normal(size=1).astype(np.float32),
                    "image": rng.integers(0, 256, (64, 80, 3), dtype=np.uint8),
                },
                "action": rng.normal(size=3).astype(np.float32),
                "reward": float(t == n - 1),
                "language_instruction": "open the drawer",
                "is_first": t == 0,
                "is_last": t == n - 1,
                "is_terminal": t == n - 1 and seed % 2 == 0,
            }
            for t in range(n)
        ],
        "episode_metadata": {"file_path": f"/recordings/{seed}.npy", "success": seed % 2 == 0, **beside},
    }


OBSERVATION = {"state": Tensor("float32", (5,)), "gripper": Tensor("float32", (1,)), "image": FRAME}
STEP = {
    "observation": OBSERVATION,
    "action": Tensor("float32", (3,)),
    "reward": Tensor("float32"),
    "language_instruction": Text(),
    **FLAGS,
}
METADATA = {"file_path": Text(), "success": Tensor("bool")}
SPEC = steps(STEP, episode_metadata=METADATA)


def toy(folder: Path, *lengths: int, **info) -> Source:
    return write_set(folder, SPEC, {"train": [[episode(n, seed) for seed, n in enumerate(lengths)]]}, **info)


# the real set


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_real_set_is_what_protobuf_says_it_is(shared_data: Path, split: str) -> None:
    folder = shared_data / "bridge_rlds" / "1.0.0"
    form, probe = detect(Source(str(folder)))
    assert (form.name, probe.fps, len(probe.episodes)) == ("rlds", 5.0, 50)
    assert any("published rate of bridge_dataset" in note for note in probe.notes)
    _, episodes = read(Source(str(folder)))
    content = (folder / f"bridge_dataset-{split}.tfrecord-00000-of-00001").read_bytes()
    for index, data in enumerate(records(content)):
        found, held = episodes[f"{split}/00000/{index:06d}"], proto_values(data)
        assert isinstance(found, SourceEpisode)
        for name, path in {
            "observation.state": "observation/state",
            "action": "action",
            "language_embedding": "language_embedding",
            "reward": "reward",
            "discount": "discount",
        }.items():
            values = column(found, name)
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values.reshape(-1), np.asarray(held[f"steps/{path}"], np.float32))
        terminal, last = (np.asarray(held[f"steps/is_{end}"], bool) for end in ("terminal", "last"))
        np.testing.assert_array_equal(column(found, "terminated"), terminal)
        np.testing.assert_array_equal(column(found, "truncated"), last & ~terminal)
        said = [text.decode() for text in held["steps/language_instruction"]]
        assert found.steps["language_instruction"].to_pylist() == said
        assert found.language == tuple(dict.fromkeys(text for text in said if text))
        assert (found.task, found.labels) == (found.language[0] if found.language else None, (split,))
        assert found.attributes["file_path"] == held["episode_metadata/file_path"][0].decode()
        assert found.attributes["episode_id"] == held["episode_metadata/episode_id"][0]
        assert found.attributes["has_image_2"] is bool(held["episode_metadata/has_image_2"][0])
        assert sorted(found.cameras) == ["image_0", "image_1", "image_2", "image_3"]
        for camera, raw in found.cameras.items():
            frames = list(raw.frames())
            coded = held[f"steps/observation/{camera}"]
            assert (raw.height, raw.width, len(frames)) == (64, 64, 10)
            for frame, image in zip(frames, coded, strict=True):
                np.testing.assert_array_equal(frame, np.asarray(Pillow.open(io.BytesIO(image)).convert("RGB")))
        used = {path for path in held if path.startswith("steps/")}
        columns = {part for f in probe.features for part in str(f.source).replace(" and not ", " + ").split(" + ")}
        assert used - columns == {"steps/is_first"}


def test_the_builders_folder_reads_alike_and_several_versions_are_named(shared_data: Path, tmp_path: Path) -> None:
    below, here = (read(Source(str(shared_data / part))) for part in ("bridge_rlds", "bridge_rlds/1.0.0"))
    assert below[0].features == here[0].features
    assert below[0].episodes[0].files == ("1.0.0/bridge_dataset-train.tfrecord-00000-of-00001",)
    assert [item.steps for item in below[1].values()] == [item.steps for item in here[1].values()]
    toy(tmp_path / "toy" / "small" / "0.1.0", 2)
    assert list(read(Source(str(tmp_path / "toy")))[1]) == ["train/00000/000000"]
    toy(tmp_path / "toy" / "large" / "1.0.0", 2)
    with pytest.raises(SourceError, match=r"several versions: large/1.0.0, small/0.1.0") as raised:
        detect(Source(str(tmp_path / "toy")))
    assert raised.value.code == "several_versions"


def test_a_set_goes_into_a_lake_and_comes_back(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    broken = write_set(tmp_path / "toy", SPEC, {"train": [[episode(4), b"no example", episode(6, 1)]]})
    recipe = SourceRecipe(name="toy", uri=broken.uri, options={"fps": 8})
    receipt = ingest(lake, recipe, on=Local(), progress=silent(), run_id="run")
    assert receipt["stored"]["episodes"] == 2
    assert [(bad["key"], bad["code"]) for bad in receipt["quarantined"]] == [("train/00000/000001", "damaged_example")]
    rows = list(lake.steps(lake.episodes()))
    assert [row["source_key"] for row, _ in rows] == ["train/00000/000000", "train/00000/000002"]
    for (row, table), ep in zip(rows, (episode(4), episode(6, 1)), strict=True):
        expected = np.stack([step["observation"]["state"] for step in ep["steps"]])
        np.testing.assert_array_equal(np.asarray(table["observation.state"].to_pylist(), np.float32), expected)
        assert table["truncated"].to_pylist()[-1] is not row["success"]
        assert [video["frames"] for video in row["videos"]] == [len(ep["steps"])]
        assert row["language"] == ["open the drawer"]
        assert json.loads(row["attributes"])["file_path"].endswith(".npy")
    assert check(lake) == []


# any set


VALUES = {
    "vector": Tensor("float32", (4,)),
    "packed": Tensor("uint16", (2, 3), "zlib"),
    "raw": Tensor("float64", (3,), "bytes"),
    "flag": Tensor("bool"),
    "count": Tensor("int64"),
    "label": Label(5),
    "words": Tensor("string", (2,)),
    "text": Text(),
    "ragged": Sequence(Tensor("int32")),
    "boxes": Sequence(Tensor("float32", (2,)), 3),
    "nested": {"deep": {"number": Tensor("uint8")}},
}


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 5), max_size=3), min_size=1, max_size=3),
    form=st.sampled_from(["proto", "text", "old"]),
    seed=st.integers(0, 99),
)
def test_any_set_round_trips(tmp_path_factory, lengths: list[list[int]], form: str, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def step() -> dict:
        return {
            "vector": rng.normal(size=4).astype(np.float32),
            "packed": rng.integers(0, 2**16, (2, 3)).astype(np.uint16),
            "raw": rng.normal(size=3),
            "flag": bool(rng.integers(2)),
            "count": int(rng.integers(-(2**60), 2**60)),
            "label": int(rng.integers(5)),
            "words": ["a", str(rng.integers(9))],
            "text": "".join(rng.choice(list("abcé拿"), 3)),
            "ragged": rng.integers(0, 9, rng.integers(0, 4)).tolist(),
            "boxes": rng.normal(size=(3, 2)).astype(np.float32),
            "nested": {"deep": {"number": int(rng.integers(256))}},
        }

    shards = [[{"steps": [step() for _ in range(n)]} for n in shard] for shard in lengths]
    source = write_set(tmp_path_factory.mktemp("rlds"), steps(VALUES), {"train": shards}, form)
    probe, episodes = read(source, state_key="vector", action_key=("raw", "label"))
    expected = {f"train/{i:05d}/{j:06d}": ep for i, shard in enumerate(shards) for j, ep in enumerate(shard)}
    assert list(episodes) == list(expected)
    dtypes = {feature.name: (feature.dtype, feature.shape) for feature in probe.features}
    assert dtypes["packed"] == ("uint16", (2, 3))
    assert dtypes["boxes"] == ("float32", (3, 2))
    for key, ep in expected.items():
        found = {name: [s[name] for s in ep["steps"]] for name in VALUES}
        held = episodes[key]
        for name in ("packed", "flag", "count", "boxes"):
            rows = np.asarray(found[name]).reshape(len(ep["steps"]), -1)
            np.testing.assert_array_equal(column(held, name).reshape(len(rows), -1), rows)
        np.testing.assert_array_equal(column(held, "observation.state"), np.stack(found["vector"]))
        joined = [np.append(raw, label) for raw, label in zip(found["raw"], found["label"], strict=True)]
        np.testing.assert_array_equal(column(held, "action"), joined)
        assert held.steps["text"].to_pylist() == found["text"]
        assert held.steps["words"].to_pylist() == found["words"]
        assert [json.loads(text) for text in held.steps["ragged"].to_pylist()] == found["ragged"]
        assert held.steps["nested.deep.number"].to_pylist() == [s["deep"]["number"] for s in found["nested"]]
        np.testing.assert_array_equal(column(held, "timestamp"), np.arange(len(ep["steps"])) / 10)


# columns


def test_what_an_episode_says(tmp_path: Path) -> None:
    probe, episodes = read(toy(tmp_path, 3, 2), fps=20, embodiment="arm", control_mode="delta")
    assert (probe.fps, probe.embodiment, probe.control_mode) == (20.0, "arm", "delta")
    first, second = episodes.values()
    assert first.notes == second.notes == ()
    assert (first.success, second.success) == (True, False)
    assert first.attributes == {"file_path": "/recordings/0.npy"}
    assert (first.task, first.language, first.labels) == ("open the drawer", ("open the drawer",), ("train",))
    assert column(first, "terminated").tolist() == [False, False, True]
    assert column(first, "truncated").tolist() == [False, False, False]
    assert column(second, "terminated").tolist() == [False, False]
    assert column(second, "truncated").tolist() == [False, True]
    assert column(first, "reward").tolist() == [0, 0, 1]
    assert not {"is_first", "is_last"} & {feature.name for feature in probe.features}
    assert column(first, "observation.gripper").shape == (3, 1)
    given = np.stack([step["observation"]["image"] for step in episode(3)["steps"]])
    for _ in range(2):  # asked for again they are the same
        np.testing.assert_array_equal(np.stack(list(first.cameras["image"].frames())), given)


def test_a_dictionary_of_actions_is_joined_in_the_order_of_its_names(tmp_path: Path) -> None:
    action = {
        "world_vector": Tensor("float32", (3,)),
        "gripper": Tensor("float32", (1,)),
        "terminate": Tensor("int32", (2,)),
        "note": Text(),
    }
    step = {"world_vector": [1, 2, 3], "gripper": [4], "terminate": [5, 6], "note": "x"}
    spec = steps({"action": action, "observation": {"pose": Tensor("float32", (2,)), "grip": Tensor("float32")}})
    given = {"steps": [{"action": step, "observation": {"pose": [7, 8], "grip": 9}}]}
    source = write_set(tmp_path, spec, {"train": [[given]]})
    probe, episodes = read(source)
    feature = next(f for f in probe.features if f.name == "action")
    assert feature.components == (
        "gripper.0", "terminate.0", "terminate.1", "world_vector.0", "world_vector.1", "world_vector.2",
    )  # fmt: skip
    assert column(episodes["train/00000/000000"], "action").tolist() == [[4, 5, 6, 1, 2, 3]]
    assert {"action.note", "observation.pose"} <= {f.name for f in probe.features}
    assert any("state_key" in note for note in probe.notes)
    probe, episodes = read(source, state_key=("pose", "observation/grip"), action_key="action/world_vector")
    assert column(episodes["train/00000/000000"], "observation.state").tolist() == [[7, 8, 9]]
    assert column(episodes["train/00000/000000"], "action").tolist() == [[1, 2, 3]]
    for wrong in ("nothing", "action/note"):
        with pytest.raises(RequestError, match=f"action_key names '{wrong}'") as raised:
            RLDS(action_key=wrong).probe(source)
        assert "action/gripper" in str(raised.value)


def test_ends_that_are_not_at_the_ends_are_told(tmp_path: Path) -> None:
    odd = episode(4)
    odd["steps"][2]["is_first"] = odd["steps"][1]["is_last"] = True
    odd["steps"][0]["is_terminal"] = True
    none = episode(2)
    none["steps"][1]["is_last"] = none["steps"][1]["is_terminal"] = False
    _, episodes = read(write_set(tmp_path, SPEC, {"train": [[odd, none]]}))
    first, second = episodes.values()
    assert first.notes == (
        "steps/is_first is true at steps 0, 2 in 4 steps",
        "steps/is_last is true at steps 1, 3 in 4 steps",
        "is_terminal is true before is_last, at step 0",
    )
    assert column(first, "truncated").tolist() == [False, True, False, False]
    assert second.notes == ("steps/is_last is true nowhere in 2 steps",)


def test_without_is_terminal_the_flags_keep_their_names(tmp_path: Path) -> None:
    spec = steps({"action": Tensor("float32", (1,)), "is_first": Tensor("bool"), "is_last": Tensor("bool")})
    given = {"steps": [{"action": [0], "is_first": True, "is_last": True}]}
    probe, episodes = read(write_set(tmp_path, spec, {"train": [[given]]}))
    assert [f.name for f in probe.features] == ["action", "is_first", "is_last"]
    assert column(episodes["train/00000/000000"], "is_last").tolist() == [True]


def test_language_that_changes_on_the_way_and_paraphrases(tmp_path: Path) -> None:
    spec = steps(
        {
            "language_instruction": Text(),
            "language_instruction_2": Text(),
            "observation": {"natural_language_instruction": Text()},
        },
        language=Text(),
    )
    texts = ["open", "open", "take", ""]
    given = {
        "steps": [
            {
                "language_instruction": text,
                "language_instruction_2": "do it",
                "observation": {"natural_language_instruction": "take"},
            }
            for text in texts
        ],
    }
    source = write_set(tmp_path, {"steps": spec["steps"]}, {"train": [[given]]})
    found = read(source)[1]["train/00000/000000"]
    assert found.steps["language_instruction"].to_pylist() == texts
    assert (found.task, found.language) == ("open", ("open", "take", "do it"))
    assert read(source, task="tidy up")[1]["train/00000/000000"].task == "tidy up"
    beside = write_set(tmp_path / "beside", spec, {"train": [[{**given, "language": "tidy the kitchen"}]]})
    found = read(beside)[1]["train/00000/000000"]
    assert (found.task, found.language) == ("tidy the kitchen", ("tidy the kitchen",))


def test_names_that_are_taken_get_a_prefix(tmp_path: Path) -> None:
    spec = steps(
        {
            "timestamp": Tensor("float32"),
            "terminated": Tensor("int32"),
            "is_terminal": Tensor("bool"),
            "a": {"b": Tensor("int8")},
            "a.b": Tensor("int8"),
            "observation": {"image": FRAME},
            "image": FRAME,
        }
    )
    frame = np.zeros((64, 80, 3), np.uint8)
    step = {
        "timestamp": 7,
        "terminated": 3,
        "is_terminal": True,
        "a": {"b": 1},
        "a.b": 2,
        "observation": {"image": frame},
        "image": frame + 9,
    }
    probe, episodes = read(write_set(tmp_path, spec, {"train": [[{"steps": [step]}]]}))
    found = episodes["train/00000/000000"]
    assert {f.name: f.source for f in probe.features if not f.is_camera} == {
        "terminated": "steps/is_terminal",
        "a.b": "steps/a.b",
        "source.a.b": "steps/a/b",
        "source.terminated": "steps/terminated",
        "source.timestamp": "steps/timestamp",
    }
    assert found.steps["source.terminated"].to_pylist() == [3]
    assert {name: next(raw.frames())[0, 0, 0] for name, raw in found.cameras.items()} == {"image": 9, "source.image": 0}


def test_images_that_are_no_colour_cameras(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    spec = steps(
        {
            "observation": {
                "depth": Image((6, 8, 1), "uint16"),
                "distance": Image((None, None, 1), "float32"),
                "mask": Image((6, 8, 1)),
                "rgb": Image((None, None, 3), format="jpeg"),
                "clips": Sequence(Image((6, 8, 3))),
            }
        },
        thumbnail=Image((6, 8, 3)),
    )
    frames = {
        "depth": rng.integers(0, 2**16, (6, 8, 1)).astype(np.uint16),
        "distance": rng.normal(size=(6, 8, 1)).astype(np.float32),
        "mask": rng.integers(0, 256, (6, 8, 1)).astype(np.uint8),
        "rgb": rng.integers(0, 256, (6, 8, 3)).astype(np.uint8),
        "clips": [],
    }
    given = {"steps": [{"observation": frames}] * 2, "thumbnail": np.zeros((6, 8, 3), np.uint8)}
    probe, episodes = read(write_set(tmp_path, spec, {"train": [[b"no example", given]]}))
    found = episodes["train/00000/000001"]
    for name in ("depth", "distance", "mask"):
        rows = column(found, f"observation.{name}")
        assert rows.dtype == frames[name].dtype
        np.testing.assert_array_equal(rows[1], frames[name].reshape(-1))
    assert list(found.cameras) == ["rgb"]
    assert {f.name: f.shape for f in probe.features}["observation.images.rgb"] == (6, 8, 3)
    notes = " ".join(probe.notes)
    assert "clips holds several images a step" in notes
    assert "thumbnail is an image beside the steps" in notes


def test_frames_of_another_size_than_declared(tmp_path: Path) -> None:
    other, mixed = episode(2), episode(2)
    for step in other["steps"]:
        step["observation"]["image"] = np.zeros((32, 32, 3), np.uint8)
    mixed["steps"][1]["observation"]["image"] = np.zeros((32, 32, 3), np.uint8)
    _, episodes = read(write_set(tmp_path, SPEC, {"train": [[other, mixed]]}))
    first, second = episodes.values()
    assert first.notes == ("image: declared (64, 80), the images are (32, 32)",)
    assert (first.cameras["image"].height, next(first.cameras["image"].frames()).shape) == (32, (32, 32, 3))
    with pytest.raises(SourceError, match=r"image, frame 1: an image is \(32, 32\), not \(64, 80\)"):
        list(second.cameras["image"].frames())


def test_a_feature_that_an_example_lacks_is_null(tmp_path: Path) -> None:
    part = {**STEP, "observation": {"state": Tensor("float32", (5,)), "image": FRAME}}
    lacking = serialise(steps({name: part[name] for name in ("observation", "action")}), episode(2))
    no_action = serialise(steps({name: part[name] for name in ("observation",)}), episode(2))
    no_frames = serialise(steps({**STEP, "observation": {"state": Tensor("float32", (5,))}}), episode(2))
    empty = serialise(SPEC, {"steps": [], "episode_metadata": episode(1)["episode_metadata"]})
    _, episodes = read(write_set(tmp_path, SPEC, {"train": [[lacking, no_action, no_frames, empty]]}))
    assert codes(episodes) == ["ok", "missing_column", "ok", "empty_episode"]
    first, _, third, _ = episodes.values()
    for name in ("reward", "terminated", "truncated", "language_instruction", "observation.gripper"):
        assert first.steps[name].null_count == 2
    assert first.success is None and first.language == ()
    assert "no frames of camera image" in third.notes


def test_long_values_beside_the_steps_are_told_and_left_out(tmp_path: Path) -> None:
    spec = {**SPEC, "long": Tensor("float32", (5000,)), "short": Tensor("float32", (2,)), "file_path": Text()}
    given = {**episode(2), "long": np.zeros(5000), "short": [1, 2], "file_path": "/here"}
    found = read(write_set(tmp_path, spec, {"train": [[given]]}))[1]["train/00000/000000"]
    assert "long holds 5000 values and is left out" in found.notes
    assert found.attributes["short"] == [1, 2]
    assert sorted(value for value in found.attributes.values() if isinstance(value, str)) == [
        "/here",
        "/recordings/0.npy",
    ]


# damage


def damaged(source: Source, change) -> Source:
    path = Path(source.root) / shard_name("train", 0, 1)
    content = bytearray(path.read_bytes())
    path.write_bytes(bytes(change(content)))
    return source


def flip(at: int):
    def change(content: bytearray) -> bytearray:
        content[at] ^= 1
        return content

    return change


def second_record(folder: Path) -> int:
    content = (folder / shard_name("train", 0, 1)).read_bytes()
    return len(next(records(content))) + 16


def test_a_flipped_byte_spoils_one_episode_or_all_that_cannot_be_found(tmp_path: Path) -> None:
    source = toy(tmp_path / "a", 2, 3, 2)
    start = second_record(tmp_path / "a")
    _, episodes = read(damaged(source, flip(start + 100)))
    assert codes(episodes) == ["ok", "damaged_record", "ok"]
    _, episodes = read(damaged(toy(tmp_path / "b", 2, 3, 2), flip(start + 2)))
    assert codes(episodes) == ["ok", "damaged_length", "damaged_length"]


def test_a_file_that_is_cut_and_one_that_is_gone(tmp_path: Path) -> None:
    source = toy(tmp_path / "a", 2, 3, 2)
    start = second_record(tmp_path / "a")
    probe, episodes = read(damaged(source, lambda content: content[: start + 200]))
    assert codes(episodes) == ["ok", "truncated", "truncated"]
    assert any("declares 3 episodes and holds 2" in note for note in probe.notes)
    source = write_set(tmp_path / "b", SPEC, {"train": [[episode(2)], [episode(3)]]})
    (tmp_path / "b" / shard_name("train", 0, 2)).unlink()
    probe, episodes = read(source)
    assert codes(episodes) == ["missing_file", "ok"]
    assert "train: 1 of 2 shards are not there" in probe.notes


def test_declared_and_absent_and_there_and_not_declared(tmp_path: Path) -> None:
    source = toy(tmp_path / "a", 2, 3)
    info = json.loads((tmp_path / "a" / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["4"]
    (tmp_path / "a" / "dataset_info.json").write_text(json.dumps(info))
    probe, episodes = read(source)
    assert codes(episodes) == ["ok", "ok", "absent_record", "absent_record"]
    assert any("declares 4 episodes and holds 2" in note for note in probe.notes)
    more = damaged(toy(tmp_path / "b", 2, 3), lambda content: content + record(serialise(SPEC, episode(4))))
    probe, episodes = read(more)
    assert codes(episodes) == ["ok"] * 3
    assert len(episodes["train/00000/000002"].steps) == 4
    assert any("declares 2 episodes and holds 3" in note for note in probe.notes)


def test_bad_examples_spoil_only_themselves(tmp_path: Path) -> None:
    bomb, lengths = episode(2), episode(2)
    for step in bomb["steps"]:
        step["observation"]["image"] = png(60_000, 60_000, 8, 2, b"\0" * 99)
    uneven = proto_changed(lengths)
    good = episode(2)
    _, episodes = read(write_set(tmp_path, SPEC, {"train": [[bomb, b"no example", uneven, good]]}))
    assert codes(episodes) == ["bad_image", "damaged_example", "lengths_differ", "ok"]
    assert all("\n" not in item.reason for item in episodes.values() if isinstance(item, Unreadable))


def proto_changed(given: dict) -> bytes:
    from tests.data_engine.formats.rlds_sets import ProtoExample

    example = ProtoExample.FromString(serialise(SPEC, given))
    example.features.feature["steps/reward"].float_list.value.append(1)
    return example.SerializeToString()


def test_a_packed_bomb_is_refused(tmp_path: Path) -> None:
    spec = steps({"action": Tensor("float32", (3,), "zlib")})
    plain = steps({"action": Text()})
    path = tmp_path / shard_name("train", 0, 1)
    source = write_set(tmp_path, spec, {"train": [[{"steps": [{"action": [1, 2, 3]}]}]]})
    from tests.data_engine.formats.rlds_sets import ProtoExample

    example = ProtoExample.FromString(serialise(plain, {"steps": [{"action": ""}]}))
    example.features.feature["steps/action"].bytes_list.value[0] = zlib.compress(bytes(50 << 20))
    path.write_bytes(record(example.SerializeToString()))
    _, episodes = read(source)
    assert codes(episodes) == ["layout_differs"]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("features.json", "{", "bad_json"),
        ("features.json", '{"pythonClassName": "x.FeaturesDict", "featuresDict": []}', "bad_features"),
        ("features.json", '{"pythonClassName": "x.Text", "text": {}}', "no_steps"),
        ("dataset_info.json", "[" * 100_000, "bad_json"),
        ("dataset_info.json", "[]", "bad_info"),
        ("dataset_info.json", None, "bad_info"),
    ],
)
def test_broken_descriptions_say_so_in_one_line(tmp_path: Path, name: str, content: str | None, code: str) -> None:
    source = toy(tmp_path, 2)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(SourceError) as raised:
        detect(source)
    assert raised.value.code == code
    assert "\n" not in str(raised.value)


def test_other_sources_are_not_claimed(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "features.json").write_text('{"state": 5}')
    for path in (tmp_path, shared_data / "README.md", *(p for p in shared_data.iterdir() if p.name != "bridge_rlds")):
        assert RLDS().probe(Source(str(path))) is None


def test_over_http(s3: str, tmp_path: Path) -> None:
    local = write_set(tmp_path / "1.0.0", SPEC, {"train": [[episode(2), episode(3, 1)], [episode(4, 2)]]})
    fs = fsspec.filesystem("s3", **options(s3).fsspec)
    for file in Path(local.root).iterdir():
        fs.pipe_file(f"{s3}/toy/1.0.0/{file.name}", file.read_bytes())
    probe, there = read(Source(f"{s3}/toy"))
    _, here = read(local)
    assert list(there) == list(here)
    assert probe.episodes[0].files == (f"1.0.0/{shard_name('train', 0, 2)}",)
    for key, found in there.items():
        assert found.steps.equals(here[key].steps)
        for ours, theirs in zip(here[key].cameras["image"].frames(), found.cameras["image"].frames(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
