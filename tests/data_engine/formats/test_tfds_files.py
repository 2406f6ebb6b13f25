from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from data_engine.errors import EngineError, SourceError
from data_engine.formats import Source
from data_engine.formats.tfds_files import find_version, open_records, read_json, read_shards
from tests.data_engine.formats.rlds_sets import record, shard_name


def folder(root: Path, splits: dict[str, list[int]], dataset: str = "toy", **info) -> tuple[Source, dict]:
    """Shards of so many records of 8 bytes each, and what ``dataset_info.json`` says of them."""
    root.mkdir(parents=True, exist_ok=True)
    declared = []
    for split, lengths in splits.items():
        for number, length in enumerate(lengths):
            if length:
                (root / shard_name(split, number, len(lengths), dataset)).write_bytes(record(b"8 bytes!") * length)
        declared.append(
            {"name": split, "numBytes": str(8 * sum(lengths)), "shardLengths": [str(length) for length in lengths]}
        )
    return Source(str(root)), {"name": "toy", "fileFormat": "tfrecord", "splits": declared, **info}


def found(source: Source, info: dict) -> list[tuple[str, int, str, int]]:
    return [(s.split, s.number, s.path, s.records) for s in read_shards(source, ".", info)[0]]


def test_shards_as_declared_are_believed_without_a_look(tmp_path: Path) -> None:
    source, info = folder(tmp_path, {"train": [3, 0, 2], "val": [1]})
    expected = [
        ("train", 0, shard_name("train", 0, 3), 3),
        ("train", 2, shard_name("train", 2, 3), 2),
        ("val", 0, shard_name("val", 0, 1), 1),
    ]
    assert found(source, info) == expected
    assert read_shards(source, ".", info)[1] == ()
    for path in tmp_path.iterdir():  # as large, and no records: not looked into
        path.write_bytes(bytes(path.stat().st_size))
    assert found(source, info) == expected


def test_counts_that_the_sizes_contradict_are_counted(tmp_path: Path) -> None:
    source, info = folder(tmp_path, {"train": [3, 2]})
    info["splits"][0]["shardLengths"] = ["1", "4"]
    assert [shard[3] for shard in found(source, info)] == [1, 4]  # together right: the shards are believed
    info["splits"][0]["numBytes"] = "999"
    shards, notes = read_shards(source, ".", info)
    assert [shard.records for shard in shards] == [3, 4]
    assert [note.split(" declares ")[1] for note in notes] == ["1 episodes and holds 3", "4 episodes and holds 2"]


@pytest.mark.parametrize("keys", [("shardLengths",), ("shardLengths", "numBytes")])
def test_without_lengths_the_records_are_counted(tmp_path: Path, keys: tuple[str, ...]) -> None:
    source, info = folder(tmp_path, {"train": [3, 2]})
    for key in keys:
        del info["splits"][0][key]
    shards, notes = read_shards(source, ".", info)
    assert [shard.records for shard in shards] == [3, 2]
    assert len(notes) == 1 and "counted" in notes[0]


def test_a_renamed_set_is_found_by_its_splits(tmp_path: Path) -> None:
    source, info = folder(tmp_path, {"train": [3, 2], "pre-train": [1]}, dataset="new_name")
    shards, notes = read_shards(source, ".", info)
    assert [shard.path for shard in shards if shard.split == "pre-train"] == [shard_name("pre-train", 0, 1, "new_name")]
    source, info = folder(tmp_path / "b", {"train": [3, 2]}, dataset="new_name")
    shards, notes = read_shards(source, ".", info)
    assert [(shard.path, shard.records) for shard in shards] == [
        (shard_name("train", 0, 2, "new_name"), 3),
        (shard_name("train", 1, 2, "new_name"), 2),
    ]
    assert "another name" in notes[0]


def test_files_of_no_split_are_told(tmp_path: Path) -> None:
    source, info = folder(tmp_path, {"train": [1]})
    (tmp_path / shard_name("test", 0, 1)).write_bytes(b"")
    assert "belong to no declared split" in read_shards(source, ".", info)[1][0]


