"""Windows a second of MixtureDataset against LeRobotDataset, on the same data and through the same torch DataLoader.

    python benchmarks/loader.py [--quick] [--json]

State only: the 180 Meta-World episodes, state 39 and 16 actions, batches of 64 in random order. With video: episodes of
PushT, 96x96 AV1 with a keyframe every other frame, one frame a window; LeRobot reads our export of the very mixture,
so both decode the same packets. The floor is PyAV's own seek and decode of the same random frames in one thread. Each
process is warm before it counts; peak memory is of the main process, workers apart.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import zarr

from benchmarks import rivals
from benchmarks.table import Machine, Row, Table, options, ratio, rounds, show, target

OWN = Path(__file__).parent / "own_scripts"


def pusht_store(data: Path, work: Path, episodes: int) -> Path:
    """The first ``episodes`` of PushT as a zarr store of their own."""
    arrays = np.load(rivals.pusht_slice(data, work / "pusht.npz", episodes))
    root = zarr.open_group(work / "pusht.zarr", mode="w")
    for name, values in (("data/state", "state"), ("data/action", "action"), ("data/img", "image")):
        root.create_array(name, data=arrays[values])
    root.create_array("meta/episode_ends", data=arrays["stops"].astype(np.int64))
    return work / "pusht.zarr"


def prepared(source: Path, folder: Path, form: str) -> tuple[str, Path]:
    """The URI of a mixture of ``source``, and the mixture exported as LeRobot v3."""
    made = rivals.measure(None, OWN / "prepare.py", source, folder, form)
    if "error" in made:
        raise SystemExit(f"{source}: {made['error']}")
    return made["uri"], folder / "export"


def main() -> int:
    asked = options(__doc__)
    if not (asked.data / "metaworld_tiers").exists():
        print(f"{asked.data} holds no recordings; give --data", file=sys.stderr)
        return 2
    machine = Machine()
    times, seconds = (1, 1.0) if asked.quick else (3, 2.0)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        work = Path(folder)
        tiers, tiers_export = prepared(asked.data / "metaworld_tiers/lerobot_v3", work / "tiers", "lerobot_v3")
        store = pusht_store(asked.data, work, 5 if asked.quick else 50)
        video, video_export = prepared(store, work / "video", "zarr_replay")

        def ours(uri: str, workers: str, *more: str) -> dict:
            return rivals.measure(None, OWN / "windows.py", uri, work / "cache", workers, seconds, *more)

        state = rounds(
            {
                "ours": lambda _: ours(tiers, "0"),
                "lerobot": lambda _: rivals.loader(tiers_export, seconds=seconds),
                "ours single": lambda _: ours(tiers, "single"),
                "ours workers": lambda _: ours(tiers, "2"),
                "lerobot workers": lambda _: rivals.loader(tiers_export, workers=2, seconds=seconds),
            },
            times,
        )
        frames = rounds(
            {
                "ours": lambda _: ours(video, "0", "video"),
                "torchcodec": lambda _: rivals.loader(video_export, "torchcodec", seconds=seconds),
                "pyav": lambda _: rivals.loader(video_export, "pyav", seconds=seconds),
                "floor": lambda _: rivals.measure(None, OWN / "seek_floor.py", video, work / "cache", seconds),
            },
            times,
        )
    batched, rival = Row.of("data-engine, no workers", state["ours"]), Row.of("LeRobotDataset", state["lerobot"])
    single = Row.of("data-engine, one __getitem__ at a time", state["ours single"])
    workers = [Row.of("data-engine, 2 workers", state["ours workers"])]
    workers.append(Row.of("LeRobotDataset, 2 workers", state["lerobot workers"]))
    decoded, floor = Row.of("data-engine, no workers", frames["ours"]), Row.of("floor: PyAV", frames["floor"])
    rivals_ = [Row.of(f"LeRobotDataset, {backend}", frames[backend]) for backend in ("torchcodec", "pyav")]
    best = max(rivals_, key=lambda row: row.rate or 0.0)
    tables = [
        Table("Action-chunk windows, state only", "windows", [batched, rival, single, *workers]),
        Table("Action-chunk windows with one 96x96 frame", "windows", [decoded, *rivals_, floor]),
    ]
    lines = [
        target("state only without workers against LeRobotDataset", ratio(batched, rival), 30),
        target(f"with video against {best.label}", ratio(decoded, best), 3),
        target("with video against the seek-and-decode floor", ratio(decoded, floor), 0.7),
        f"one __getitem__ at a time: {single.rate or 0:,.0f} windows/s, at least 20,000 on an idle machine is aimed at",
    ]
    show(tables, lines, machine, as_json=asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
