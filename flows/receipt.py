"""The receipt of an ingest: what went in, what is in the lake, and everything that was found to be otherwise.

Counts in and out per camera, every file with its hash, every stream probed against what is declared of it with the
hashes of its first and last decoded frames, the column map with each change of type, the inferred conventions, lies and
defects by code, duplicates, and what was quarantined and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data_engine.defects import Defect, of_features
from data_engine.errors import EngineError
from data_engine.formats import Format, Probe, Source
from data_engine.model import Dataset, Feature
from data_engine.steps import schema, storage_type
from flows.ingest_cameras import AS_IT_IS

__all__ = ["columns", "nothing", "receipt", "told"]

Result = Mapping[str, Any]  # of a shard, as flows.ingest_shard returns it


def receipt(dataset: Dataset, fmt: Format, probe: Probe, source: Source, results: Sequence[Result]) -> dict[str, Any]:
    """The receipt of one ingest out of its shards' results, plain JSON.

    Raises ``EngineError`` where an episode that went in came out nowhere: nothing may be published then.
    """
    notes: Counter[str] = Counter()
    frames: Counter[str] = Counter()
    for result in results:
        notes.update(result["notes"])
        frames.update(result["frames"])
    streams = _streams(results)
    quarantined = [{"key": bad.key, "code": bad.code, "reason": bad.reason} for bad in probe.unreadable]
    quarantined += [bad for result in results for bad in result["quarantined"]]
    quarantined += [
        {"key": key, "code": "not_read", "reason": "the reader passed over the episode"}
        for result in results
        for key in result["silent"]
    ]
    files = [file for result in results for file in result["source_files"]]
    said = [ref.n_steps for ref in probe.episodes]
    made = {
        "dataset": dataset.name,
        "source": {
            "uri": source.uri,
            "format": fmt.name,
            "options": fmt.config,
            "files": files,
            "bytes": sum(file["bytes"] or 0 for file in files),
        },
        "in": {
            "episodes": probe.n_episodes,
            "steps": None if None in said else sum(n or 0 for n in said),
            "frames": dict(sorted(_per_camera(streams, "frames").items())),
        },
        "stored": {
            "episodes": sum(result["episodes"] for result in results),
            "steps": sum(result["steps"] for result in results),
            "frames": dict(sorted(frames.items())),
        },
        "unchanged": sum(result["unchanged"] for result in results),
        "quarantined": quarantined,
        "defects": _defects(dataset, probe, results, streams, bool(quarantined)),
        "embodiment": dataset.embodiment,
        "fps": dataset.fps,
        "columns": columns(dataset.features),
        "streams": dict(sorted(streams.items())),
        "notes": [
            *probe.notes,
            *(f"{note} ({count} episodes)" if count > 1 else note for note, count in notes.items()),
            *_left(streams),
        ],
    }
    out = made["stored"]["episodes"] + made["unchanged"] + len(quarantined)
    if out != probe.n_episodes:
        raise EngineError(
            f"{probe.n_episodes} episodes went in and {out} came out; nothing was published", code="lost_episodes"
        )
    return made


def nothing() -> dict[str, Any]:
    """``stored`` of an ingest that found nothing new."""
    return {"episodes": 0, "steps": 0, "frames": {}}


def columns(features: Sequence[Feature]) -> list[dict[str, Any]]:
    """The column map. ``change`` names a change of type, which is always exact; None where there is none."""
    stored = schema(features)
    rows = []
    for feature in features:
        kind = None if feature.is_camera else storage_type(feature)
        item = getattr(kind, "value_type", kind)
        names = {"bool": "bool", "double": "float64", "float": "float32", "string": "string", "binary": "bytes"}
        name = names.get(str(item), str(item))
        rows.append(
            {
                "source": feature.source or feature.name,
                "column": feature.name,
                "dtype": feature.dtype,
                "shape": list(feature.shape),
                "stored_as": "video" if kind is None else str(stored.field(feature.name).type),
                "change": None if kind is None or name == feature.dtype else f"{feature.dtype} -> {name}, exact",
            }
        )
    return rows


def told(made: Mapping[str, Any]) -> list[str]:
    """What a person should hear of a receipt: notes, defects and quarantined episodes, a few of each."""
    defects = [_counted(f"{found['code']}: {found['what']}", found["episodes"]) for found in made["defects"]]
    bad = [f"{item['key']} is quarantined: {item['reason']}" for item in made["quarantined"]]
    return [line for lines in (made["notes"], defects, bad) for line in _few(lines)]


def _counted(line: str, episodes: int) -> str:
    return f"{line} ({episodes} episodes)" if episodes > 1 else line


def _few(lines: Sequence[str], most: int = 5) -> list[str]:
    return [*lines[:most], *([f"... and {len(lines) - most} more like it"] if len(lines) > most else [])]


def _left(streams: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What was left where it is, and that the rest was not."""
    left = [facts["bytes"] for facts in streams.values() if facts["kept"] == "by reference"]
    if not left:
        return []
    rest = f"; {len(streams) - len(left)} lie in the lake" if len(left) < len(streams) else ""
    return [f"{len(left)} videos ({sum(left):,} bytes) stay where they are{rest}"]


def _streams(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Every stream once; the frames that episodes of several shards show are added up."""
    streams: dict[str, dict[str, Any]] = {}
    for result in results:
        for path, facts in result["streams"].items():
            if path not in streams:
                streams[path] = dict(facts)
                continue
            known = streams[path]
            known["used"] += facts["used"]
            if "lies" in facts:
                known["lies"] = {**known.get("lies", {}), **facts["lies"]}
    return streams


def _per_camera(streams: Mapping[str, Mapping[str, Any]], what: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for facts in streams.values():
        counts[facts["camera"]] += facts[what]
    return counts


def _defects(
    dataset: Dataset,
    probe: Probe,
    results: Sequence[Result],
    streams: Mapping[str, Mapping[str, Any]],
    quarantined: bool,
) -> list[dict[str, Any]]:
    """``[{"code", "what", "episodes", "keys"}]``; ``keys`` are the first ten, none for the dataset as a whole."""
    found: dict[Defect, list[str]] = {defect: [] for defect in (*probe.defects, *of_features(dataset.features))}
    for result in results:
        for item in result["defects"]:
            found.setdefault(Defect(item["code"], item["what"]), []).extend(item["keys"])
    for path, facts in streams.items():
        spare = facts["frames"] - facts["used"]
        if facts["kept"] in AS_IT_IS and spare > 0:
            of_whom = "no stored episode" if quarantined else "no episode"
            found[
                Defect("frames_unclaimed", f"{path}: {spare} of its {facts['frames']} frames belong to {of_whom}")
            ] = []
    return [
        {"code": defect.code, "what": defect.what, "episodes": len(keys), "keys": keys[:10]}
        for defect, keys in found.items()
    ]
