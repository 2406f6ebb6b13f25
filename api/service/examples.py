"""Examples for the document of the service: of every parameter and of every body."""

from __future__ import annotations

from typing import Any

__all__ = ["illustrate"]

_EPISODE, _OTHER = "ep_0123456789abcdef0123", "ep_89abcdef0123456789ab"
_RECIPE = {
    "name": "kitchen",
    "source": {"uri": "s3://demos/kitchen", "name": "kitchen"},
    "score": [{"scorer": "consistency"}],
    "select": [{"name": "sound", "method": "filter", "where": "percentile(consistency) < 90"}],
}

_PARAMETERS: dict[str, Any] = {
    "after": "WyIwMTIzIixbImtpdGNoZW4iXV0", "camera": "front", "dataset": "kitchen", "episode_id": _EPISODE,
    "first": "sound", "fit_id": "fit_0123456789abcdef", "group": 0, "Idempotency-Key": "3f1c9a7e", "kind": "scorers",
    "Last-Event-ID": 4096, "limit": 100, "mixture_id": "training", "name": "sound", "path": "mixture.json",
    "producer": "compatibility", "reason": "consistency", "run_id": "run_20260101T030000_0123abcd",
    "score": "consistency", "scorer": "consistency", "second": "everything", "space": "frames",
}  # fmt: skip
"""By name."""

_BODIES: dict[str, Any] = {
    "/v1/annotations": {
        "items": [{"episode_id": _EPISODE, "kind": "verdict", "label": "trim", "start": 0, "stop": 12}]
    },
    "/v1/evaluations": {
        "items": [
            {"checkpoint": "policy-40k", "mixture_id": "0123456789abcdef", "task": "open the drawer", "seed": 0,
             "initial_condition": "left", "success": True}
        ]
    },
    "/v1/judgements": {"state": [[0.0, 0.1], [0.1, 0.1]], "action": [[0.1, 0.0], [0.1, 0.0]], "fps": 20.0},
    "/v1/mixtures": {"name": "training", "entries": [{"selection": "sound", "weight": 3.0}], "epoch_size": 100_000},
    "/v1/preferences": {"items": [{"first": f"{_EPISODE}:0-40", "second": f"{_OTHER}:0-40", "verdict": "second"}]},
    "/v1/recipes/validate": {"recipe": _RECIPE},
    "/v1/review/verdicts": {"items": [{"episode_id": _EPISODE, "verdict": "keep"}]},
    "/v1/runs": {"verb": "ingest", "source": {"uri": "s3://demos/kitchen", "name": "kitchen"}},
    "/v1/schedules": {"name": "nightly", "cron": "0 3 * * *", "timezone": "Europe/Berlin", "recipe": _RECIPE},
    "/v1/search": {"text": "the drawer is open", "space": "frames", "k": 10, "where": "success"},
    "/v1/selections": {"recipe": {"name": "sound", "method": "filter", "where": "percentile(consistency) < 90"}},
    "/v1/session": {"key": "de_0123456789abcdef_what-keys-make-printed"},
}  # fmt: skip
"""By path."""


def illustrate(path: str, operation: dict[str, Any]) -> None:
    """Give an operation of the document the examples that it does not have."""
    for parameter in operation.get("parameters", ()):
        schema = parameter["schema"]
        if not any("example" in key or key == "default" for key in (*parameter, *schema)) and not any(
            "examples" in part for part in schema.get("anyOf", ())
        ):
            parameter["example"] = _PARAMETERS[parameter["name"]]
    if "requestBody" in operation:
        operation["requestBody"]["content"]["application/json"]["example"] = _BODIES[path]
