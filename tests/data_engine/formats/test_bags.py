from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader

from data_engine.errors import RequestError, SourceError
from data_engine.formats import Probe, Source, SourceEpisode, Unreadable, detect
from data_engine.formats.bags import Bags
from data_engine.steps import canonical
from tests.data_engine.formats.bag.bag_sets import (
    KINDS,
    SECOND,
    START,
    coded,
    frames,
    image,
    joints,
    of,
    plain,
    ros2,
    twist,
    write,
    write_mcap,
)  # fmt: skip

JOINTS, TWIST, IMAGE = "sensor_msgs/msg/JointState", "geometry_msgs/msg/Twist", "sensor_msgs/msg/Image"
CODED, TICK = "sensor_msgs/msg/CompressedImage", 50_000_000
ARM = {"columns": {"observation.state": "/arm.position", "action": "/cmd_vel"}}


def read(path: Path | str, **options: Any) -> tuple[Probe, dict[str, SourceEpisode | Unreadable]]:
    source = Source(str(path))
    form = Bags(**options)
    probe = form.probe(source)
    assert probe is not None and probe.proposal is None
    found = {item.key: item for item in form.read(source, probe, [ref.key for ref in probe.episodes])}
    for item in found.values():
        if isinstance(item, SourceEpisode):
            canonical(item.steps, probe.features, probe.fps)  # fits what is declared
    return probe, found


def one(path: Path | str, **options: Any) -> SourceEpisode:
    episode = next(iter(read(path, **options)[1].values()))
    assert isinstance(episode, SourceEpisode), episode
    return episode


def column(episode: SourceEpisode, name: str) -> list[Any]:
    return episode.steps[name].to_pylist()


def brute(rows: list[tuple[int, Any]], steps: list[int]) -> tuple[list[Any], list[float | None]]:
    """The newest value at or before each step, and its age, one message at a time."""
    values: list[Any] = []
    ages: list[float | None] = []
    for step in steps:
        best = None
        for stamp, value in rows:
            if stamp <= step and (best is None or stamp >= best[0]):
                best = stamp, value
        values.append(None if best is None else best[1])
        ages.append(None if best is None else (step - best[0]) / 1e9)
    return values, ages


def theirs(path: Path, topic: str, pick) -> list[tuple[int, Any]]:
    with AnyReader([path]) as reader:
        return [
            (time, pick(reader.deserialize(data, connection.msgtype)))
            for connection, time, data in reader.messages()
            if connection.topic == topic
        ]


def test_the_real_ros1_bag_is_what_rosbags_reads(shared_data: Path) -> None:
    path = shared_data / "bags" / "turtlesim_ros1.bag"
    given = {
        "columns": {
            "observation.state": ["/turtle1/pose.x", "/turtle1/pose.y", "/turtle1/pose.theta"],
            "action": "/turtle1/cmd_vel.linear",
            "colour": "/turtle2/color_sensor",
        }
    }
    probe, episodes = read(path, map=given)
    episode = episodes["turtlesim_ros1.bag"]
    pose = theirs(path, "/turtle1/pose", lambda m: [m.x, m.y, m.theta])
    steps = sorted({time for time, _ in pose})
    assert len(episode.steps) == len(steps) == 1344
    np.testing.assert_array_equal(column(episode, "timestamp"), (np.array(steps) - steps[0]) / 1e9)
    for name, rows in {
        "observation.state": pose,
        "action": theirs(path, "/turtle1/cmd_vel", lambda m: [m.linear.x, m.linear.y, m.linear.z]),
        "colour": theirs(path, "/turtle2/color_sensor", lambda m: [m.r, m.g, m.b]),
    }.items():
        values, ages = brute(rows, steps)
        assert column(episode, name) == values
        assert column(episode, f"{name}.age_s") == ages
    assert None in column(episode, "action")  # nobody had steered yet
    features = {feature.name: feature for feature in probe.features}
    assert features["observation.state"].dtype == "float32" and features["colour"].dtype == "uint8"
    assert features["action"].components == ("x", "y", "z")
    assert 60 < probe.fps < 65 and any("by the median" in note for note in probe.notes)
    assert any("topics that the map leaves out: /rosout" in note for note in probe.notes)
    assert any("stamps are log times" in note for note in episode.notes)


