"""The answer of a survey for people: one table in a terminal, one self-contained HTML page.

Everything in it comes from untrusted sources: the page escapes it all and may load or run nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

__all__ = ["render", "rows", "size"]


def rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line a source, short enough for a terminal."""
    same: dict[str, list[str]] = {}
    for pair in found["duplicates"]:
        same.setdefault(pair["first"], []).append(pair["second"])
        same.setdefault(pair["second"], []).append(pair["first"])
    return [_row(item, [_name(uri) for uri in same.get(item["uri"], [])]) for item in found["items"]]


def _row(item: Mapping[str, Any], same: list[str]) -> dict[str, Any]:
    if "error" in item:
        return {"source": _name(item["uri"]), **dict.fromkeys(_COLUMNS, ""), "defects": item["error"]["message"]}
    cameras = [f"{camera['name']} ({camera['class']})" for camera in item["cameras"]]
    units = [f"{name.removeprefix('observation.')}: {unit}" for name, unit in item["units"].items()]
    return {
        "source": _name(item["uri"]),
        "format": item["format"] + (" (columns guessed)" if item["guessed"] else ""),
        "episodes": item["episodes"],
        "hours": "" if item["hours"] is None else f"{'~' if item['steps_estimated'] else ''}{item['hours']:.3g}",
        "size": size(item["bytes"]),
        "licence": item["licence"] or "not stated",
        "embodiment": item["embodiment"],
        "cameras": ", ".join(cameras) or "none",
        "units": ", ".join(units) or "unknown",
        "defects": ", ".join(sorted({defect["code"] for defect in item["defects"]})) or "none seen",
        "ingest": f"~{size(item['ingest']['bytes'])}, ~{_duration(item['ingest']['seconds'])}",
        "same as": ", ".join(same),
    }


_COLUMNS = (
    "format", "episodes", "hours", "size", "licence", "embodiment", "cameras", "units", "defects", "ingest", "same as",
)  # fmt: skip


def render(found: Mapping[str, Any]) -> str:
    """The survey as an HTML page: the table, then each source's defects and notes, then the duplicates."""
    return _template().render(
        found=found, rows=list(zip(found["items"], rows(found), strict=True)), size=size, duration=_duration
    )


def size(count: float) -> str:
    """Bytes as people write them: 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _name(uri: str) -> str:
    """The last two parts of a URI: the last alone is often ``data`` or ``1.0.0``."""
    return "/".join(uri.rstrip("/").split("/")[-2:])


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("flows", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("survey.html.j2")
