"""What tests of formats share: a source read by ``auto``, columns as arrays, and a way through the lake and back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from PIL import Image

from data_engine.formats import Probe, RawFrames, Source, SourceEpisode, Unreadable, detect
from data_engine.recipe import SourceRecipe
from flows.executor import Local
from flows.ingest import ingest
from flows.progress import silent
from flows.query import query
from storage.check import check
from storage.lake import Lake


def read(path: Path | str, **options: Any) -> tuple[str, Probe, dict[str, SourceEpisode | Unreadable]]:
    """The name of the format that ``auto`` finds, its probe, and every episode by key."""
    source = Source(str(path))
    form, probe = detect(source, options=options)
    assert probe.proposal is None
    found = {item.key: item for item in form.read(source, probe, [ref.key for ref in probe.episodes])}
    assert list(found) == [ref.key for ref in probe.episodes]
    return form.name, probe, found


def column(episode: SourceEpisode | Unreadable, name: str) -> np.ndarray:
    """A column of an episode as an array (n, ...), flattened but for the steps."""
    assert isinstance(episode, SourceEpisode), episode
    values = episode.steps[name].combine_chunks()
    if pa.types.is_fixed_size_list(values.type):
        return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
    return values.to_numpy(zero_copy_only=False)


def frames(episode: SourceEpisode | Unreadable, camera: str) -> np.ndarray:
    """All frames of a camera, twice asked for and the same."""
    assert isinstance(episode, SourceEpisode), episode
    given = episode.cameras[camera]
    assert isinstance(given, RawFrames)
    found = np.stack(list(given.frames()))
    assert found.shape[1:3] == (given.height, given.width)
    np.testing.assert_array_equal(found, np.stack(list(given.frames())))
    return found


def through(lake: Path, path: Path | str, **options: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The receipt of an ingest, and each episode's row by key with its stored steps under ``steps``."""
    opened = Lake.open(str(lake), create=True)
    recipe = SourceRecipe(name="set", uri=str(path), options=options)
    receipt = ingest(opened, recipe, on=Local(), progress=silent(), run_id="run_test")
    assert check(opened) == []
    found, _ = query(opened, "n_steps > 0")
    assert len(found) == receipt["stored"]["episodes"]
    rows = {row["source_key"]: {**row, "steps": pl.from_arrow(steps)} for row, steps in opened.steps(opened.episodes())}
    return receipt, rows


def stored(row: dict[str, Any], name: str) -> np.ndarray:
    """A stored column as an array (n, ...)."""
    return np.array(row["steps"][name].to_list())


def coded(frame: np.ndarray, kind: str = "JPEG") -> bytes:
    """``frame`` as a JPEG or PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, kind)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """What Pillow makes of a file."""
    return np.asarray(Image.open(io.BytesIO(data)))


def scene(n: int, height: int = 64, width: int = 80, seed: int = 0) -> np.ndarray:
    """Smooth moving frames uint8 (n, h, w, 3), which codecs keep well."""
    y, x = np.mgrid[:height, :width]
    shift = 3 * np.arange(n)[:, None, None] + seed
    planes = [127 + 100 * np.sin((x * a + y * b + shift) / 23) for a, b in ((1, 2), (2, 1), (1, 1))]
    return np.stack(planes, axis=-1).astype(np.uint8)
