"""MIXTURE CACHE SECONDS ROUNDS: random frames a second of PyAV's own seek and decode to RGB, one thread.

The frames are those that MixtureDataset gives, in the same order.
"""

import sys

import av
import numpy as np

from benchmarks.rival_scripts.figures import Work
from data_engine import mixture as mixtures
from data_engine.loader import MixtureDataset, Windows


class Video:
    """One file, opened once."""

    def __init__(self, path: str) -> None:
        self.container = av.open(path)
        self.stream = self.container.streams.video[0]
        self.stream.codec_context.thread_count = 1

    def frame(self, seconds: float) -> np.ndarray:
        """uint8 [h, w, 3]: the frame shown at ``seconds``."""
        ticks = round(seconds / self.stream.time_base)
        self.container.seek(ticks, stream=self.stream)
        for frame in self.container.decode(self.stream):
            if frame.pts is not None and frame.pts >= ticks:
                return frame.to_ndarray(format="rgb24")
        raise ValueError(f"no frame at {seconds} s")


def main() -> None:
    mixture, limit = mixtures.open(sys.argv[1], cache_dir=sys.argv[2]), float(sys.argv[3])
    rounds = int(sys.argv[4])
    samples = MixtureDataset(mixture, Windows(cameras=())).samples
    rows, offsets = samples.locate(0, np.arange(samples.size(0)))
    spans = [videos[0] for videos in mixture.episodes["videos"].to_pylist()]
    files = {span["blob"]: Video(mixture.local(span["blob"])) for span in spans}

    def frame(k: int) -> np.ndarray:
        span = spans[rows[k % len(rows)]]
        return files[span["blob"]].frame(span["start_s"] + offsets[k % len(rows)] / span["fps"])

    for k in range(64):
        frame(k)
    work, frames, rates = Work(), 0, []
    for _ in range(rounds):
        part, before = Work(), frames
        while part.seconds < limit:
            frame(frames)
            frames += 1
        rates.append((frames - before) / part.seconds)
    work.report("PyAV", "seek and decode", frames, rates=rates)


if __name__ == "__main__":
    main()
