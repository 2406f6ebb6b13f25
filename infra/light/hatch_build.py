"""What the light wheel takes from the top-level project, so that nothing is registered or pinned twice."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

NEEDED = ("fsspec", "numpy", "pyarrow", "pydantic")
EXTRAS = {
    "torch": ("torch",),
    "video": ("av",),
    "s3": ("s3fs",),
    "hub": ("huggingface_hub",),
    "lerobot": ("av",),
    "hdf5": ("h5py", "pillow"),
    "rlds": ("google-crc32c", "pillow"),
    "zarr": ("zarr",),
    "bags": ("lz4", "pillow", "protobuf", "pyyaml", "rosbags", "zstandard"),
}


class LightWheel(MetadataHookInterface):
    """Version ranges of the top-level dependencies, and those of its entry points that live in ``data_engine``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the dynamic fields."""
        project = tomllib.loads((Path(self.root) / "../../pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        known = [*extras["bags"], *extras["hub"], *project["dependencies"]]
        ranges = {re.match(r"[\w-]+", line).group(): line for line in known}  # type: ignore[union-attr]
        metadata["requires-python"] = project["requires-python"]
        metadata["dependencies"] = [ranges[name] for name in NEEDED]
        metadata["optional-dependencies"] = {extra: [ranges[name] for name in names] for extra, names in EXTRAS.items()}
        mine = {
            group: {name: target for name, target in points.items() if target.startswith("data_engine.")}
            for group, points in project["entry-points"].items()
        }
        metadata["entry-points"] = {group: points for group, points in mine.items() if points}