@pytest.mark.parametrize("name", ["sample_ros2.mcap", "sample_ros2_sqlite"])
def test_the_real_ros2_bags_are_what_rosbags_reads(shared_data: Path, name: str) -> None:
    path = shared_data / "bags" / name
    form, probe = detect(Source(str(path)))
    assert form.name == "bag" and probe.proposal is not None
    confirmed = json.loads(json.dumps(probe.proposal))
    assert confirmed["map"]["columns"]["observation.state"] == [
        "/joint_states.position",
        "/gripper/joint_states.position",
    ]
    assert confirmed["map"]["columns"]["action"] == "/joint_command.position"
    assert confirmed["clock"] == "/joint_states"
    if name.endswith("mcap"):  # its images are three bytes each
        assert any(note.startswith("/camera/image_raw: an image is not decodable") for note in probe.notes)
    probe, episodes = read(path, **confirmed)
    episode = episodes[name]
    arm = theirs(path, "/joint_states", lambda m: m.position.tolist())
    grip = theirs(path, "/gripper/joint_states", lambda m: m.position.tolist())
    steps = [time for time, _ in arm]
    expected = [a + b for a, b in zip(brute(arm, steps)[0], brute(grip, steps)[0], strict=True)]
    assert column(episode, "observation.state") == expected
    command = theirs(path, "/joint_command", lambda m: m.position.tolist())
    assert (column(episode, "action"), column(episode, "action.age_s")) == brute(command, steps)
    assert probe.fps == 20.0
    assert probe.features[0].components == ("joint_1", "joint_2", "joint_3", "gripper")
    assert episode.attributes == {"start_ns": 1_700_000_000 * SECOND, "clock": "/joint_states", "stamp": "log"}


TIMES = st.lists(st.integers(0, 3000), min_size=1, max_size=25)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(KINDS), arm=TIMES, cmd=TIMES, late=st.integers(0, 50), age=st.none() | st.floats(0, 1),
    fps=st.none() | st.sampled_from([5.0, 30.0]), headers=st.booleans(),
)  # fmt: skip
def test_alignment_is_the_brute_force_one(tmp_path_factory, kind, arm, cmd, late, age, fps, headers) -> None:
    """Any rates, jitter, gaps, doubles and order: times in ms as logged; stamps ``late`` ms before, jumbled."""
    folder = tmp_path_factory.mktemp("bag")
    stamps = [START + ((t * 7 + late) % 3001) * 1_000_000 if headers else START + t * 1_000_000 for t in arm]
    commands = [START + ((t * 5 + late) % 3001) * 1_000_000 if headers else START + t * 1_000_000 for t in cmd]
    order = sorted(range(len(arm)), key=lambda i: arm[i])
    path = write(
        folder / "a", kind,
        {
            "/arm": (JOINTS, [(START + arm[i] * 1_000_000, joints([i, -i], stamp=headers and stamps[i]))
                              for i in order]),
            "/cmd": (JOINTS, [(START + t * 1_000_000, joints([i], stamp=commands[i] if headers else 0))
                              for i, t in sorted(enumerate(cmd), key=lambda item: item[1])]),
        },
    )  # fmt: skip
    given = {
        "columns": {
            "state": ["/arm.position", "/cmd.position[0:1]"],
            "other": "/cmd.velocity",
        }
    }
    episode = one(path, map=given, max_age_s=age, fps=fps or 30.0, **({"clock": "fps"} if fps else {"clock": "/arm"}))
    rows_a = [(stamps[i], [float(i), -float(i)]) for i in order]
    rows_c = [(commands[i], float(i)) for i, t in sorted(enumerate(cmd), key=lambda item: item[1])]
    if fps:
        first, last = min(stamps + commands), max(stamps + commands)
        count = int((last - first) / 1e9 * fps + 1e-6) + 1
        steps = [step for k in range(count) if (step := first + round(k * 1e9 / fps)) <= last]
    else:
        steps = sorted(set(stamps))
    values_a, ages_a = brute(rows_a, steps)
    values_c, ages_c = brute(rows_c, steps)
    ages = [None if a is None or c is None else max(a, c) for a, c in zip(ages_a, ages_c, strict=True)]
    fresh = [a is not None and (age is None or a <= age) for a in ages]
    expected = [[*a, c] if ok else None for a, c, ok in zip(values_a, values_c, fresh, strict=True)]
    assert column(episode, "state") == expected
    assert column(episode, "state.age_s") == ages
    young = [a is not None and (age is None or a <= age) for a in ages_c]
    assert column(episode, "other") == [[2 * c] if ok else None for c, ok in zip(values_c, young, strict=True)]
    np.testing.assert_allclose(column(episode, "timestamp"), (np.array(steps) - steps[0]) / 1e9, rtol=0, atol=1e-12)
    assert episode.attributes["stamp"] == ("header" if headers else "log")


