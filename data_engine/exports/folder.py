"""What the exports into a folder share: written whole or not at all, known again, and read back for a verification.

Beside the dialect's own files lie ``mixture.json`` (which mixture, options, what became of the weights and of what the
dialect cannot hold) and ``provenance.parquet`` (each exported row's source, range, weight and rate).
"""

from __future__ import annotations

import json
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq

from data_engine.errors import EngineError, RequestError
from data_engine.exports import Exporter, ExportReport
from data_engine.exports.publish import staged
from data_engine.exports.rates import meaning
from data_engine.exports.rows import export_order
from data_engine.exports.traces import traces
from data_engine.formats import Source
from data_engine.mixture import Mixture

__all__ = ["MANIFEST", "TRACES", "FolderExporter", "Written", "write_json"]

MANIFEST, TRACES = "mixture.json", "provenance.parquet"


@dataclass(frozen=True)
class Written:
    """What a dialect says of what it wrote: its ``weights`` in a line, ``notes`` on what it could not hold as it was,
    ``frames`` by camera, and ``more`` for the manifest.
    """

    weights: str
    notes: tuple[str, ...] = ()
    frames: Mapping[str, int] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


class FolderExporter(Exporter):
    """Base of dialects that are a folder. Equal mixtures make equal bytes."""

    last: ClassVar[str] = MANIFEST  # the file without which a reader finds nothing

    @abstractmethod
    def write(self, mixture: Mixture, order: list[int], folder: Path) -> Written:
        """Write the rows ``order`` of ``mixture``, in that order, into the empty ``folder``."""

    @abstractmethod
    def differences(self, mixture: Mixture, order: list[int], folder: Path) -> Iterator[str]:
        """One line for each way in which the dialect's own files in ``folder`` are not ``mixture``."""

    def export(self, mixture: Mixture, uri: str) -> ExportReport:
        """Write ``mixture`` to ``uri`` (absent or empty). The same export that already lies there is left as it is.

        Raises ``RequestError`` for what the dialect cannot hold; then nothing is left at ``uri``.
        """
        if mixture.episodes.num_rows == 0:
            raise RequestError(f"mixture {mixture.name!r} has no episodes", code="empty_mixture")
        done = self._done(mixture, uri)
        if done is not None:
            return done
        order = export_order(mixture)
        with staged(uri, self.last) as folder:
            written = self.write(mixture, order, folder)
            pq.write_table(traces(mixture, order), folder / TRACES, compression="snappy")
            write_json(folder / MANIFEST, self._manifest(mixture, written))
        done = self._done(mixture, uri)
        if done is None:
            raise EngineError(f"{uri} is not what was just written there", code="bad_export")
        return done

    def verify(self, mixture: Mixture, uri: str) -> list[str]:
        """Read ``uri`` back and hold every row against ``mixture``. From an object store it is fetched whole first."""
        order = export_order(mixture)
        try:
            with _fetched(uri) as folder:
                told = json.loads((folder / MANIFEST).read_bytes())
                if not isinstance(told, dict):
                    return [f"{MANIFEST} holds no mapping"]
                found = [
                    f"{MANIFEST} has {key} {told.get(key)!r}, not {value!r}"
                    for key, value in (self._identity(mixture) | self._facts(mixture)).items()
                    if told.get(key) != value
                ]
                if not pq.read_table(folder / TRACES).equals(traces(mixture, order)):
                    found.append(f"{TRACES} is not the mixture's")
                return found + list(self.differences(mixture, order, folder))
        except Exception as error:  # whatever a damaged file makes its library raise
            return [f"not readable: {' '.join(str(error).split())[:300] or type(error).__name__}"]

    def _identity(self, mixture: Mixture) -> dict[str, Any]:
        return {
            "mixture_id": mixture.id,
            "format": self.name,
            "options": self.config,
            "episodes": len(mixture),
            "steps": int(mixture.rows["row_count"].sum()),
        }

    def _facts(self, mixture: Mixture) -> dict[str, Any]:
        """How the mixture draws."""
        document = mixture.document
        return {
            "weight_kind": document.weight_kind,
            "unit": document.unit,
            "epoch_size": document.epoch_size,
            "entries": [entry.model_dump(mode="json") for entry in document.entries],
        }

    def _manifest(self, mixture: Mixture, written: Written) -> dict[str, Any]:
        return {
            **self._identity(mixture),
            "name": mixture.name,
            **self._facts(mixture),
            "weights": f"{meaning(mixture)}; {written.weights}",
            "notes": list(written.notes),
            "frames": dict(written.frames),
            **written.more,
        }

    def _done(self, mixture: Mixture, uri: str) -> ExportReport | None:
        """The report of this very export where it already lies whole at ``uri``."""
        source = Source(uri)
        if not source.exists(MANIFEST) or source.exists("_unfinished"):
            return None
        try:
            with source.open(MANIFEST) as file:
                told = json.loads(file.read())
            if any(told[key] != value for key, value in self._identity(mixture).items()):
                return None
            frames, weights, notes = told["frames"], told["weights"], tuple(told["notes"])
        except (ValueError, KeyError, TypeError):  # somebody else's file: the place is occupied
            return None
        return ExportReport(
            self.name, uri, told["episodes"], told["steps"], frames, source.fs.du(source.root), weights, notes
        )


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON at ``path``, whose folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _fetched(uri: str) -> Iterator[Path]:
    """A local folder with what lies at ``uri``."""
    source = Source(uri)
    if source.is_local:
        yield Path(source.root)
        return
    with tempfile.TemporaryDirectory(prefix="data-engine-verify-") as scratch:
        for path in source.fs.find(source.root):
            local = Path(scratch) / source.relative(path)
            local.parent.mkdir(parents=True, exist_ok=True)
            source.fs.get_file(path, str(local))
        yield Path(scratch)
