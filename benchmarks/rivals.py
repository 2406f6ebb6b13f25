"""What other people's tools need for the same work, each in an environment of its own; figures as JSON lines.

    python -m benchmarks.rivals [--data ../shared/data] [--only loader|writer|forge|ksg ...]

Every figure is one JSON object with ``tool``, ``task``, ``n`` and ``per_second`` (frames, windows or steps),
``seconds``, ``cpu_s``, ``startup_s`` (all of the process outside ``seconds`` and the ``warm_up_s`` of one that works
twice: imports, opening, ending) and ``peak_mb`` of the rival's process. A rival that cannot run here says why under
``error``; LeRobot's torchcodec backend needs ffmpeg's libraries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.conformance.environments import environment

SCRIPTS = Path(__file__).parent / "rival_scripts"
LEROBOT = ("lerobot", ["lerobot==0.4.4"])
WEBDATASET = ("webdataset", ["webdataset==1.0.2"])
STREAMING = ("streaming", ["mosaicml-streaming==0.13.0"])
FORGE = ("forge", ["forge-robotics[lerobot,video,hdf5]==0.2.0", "h5py"])
TFDS = ("tfds", ["tensorflow-cpu==2.21.0", "tensorflow-datasets==4.9.10"])


def measure(
    env: tuple[str, list[str]] | None, script: str | Path, *arguments: object, timeout: float = 900
) -> dict[str, Any]:
    """The figures that ``script`` prints as its last line, run in ``env`` (this one for None), or an ``error``."""
    try:
        python = environment(*env) if env else Path(sys.executable)
    except RuntimeError as error:
        return {"script": str(script), "error": f"cannot be installed: {str(error).splitlines()[-1]}"}
    command = [str(python), str(SCRIPTS / script), *map(str, arguments)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    wall = time.perf_counter() - began
    if done.returncode:
        return {"script": str(script), "error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    return {**figures, "startup_s": wall - figures["seconds"] - figures.get("warm_up_s", 0.0)}


def loader(
    root: Path, backend: str = "none", workers: int = 0, seconds: float = 10, rounds: int = 1, form: str = "map"
) -> dict[str, Any]:
    """Windows a second of LeRobotDataset (or the other forms): 16 steps, random order, batches of 64; ``rates``."""
    return measure(LEROBOT, "lerobot_loader.py", root, backend, workers, seconds, rounds, form)


def webdataset(root: Path, seconds: float = 10, rounds: int = 1) -> dict[str, Any]:
    """Windows a second of WebDataset over a set that we exported, without workers."""
    return measure(WEBDATASET, "webdataset_loader.py", root, seconds, rounds)


def mds(root: Path, workers: int = 0, seconds: float = 10, rounds: int = 1) -> dict[str, Any]:
    """Steps a second of mosaicml-streaming over a set that we exported."""
    return measure(STREAMING, "mds_loader.py", root, workers, seconds, rounds)


def writer(arrays: Path, out: Path) -> dict[str, Any]:
    """Frames a second of lerobot's own writer, from ``arrays`` (see ``tiers_slice``) to a new dataset at ``out``."""
    return measure(LEROBOT, "lerobot_writer.py", arrays, out)


def forge(source: Path, out: Path) -> dict[str, Any]:
    """Frames a second of forge's conversion of LeRobot v3 or HDF5 to LeRobot v3, in process."""
    if source.is_dir():
        frames = json.loads((source / "meta/info.json").read_text())["total_frames"]
    else:
        with h5py.File(source) as file:
            frames = sum(len(demo["actions"]) for demo in file["data"].values())
    return measure(FORGE, "forge_convert.py", source, out, frames)


def tfds(source: Path, what: str) -> dict[str, Any]:
    """Episodes a second of tensorflow-datasets over an RLDS set; ``what``: ``values`` or ``frames``."""
    return measure(TFDS, "tfds_read.py", source, what)


def ksg(arrays: Path, neighbours: int = 5, passes: int = 0) -> dict[str, Any]:
    """Seconds of a Kraskov estimate on scikit-learn's trees over ``state`` and ``action`` of ``arrays``.

    All steps at once, or with ``passes`` that often in shuffled batches of 1,024.
    """
    return measure(None, "sklearn_ksg.py", arrays, neighbours, passes)


