"""Search by what is seen: a text or a picture to the episodes, and the steps of each, that look most like it.

The encoder that made the space encodes the query; across robots this is allowed, images are of one kind. What ``where``
admits is chosen before anything is compared (:mod:`flows.spans`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.scoring import Encoder
from flows.clips import pinned
from flows.query import matching
from flows.score import device
from flows.spans import nearest_episodes
from storage.fits import describe, list_fits
from storage.lake import Lake

__all__ = ["encoder_of", "like", "picture", "seen", "vector_of"]

_PIXELS = 1 << 26  # of a picture
_VECTOR_BYTES = 1 << 20
_SHOWN = ("dataset", "source_key", "task", "operator", "success", "n_steps")


def seen(
    lake: Lake, space: str, *, text: str | None = None, image: str | None = None, k: int = 10, where: str | None = None
) -> list[dict[str, Any]]:
    """The ``k`` episodes with the frame most like ``text``, or like the picture at path ``image``, nearest first.

    Rows with ``episode_id``, ``similarity`` (cosine), ``camera``, ``start`` and ``stop``: where it is to be seen.
    Raises ``RequestError`` where the space's encoder takes no such query, and for a text without a word.
    """
    if text is not None and not text.strip():
        raise RequestError("an empty text shows nothing", code="bad_request", fix="say what is to be seen")
    admitted, _ = matching(lake, lake.episodes(), where)
    if not len(admitted):
        return []
    version = pinned(lake, [space], admitted)[f"space {space}"]
    encoder = encoder_of(lake, version)
    takes, kind = ("texts", "text") if text is not None else ("images", "picture")
    if not hasattr(encoder, takes):
        raise RequestError(
            f"space {space!r} takes no {kind}",
            code="no_such_query",
            fix="search a space of open_clip, or give --episode ID",
        )
    given = [text] if text is not None else [picture(str(image))]
    (query,) = getattr(encoder, takes)(given, device())
    return _shown(nearest_episodes(lake, space, version, query, admitted, k), admitted)


def like(
    lake: Lake, space: str, vector: Sequence[float], *, k: int = 10, where: str | None = None
) -> list[dict[str, Any]]:
    """The ``k`` episodes that hold the vector of largest cosine to ``vector``, as :func:`seen` tells them.

    Raises ``RequestError`` where it has another length than the space's, or no direction, and where the space is of
    trajectories and the episodes are of unlike robots.
    """
    admitted, _ = matching(lake, lake.episodes(), where)
    if not len(admitted):
        return []
    version = pinned(lake, [space], admitted)[f"space {space}"]
    rows = lake.scan(f"embeddings/{space}").filter(pl.col("encoder_version") == version)
    ((width, unseen),) = (
        rows.select(pl.col("vector").list.len().first(), pl.col("camera").is_null().all()).collect().rows()
    )
    if unseen and admitted.select("embodiment", "control_mode").n_unique() > 1:
        raise RequestError(
            f"space {space!r} is of courses, and those of unlike robots cannot be compared", code="unlike_spaces",
            fix="narrow where to one embodiment and control mode",
        )  # fmt: skip
    query = np.asarray(vector, np.float32)
    if query.shape != (width,):
        raise RequestError(f"vectors of space {space!r} have {width} numbers, not {len(vector)}", code="bad_vector")
    if not np.isfinite(query).all() or not query.any():
        raise RequestError("the vector has no direction", code="bad_vector", fix="give finite numbers, not all zero")
    return _shown(nearest_episodes(lake, space, version, query, admitted, k), admitted)


def _shown(hits: list[dict[str, Any]], episodes: pl.DataFrame) -> list[dict[str, Any]]:
    rows = {row["episode_id"]: row for row in episodes.iter_rows(named=True)}
    return [{**hit, **{name: rows[hit["episode_id"]][name] for name in _SHOWN}} for hit in hits]


def encoder_of(lake: Lake, version: str) -> Encoder:
    """The encoder that made the vectors of ``version``, as its stored fit tells it. Raises ``RequestError`` where none
    of a model that others trained did."""
    made = {point.spec.name: name for name in registry.names("encoders") if (point := registry.load("encoders", name))}
    for producer, fit_id in list_fits(lake):
        if producer not in made:
            continue
        told = describe(lake, producer, fit_id)
        if (told.get("meta") or {}).get("parts", {}).get("version") == version:
            encoder: Encoder = registry.make("encoders", made[producer], told["config"])
            if encoder.version() != version:
                raise RequestError(
                    f"the weights that made these vectors are not at {told['config'].get('checkpoint')} any more",
                    code="unlike_weights",
                    fix="put them back, or embed again",
                )
            return encoder
    raise RequestError("the space takes no text and no picture", code="no_such_query", fix="give --episode ID")


def picture(path: str) -> np.ndarray:
    """uint8 [h, w, 3] of a picture file. Raises ``RequestError`` where it is none, or larger than 64 megapixels."""
    from PIL import Image

    try:
        with Image.open(Path(path).expanduser()) as image:
            if image.width * image.height > _PIXELS:
                raise RequestError(f"{path} has more than {_PIXELS >> 20} megapixels", code="too_large")
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RequestError(f"{path} is no picture: {_why(error)}", code="bad_image") from error


def vector_of(path: str) -> list[float]:
    """The one vector in a ``.npy`` file, or in a JSON file that is a list of numbers. Raises ``RequestError`` for
    anything else."""
    full = Path(path).expanduser()
    try:
        if full.stat().st_size > _VECTOR_BYTES:
            raise ValueError(f"more than {_VECTOR_BYTES >> 20} MB")
        found = np.asarray(
            json.loads(full.read_bytes()) if full.suffix == ".json" else np.load(full, allow_pickle=False)
        )
        if found.dtype.kind not in "fiu" or found.squeeze().ndim != 1:
            raise ValueError(f"an array of {found.dtype} {list(found.shape)}")
        return [float(number) for number in found.squeeze()]
    except (OSError, ValueError, EOFError) as error:
        raise RequestError(
            f"{path} is no vector: {_why(error)}", code="bad_vector", fix="give a .npy of one row of numbers"
        ) from error


def _why(error: Exception) -> str:
    """The reason alone, without the path that a line names already."""
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)
