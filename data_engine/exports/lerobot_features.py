"""One set of LeRobot features out of the datasets of a mixture, or a clear refusal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_engine.errors import RequestError
from data_engine.exports.columns import Columns, camera_name, shared
from data_engine.formats.lerobot import BOOKKEEPING
from data_engine.model import REWARD, TERMINATED, TRUNCATED, Dataset, Feature

__all__ = ["DEFAULTS", "Columns", "camera_name", "hf_features", "lerobot_name", "merge"]

DEFAULTS = {
    name: {"dtype": dtype, "shape": [1], "names": None}
    for name, dtype in (
        ("timestamp", "float32"),
        ("frame_index", "int64"),
        ("episode_index", "int64"),
        ("index", "int64"),
        ("task_index", "int64"),
    )
}
_NAMES = {REWARD: "next.reward", TERMINATED: "next.done", TRUNCATED: "next.truncated"}
_CLOCK = "frame_time."


def lerobot_name(name: str) -> str:
    """LeRobot's name of a canonical column; a slash, which LeRobot forbids, becomes a point."""
    return _NAMES.get(name, name).replace("/", ".")


def merge(datasets: Sequence[Dataset], columns: str | Sequence[str] = "all") -> Columns:
    """The features that all of ``datasets`` share, as :func:`data_engine.exports.columns.shared` has them.

    Raises ``RequestError`` also for a name that LeRobot keeps for itself and for a camera's own clock.
    """
    found = shared(datasets, columns, "LeRobot dataset")
    written: dict[str, str] = {}
    for feature in found.features:
        target = lerobot_name(feature.name)
        if target in BOOKKEEPING or target in DEFAULTS or target in written:
            raise RequestError(f"column {feature.name!r} cannot be LeRobot's {target!r}", code="name_taken")
        written[target] = feature.name
        if feature.name.startswith(_CLOCK):
            raise RequestError(
                f"{feature.name!r} is a camera's own clock, LeRobot has one clock",
                code="two_clocks",
                fix="state columns",
            )
    return found


def hf_features(columns: Sequence[Feature]) -> dict[str, Any]:
    """The ``features`` of the ``huggingface`` metadata that LeRobot's data files carry."""
    found: dict[str, Any] = {}
    for feature in columns:
        value: dict[str, Any] = {"dtype": feature.dtype, "_type": "Value"}
        if len(feature.shape) > 1:
            value = {"shape": list(feature.shape), "dtype": feature.dtype, "_type": f"Array{len(feature.shape)}D"}
        elif feature.size > 1:
            value = {"feature": value, "length": feature.size, "_type": "List"}
        found[lerobot_name(feature.name)] = value
    for name, spec in DEFAULTS.items():
        found[name] = {"dtype": spec["dtype"], "_type": "Value"}
    return found
