"""What the machine offers the engine, one line a thing; nothing here starts a server or downloads anything."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from data_engine import registry
from data_engine.errors import EngineError

__all__ = ["examine"]

_PACKAGES = ("pyarrow", "polars", "deltalake", "torch", "faiss-cpu", "av", "POT", "prefect", "ray", "h5py", "zarr")


def examine(lake: str) -> list[dict[str, Any]]:
    """``{"name", "ok", "detail"}`` of the interpreter, packages, accelerator, codecs, plug-ins, disk and lake."""
    found = [_line("python", sys.version_info >= (3, 11), sys.version.split()[0])]
    for name in _PACKAGES:
        try:
            found.append(_line(name, True, version(name)))
        except PackageNotFoundError:
            found.append(_line(name, False, "not installed"))
    found += [_accelerator(), _codecs(), _plugins(), _disk(lake), _lake(lake)]
    return found


def _line(name: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}


def _accelerator() -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return _line("accelerator", True, "torch is not installed: none")
    if torch.cuda.is_available():
        return _line("accelerator", True, torch.cuda.get_device_name(0))
    return _line("accelerator", True, "none: scorers run on the CPU")


def _codecs() -> dict[str, Any]:
    try:
        import av
    except ImportError:
        return _line("codecs", False, "PyAV is not installed: no video")
    wanted = {"libsvtav1": "encode AV1", "libdav1d": "decode AV1", "h264": "decode H.264"}
    missing = [f"{what} ({name})" for name, what in wanted.items() if name not in av.codecs_available]
    return _line("codecs", not missing, f"cannot {', '.join(missing)}" if missing else "AV1 in and out, H.264 in")


def _plugins() -> dict[str, Any]:
    broken = []
    for kind in registry.KINDS:
        for name in registry.names(kind):
            try:
                registry.load(kind, name)
            except EngineError as error:
                broken.append(str(error))
    count = sum(len(registry.names(kind)) for kind in registry.KINDS)
    return _line("plug-ins", not broken, "; ".join(broken) or f"{count} load")


def _disk(lake: str) -> dict[str, Any]:
    from data_engine.fs import is_local, resolve

    if not is_local(lake):
        return _line("disk", True, "the lake is on an object store")
    folder = resolve(lake)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    return _line("disk", free > 1 << 30, f"{free / 2**30:.0f} GiB free")


def _lake(lake: str) -> dict[str, Any]:
    from storage.lake import Lake

    try:
        opened = Lake.open(lake)
        return _line("lake", True, f"{opened.uri}: {len(opened.datasets())} datasets")
    except EngineError as error:
        absent = error.code == "no_lake" and "no lake at" in error.message
        return _line("lake", absent, "none yet" if absent else str(error))
