from __future__ import annotations

import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.model import EPISODES, TIMESTAMP, Dataset, Feature
from data_engine.outages import Outage
from data_engine.scoring import EpisodeBatch
from scorers.sampling import decoded, plan

FPS = 10.0


def batch_of(lengths, cameras=("a", "b"), *, shared=True, frames=None, **columns) -> EpisodeBatch:
    """Episodes of which every camera has frames; of one file a camera where ``shared``, else of one each."""
    rows, start = [], 0.0
    for number, n in enumerate(lengths):
        videos = [
            {"camera": camera, "blob": f"videos/{camera}-{'x' if shared else number}.mp4", "start_s": start, "fps": FPS}
            for camera in cameras
        ]
        rows.append({"episode_id": f"ep{number}", "content_hash": f"{number}", "n_steps": n, "videos": videos})
        start += n / FPS
    features = tuple(Feature(name=f"observation.images.{camera}", dtype="video", shape=(4, 4, 3)) for camera in cameras)
    steps = {TIMESTAMP: np.concatenate([np.arange(n) / FPS for n in lengths]), **columns}
    return EpisodeBatch(
        Dataset(name="set", fps=FPS, features=features, origin="-", format="-"),
        pa.Table.from_pylist(rows, schema=EPISODES),
        pa.table(steps),
        np.r_[0, np.cumsum(lengths)].astype(np.int64),
        frames=frames or shown,
    )


def shown(episode: int, camera: str, times) -> np.ndarray:
    """Frames that say what they are of: (episode, camera, tenth of a second)."""
    said = [[episode, ord(camera), round(time * FPS)] for time in times]
    return np.broadcast_to(np.array(said, np.uint8)[:, None, None], (len(times), 4, 4, 3))


def gathered(batch, size=8, threads=1, **asked):
    """{(episode, camera, step): frame} of everything decoded, and the batches as sets of what they hold."""
    wants = plan(batch, **asked)
    found, batches = {}, set()
    for part in decoded(batch, wants, lambda frame: frame[::2, ::2], (2, 2), size, threads):
        assert len(part.frames) <= size
        keys = [
            (wants[w].episode, wants[w].camera, int(wants[w].steps[at]))
            for w, at in zip(part.wants.tolist(), part.at.tolist(), strict=True)
        ]
        assert not found.keys() & set(keys)
        found |= dict(zip(keys, part.frames, strict=True))
        batches.add(tuple(keys))
    return found, batches


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 20), st.integers(1, 4), st.booleans(),
)  # fmt: skip
def test_every_step_is_shown_once_whatever_the_threads(lengths, size, threads, shared):
    batch = batch_of(lengths, shared=shared)
    found, batches = gathered(batch, size, threads, every_s=None)
    assert set(found) == {(e, camera, step) for e, n in enumerate(lengths) for camera in "ab" for step in range(n)}
    for (episode, camera, step), frame in found.items():
        assert frame.shape == (2, 2, 3)
        assert frame[0, 0].tolist() == [episode, ord(camera), step]
    assert batches == gathered(batch, size, 1, every_s=None)[1]


def test_a_rate_takes_the_steps_at_its_multiples_and_each_stands_until_the_next():
    (want,) = plan(batch_of([23], cameras=("a",)), every_s=0.5)
    assert want.steps.tolist() == [0, 5, 10, 15, 20]
    assert want.stops.tolist() == [5, 10, 15, 20, 23]
    assert want.times.tolist() == pytest.approx([0, 0.5, 1, 1.5, 2])
    (want,) = plan(batch_of([10], cameras=("a",)), every_s=0.15)  # between the clock's ticks: right on average
    assert want.steps.tolist() == [0, 2, 3, 5, 6, 8, 9]


def test_a_cameras_own_clock_and_steps_without_a_time():
    clock = np.array([0.05, np.nan, 0.25, 0.35])
    (want,) = plan(batch_of([4], cameras=("a",), **{"frame_time.a": clock}), every_s=None)
    assert want.steps.tolist() == [0, 2, 3]
    assert want.times.tolist() == [0.05, 0.25, 0.35]


def test_cameras_can_be_named_and_absent_ones_are_no_error():
    batch = batch_of([3, 2])
    assert {want.camera for want in plan(batch, None, ["b"])} == {"b"}
    assert plan(batch, None, ["c"]) == []
    assert gathered(batch, every_s=None, cameras=["c"])[0] == {}


def test_a_video_is_read_in_order_and_by_one_thread():
    seen, lock = [], threading.Lock()

    def frames(episode, camera, times):
        with lock:
            seen.append((threading.get_ident(), camera, episode, list(times)))
        return shown(episode, camera, times)

    gathered(batch_of([300, 300, 300], frames=frames), 16, 4, every_s=None)
    for camera in "ab":
        mine = [(thread, episode, times) for thread, name, episode, times in seen if name == camera]
        assert len({thread for thread, _, _ in mine}) == 1
        order = [(episode, time) for _, episode, times in mine for time in times]
        assert order == sorted(order)


def test_one_video_that_does_not_decode_is_named_and_the_rest_goes_on():
    def frames(episode, camera, times):
        if (episode, camera) == (1, "a"):
            raise SourceError("the frame at 0.3 s cannot be decoded")
        return shown(episode, camera, times)

    batch = batch_of([9, 9, 9], frames=frames)
    wants = plan(batch, None)
    failed, count = {}, 0
    for part in decoded(batch, wants, lambda frame: frame, (4, 4), 8):
        failed |= part.failed
        count += len(part.frames)
    assert {(wants[w].episode, wants[w].camera): reason for w, reason in failed.items()} == {
        (1, "a"): "the frame at 0.3 s cannot be decoded"
    }
    assert count == 54


@pytest.mark.parametrize("error", [Outage("gone"), MemoryError("full")])
def test_what_is_no_ones_fault_is_raised(error):
    def frames(episode, camera, times):
        raise error

    with pytest.raises(type(error)):
        gathered(batch_of([9], frames=frames), every_s=None)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_only_a_few_batches_are_held_however_long_the_episodes():
    size, threads, total = 8, 3, 4 * 800
    seen, lock = [], threading.Lock()

    def frames(episode, camera, times):
        with lock:
            seen.extend(times)
        return shown(episode, camera, times)

    batch = batch_of([800] * 4, cameras=("a",), shared=False, frames=frames)
    stream = decoded(batch, plan(batch, None), lambda frame: frame, (4, 4), size, threads)
    for taken in range(1, 4):
        next(stream)
        before = -1
        while before != len(seen):  # until the decoders wait for the model
            before = len(seen)
            time.sleep(0.05)
        assert len(seen) <= (taken + 3 * threads) * size < total
    stream.close()


def test_leaving_early_ends_the_threads():
    batch = batch_of([200] * 4)
    stream = decoded(batch, plan(batch, None), lambda frame: frame, (4, 4), 8, 3)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
