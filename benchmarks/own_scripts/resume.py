"""ROWS OUT: how long a loader takes to know a batch at any position of a mixture of ROWS episodes, made of metadata.

Every measure is of a fresh process, from opening the mixture to the places of 64 samples; imports apart.
"""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.rival_scripts.figures import Work
from data_engine.document import EPISODES, FILES, Entry, MixtureDocument
from data_engine.freezing import Frozen, write
from data_engine.mixture import open as open_mixture
from data_engine.model import VIDEO, Dataset, Feature
from data_engine.samples import Samples
from data_engine.windows import Windows

_STEPS = 100
_FILE_EPISODES = 1000
_SHARES = (0.0, 0.5, 1.0)


def made(rows: int, lake: Path) -> str:
    """The URI of a mixture of ``rows`` episodes of 20 datasets, with a camera each."""
    number = np.arange(rows)
    names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(rows)]
    files = [f"steps/d{i % 20}/{names[i]}.parquet" for i in range(-(-rows // _FILE_EPISODES))]
    file = number // _FILE_EPISODES
    place = {"codec": "av1", "width": 96, "height": 96, "fps": 10.0, "frames": _STEPS, "camera": "top"}
    videos = [
        [{**place, "blob": f"videos/{names[i // _FILE_EPISODES]}.mp4", "start_s": i % _FILE_EPISODES * 10.0,
          "end_s": i % _FILE_EPISODES * 10.0 + 10}]
        for i in range(rows)
    ]  # fmt: skip
    given = {
        "episode_id": [f"ep_{name[:24]}" for name in names],
        "content_hash": names,
        "dataset": [f"d{i % 20}" for i in file],
        "source_key": [f"episode_{i:06d}" for i in range(rows)],
        "embodiment": ["arm"] * rows,
        "control_mode": ["delta"] * rows,
        "fps": np.full(rows, 10.0),
        "task": [f"task {i % 500}" for i in range(rows)],
        "selection": ["a" if i % 2 else "b" for i in range(rows)],
        "split": np.where(number % 10 == 0, "val", "train").tolist(),
        "start": np.zeros(rows, np.int64),
        "stop": np.full(rows, _STEPS),
        "weight": 1 + number % 7 / 8,
        "steps_file": [files[i] for i in file],
        "row_start": number % _FILE_EPISODES * _STEPS,
        "row_count": np.full(rows, _STEPS),
        "videos": pa.array(videos, pa.list_(VIDEO)),
    }
    columns = [pa.array(given[f.name], f.type) if f.name in given else pa.nulls(rows, f.type) for f in EPISODES]
    blobs = [f"videos/{name}.mp4" for name in names[: len(files)]]
    listed = pa.table(
        {"path": files + blobs, "bytes": [1] * 2 * len(files), "sha256": names[: len(files)] * 2}, schema=FILES
    )
    features = tuple(Feature(name=name, dtype="float32", shape=(7,)) for name in ("observation.state", "action"))
    datasets = {
        name: Dataset(name=name, embodiment="arm", control_mode="delta", fps=10.0, features=features, origin="made",
                      format="made")
        for name in (f"d{i}" for i in range(20))
    }  # fmt: skip
    document = MixtureDocument(
        mixture_id=hashlib.sha256(b"metadata").hexdigest(), name="metadata", weight_kind="probability", unit="step",
        entries=(Entry(selection="a", weight=2), Entry(selection="b", weight=1)), splits={"train": 0.9, "val": 0.1},
        datasets=datasets, statistics={},
    )  # fmt: skip
    return write(Frozen(document, pa.table(columns, schema=EPISODES), listed), str(lake))


def resume(uri: str, cache: str, share: float) -> None:
    """Print what it takes to know 64 samples at ``share`` of an epoch."""
    bare = _own_mb()
    began, cpu = time.perf_counter(), time.process_time()
    samples = Samples(open_mixture(uri, cache_dir=cache), Windows(cameras=()))
    start = int(share * (samples.size(3) - 64))
    samples.locate(3, np.arange(start, start + 64))
    figures = {"s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}
    print(json.dumps({**figures, "bare_mb": bare, "own_mb": _own_mb()}))


def _own_mb() -> float:
    """Memory that this process shares with none, in MiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) / 1024


def main() -> None:
    if len(sys.argv) == 4:
        resume(sys.argv[1], sys.argv[2], float(sys.argv[3]))
        return
    rows, out = int(sys.argv[1]), Path(sys.argv[2])
    uri = made(rows, out / "lake")
    work, found = Work(), []
    for share in (0.0, *_SHARES):
        command = [sys.executable, __file__, uri, str(out / "cache"), str(share)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    first, *later = found
    work.report(
        "data-engine", "resume", rows, resume_s=[each["s"] for each in later], first_s=first["s"],
        first_cpu_s=first["cpu_s"], cpu_s_each=[each["cpu_s"] for each in later],
        worker_mb=max(each["own_mb"] for each in later), bare_mb=max(each["bare_mb"] for each in later),
    )  # fmt: skip


if __name__ == "__main__":
    main()