def drive(n: int = 20, stamp: int = 0) -> dict[str, Any]:
    return {
        "/arm": (JOINTS, [(START + i * TICK, joints([i, -i], stamp=stamp and stamp + i * TICK)) for i in range(n)]),
        "/cmd_vel": (TWIST, [(START + i * 50_000_000 + 10, twist(i, -i)) for i in range(n)]),
    }  # fmt: skip


def test_which_stamps_count_is_said_with_its_reason(tmp_path: Path) -> None:
    state = {"columns": {"state": "/arm.position"}}
    stamped = write(tmp_path / "a", "mcap", drive(stamp=1000 * SECOND))
    episode = one(stamped, map=state)
    assert episode.attributes["start_ns"] == 1000 * SECOND
    assert "stamps are the headers', which every message has" in episode.notes
    both = one(stamped, map=ARM)
    assert both.attributes["start_ns"] == START
    assert "stamps are log times: not every message of /cmd_vel has a header's stamp" in both.notes
    assert one(stamped, map=state, stamp="log").attributes["start_ns"] == START
    _, episodes = read(stamped, map=ARM, stamp="header")
    assert episodes["a.mcap"].code == "no_stamp" and "/cmd_vel" in episodes["a.mcap"].reason
    topics = drive(stamp=1000 * SECOND)
    topics["/arm"][1][7] = (topics["/arm"][1][7][0], joints([7, -7]))  # one without
    episode = one(write(tmp_path / "b", "sqlite", topics), map=state)
    assert "stamps are log times: not every message of /arm has a header's stamp" in episode.notes
    path = write_mcap(tmp_path / "c.mcap", ros2(drive()))
    assert one(path, map=ARM, stamp="publish").attributes["start_ns"] == START - 1_000_000
    _, episodes = read(tmp_path / "b", map=ARM, stamp="publish")
    assert episodes["b"].code == "no_stamp"


def test_jumps_doubles_and_disorder_are_told(tmp_path: Path) -> None:
    times = [0, 50, 100, 100, 90, 150, 9000, 9050]
    path = write(tmp_path / "a", "mcap", {
        "/arm": (JOINTS, [(START + i, joints([i], stamp=START + t * 1_000_000)) for i, t in enumerate(times)]),
    })  # fmt: skip
    episode = one(path, map={"columns": {"state": "/arm.position"}}, fps=20)
    assert column(episode, "state") == [[0.0], [1.0], [4.0], [3.0], [5.0], [6.0], [7.0]]  # the last of two at 100 ms
    assert "/arm: 1 messages are stamped before the one that they follow, by up to 0.01 s" in episode.notes
    assert "/arm: 1 messages share a stamp with another; the last of each counts" in episode.notes
    assert "/arm: the clock leaps by 8.85 s after step 4" in episode.notes


def test_joints_are_taken_by_name(tmp_path: Path) -> None:
    rows = [
        (START, joints([1, 2, 3], ["a", "b", "c"])),
        (START + 10, joints([30, 10, 20], ["c", "a", "b"])),
        (START + 20, joints([9], ["gripper"])),
        (START + 30, joints([100, 200, 300], ["a", "b", "c"])),
    ]
    path = write(tmp_path / "a", "ros1", {"/arm": (JOINTS, rows)})
    probe, episodes = read(path, map={"columns": {"observation.state": "/arm.position[1:3]"}}, fps=10)
    episode = episodes["a.bag"]
    assert column(episode, "observation.state") == [[2.0, 3.0], [20.0, 30.0], [20.0, 30.0], [200.0, 300.0]]
    assert column(episode, "observation.state.age_s") == [0.0, 0.0, 1e-8, 0.0]
    assert probe.features[0].components == ("b", "c")
    assert (
        "/arm: 1 messages hold another width or other joints in /arm.position[1:3] and are passed over" in episode.notes
    )