def test_templates_in_use(tmp_path: Path) -> None:
    source, info = folder(tmp_path, {"train": [1]})
    (tmp_path / shard_name("train", 0, 1)).rename(tmp_path / "train.tfrecord.00000.of.00001")
    info["splits"][0]["filepathTemplate"] = "{SPLIT}.{FILEFORMAT}.{SHARD_INDEX}.of.{NUM_SHARDS}"
    assert found(source, info) == [("train", 0, "train.tfrecord.00000.of.00001", 1)]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"fileFormat": "riegeli"}, "wrong_format"),
        ({"splits": None}, "bad_info"),
        ({"splits": [5]}, "bad_info"),
        ({"splits": [{"name": "../up", "shardLengths": ["1"]}]}, "bad_info"),
        ({"splits": [{"name": "train", "shardLengths": "1"}]}, "bad_info"),
        ({"splits": [{"name": "train", "shardLengths": ["-1"]}]}, "bad_info"),
        ({"splits": [{"name": "train", "shardLengths": [str(10**12)]}]}, "bad_info"),
        ({"splits": [{"name": "train", "shardLengths": [str(2**23)] * 9}]}, "bad_info"),
        ({"splits": [{"name": "train", "shardLengths": ["1"]}] * 2}, "bad_info"),
        ({"splits": [{"name": "train", "shardLengths": ["1"], "filepathTemplate": "../{SPLIT}"}]}, "bad_template"),
        ({"splits": [{"name": "train", "shardLengths": ["1"], "filepathTemplate": "/etc/passwd"}]}, "bad_template"),
        ({"splits": [{"name": "train", "shardLengths": ["1"], "filepathTemplate": "{SPLIT.x}"}]}, "bad_template"),
        ({"splits": [{"name": "train", "shardLengths": ["1"], "filepathTemplate": "s3://a/{SPLIT}"}]}, "bad_template"),
        ({"name": "../../up"}, "bad_template"),
    ],
)  # fmt: skip
def test_lies_about_the_splits_say_so(tmp_path: Path, change: dict, code: str) -> None:
    source, info = folder(tmp_path, {"train": [1]})
    with pytest.raises(SourceError) as raised:
        read_shards(source, ".", {**info, **change})
    assert raised.value.code == code
    assert "\n" not in str(raised.value)


def test_a_link_that_leaves_the_source_is_not_followed(tmp_path: Path) -> None:
    source, _ = folder(tmp_path / "set", {"train": [1]})
    path = tmp_path / "set" / shard_name("train", 0, 1)
    path.rename(tmp_path / "secret")
    os.symlink(tmp_path / "secret", path)
    with pytest.raises(EngineError, match="leaves"), open_records(source, path.name):
        pass


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as raised, open_records(Source(str(tmp_path)), "absent"):
        pass
    assert raised.value.code == "missing_file"


def test_versions_are_found_one_or_two_folders_down(tmp_path: Path) -> None:
    def version(path: str) -> None:
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "features.json").write_text("{}")

    source = Source(str(tmp_path))
    assert find_version(source) is None
    version("toy/large/notes")
    (tmp_path / "toy/large/0.9.0").mkdir()  # without features.json: a download that was not finished
    assert find_version(Source(str(tmp_path / "toy"))) is None
    version("toy/large/1.0.0")
    assert find_version(Source(str(tmp_path / "toy"))) == "large/1.0.0"
    assert find_version(Source(str(tmp_path / "toy/large"))) == "1.0.0"
    assert find_version(Source(str(tmp_path / "toy/large/1.0.0"))) == "."
    assert find_version(Source(str(tmp_path / "toy/large/1.0.0/features.json"))) is None
    version("toy/large/1.1.0")
    with pytest.raises(SourceError, match=r"1\.0\.0, 1\.1\.0.*name one of them"):
        find_version(Source(str(tmp_path / "toy/large")))


def test_json_of_strangers(tmp_path: Path) -> None:
    source = Source(str(tmp_path))
    (tmp_path / "good.json").write_text(json.dumps({"a": 1}))
    assert read_json(source, "good.json") == {"a": 1}
    for name, content in {"a": b"{", "b": b"\xff\xfe\xff", "c": b"[" * 200_000}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match="not readable"):
            read_json(source, name)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(SourceError, match="larger than 64 MiB"):
        read_json(source, "huge")
