"""ROWS OUT: how long a loader takes to know a batch at any position of a mixture of ROWS episodes, made of metadata.

Every measure is of a fresh process, from opening the mixture to the places of 64 samples; imports apart. The same
episodes are mixed by made-up probabilities, by the weighers ``temperature`` and ``score``, and by ``repeat`` and
``choose``, whose epochs are counted and permuted.
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
from data_engine.weighers import Drawn
from data_engine.weighers.score import Score
from data_engine.weighers.temperature import Temperature
from data_engine.windows import Windows

_STEPS = 100
_FILE_EPISODES = 1000
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_PLAIN = "probability"


def episodes(rows: int) -> tuple[pa.Table, pa.Table]:
    """``rows`` episodes of 20 datasets of unlike sizes, with a camera each, and the files that they would lie in."""
    number = np.arange(rows)
    names = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(rows)]
    file = number // _FILE_EPISODES
    dataset = [f"d{int(np.sqrt(i % 400))}" for i in range(int(file.max(initial=0)) + 1)]
    files = [f"steps/{name}/{names[i]}.parquet" for i, name in enumerate(dataset)]
    place = {"codec": "av1", "width": 96, "height": 96, "fps": 10.0, "frames": _STEPS, "camera": "top"}
    videos = [
        [{**place, "blob": f"videos/{names[i // _FILE_EPISODES]}.mp4", "start_s": i % _FILE_EPISODES * 10.0,
          "end_s": i % _FILE_EPISODES * 10.0 + 10}]
        for i in range(rows)
    ]  # fmt: skip
    given = {
        "episode_id": [f"ep_{name[:24]}" for name in names],
        "content_hash": names,
        "dataset": [dataset[i] for i in file],
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
    listed = sorted(zip([*files, *blobs], names[: len(files)] * 2, strict=True))
    paths, hashes = zip(*listed, strict=True)
    return pa.table(columns, schema=EPISODES), pa.table(
        {"path": paths, "bytes": [1] * len(paths), "sha256": hashes}, schema=FILES
    )


Form = tuple[str, np.ndarray, tuple[float, float]]


def forms(table: pa.Table) -> dict[str, Form]:
    """What is mixed, by name: weight kind, the weight of each row, and those of the two entries."""
    rows = table.num_rows
    plain = table["weight"].to_numpy()
    scores = np.random.default_rng(0).normal(size=rows)
    drawn = Drawn(plain, np.full(rows, _STEPS), datasets=table["dataset"].to_pylist(), scores=scores)
    return {
        _PLAIN: ("probability", plain, (2, 1)),
        "temperature": ("probability", Temperature(temperature=3.0).weigh(drawn).values, (2, 1)),
        "score": ("probability", Score(by="made_up").weigh(drawn).values, (2, 1)),
        "repeat": ("repeat", plain, (2, 1)),
        "choose": ("choose", plain, (30 * rows, 20 * rows)),
    }


def mixed(name: str, form: Form, table: pa.Table, listed: pa.Table, lake: Path) -> str:
    """The URI of a mixture of ``table``, called ``name``, weighed as ``form`` says."""
    kind, weights, (a, b) = form
    at = table.schema.get_field_index("weight")
    features = tuple(Feature(name=name, dtype="float32", shape=(7,)) for name in ("observation.state", "action"))
    datasets = {
        name: Dataset(name=name, embodiment="arm", control_mode="delta", fps=10.0, features=features, origin="made",
                      format="made")
        for name in sorted(set(table["dataset"].to_pylist()))
    }  # fmt: skip
    document = MixtureDocument(
        mixture_id=hashlib.sha256(name.encode()).hexdigest(), name=name, weight_kind=kind, unit="step",
        entries=(Entry(selection="a", weight=a), Entry(selection="b", weight=b)), splits={"train": 0.9, "val": 0.1},
        datasets=datasets, statistics={},
    )  # fmt: skip
    return write(Frozen(document, table.set_column(at, "weight", pa.array(weights)), listed), str(lake))


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
    table, listed = episodes(rows)
    work, found = Work(), {}
    for name, form in forms(table).items():
        uri = mixed(name, form, table, listed, out / "lake")
        found[name] = []
        for share in (0.0, *_SHARES):
            command = [sys.executable, __file__, uri, str(out / "cache"), str(share)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout))
    first, later = found[_PLAIN][0], {name: each[1:] for name, each in found.items()}
    work.report(
        "data-engine", "resume", rows, shares=_SHARES,
        resume_s={name: [each["s"] for each in several] for name, several in later.items()},
        cpu_s_each={name: [each["cpu_s"] for each in several] for name, several in later.items()},
        first_s=first["s"], first_cpu_s=first["cpu_s"],
        worker_mb=max(each["own_mb"] for several in later.values() for each in several),
        bare_mb=max(each["bare_mb"] for several in later.values() for each in several),
    )  # fmt: skip


if __name__ == "__main__":
    main()