def deminf(arrays: Path, steps: int) -> dict[str, Any]:
    """Steps a second of DemInf's recipe in plain torch over ``arrays``, its VAEs trained for ``steps``."""
    return measure(None, "deminf_torch.py", arrays, steps)


def tiers_slice(data: Path, out: Path, episodes: int) -> Path:
    """The first ``episodes`` of the Meta-World tiers as arrays: state, action [n, .], stops [episodes], fps."""
    table = pq.read_table(data / "metaworld_tiers/lerobot_v3/data/chunk-000/file-000.parquet")
    table = table.filter(pc.field("episode_index") < episodes)
    lengths = np.bincount(table.column("episode_index").to_numpy())
    arrays = {
        name: np.stack(table.column(column).to_numpy(zero_copy_only=False))
        for name, column in (("state", "observation.state"), ("action", "action"))
    }
    np.savez(out, **arrays, stops=np.cumsum(lengths), fps=20)
    return out


def robomimic_slice(data: Path, out: Path, episodes: int) -> Path:
    """The first ``episodes`` demonstrations of the Meta-World tiers as a robomimic file of their own."""
    with h5py.File(data / "metaworld_tiers/robomimic.hdf5") as whole, h5py.File(out, "w") as part:
        group = part.create_group("data")
        group.attrs.update(whole["data"].attrs)
        for i in range(episodes):
            whole.copy(f"data/demo_{i}", group)
    return out


def pusht_slice(data: Path, out: Path, episodes: int) -> Path:
    """The first ``episodes`` of PushT with their 96x96 images, as arrays."""
    import zarr

    store = zarr.storage.ZipStore(data / "pusht_zarr/pusht_cchi_v7_replay.zarr.zip", mode="r")
    root = zarr.open_group(store, mode="r")
    root = root if "data" in root else root[next(iter(root.group_keys()))]
    stops = root["meta/episode_ends"][:episodes]
    n = int(stops[-1])
    images = np.clip(root["data/img"][:n], 0, 255).astype(np.uint8)
    np.savez(out, state=root["data/state"][:n], action=root["data/action"][:n], image=images, stops=stops, fps=10)
    return out


def codes(arrays: Path, out: Path, width: int = 12) -> Path:
    """``arrays`` with the state cut to its ``width`` principal directions, as wide as the codes of the method."""
    with np.load(arrays) as file:
        state, action = file["state"].astype(np.float64), file["action"].astype(np.float64)
    state = (state - state.mean(0)) / (state.std(0) + 1e-9)
    _, _, directions = np.linalg.svd(state.T @ state)
    np.savez(out, state=state @ directions[:width].T, action=(action - action.mean(0)) / (action.std(0) + 1e-9))
    return out


def figures(data: Path, work: Path, only: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every rival's figures on the sets in ``data``, one after the other."""
    tiers = data / "metaworld_tiers/lerobot_v3"
    if "loader" in only:
        yield loader(tiers) | {"set": "tiers"}
        yield loader(tiers, workers=2) | {"set": "tiers"}
    if "writer" in only or "loader" in only:
        written = writer(pusht_slice(data, work / "pusht.npz", 20), work / "pusht")
        if "writer" in only:
            yield writer(tiers_slice(data, work / "tiers.npz", 12), work / "tiers") | {"set": "tiers, 12 episodes"}
            yield written | {"set": "pusht with video, 20 episodes"}
        if "loader" in only and "error" not in written:
            for backend in ("torchcodec", "pyav"):
                yield loader(work / "pusht", backend) | {"set": "pusht with video"}
                yield loader(work / "pusht", backend, workers=2) | {"set": "pusht with video"}
    if "forge" in only:
        yield forge(tiers, work / "forge") | {"set": "tiers"}
    if "ksg" in only:
        yield ksg(codes(tiers_slice(data, work / "all.npz", 180), work / "codes.npz")) | {"set": "tiers"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="+", default=["loader", "writer", "forge", "ksg"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        for figure in figures(options.data, Path(work), options.only):
            print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
