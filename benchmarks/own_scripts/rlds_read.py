"""SOURCE frames|values [PROCESSES]: episodes a second out of an RLDS set, with or without decoding the images.

Read twice, and the second time counts. With more than one process each reads whole shards and keeps what it read, as
the workers of an ingest do; ``cpu_s`` is of all of them.
"""

import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby

from benchmarks.rival_scripts.figures import Work, worker_mb
from data_engine.formats import EpisodeRef, Probe, Source, SourceEpisode
from data_engine.formats.rlds import RLDS


def read(uri: str, decode: bool, pool: ProcessPoolExecutor | None = None) -> tuple[int, float]:
    """How many episodes were read, and the processor seconds of those who read them, this process apart."""
    probe = RLDS().probe(Source(uri))
    assert probe is not None
    shards = [list(refs) for _, refs in groupby(probe.episodes, lambda ref: ref.files)]
    tasks = ((uri, probe.cut(refs), refs, decode) for refs in (shards if pool else [probe.episodes]))
    found = pool.map(shard, *zip(*tasks, strict=True)) if pool else (shard(*task) for task in tasks)
    numbers, seconds = zip(*found, strict=True)
    return sum(numbers), sum(seconds) if pool else 0.0


def shard(uri: str, probe: Probe, refs: Iterable[EpisodeRef], decode: bool) -> tuple[int, float]:
    """The same of ``refs``, read in this process."""
    began, n = time.process_time(), 0
    for episode in RLDS().read(Source(uri), probe, [ref.key for ref in refs]):
        assert isinstance(episode, SourceEpisode)
        n += 1
        if decode:
            for camera in episode.cameras.values():
                for _ in camera.frames():
                    pass
    return n, time.process_time() - began


def main() -> None:
    uri, decode, processes = sys.argv[1], sys.argv[2] == "frames", int((sys.argv[3:] or ["1"])[0])
    pool = ProcessPoolExecutor(processes) if processes > 1 else None
    warm = Work()
    read(uri, decode, pool)
    warm_up = warm.seconds
    work = Work()
    n, cpu = read(uri, decode, pool)
    more = {"cpu_s": time.process_time() - work.cpu + cpu} | ({"worker_mb": worker_mb()} if pool else {})
    work.report("data-engine", f"read RLDS {sys.argv[2]}", n, warm_up_s=warm_up, **more)
    if pool:
        pool.shutdown()


if __name__ == "__main__":
    main()
