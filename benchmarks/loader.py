"""Windows a second of MixtureDataset against LeRobotDataset and others, on the same data, through torch's DataLoader.

    python benchmarks/loader.py [--quick] [--json]

State only: the 180 Meta-World episodes, state 39 and 16 actions, batches of 64 in random order. With video: episodes of
PushT, 96x96 AV1 with a keyframe every other frame, one frame a window; LeRobot reads our export of the very mixture,
so both decode the same packets. The floor is PyAV's own seek and decode of the same random frames in one thread. Each
process is warm before it counts, and counts in three rounds; peak memory is of the main process, a worker's is what it
has with shared pages divided among those who share them. WebDataset and mosaicml-streaming read what our exporters
write. Last: resuming in a mixture of a million episodes, made of metadata.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import zarr

from benchmarks import rivals
from benchmarks.table import Machine, Row, Table, options, ratio, show, target

OWN = Path(__file__).parent / "own_scripts"


def pusht_store(data: Path, work: Path, episodes: int) -> Path:
    """The first ``episodes`` of PushT as a zarr store of their own."""
    arrays = np.load(rivals.pusht_slice(data, work / "pusht.npz", episodes))
    root = zarr.open_group(work / "pusht.zarr", mode="w")
    for name, values in (("data/state", "state"), ("data/action", "action"), ("data/img", "image")):
        root.create_array(name, data=arrays[values])
    root.create_array("meta/episode_ends", data=arrays["stops"].astype(np.int64))
    return work / "pusht.zarr"


def prepared(source: Path, folder: Path, form: str, *dialects: str) -> tuple[str, Path]:
    """The URI of a mixture of ``source``, and the mixture exported as LeRobot v3; in ``dialects`` beside that."""
    made = rivals.measure(None, OWN / "prepare.py", source, folder, form, *dialects)
    if "error" in made:
        raise SystemExit(f"{source}: {made['error']}")
    return made["uri"], folder / "export"


def _resumed(rows: int, found: dict) -> list[str]:
    """What :mod:`benchmarks.own_scripts.resume` found, in lines."""
    if "error" in found:
        return [f"resume: not measured: {found['error']}"]
    worst = max(max(each) for each in found["resume_s"].values())
    shares = ", ".join(f"{share:.0%}" for share in found["shares"])
    return [
        f"resume in a mixture of {rows:,} episodes, from opening to knowing the batch, at {shares} of an epoch, a fresh"
        f" process each, under 1 s is aimed at: {'reached' if worst < 1 else 'MISSED'}",
        *(
            f"  {name}: {', '.join(f'{s:.2f}' for s in seconds)} s"
            f" ({', '.join(f'{s:.2f}' for s in found['cpu_s_each'][name])} s of CPU)"
            for name, seconds in found["resume_s"].items()
        ),
        f"first opening on a machine {found['first_s']:.2f} s ({found['first_cpu_s']:.2f} s of CPU)",
        f"memory of a worker over that mixture: {found['worker_mb']:.0f} MB of its own (before opening it:"
        f" {found['bare_mb']:.0f} MB)",
    ]


def main() -> int:
    asked = options(__doc__)
    if not (asked.data / "metaworld_tiers").exists():
        print(f"{asked.data} holds no recordings; give --data", file=sys.stderr)
        return 2
    machine = Machine()
    times, seconds = (1, 1.0) if asked.quick else (3, 2.0)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        work = Path(folder)
        tiers, tiers_export = prepared(
            asked.data / "metaworld_tiers/lerobot_v3", work / "tiers", "lerobot_v3", "webdataset", "mds"
        )
        store = pusht_store(asked.data, work, 5 if asked.quick else 50)
        video, video_export = prepared(store, work / "video", "zarr_replay")

        def ours(uri: str, workers: str, *more: str) -> dict:
            return rivals.measure(None, OWN / "windows.py", uri, work / "cache", workers, seconds, times, *more)

        def theirs(root: Path, backend: str = "none", workers: int = 0, form: str = "map") -> dict:
            return rivals.loader(root, backend, workers, seconds, times, form)

        state = {"data-engine": ours(tiers, "0"), "LeRobotDataset": theirs(tiers_export)}
        state["data-engine, one __getitem__ at a time"] = ours(tiers, "single")
        state["MultiLeRobotDataset"] = theirs(tiers_export, form="multi")
        state["StreamingLeRobotDataset"] = theirs(tiers_export, form="streaming")
        state["WebDataset, our shards"] = rivals.webdataset(work / "tiers/webdataset", seconds, times)
        state["MDS, our shards (steps, no windows)"] = rivals.mds(work / "tiers/mds", 0, seconds, times)
        if not asked.quick:
            state["data-engine, 2 workers"] = ours(tiers, "2")
            state["LeRobotDataset, 2 workers"] = theirs(tiers_export, workers=2)
            state["MDS, 2 workers (steps, no windows)"] = rivals.mds(work / "tiers/mds", 2, seconds, times)
        frames = {"data-engine": ours(video, "0", "video")}
        frames |= {f"LeRobotDataset, {name}": theirs(video_export, name) for name in ("torchcodec", "pyav")}
        frames["floor: PyAV"] = rivals.measure(None, OWN / "seek_floor.py", video, work / "cache", seconds, times)
        rows = 100_000 if asked.quick else 1_000_000
        resumed = rivals.measure(None, OWN / "resume.py", rows, work / "million")
    by_state, by_frames = ({name: Row.of(name, [made]) for name, made in part.items()} for part in (state, frames))
    batched, rival, single, *others = by_state.values()
    decoded, *backends, floor = by_frames.values()
    best = max(backends, key=lambda row: row.rate or 0.0)
    more = {"first batch s": "first_batch_s", "worker MB": "worker_mb"}
    tables = [
        Table("Action-chunk windows, state only", "windows", list(by_state.values()), more),
        Table("Action-chunk windows with one 96x96 frame", "windows", list(by_frames.values()), more),
    ]
    lines = [
        target("state only without workers against LeRobotDataset", ratio(batched, rival), 100),
        *(f"state only against {row.label}: {ratio(batched, row) or 0:.1f}x" for row in others if row.rate),
        target(f"with video against {best.label}", ratio(decoded, best), 3),
        target("with video against the seek-and-decode floor", ratio(decoded, floor), 0.7),
        f"one __getitem__ at a time: {single.rate or 0:,.0f} windows/s, at least 20,000 on an idle machine is aimed at",
        *_resumed(rows, resumed),
    ]
    show(tables, lines, machine, as_json=asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
