"""``export``: a frozen mixture in a trainer's own dialect, optionally read back and held against the mixture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from data_engine import mixture as mixtures
from data_engine import registry
from data_engine.errors import DefectError
from data_engine.exports import Exporter

__all__ = ["export"]


def export(
    mixture_uri: str, fmt: str, uri: str, *, options: Mapping[str, Any] | None = None, verify: bool = False
) -> dict[str, Any]:
    """Write the mixture under ``uri`` and return counts. A finished export of the same mixture there is left as it is.

    ``{mixture}`` in ``uri`` stands for the first 12 digits of the mixture's id. Raises ``RequestError`` where something
    else lies at ``uri``, ``DefectError`` where ``verify`` finds a difference.
    """
    exporter: Exporter = registry.make("exporters", fmt, options)
    mixture = mixtures.open(mixture_uri)
    uri = uri.replace("{mixture}", mixture.id[:12])
    report = asdict(exporter.export(mixture, uri))
    if verify:
        differences = exporter.verify(mixture, uri)
        if differences:
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise DefectError(
                f"{uri} differs from mixture {mixture.id[:12]}: {differences[0]}{more}", code="bad_export"
            )
        report["verified"] = True
    return report
