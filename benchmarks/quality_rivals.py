"""What other people's checkers say of the same episodes: each in an environment of its own, on a LeRobot v3 folder.

``rate`` writes the folder, runs the tool and reads its own score of each episode. None of them is told anything about
the set; an episode that a tool skips or cannot score is NaN.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.planting import Course
from tests.conformance.environments import environment

__all__ = ["RIVALS", "Rival", "install", "rate", "write_lerobot"]


@dataclass(frozen=True)
class Rival:
    """A tool: its ``packages``, its command (``{set}`` and ``{out}`` filled in; {out} empty: it prints), and how the
    badness of each of E episodes, higher is worse, is read from the JSON it gives."""

    packages: tuple[str, ...]
    command: tuple[str, ...]
    read: Callable[[Any, int], np.ndarray]
    what: str


def _rdq(found: Any, n: int) -> np.ndarray:
    scores = {int(i): episode["composite"] for i, episode in found["episodes"].items()}
    return np.array([_negative(scores.get(i)) for i in range(n)])


def _forge(found: Any, n: int) -> np.ndarray:
    scores = {int(e["episode_id"].split("_")[-1]): e["overall_score"] for e in found["per_episode"]}
    return np.array([_negative(scores.get(i)) for i in range(n)])


def _doctor(found: Any, n: int) -> np.ndarray:
    scores = {int(e["ep"]): e["score"] for e in found["scores"]}
    return np.array([_negative(scores.get(i)) for i in range(n)])


def _deepen(found: Any, n: int) -> np.ndarray:
    """Its score, which only defects move, and among equals the number of its findings that are not a pass."""
    weight = {"fail": 0.1, "warn": 0.05}
    scores = {
        int(e["episode_id"].split("_")[-1]): 100 - e["score"] + sum(weight.get(c["severity"], 0.0) for c in e["checks"])
        for e in found["episodes"]
    }
    return np.array([scores.get(i, np.nan) for i in range(n)])


def _calibra(found: Any, n: int) -> np.ndarray:
    """Its rule for an anomalous episode: the largest deviation from the median, in median absolute deviations."""
    rules = {"jitter_cv": 1, "dropout_fraction": 1, "spike_rate": 1, "vel_disc_rate": 1, "ldlj": -1}
    worst = np.full(n, np.nan)
    for analyzer in found["analyzer_results"]:
        for name, sign in rules.items():
            values = (analyzer.get("raw_metrics") or {}).get(f"per_episode_{name}")
            if values is None or len(values) != n:
                continue
            x = sign * np.array([np.nan if v is None else v for v in values], float)
            spread = np.nanmedian(np.abs(x - np.nanmedian(x)))
            if spread > 1e-4:
                worst = np.fmax(worst, (x - np.nanmedian(x)) / spread)
    return worst


RIVALS = {
    "rdq": Rival(("rdq==0.3.4",), ("rdq", "rank", "{set}", "--json", "{out}"), _rdq, "its composite"),
    "forge-robotics": Rival(
        ("forge-robotics[lerobot,video,hdf5]==0.2.0", "h5py"),
        ("forge", "quality", "{set}", "--export", "{out}"), _forge, "its overall score",
    ),
    "calibra-robotics": Rival(
        ("calibra-robotics==0.13.1", "pyarrow", "pandas", "h5py"), ("calibra", "--json", "{set}"), _calibra,
        "no score of an episode; the deviation that its anomalies are judged by",
    ),
    "deepen-grade": Rival(
        ("deepen-grade==0.4.1", "pyarrow", "pandas"), ("deepen", "grade", "--json", "-o", "{out}", "{set}"), _deepen,
        "its score, and its findings among equals",
    ),
    "lerobot-doctor": Rival(
        ("lerobot-doctor==0.2.0",), ("lerobot-doctor", "score", "--json", "{set}"), _doctor, "its score",
    ),
}  # fmt: skip


def rate(name: str, courses: Sequence[Course], fps: float, *, timeout: float = 600) -> np.ndarray:
    """[E] badness by the rival ``name``. Raises ``RuntimeError`` with one line where it cannot be installed or run."""
    rival = RIVALS[name]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    environ.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as work:
        python = install(name)
        folder, out = write_lerobot(Path(work) / "set", courses, fps), Path(work) / "out.json"
        command = [part.format(set=folder, out=out) for part in rival.command]
        command[0] = str(python.parent / command[0])
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, env=environ, check=False, cwd=work
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"took more than {timeout:.0f} s") from None
        text = out.read_text() if out.exists() else done.stdout
        try:
            return rival.read(json.loads(text), len(courses))
        except (ValueError, KeyError, TypeError) as error:
            last = (done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"gave no scores ({type(error).__name__}), its last line: {last[:160]}") from None


def install(name: str) -> Path:
    """The Python of the environment of ``name``, made where it is not there. Raises ``RuntimeError`` where it fails."""
    return environment("doctor" if name == "lerobot-doctor" else name.split("-")[0], RIVALS[name].packages)


def write_lerobot(folder: Path, courses: Sequence[Course], fps: float) -> Path:
    """Write ``courses`` as LeRobot v3.0 without video at ``folder``, and return it."""
    lengths = np.array([len(course) for course in courses])
    stops = np.cumsum(lengths)
    tasks = sorted({course.task or "task" for course in courses})
    of = np.array([tasks.index(course.task or "task") for course in courses])
    columns = {
        "observation.state": np.concatenate([course.state for course in courses]).astype(np.float32),
        "action": np.concatenate([course.action for course in courses]).astype(np.float32),
        "timestamp": np.concatenate([course.time for course in courses]).astype(np.float32),
        "frame_index": np.concatenate([np.arange(n) for n in lengths]),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(stops[-1]),
        "task_index": np.repeat(of, lengths),
    }
    info = {
        "codebase_version": "v3.0", "robot_type": "arm", "total_episodes": len(lengths),
        "total_frames": int(stops[-1]), "total_tasks": len(tasks), "chunks_size": 1000, "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200, "fps": fps, "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "video_path": None,
        "features": {
            name: {"dtype": values.dtype.name, "shape": list(values.shape[1:]) or [1], "names": None}
            for name, values in columns.items()
        },
    }  # fmt: skip
    zeros = np.zeros(len(lengths), dtype=np.int64)
    episodes = {
        "episode_index": np.arange(len(lengths)),
        "tasks": [[tasks[task]] for task in of],
        "length": lengths,
        "data/chunk_index": zeros,
        "data/file_index": zeros,
        "dataset_from_index": stops - lengths,
        "dataset_to_index": stops,
        "meta/episodes/chunk_index": zeros,
        "meta/episodes/file_index": zeros,
    }
    for part in ("meta/episodes/chunk-000", "data/chunk-000"):
        (folder / part).mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "meta/stats.json").write_text(json.dumps({name: _stats(values) for name, values in columns.items()}))
    pq.write_table(_task_table(tasks), folder / "meta/tasks.parquet")
    pq.write_table(pa.table(episodes), folder / "meta/episodes/chunk-000/file-000.parquet")
    table = pa.table({name: _column(values) for name, values in columns.items()})
    with pq.ParquetWriter(folder / "data/chunk-000/file-000.parquet", table.schema) as writer:
        for start, length in zip(stops - lengths, lengths, strict=True):
            writer.write_table(table.slice(start, length))
    return folder


def _column(values: np.ndarray) -> pa.Array:
    flat = pa.array(values.reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _stats(values: np.ndarray) -> dict[str, list[float]]:
    """Over finite rows, as a careful recorder's would be."""
    wide = values.reshape(len(values), -1).astype(np.float64)
    wide = wide[np.isfinite(wide).all(axis=1)]
    stats = {"min": wide.min(0), "max": wide.max(0), "mean": wide.mean(0), "std": wide.std(0)}
    stats |= {f"q{percent:02d}": np.percentile(wide, percent, axis=0) for percent in (1, 10, 50, 90, 99)}
    return {name: value.tolist() for name, value in stats.items()} | {"count": [len(wide)]}


def _task_table(tasks: Sequence[str]) -> pa.Table:
    """The instruction is the index of a pandas frame, which is metadata of the Arrow schema."""
    index = "__index_level_0__"
    column = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64",
              "metadata": None}  # fmt: skip
    name = {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    pandas = {"index_columns": [index], "column_indexes": [], "columns": [column, name], "pandas_version": "2.0.0"}
    table = pa.table({"task_index": np.arange(len(tasks)), index: list(tasks)})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _negative(value: float | None) -> float:
    return np.nan if value is None else -float(value)
