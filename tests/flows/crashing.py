"""A format whose reading really ends the process: a JSON file of episodes, some of which name a signal."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from data_engine import registry
from data_engine.formats import EpisodeRef, Format, Probe, Source, SourceEpisode
from data_engine.fragile import fragile
from data_engine.model import ACTION, STATE, Feature


class Crashing(Format):
    """``{"key": length}``, or a signal's name (``exit``: a library that ends the process) in place of the length."""

    name: ClassVar[str] = "crashing"

    def probe(self, source: Source) -> Probe | None:
        if not source.uri.endswith(".crashing"):
            return None
        episodes = _listed(source)
        fragile("the list")
        if "probe" in episodes:
            _end(episodes["probe"])
        features = tuple(Feature(name=name, dtype="float32", shape=(2,)) for name in (STATE, ACTION))
        path = source.relative(source.root)
        return Probe(self.name, 10.0, features, tuple(EpisodeRef(key, files=(path,)) for key in episodes))

    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode]:
        episodes = _listed(source)
        for key in keys:
            fragile(key)
            if isinstance(episodes[key], str):
                _end(episodes[key])
            yield SourceEpisode(key, _steps(key, episodes[key]))


def _listed(source: Source) -> dict[str, int | str]:
    return json.loads(source.fs.cat_file(source.root))


def _end(how: int | str) -> None:
    if how == "exit":
        os._exit(7)
    if how == "once":  # killed by someone, not for what it reads
        mark = Path(os.environ["CRASHED_ONCE"])
        if mark.exists():
            return
        mark.touch()
        how = "SIGKILL"
    os.kill(os.getpid(), signal.Signals[str(how)])


def _steps(key: str, length: int | str) -> pa.Table:
    rows = np.random.default_rng(sum(key.encode())).normal(size=(4 if isinstance(length, str) else length, 2))
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), 2)
    return pa.table({STATE: values, ACTION: values, "timestamp": np.arange(len(rows)) / 10})


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the format for this process and for those that it starts."""
    info = folder / "crashing-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: crashing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[data_engine.formats]\ncrashing = tests.flows.crashing:Crashing\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.getcwd()}")
    registry._registered.cache_clear()
