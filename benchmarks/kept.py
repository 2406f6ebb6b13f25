"""What a benchmark measured before, so that a run of hours that was cut off goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["Kept"]


class Kept:
    """What was measured before, one JSON line each; in memory alone without a ``path``. A last line that was cut off is
    as if it had never been begun."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        for line in path.read_text().split("\n") if path and path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            self._known[row["key"]] = row

    def get(self, key: str) -> dict[str, Any] | None:
        """What is known under ``key``."""
        return self._known.get(key)

    def put(self, key: str, **facts: Any) -> None:
        """Keep ``facts`` under ``key``."""
        self._known[key] = {"key": key, **facts}
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write("\n" * (file.tell() > 0) + json.dumps(self._known[key]))
