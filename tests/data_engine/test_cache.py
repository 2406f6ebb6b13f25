from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine.cache import LRU, Cache, sha256_of
from data_engine.errors import RequestError, SourceError


def steps_file(path: Path, rows: int = 50, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    columns = {
        "state": pa.array(values.tolist(), pa.list_(pa.float32())),
        "holes": pa.array([None if i % 5 == 0 else [float(i), None] for i in range(rows)], pa.list_(pa.float64())),
        "flag": np.arange(rows) % 2 == 0,
        "count": pa.array([None, *range(1, rows)]),
        "note": ["x"] * rows,
        "ragged": [[1.0] * (i % 3) for i in range(rows)],
    }
    pq.write_table(pa.table(columns), path)
    return path


def test_columns_are_memory_mapped_arrays_of_the_stored_type(tmp_path) -> None:
    file = steps_file(tmp_path / "0.parquet")
    cache = Cache(tmp_path / "cache")
    table = pq.read_table(file)
    state = cache.column(file, sha256_of(file), "state")
    assert state.dtype == np.float32
    assert not state.flags.writeable
    assert state.tolist() == table["state"].to_pylist()
    assert cache.column(file, sha256_of(file), "flag").tolist() == table["flag"].to_pylist()


def test_a_null_is_nan(tmp_path) -> None:
    file = steps_file(tmp_path / "0.parquet")
    cache = Cache(tmp_path / "cache")
    holes = cache.column(file, sha256_of(file), "holes")
    assert np.isnan(holes[0]).all()
    assert holes[1, 0] == 1
    assert np.isnan(holes[:, 1]).all()
    count = cache.column(file, sha256_of(file), "count")
    assert np.isnan(count[0])
    assert count[1] == 1


@pytest.mark.parametrize(
    ("column", "message"),
    [("note", "holds string, which is no array"), ("ragged", "values a step"), ("none", "has no column 'none'")],
)
def test_what_is_no_array_gets_one_line(tmp_path, column, message) -> None:
    file = steps_file(tmp_path / "0.parquet")
    with pytest.raises(SourceError, match=message):
        Cache(tmp_path / "cache").column(file, sha256_of(file), column)


def test_a_broken_file_gets_one_line_and_leaves_nothing(tmp_path) -> None:
    file = steps_file(tmp_path / "0.parquet")
    cache = Cache(tmp_path / "cache")
    with pytest.raises(SourceError, match="its sha256 differs"):
        cache.column(file, "0" * 64, "state")
    (tmp_path / "1.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(SourceError, match=r"cannot read .*1\.parquet"):
        cache.column(tmp_path / "1.parquet", sha256_of(tmp_path / "1.parquet"), "state")
    with pytest.raises(SourceError, match="missing file"):
        cache.column(tmp_path / "2.parquet", "0" * 64, "state")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_copy_is_fetched_once_and_verified(tmp_path) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/lake/videos/v.mp4", b"frames")
    (tmp_path / "same").write_bytes(b"frames")
    sha256 = sha256_of(tmp_path / "same")
    cache = Cache(tmp_path / "cache")
    kept = cache.copy(fs, "/lake/videos/v.mp4", sha256)
    assert (kept.read_bytes(), kept.suffix) == (b"frames", ".mp4")
    fs.rm("/lake/videos/v.mp4")
    assert cache.copy(fs, "/lake/videos/v.mp4", sha256) == kept
    with pytest.raises(SourceError, match=r"missing file /lake/videos/v\.mp4"):
        Cache(tmp_path / "other").copy(fs, "/lake/videos/v.mp4", sha256)
    fs.pipe_file("/lake/videos/v.mp4", b"flames")
    with pytest.raises(SourceError, match="its sha256 differs"):
        Cache(tmp_path / "other").copy(fs, "/lake/videos/v.mp4", sha256)


def test_a_copy_of_another_size_is_not_even_fetched(tmp_path) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/lake/videos/w.mp4", b"frames")
    with pytest.raises(SourceError, match="has 6 bytes, 7 were expected"):
        Cache(tmp_path / "cache").copy(fs, "/lake/videos/w.mp4", "0" * 64, size=7)
    with pytest.raises(SourceError, match="is no sha256"):
        Cache(tmp_path / "cache").copy(fs, "/lake/videos/w.mp4", "../../out")


def test_a_local_file_is_hashed_once_and_again_after_it_was_touched(tmp_path, monkeypatch) -> None:
    file = tmp_path / "v.mp4"
    file.write_bytes(b"frames")
    sha256, stamp = sha256_of(file), file.stat().st_mtime_ns
    hashed: list[str] = []
    monkeypatch.setattr("data_engine.cache.sha256_of", lambda path: hashed.append(path.name) or sha256_of(path))
    for _ in range(3):
        Cache(tmp_path / "cache").verify(file, sha256)
    assert hashed == ["v.mp4"]
    file.write_bytes(b"flames")
    os.utime(file, ns=(stamp, stamp))  # the change of its status shows all the same
    with pytest.raises(SourceError, match="its sha256 differs"):
        Cache(tmp_path / "cache").verify(file, sha256)
    file.unlink()
    with pytest.raises(SourceError, match="missing file"):
        Cache(tmp_path / "cache").verify(file, sha256)


def test_what_was_used_longest_ago_goes_first(tmp_path) -> None:
    files = [steps_file(tmp_path / f"{i}.parquet", seed=i) for i in range(4)]
    hashes = [sha256_of(file) for file in files]
    size = 50 * 3 * 4 + 128
    cache = Cache(tmp_path / "cache", max_bytes=2 * size, grace_s=0)
    first = cache.column(files[0], hashes[0], "state")
    cache.column(files[1], hashes[1], "state")
    cache.column(files[0], hashes[0], "state")
    cache.column(files[2], hashes[2], "state")
    kept = {path.name for path in (tmp_path / "cache").glob("steps/??/*")}
    assert kept == {hashes[0], hashes[2]}
    cache.column(files[3], hashes[3], "state")
    cache.column(files[1], hashes[1], "state")
    assert first.tolist() == pq.read_table(files[0])["state"].to_pylist()  # mapped still, though it is gone


def _read(arguments: tuple[Path, str, Path]) -> float:
    file, sha256, folder = arguments
    return float(Cache(folder, max_bytes=1, grace_s=0).column(file, sha256, "state").sum())


def test_what_was_used_just_now_stays(tmp_path) -> None:
    files = [steps_file(tmp_path / f"{i}.parquet", seed=i) for i in range(3)]
    cache = Cache(tmp_path / "cache", max_bytes=1)
    for file in files:
        cache.column(file, sha256_of(file), "state")
    assert len(list((tmp_path / "cache").glob("steps/??/*"))) == 3


def test_processes_share_a_cache_that_is_too_small(tmp_path) -> None:
    files = [steps_file(tmp_path / f"{i}.parquet", seed=i) for i in range(3)]
    work = [(file, sha256_of(file), tmp_path / "cache") for file in files] * 10
    with multiprocessing.get_context("fork").Pool(3) as pool:
        sums = pool.map(_read, work, chunksize=1)
    assert sums == [_read(item) for item in work]


def test_a_folder_that_cannot_be_written_gets_one_line(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    file = steps_file(tmp_path / "0.parquet")
    with pytest.raises(RequestError, match=r"cannot write the cache .*DATA_ENGINE_CACHE"):
        Cache(tmp_path / "file").column(file, sha256_of(file), "state")


def test_the_folder_comes_from_the_environment(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DATA_ENGINE_CACHE", str(tmp_path / "here"))
    assert Cache().folder == tmp_path / "here"
    monkeypatch.delenv("DATA_ENGINE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert Cache().folder == Path("~/.cache/data-engine").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache().folder == tmp_path / "data-engine"


def test_an_lru_forgets_the_oldest() -> None:
    made: list[int] = []
    lru = LRU[int, int](2, lambda key: made.append(key) or key)
    for key in (1, 2, 1, 3, 1, 2):
        assert lru(key) == key
    assert made == [1, 2, 3, 2]


@pytest.mark.parametrize(
    "made", [np.arange(12.0).reshape(3, 4), np.arange(6).reshape(2, 3).T, np.float32(3), np.zeros(0)]
)
def test_what_was_made_comes_back_as_it_was(tmp_path, made) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.kept("0" * 64, "made") is None
    cache.keep("0" * 64, "made", np.ones(2))
    cache.keep("0" * 64, "made", np.asarray(made))
    again = cache.kept("0" * 64, "made")
    assert again is not None and again.flags.writeable
    assert np.array_equal(made, again) and again.dtype == np.asarray(made).dtype and again.shape == np.shape(made)
    assert cache.kept("0" * 64, "another") is None and cache.kept("1" * 64, "made") is None