def test_fields_nested_messages_and_whole_topics(tmp_path: Path) -> None:
    def plan(store):
        points = [
            of(store, "trajectory_msgs/msg/JointTrajectoryPoint", positions=np.array([p, p + 1]),
               velocities=np.empty(0),
               accelerations=np.empty(0), effort=np.empty(0),
               time_from_start=of(store, "builtin_interfaces/msg/Duration", sec=1, nanosec=5))
            for p in (1.0, 2.0)
        ]  # fmt: skip
        return of(
            store,
            "trajectory_msgs/msg/JointTrajectory",
            header=joints([])(store).header,
            joint_names=["u", "v"],
            points=points,
        )

    topics = {
        **drive(3),
        "/plan": ("trajectory_msgs/msg/JointTrajectory", [(START, plan)]),
        "/flag": ("std_msgs/msg/Bool", [(START, plain("std_msgs/msg/Bool", data=True))]),
        "/word": ("std_msgs/msg/String", [(START, plain("std_msgs/msg/String", data="pick ä"))]),
    }
    columns = {
        "whole": "/cmd_vel", "turn": "/cmd_vel.angular.z", "linear": "/cmd_vel.linear",
        "goal": "/plan.points.1.positions",
        "when": "/plan.points.0.time_from_start", "terminated": "/flag.data", "word": "/word.data",
    }  # fmt: skip
    facts = {"task": "/word.data", "language": "=pick it", "success": "/flag.data", "operator": "=ann"}
    probe, episodes = read(
        write(tmp_path / "a", "sqlite", topics), map={"columns": columns, "episode": facts}, clock="/cmd_vel"
    )
    episode = episodes["a.db3"]
    assert column(episode, "whole")[2] == [2.0, 0.0, 0.0, 0.0, 0.0, -2.0]
    assert column(episode, "turn") == [0.0, -1.0, -2.0] and column(episode, "linear")[1] == [1.0, 0.0, 0.0]
    assert column(episode, "goal")[0] == [2.0, 3.0] and column(episode, "when")[0] == SECOND + 5
    assert column(episode, "terminated") == [True] * 3 and column(episode, "word") == ["pick ä"] * 3
    named = {feature.name: feature for feature in probe.features}
    assert named["whole"].components == ("linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")
    assert named["goal"].components == ("u", "v") and named["when"].dtype == "int64"
    assert (episode.task, episode.language, episode.success, episode.operator) == ("pick ä", ("pick it",), True, "ann")


@pytest.mark.parametrize("kind", KINDS)
def test_cameras_show_the_newest_frame_of_each_step(tmp_path: Path, kind: str) -> None:
    rgb = frames(9)
    topics = {
        **drive(20),
        "/cam/image_raw": (IMAGE, [(START + 120_000_000 + i * 90_000_000, image(f)) for i, f in enumerate(rgb)]),
        "/wrist/compressed": (CODED, [(START + i * 200_000_000, coded(f)) for i, f in enumerate(rgb)]),
    }  # fmt: skip
    path = write(tmp_path / "a", kind, topics)
    _, probe = detect(Source(str(path)))
    assert probe.proposal["map"]["cameras"] == {"cam": "/cam/image_raw", "wrist": "/wrist/compressed"}
    probe, episodes = read(path, **probe.proposal, max_age_s=0.1)
    episode = next(iter(episodes.values()))
    steps = [START + i * 50_000_000 for i in range(20) if i * 50 >= 120]
    assert len(episode.steps) == len(steps) and column(episode, "timestamp")[0] == 0.0
    assert "3 steps before the first frame of /cam/image_raw are left out" in episode.notes
    assert any(note.startswith("camera wrist: ") and "older than 0.1 s" in note for note in episode.notes)
    for name, topic in (("cam", "/cam/image_raw"), ("wrist", "/wrist/compressed")):
        stamped = [(time, at) for at, (time, _) in enumerate(topics[topic][1])]
        chosen, ages = brute(stamped, steps)
        for _ in range(2):  # frames come afresh each time
            np.testing.assert_array_equal(list(episode.cameras[name].frames()), rgb[chosen])
        assert column(episode, f"observation.images.{name}.age_s") == ages
        assert (episode.cameras[name].height, episode.cameras[name].width) == (16, 24)
    assert {f.name: f.shape for f in probe.features}["observation.images.cam"] == (16, 24, 3)


def test_images_stay_in_the_bag_until_they_are_asked_for(tmp_path: Path) -> None:
    rgb = frames(60, 256, 256)
    topics = {**drive(60), "/cam": (IMAGE, [(START + i * 50_000_000, image(frame)) for i, frame in enumerate(rgb)])}
    path = write_mcap(tmp_path / "a.mcap", ros2(topics), chunk_size=300_000)
    given = {**ARM, "cameras": {"cam": "/cam"}}
    one(path, map=given)
    tracemalloc.start()
    episode = one(path, map=given)
    held = tracemalloc.get_traced_memory()[1]
    count = sum(1 for _ in episode.cameras["cam"].frames())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (count, rgb.nbytes >> 20) == (60, 11)
    assert held < 5 << 20 and peak < 5 << 20


