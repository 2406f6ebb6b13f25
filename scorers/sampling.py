"""Which frames of a batch are looked at, and the pipeline that decodes them ahead of the model that looks.

The plan is made first: every frame wanted, in the order of the videos and of time, cut into batches of one size. What
is in a batch depends on the plan alone, never on which thread was faster, so that a model's sums round alike. Threads
decode runs of whole batches, each with readers of its own; a run ends where a video does as far as that can be, so that
a video is decoded once. Memory holds a few batches, however long the episodes are.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from data_engine.errors import SourceError
from data_engine.model import TIMESTAMP
from data_engine.outages import is_outage
from data_engine.scoring import EpisodeBatch

__all__ = ["Shown", "Want", "decoded", "decoders", "plan"]

_RUN = 512  # frames that a thread takes on at once, at least
_AHEAD = 2  # batches a thread that wait for the model
_PIECE = 16  # frames decoded at once: 15 MB at 640x480
_MOST_THREADS = 16
_SLACK = 0.01  # of a period: clocks count in floats

Prepare = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Want:
    """Frames of one camera of one episode: ``steps`` int64 [m] ascending, and their ``times`` float64 [m] in seconds
    of the episode. Vector i stands for the steps ``steps[i]:stops[i]``. ``video`` is (blob, start in it, in seconds).
    """

    episode: int
    camera: str
    steps: np.ndarray
    stops: np.ndarray
    times: np.ndarray
    video: tuple[str, float]

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class Shown:
    """One batch: ``frames`` uint8 [n, h, w, 3] as the model takes them, row i of want ``wants[i]``'s frame ``at[i]``.

    ``failed``: by want, why its frames of this batch are black instead.
    """

    frames: np.ndarray
    wants: np.ndarray
    at: np.ndarray
    failed: dict[int, str]


def plan(batch: EpisodeBatch, every_s: float | None, cameras: Sequence[str] | None = None) -> list[Want]:
    """What to look at, in the order of (video, time in it).

    ``every_s``: the first step at or after each multiple of so many seconds from the first; None takes each step.
    ``cameras``: those of the dataset unless named. A step without a time is not looked at.
    """
    names = batch.dataset.cameras if cameras is None else cameras
    videos = batch.episodes.column("videos").to_pylist()
    clocks: dict[str, np.ndarray | None] = {}
    wants = []
    for episode, span in enumerate(batch):
        found = {video["camera"]: video for video in videos[episode] or []}
        for camera in names:
            if camera not in found or span.stop == span.start:
                continue
            clock = f"frame_time.{camera}"
            name = clock if clock in batch.steps.column_names else TIMESTAMP
            if name not in clocks:
                clocks[name] = batch.array(name)
            column = clocks[name]
            n = span.stop - span.start
            times = np.arange(n) / batch.dataset.fps if column is None else column[span, 0]
            steps, stops = _taken(times, every_s)
            if len(steps):
                video = (found[camera]["blob"], float(found[camera]["start_s"]))
                wants.append(Want(episode, camera, steps, stops, times[steps], video))
    return sorted(wants, key=lambda want: (want.video, want.episode, want.camera))


def _taken(times: np.ndarray, every_s: float | None) -> tuple[np.ndarray, np.ndarray]:
    """(the steps taken, where what each stands for ends), int64, of the steps at ``times`` [n], NaN unknown."""
    known = np.flatnonzero(np.isfinite(times))
    if every_s is not None and len(known):
        tick = np.floor((times[known] - times[known[0]]) / every_s + _SLACK)
        due = np.append(True, tick[1:] > np.maximum.accumulate(tick)[:-1])
        steps = known[due]
        return steps, np.append(steps[1:], len(times))
    return known, known + 1


def decoders(cpus: int) -> int:
    """Threads to decode in beside a model that computes in ``cpus``: the cores that are left, 1 at least."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores - cpus, 1), _MOST_THREADS)


def decoded(
    batch: EpisodeBatch, wants: Sequence[Want], prepare: Prepare, shape: tuple[int, int], size: int, threads: int = 1
) -> Iterator[Shown]:
    """The frames of ``wants`` in batches of ``size``, decoded and made ready in ``threads`` beside the caller.

    ``prepare``: uint8 [h, w, 3] to uint8 [*shape, 3], called in the threads. Batches come in no fixed order; what is in
    each is fixed by the plan. An episode's camera that cannot be decoded is named in ``failed``, others go on; that a
    store did not answer is raised.
    """
    frames = batch.frames
    if frames is None or not wants:
        return
    runs = iter(_runs(wants, size))
    taking, stop = threading.Lock(), threading.Event()
    ready: queue.Queue[Shown | BaseException | None] = queue.Queue(_AHEAD * threads)

    def put(item: Shown | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            while not stop.is_set():
                with taking:
                    run = next(runs, None)
                if run is None:
                    break
                broken: dict[int, str] = {}
                for piece in run:
                    if stop.is_set():
                        return
                    put(_show(frames, wants, piece, prepare, shape, broken))
            put(None)
        except BaseException as error:  # the caller's to raise
            put(error)

    workers = [threading.Thread(target=work, name=f"decode-{n}", daemon=True) for n in range(threads)]
    for worker in workers:
        worker.start()
    try:
        left = threads
        while left:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        stop.set()
        for worker in workers:
            worker.join()


Piece = list[tuple[int, int, int]]  # (want, first, last) of the frames of one batch


def _runs(wants: Sequence[Want], size: int) -> Iterator[list[Piece]]:
    """The plan in batches of ``size``, in runs that one thread decodes: a long one ends where its video does, with a
    smaller batch, and in the midst of it only when it is four times as long.
    """
    run: list[Piece] = []
    piece: Piece = []
    room, held, video = size, 0, ""
    for number, want in enumerate(wants):
        if held >= _RUN and want.video[0] != video:
            yield [*run, piece] if piece else run
            run, piece, room, held = [], [], size, 0
        video, first = want.video[0], 0
        while first < len(want):
            last = min(first + room, len(want))
            piece.append((number, first, last))
            room, held, first = room - (last - first), held + last - first, last
            if not room:
                run.append(piece)
                piece, room = [], size
                if held >= 4 * _RUN:
                    yield run
                    run, held = [], 0
    if run or piece:
        yield [*run, piece] if piece else run


def _show(
    frames: Callable[[int, str, Sequence[float]], np.ndarray],
    wants: Sequence[Want],
    piece: Piece,
    prepare: Prepare,
    shape: tuple[int, int],
    broken: dict[int, str],
) -> Shown:
    """Decode one batch. ``broken``: what could not be decoded in this run so far; it is not tried again."""
    count = sum(last - first for _, first, last in piece)
    out = np.zeros((count, *shape, 3), np.uint8)
    row = 0
    for number, first, last in piece:
        want = wants[number]
        for begin in range(first, last, _PIECE):
            end = min(begin + _PIECE, last)
            if number not in broken:
                try:
                    shown = frames(want.episode, want.camera, want.times[begin:end].tolist())
                    for i, frame in enumerate(shown):
                        out[row + i] = prepare(frame)
                except Exception as error:  # whatever a decoder raises on a broken stream is the finding
                    if is_outage(error) or isinstance(error, MemoryError):
                        raise
                    said = error.message if isinstance(error, SourceError) else f"{type(error).__name__}: {error}"
                    broken[number] = " ".join(said.split())[:500]
            row += end - begin
    named = np.repeat([number for number, _, _ in piece], [last - first for _, first, last in piece])
    at = np.concatenate([np.arange(first, last) for _, first, last in piece])
    return Shown(out, named, at, {number: broken[number] for number, _, _ in piece if number in broken})
