"""The three containers hold the same messages, whole or broken: by rosbags' and mcap's own readers."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode

from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.bag.files import opened, recordings
from data_engine.formats.bag.ranges import CHUNK_BYTES
from tests.data_engine.formats.bag.bag_sets import KINDS, START, joints, ros2, twist, write, write_mcap

Rows = list[tuple[str, int, bytes]]


def topics(n: int = 40, name: str = "/arm/joint_states"):
    return {
        name: ("sensor_msgs/msg/JointState", [(START + i * 50_000_000, joints([i, -i])) for i in range(n)]),
        "/cmd_vel": ("geometry_msgs/msg/Twist", [(START + i * 70_000_000 + 9, twist(i)) for i in range(n)]),
    }


def messages(path: Path | str, start=None, stop=None) -> tuple[Rows, list[str]]:
    """(topic, log time, bytes) of every message, each loaded once more by where it lies; and the notes."""
    found: Rows = []
    notes: list[str] = []
    source = Source(str(path))
    for recording in recordings(source):
        with opened(source, recording) as bag:
            notes += bag.notes
            kept = [(m, bytes(m.data)) for m in bag.messages(set(bag.channels), start, stop)]
            for message, data in kept:
                assert bag.load(message.where) == data
                found.append((bag.channels[message.channel].topic, message.logged, data))
    return found, notes


def theirs(path: Path) -> Rows:
    with AnyReader([path]) as reader:
        return [(connection.topic, time, bytes(data)) for connection, time, data in reader.messages()]


@pytest.mark.parametrize("name", ["turtlesim_ros1.bag", "sample_ros2.mcap", "sample_ros2_sqlite"])
def test_real_bags_hold_what_rosbags_reads(shared_data: Path, name: str) -> None:
    found, notes = messages(shared_data / "bags" / name)
    assert sorted(found) == sorted(theirs(shared_data / "bags" / name))
    assert len(found) == {"turtlesim_ros1.bag": 8647, "sample_ros2.mcap": 702, "sample_ros2_sqlite": 600}[name]
    assert notes == []


def test_a_real_mcap_holds_what_mcap_reads(shared_data: Path) -> None:
    path = shared_data / "bags" / "sample_ros2.mcap"
    with open(path, "rb") as file:
        expected = [(c.topic, m.log_time, m.data) for _, c, m in make_reader(file).iter_messages()]
    assert sorted(messages(path)[0]) == sorted(expected)


@settings(max_examples=10, deadline=None)
@given(
    kind=st.sampled_from(KINDS), packed=st.booleans(), chunk=st.integers(100, 5000), n=st.integers(0, 30),
    window=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)  # fmt: skip
def test_any_bag_holds_what_was_written(tmp_path_factory, kind, packed, chunk, n, window) -> None:
    folder = tmp_path_factory.mktemp("bag")
    options = {"ros1": {"compression": "LZ4" if n % 2 else "BZ2", "chunk": chunk}, "mcap": {}, "sqlite": {}}[kind]
    if packed and kind == "sqlite":
        options = {"compression": (CompressionMode.MESSAGE, CompressionFormat.ZSTD)}
    path = write(folder / "a", kind, topics(n), **(options if packed else {}))
    if kind == "sqlite" and packed:
        path = path.parent  # its metadata says that messages are packed
    expected = theirs(path if kind == "ros1" else path.parent if path.is_file() else path) if n else []
    assert sorted(messages(path)[0]) == sorted(expected)
    start, stop = (START + 50_000_000 * bound for bound in window)
    assert sorted(messages(path, start, stop)[0]) == sorted(row for row in expected if start <= row[1] < stop)


@pytest.mark.parametrize("compression", list(CompressionType))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunk_size": 500},
        {"use_chunking": False},
        {"use_chunking": False, "repeat_channels": False},
        {"repeat_channels": False, "repeat_schemas": False},
        {"index_types": IndexType.NONE},
        {"index_types": IndexType.CHUNK, "chunk_size": 500},
        {"use_statistics": False, "use_summary_offsets": False, "chunk_size": 900},
        {"enable_crcs": False},
    ],
)
def test_an_mcap_of_any_options_holds_the_same(tmp_path: Path, compression, options) -> None:
    made = ros2(topics())
    path = write_mcap(tmp_path / "a.mcap", made, compression=compression, **options)
    expected = [(topic, log, data) for topic, (*_, rows) in made.items() for log, _, data in rows]
    found, notes = messages(path)
    assert sorted(found) == sorted(expected)
    assert notes == []
    with opened(Source(str(path)), recordings(Source(str(path)))[0]) as bag:
        assert {m.logged - m.published for m in bag.messages(set(bag.channels))} == {1_000_000}


@pytest.mark.parametrize("kind", ["ros1", "mcap"])
def test_a_cut_file_is_read_up_to_where_it_is_cut(tmp_path: Path, kind: str) -> None:
    if kind == "ros1":
        path = write(tmp_path / "a", kind, topics(200), chunk=2000)
    else:
        path = write_mcap(tmp_path / "a.mcap", ros2(topics(200)), chunk_size=2000)
    whole, data = messages(path)[0], path.read_bytes()
    sizes = []
    for share in (0.99, 0.8, 0.5, 0.2):
        path.write_bytes(data[: int(len(data) * share)])
        found, notes = messages(path)
        assert found == whole[: len(found)]
        assert any("what stands before is read" in note or "read from its start" in note for note in notes), notes
        sizes.append(len(found))
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 300 > sizes[-1] > 0


def test_a_bag_whose_recorder_was_killed_has_no_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "ros1", topics(100), chunk=2000)
    whole, data = messages(path)[0], path.read_bytes()
    at = data.index(b"index_pos=") + len(b"index_pos=")
    index = int.from_bytes(data[at : at + 8], "little")
    path.write_bytes(data[:at] + bytes(8) + data[at + 8 : index])
    found, notes = messages(path)
    assert found == whole
    assert notes == ["the bag has no index (its recorder did not close it): read from its start"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_flipped_byte_gives_messages_or_one_clear_line(tmp_path: Path, kind: str) -> None:
    if kind == "mcap":
        path = write_mcap(tmp_path / "a.mcap", ros2(topics(12)), chunk_size=600)
    else:
        path = write(tmp_path / "a", kind, topics(12), chunk=600, **({"compression": "LZ4"} if kind == "ros1" else {}))
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(data), 250).tolist():
        path.write_bytes(data[:at] + bytes([int(rng.integers(256))]) + data[at + 1 :])
        try:
            messages(path)
        except SourceError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 0


def test_a_chunk_with_another_crc_is_damaged(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap", ros2(topics(50)), compression=CompressionType.NONE, chunk_size=1000)
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<d", 7.0))] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match="does not have the CRC"):
        messages(path)


@pytest.mark.parametrize("kind", ["ros1", "mcap"])
def test_a_chunk_that_declares_too_much_is_refused(tmp_path: Path, kind: str) -> None:
    if kind == "ros1":
        path = write(tmp_path / "a", kind, topics(5), compression="LZ4")
        data = bytearray(path.read_bytes())
        at = data.index(b"size=") + 5
        data[at : at + 4] = struct.pack("<I", (1 << 32) - 1)
    else:
        path = write_mcap(tmp_path / "a.mcap", ros2(topics(5)))
        data = bytearray(path.read_bytes())
        at = data.index(b"\x06", 40)
        data[at + 9 + 16 : at + 9 + 24] = struct.pack("<Q", 1 << 60)
    path.write_bytes(data)
    with pytest.raises(SourceError) as raised:
        messages(path)
    assert raised.value.code == "too_large"
    assert CHUNK_BYTES < 1 << 30


@pytest.mark.parametrize("kind", KINDS)
def test_topics_may_be_called_anything(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "a", kind, topics(3, "/робот/关节.état 🤖"))
    assert "/робот/关节.état 🤖" in {topic for topic, _, _ in messages(path)[0]}


def test_a_database_of_old_has_no_definitions(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "sqlite", topics(5))
    whole = messages(path)[0]
    with sqlite3.connect(path) as db:
        for statement in ("DROP TABLE schema", "DROP TABLE message_definitions", "DROP TABLE metadata"):
            db.execute(statement)
        db.execute("ALTER TABLE topics DROP COLUMN type_description_hash")
        db.execute("ALTER TABLE topics DROP COLUMN offered_qos_profiles")
    db.close()
    found, notes = messages(path)
    assert found == whole
    assert notes == ["the bag lacks message definitions: the standard ones of ROS 2 humble are taken"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DROP TABLE messages", "without topics and messages"),
        ("DROP TABLE messages; CREATE VIEW messages AS SELECT 1 id", "without topics and messages"),
        ("UPDATE messages SET data = 7", "no time or bytes"),
        ("UPDATE messages SET timestamp = 'noon'", "no time or bytes"),
        ("UPDATE topics SET type = NULL", "cannot be read|without a name"),
        ("ALTER TABLE messages RENAME COLUMN data TO other", "cannot be read as a database"),
    ],
)
def test_databases_that_are_no_bags(tmp_path: Path, damage: str, message: str) -> None:
    path = write(tmp_path / "a", "sqlite", topics(5))
    db = sqlite3.connect(path)
    if "NULL" in damage:
        db.execute("PRAGMA writable_schema=ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, 'type TEXT NOT NULL', 'type TEXT')")
        db.commit()
        db.close()
        db = sqlite3.connect(path)
    db.executescript(damage)
    db.close()
    with pytest.raises(SourceError, match=message):
        messages(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SourceError, match=r"cannot be read as a database|without topics"):
        messages(path)


def test_a_folder_holds_one_recording_a_bag(tmp_path: Path) -> None:
    write(tmp_path / "run_10", "sqlite", topics(3))
    write(tmp_path / "run_9", "ros1", topics(3))
    write(tmp_path / "day" / "run_2", "mcap", topics(3))
    (tmp_path / "day" / "run_2" / "metadata.yaml").unlink()
    (tmp_path / "notes.txt").write_text("hello")
    found = recordings(Source(str(tmp_path)))
    assert [recording.key for recording in found] == ["day/run_2/run_2.mcap", "run_9.bag", "run_10"]
    assert found[2].files == ("run_10/run_10.db3",)
    assert len(messages(tmp_path)[0]) == 18


def test_a_recording_in_several_files_is_one(tmp_path: Path) -> None:
    first = write(tmp_path / "a", "mcap", topics(10))
    later = {name: (kind, [(t + 10**10, m) for t, m in rows]) for name, (kind, rows) in topics(10).items()}
    second = write(tmp_path / "b", "mcap", later)
    expected = messages(first)[0] + messages(second)[0]
    shutil.move(second, tmp_path / "a" / "a_1.mcap")
    metadata = (tmp_path / "a" / "metadata.yaml").read_text()
    (tmp_path / "a" / "metadata.yaml").write_text(
        metadata.replace("  - a.mcap\n", "  - a.mcap\n  - deep/a_1.mcap\n", 1)
    )
    source = Source(str(tmp_path / "a"))
    assert [recording.files for recording in recordings(source)] == [("a.mcap", "a_1.mcap")]
    assert messages(tmp_path / "a")[0] == expected
    (tmp_path / "a" / "a_1.mcap").unlink()
    found, notes = messages(tmp_path / "a")
    assert found == messages(first)[0]
    assert notes == ["a_1.mcap is listed in metadata.yaml and absent"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "describes no bag"),
        ("[1, 2]", "describes no bag"),
        ("rosbag2_bagfile_information: {relative_file_paths: 7}", "describes no bag"),
        ("!!python/object/apply:os.system ['touch /tmp/never']", "describes no bag"),
        ("rosbag2_bagfile_information: {relative_file_paths: [a.mcap], compression_mode: FILE}", "compressed whole"),
        ("rosbag2_bagfile_information: {relative_file_paths: [a.mcap], compression_mode: MESSAGE, "
         "compression_format: lz9}", "by 'lz9'"),
        ("rosbag2_bagfile_information: {relative_file_paths: [../../b.mcap]}", "none of its files"),
    ],
)  # fmt: skip
def test_metadata_that_describes_no_bag(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "a", "mcap", topics(3))
    (path.parent / "metadata.yaml").write_text(text)
    with pytest.raises(SourceError, match=message):
        messages(path.parent)
    assert not Path("/tmp/never").exists()


@pytest.mark.parametrize("name", ["a.bag", "a.mcap", "a.db3"])
@pytest.mark.parametrize("data", [b"", b"noise", b"#ROSBAG V1.2\n", b"\x89MCAP0\r", b"SQLite format 3"])
def test_a_file_that_only_its_name_calls_a_bag(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match="empty, cut or another kind"):
        recordings(Source(str(tmp_path / name)))


def test_other_sources_are_not_claimed(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "other.db3").mkdir()
    sqlite3.connect(tmp_path / "app.sqlite").executescript("CREATE TABLE a(b)")
    for path in (tmp_path, tmp_path / "app.sqlite", shared_data / "g1_lerobot_v21", shared_data / "README.md"):
        assert recordings(Source(str(path))) == []


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", "mcap", topics(3))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mcap").symlink_to(outside)
    source = Source(str(tmp_path / "in"))
    with pytest.raises(Exception, match="leaves"), opened(source, recordings(source)[0]):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_over_http(s3: str, tmp_path: Path, kind: str) -> None:
    import fsspec

    from data_engine.fs import options

    if kind == "mcap":
        path = write_mcap(tmp_path / "a.mcap", ros2(topics(40)), chunk_size=1000)
    else:
        path = write(tmp_path / "a", kind, topics(40))
    fsspec.filesystem("s3", **options(s3).fsspec).put_file(str(path), f"{s3}/{path.name}")
    there, notes = messages(f"{s3}/{path.name}")
    assert there == messages(path)[0]
    assert [note for note in notes if "were fetched" in note] == (
        [f"a database needs a local copy: {path.stat().st_size / 1e6:.1f} MB were fetched"] if kind == "sqlite" else []
    )