BOOL, STRING, BYTE, EMPTY = (f"std_msgs/msg/{name}" for name in ("Bool", "String", "UInt8", "Empty"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("of_type", "marks", "expected"),
    [
        (BOOL, [(1, False), (3, True), (5, True), (8, False), (11, True)], [(3, 8), (11, 20)]),
        (BYTE, [(2, 1), (4, 1), (6, 2), (9, 0), (12, 2), (14, 0)], [(2, 6), (6, 9), (12, 14)]),
        (STRING, [(4, "pick"), (9, "place")], [(4, 9), (9, 20)]),
        (EMPTY, [(0, None), (7, None), (18, None)], [(0, 7), (7, 18), (18, 20)]),
        (BOOL, [(3, False)], []),
    ],
)
def test_a_marker_cuts_episodes(tmp_path: Path, kind: str, of_type: str, marks, expected) -> None:
    made = [
        (START + at * 50_000_000, plain(of_type) if value is None and of_type == EMPTY else plain(of_type, data=value))
        for at, value in marks
    ]
    if of_type == EMPTY:
        made = [(time, lambda store: of(store, EMPTY)) for time, _ in made]
    path = write(tmp_path / "a", kind, {**drive(20), "/mark": (of_type, made)})
    probe, episodes = read(path, map=ARM, cut={"marker": "/mark"})
    assert [ref.key for ref in probe.episodes] == [f"{path.name}#{at:04d}" for at in range(len(expected))]
    for (start, stop), episode in zip(expected, episodes.values(), strict=True):
        assert [state[0] for state in column(episode, "observation.state")] == list(map(float, range(start, stop)))
        assert column(episode, "action")[0] is None  # what was said before the cut is not carried over
        assert column(episode, "timestamp")[0] == 0.0
    if of_type == STRING:
        assert [episode.attributes["marker"] for episode in episodes.values()] == ["pick", "place"]
    if not expected:
        assert any("has no cut" in note for note in probe.notes)


@pytest.mark.parametrize("clock", [None, "fps"])
def test_a_gap_cuts_episodes(tmp_path: Path, clock: str | None) -> None:
    def late(time: int) -> int:
        return time + (7 * SECOND if time > START + 5 * 50_000_000 + 20 else 0)

    topics = {name: (kind, [(late(time), make) for time, make in rows]) for name, (kind, rows) in drive(12).items()}
    path = write(tmp_path / "a", "mcap", topics)
    _, episodes = read(path, map=ARM, cut={"gap_s": 5}, fps=20, clock=clock)
    assert [len(episode.steps) for episode in episodes.values()] == [6, 6]
    assert column(list(episodes.values())[1], "observation.state")[0] == [6.0, -6.0]
    _, episodes = read(path, map=ARM, cut={"gap_s": 8}, fps=20, clock=clock)
    assert len(episodes) == 1


def test_a_folder_of_bags_with_broken_ones(tmp_path: Path) -> None:
    write(tmp_path / "a", "ros1", drive(5))
    write(tmp_path / "b", "mcap", drive(6))
    write(tmp_path / "c", "sqlite", {})  # not one message
    write(tmp_path / "d", "ros1", {"/arm": drive(4)["/arm"]})
    write(tmp_path / "e", "mcap", {**drive(4), "/arm": (JOINTS, [(START + i, joints([1, 2, 3, 4])) for i in range(4)])})
    (tmp_path / "f.mcap").write_bytes(b"nothing of the kind")
    (tmp_path / "g.bag").write_bytes((tmp_path / "a.bag").read_bytes()[:5000])
    probe, episodes = read(tmp_path, map=ARM)
    assert [ref.key for ref in probe.episodes] == ["a.bag", "b", "c", "d.bag", "e", "f.mcap", "g.bag"]
    found = {key: getattr(item, "code", "ok") for key, item in episodes.items()}
    assert found == {"a.bag": "ok", "b": "ok", "c": "empty_episode", "d.bag": "missing_column", "e": "missing_column",
                     "f.mcap": "bad_bag", "g.bag": "empty_episode"}  # fmt: skip
    assert (len(episodes["a.bag"].steps), len(episodes["b"].steps)) == (5, 6)


def test_a_wrong_definition_makes_one_bad_episode(tmp_path: Path) -> None:
    made = ros2(drive(5, stamp=START))
    short = b"string[] name\nfloat64[] position"  # without the header
    name, encoding, how, _, rows = made["/arm"]
    write_mcap(tmp_path / "a.mcap", made)
    write_mcap(
        tmp_path / "b.mcap",
        {**made, "/arm": (name, encoding, how, short, rows)},
    )
    hostile = b"float64 __import__('os').system('touch /tmp/never')"
    write_mcap(tmp_path / "c.mcap", {**made, "/arm": (name, encoding, how, hostile, rows)})
    _, episodes = read(tmp_path, map=ARM)
    assert [getattr(item, "code", "ok") for item in episodes.values()] == ["ok", "bad_message", "bad_definition"]
    assert not Path("/tmp/never").exists()
    _, probe = detect(Source(str(tmp_path / "c.mcap")))
    assert any("defines nothing" in note for note in probe.notes) and "/arm.position" not in str(probe.proposal["map"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map": {"columns": {"a": "/nothing.position"}}}, "and no topic is called so.*known: /arm, /cmd_vel"),
        ({"map": {"columns": {"a": "/arm.posture"}}}, "has no field 'posture'; it has header, name, position"),
        ({"map": {"columns": {"a": "/arm"}}}, "more than numbers.*name a field: /arm.name, /arm.position"),
        ({"map": {"columns": {"a": "/arm.name"}}}, "or texts"),
        ({"map": {"columns": {"a": "/arm.effort"}}}, "empty in its first message"),
        ({"map": {"columns": {"a": "/arm.position[1:3]"}}}, "leaves its 2 entries"),
        ({"map": {"columns": {"a": "/cmd_vel.linear.x[0:1]"}}}, "one value and has no range"),
        ({"map": {"cameras": {"a": "/arm"}}}, "is no image topic but of sensor_msgs/msg/JointState"),
        ({"map": {}}, "names no column and no camera"),
        ({"map": ARM, "clock": "/away"}, "no topic is called so"),
        ({"map": ARM, "clock": "fps"}, "an even clock needs a rate"),
        ({"map": {**ARM, "clock": "/arm"}}, "clock is an option"),
    ],
)  # fmt: skip
def test_wrong_options_get_one_clear_line(tmp_path: Path, options, message: str) -> None:
    path = write(tmp_path / "a", "mcap", drive(5))
    with pytest.raises((RequestError, SourceError), match=message) as raised:
        Bags(**options).probe(Source(str(path)))
    assert "\n" not in str(raised.value)


def test_topics_with_dots_and_other_scripts(tmp_path: Path) -> None:
    topics = {
        "/a": (TWIST, [(START, twist(1)), (START + SECOND, twist(1))]),
        "/a.b": drive(2)["/arm"],
        "/ロボット": drive(3)["/arm"],
    }
    path = write(tmp_path / "a", "mcap", topics)
    given = {"columns": {"x": "/a.linear.x", "y": "/a.b.position", "z": "/ロボット.position[0:1]"}}
    episode = one(path, map=given, clock="/ロボット", fps=20)
    assert column(episode, "x") == [1.0] * 3 and column(episode, "z") == [[0.0], [1.0], [2.0]]
    assert column(episode, "y")[1] == [1.0, -1.0]


def test_a_source_of_another_kind_is_not_claimed(tmp_path: Path, shared_data: Path) -> None:
    for path in (tmp_path, shared_data / "g1_lerobot_v21", shared_data / "README.md", shared_data / "metaworld_tiers"):
        assert Bags().probe(Source(str(path))) is None


@pytest.mark.parametrize("kind", KINDS)
def test_over_http_it_is_the_same(s3: str, tmp_path: Path, kind: str) -> None:
    import fsspec

    from data_engine.fs import options

    rgb = frames(4)
    topics = {**drive(8), "/cam": (IMAGE, [(START + i * 80_000_000, image(frame)) for i, frame in enumerate(rgb)])}
    path = write(tmp_path / "a", kind, topics)
    place = path if kind == "ros1" else path.parent
    fsspec.filesystem("s3", **options(s3).fsspec).put(str(place), f"{s3}/{place.name}", recursive=kind != "ros1")
    given = {**ARM, "cameras": {"cam": "/cam"}}
    here, there = one(place, map=given), one(f"{s3}/{place.name}", map=given)
    assert there.key == here.key and there.steps.equals(here.steps)
    np.testing.assert_array_equal(list(there.cameras["cam"].frames()), list(here.cameras["cam"].frames()))
    assert isinstance(here.steps, pa.Table)
