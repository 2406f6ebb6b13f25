from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError
from data_engine.outages import Outage
from data_engine.video import EncodeSettings, FrameReader, encode
from scorers.footage import BLACK, FROZEN, UNDECODABLE, Footage
from tests.squares import frame

FPS = 20.0


def film(n: int) -> np.ndarray:
    """uint8 [n, 64, 64, 3]: a square that goes to the right, row after row; no two frames are alike."""
    return np.stack([frame(i % 24 / 24, i // 24 / 24) for i in range(n)])


def motion(n: int, dims: int = 2) -> np.ndarray:
    return np.linspace(0, 1, n)[:, None] * np.ones(dims)


class Player:
    """Plays ``frames`` at ``FPS`` and counts them; those of steps ``broken`` do not decode."""

    def __init__(self, frames: np.ndarray, broken: range = range(0)) -> None:
        self.frames, self.broken, self.played = frames, broken, 0

    def __call__(self, times: list[float]) -> np.ndarray:
        steps = np.round(np.array(times) * FPS).astype(int)
        self.played += len(steps)
        if np.isin(steps, self.broken).any():
            raise OSError("broken stream")
        return self.frames[steps]


def found(frames, moved, looks: int = 8, least: int = 10, n: int | None = None) -> list[tuple[int, int, str]]:
    times = np.arange(n if n is not None else len(moved)) / FPS
    return list(Footage(frames, times, None if moved is None else (moved, moved)).defects(looks, least))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([BLACK, FROZEN, UNDECODABLE]))
def test_a_stretch_is_found_to_the_step_at_few_frames(data, wrong):
    n, looks = 120, 8
    length = data.draw(st.integers(-(-2 * n // (looks - 1)), n))
    start = data.draw(st.integers(0, n - length))
    frames = film(n)
    if wrong != UNDECODABLE:
        frames[start : start + length] = 0 if wrong == BLACK else frames[start]
    player = Player(frames, range(start, start + length) if wrong == UNDECODABLE else range(0))
    ((first, stop, reason),) = found(player, motion(n))
    assert (first, stop, reason) == (start, start + length, wrong)
    assert player.played <= looks + (looks - 1) + 2 * 5 + (looks + looks - 1 if wrong == UNDECODABLE else 0)


def test_a_sound_camera_costs_its_samples():
    player = Player(film(100))
    assert found(player, motion(100)) == []
    assert player.played == 8


def test_two_stretches_are_two():
    frames = film(200)
    frames[20:80] = 0
    frames[120:200] = frames[120]
    assert found(Player(frames), motion(200)) == [(20, 80, BLACK), (120, 200, FROZEN)]


def test_what_is_sound_between_two_bad_samples_parts_them():
    frames = film(141)  # samples every 20 steps
    frames[30:50], frames[55:75] = 0, 0
    assert found(Player(frames), motion(141)) == [(30, 50, BLACK), (55, 75, BLACK)]


def arms(n: int) -> np.ndarray:
    """The right of two arms moves."""
    return motion(n, 14) * np.r_[np.zeros(7), np.ones(7)]


@pytest.mark.parametrize(
    "moved",
    [np.zeros((100, 2)), 0.05 * motion(100), arms(100), np.zeros((100, 0)), np.full((100, 2), np.nan), None],
    ids=["at rest", "hardly", "one of two arms", "nothing ever moves", "not finite", "unknown"],
)
def test_a_still_scene_is_no_frozen_camera(moved):
    assert found(Player(film(1).repeat(100, axis=0)), moved, n=100) == []


def test_objects_at_rest_do_not_hide_that_the_robot_moves():
    state = motion(100, 6) * np.r_[1, 1, 0, 0, 0, 0]
    frozen = Player(film(1).repeat(100, axis=0))
    assert list(Footage(frozen, np.arange(100) / FPS, (state, motion(100))).defects(8, 10)) == [(0, 100, FROZEN)]
    assert list(Footage(frozen, np.arange(100) / FPS, (0 * state, motion(100))).defects(8, 10)) == []


def test_a_robot_that_is_back_where_it_was_is_seen_on_the_way():
    there = np.abs(np.sin(np.linspace(0, 7 * np.pi, 141)))  # at 0 at each of the samples
    frames = np.stack([frame(place) for place in there])
    assert found(Player(frames), there[:, None].repeat(2, axis=1)) == []


def test_noise_shows_that_a_camera_lives():
    noise = np.random.default_rng(0).integers(-6, 7, (100, 64, 64, 3))
    frames = np.clip(film(1).repeat(100, axis=0) + noise, 0, 255).astype(np.uint8)
    assert found(Player(frames), motion(100)) == []


def test_a_dark_scene_with_something_in_it_is_not_black():
    frames = np.full((100, 64, 64, 3), 12, np.uint8)
    frames[np.arange(100), 30, np.arange(100) % 64] = 200  # one pixel
    assert found(Player(frames), motion(100)) == []
    assert found(Player(np.full((100, 64, 64, 3), 16, np.uint8)), motion(100)) == [(0, 100, BLACK)]


def test_steps_without_a_time_are_not_looked_at():
    times = np.where(np.arange(100) % 3 == 1, np.nan, np.arange(100) / FPS)
    frames = film(100)
    frames[40:] = 0
    assert list(Footage(Player(frames), times, None).defects(8, 10)) == [(41, 100, BLACK)]
    assert list(Footage(Player(frames), np.full(100, np.nan), None).defects(8, 10)) == []


@pytest.mark.parametrize("error", [RequestError("no such camera"), Outage("no answer"), MemoryError()])
def test_what_is_not_the_video_s_fault_is_raised(error):
    def frames(times):
        raise error

    with pytest.raises(type(error)):
        found(frames, None, n=10)


@pytest.mark.parametrize("codec", ["libsvtav1", "libx264"])
def test_coding_does_not_wake_a_frozen_camera(tmp_path, codec):
    noise = np.random.default_rng(0).integers(-6, 7, (120, 64, 64, 3))
    frames = np.clip(film(120) + noise, 0, 255).astype(np.uint8)
    frames[30:90] = frames[30]
    encode(iter(frames), tmp_path / "film.mp4", FPS, EncodeSettings(codec=codec, crf=23, gop=50))
    with FrameReader(tmp_path / "film.mp4") as reader:
        ((start, stop, wrong),) = found(reader.at, motion(120))
    assert wrong == FROZEN
    assert abs(start - 30) <= 1
    assert abs(stop - 90) <= 1


def test_damaged_packets_are_a_stretch(tmp_path):
    path, broken = tmp_path / "film.mp4", tmp_path / "broken.mp4"
    encode(iter(film(120)), path, FPS, EncodeSettings(preset=12))
    data = bytearray(path.read_bytes())
    with FrameReader(path) as reader:
        at, size = reader._track._at, reader._track.size
        for packet in range(40, 80):
            data[at[packet] : at[packet] + size[packet]] = b"\xff" * int(size[packet])
    broken.write_bytes(data)
    with FrameReader(broken) as reader:
        assert found(reader.at, motion(120)) == [(40, 80, UNDECODABLE)]
