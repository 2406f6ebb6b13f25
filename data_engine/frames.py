"""Video frames of a batch of samples: requests grouped by file, decoded in a few threads."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from data_engine.cache import LRU
from data_engine.errors import RequestError, SourceError
from data_engine.mixture import Mixture
from data_engine.video import FrameReader

__all__ = ["Frames"]

_MOST_THREADS = 4  # decoders a process; more gain little beside a loader's own workers
_LEAST_FRAMES = 8  # frames worth a thread of their own
_OPEN_READERS = 64


class Frames:
    """The videos of a mixture's rows. Readers and threads are made in the process that uses them.

    ``size``: (height, width) to which frames are scaled, each as it is coded by default.
    """

    def __init__(self, mixture: Mixture, size: tuple[int, int] | None = None, threads: int | None = None) -> None:
        self.mixture, self.size = mixture, size
        self.threads = threads or min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        self._process = -1

    def __getstate__(self) -> dict[str, object]:
        return {"mixture": self.mixture, "size": self.size, "threads": self.threads}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read(self, camera: str, rows: np.ndarray, times: np.ndarray) -> np.ndarray:
        """uint8 [n, H, h, w, 3] at ``times`` (float64 [n, H], seconds of the episode) of mixture rows ``rows`` [n].

        A frame is the one nearest the time, within half a frame. Raises ``RequestError`` where the frames of a batch
        have unlike sizes, ``SourceError`` where a row has no such camera or the video no such frame.
        """
        if self._process != os.getpid():  # a fork shares neither threads nor a decoder's state
            self._process = os.getpid()
            self._readers: LRU[tuple[str, int], FrameReader] = LRU(
                _OPEN_READERS, lambda key: FrameReader(self.mixture.local(key[0]), self.size)
            )
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="frames")
        video = self.mixture.coded.video(camera)
        n, history = times.shape
        row = np.repeat(rows, history)
        if video is None or np.isnan(video[2][row]).any():
            missing = int(row[0] if video is None else row[np.isnan(video[2][row]).argmax()])
            episode = self.mixture.episodes["episode_id"][missing].as_py()
            raise SourceError(f"episode {episode} has no camera {camera!r}", code="no_camera")
        blobs, code, start = video
        at = times.reshape(-1) + start[row]
        codes, file = np.unique(code[row], return_inverse=True)
        names = [blobs[number].as_py() for number in codes.tolist()]
        parts = []
        for number, name in enumerate(names):
            mine = np.flatnonzero(file == number)
            mine = mine[np.argsort(at[mine], kind="stable")]
            share = min(-(-self.threads // len(names)), max(len(mine) // _LEAST_FRAMES, 1))
            for slot, piece in enumerate(np.array_split(mine, share)):
                parts.append((self._readers((name, slot)), piece))
        sizes = sorted({reader.size for reader, _ in parts})
        if len(sizes) > 1:
            raise RequestError(
                f"camera {camera!r} comes in sizes {sizes} in one batch",
                code="unlike_cameras",
                fix="scale them: Windows(frame_size=(HEIGHT, WIDTH))",
            )
        out = np.empty((n * history, *sizes[0], 3), np.uint8)

        def decode(part: tuple[FrameReader, np.ndarray]) -> None:
            out[part[1]] = part[0].at(at[part[1]])

        if len(parts) == 1:
            decode(parts[0])
        else:
            list(self._pool.map(decode, parts))
        return out.reshape(n, history, *out.shape[1:])
