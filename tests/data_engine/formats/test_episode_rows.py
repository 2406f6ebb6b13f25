from __future__ import annotations

import pickle

import pyarrow as pa
import pytest

from data_engine.formats.episode_rows import EpisodeRows


def rows(n: int = 600) -> EpisodeRows:
    table = pa.table({"length": range(n), "tasks": [["push"] * (i % 3) for i in range(n)]})
    return EpisodeRows([f"episode_{i}" for i in range(n)], table)


def test_is_a_mapping_of_plain_rows() -> None:
    found = rows()
    assert (len(found), list(found)[-1], "episode_3" in found, "episode_600" in found) == (
        600,
        "episode_599",
        True,
        False,
    )
    for i in (599, 0, 256, 255):
        assert found[f"episode_{i}"] == {"length": i, "tasks": ["push"] * (i % 3)}
    with pytest.raises(KeyError):
        found["episode_600"]


def test_a_cut_holds_and_pickles_its_own_rows_alone() -> None:
    keys = ["episode_400", "episode_7"]
    for cut in (rows().cut(keys), pickle.loads(pickle.dumps(rows().cut(keys)))):
        assert dict(cut) == {key: rows()[key] for key in keys}
    assert len(pickle.dumps(rows(6000).cut(keys))) == len(pickle.dumps(rows().cut(keys)))
    with pytest.raises(KeyError):
        rows().cut(["episode_600"])


def test_every_row_has_a_key() -> None:
    with pytest.raises(ValueError, match="1 keys for 2 rows"):
        EpisodeRows(["a"], pa.table({"x": [1, 2]}))
