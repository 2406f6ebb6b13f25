from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError, SourceError
from storage import forms, indices
from storage.forms import RECALL, Effort
from storage.lake import Lake


def _vectors(n: int, d: int = 16, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    vectors = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), [f"ep_{i:06d}" for i in range(n)]


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 9),
    k=st.integers(1, 12),
    seed=st.integers(0, 99),
    metric=st.sampled_from(["ip", "l2"]),
)
def test_the_exact_form_is_brute_force(n: int, d: int, k: int, seed: int, metric: indices.Metric) -> None:
    rng = np.random.default_rng(seed)
    vectors, query = rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(2, d)).astype(np.float32)
    ids = [f"e{i}" for i in range(n)]
    found = indices.build(vectors, ids, metric=metric).search(query, k)
    true = query @ vectors.T if metric == "ip" else ((query[:, None] - vectors) ** 2).sum(-1)
    for hits, row in zip(found, true, strict=True):
        best = np.sort(row)[::-1][:k] if metric == "ip" else np.sort(row)[:k]
        assert np.allclose([hit.score for hit in hits], best, atol=1e-4)
        assert np.allclose([row[ids.index(hit.id)] for hit in hits], best, atol=1e-4)


def test_the_form_follows_the_size() -> None:
    assert indices.form_of(49_999, 64) == "Flat"
    assert indices.form_of(200_000, 64) == "IVF2048,Flat"
    assert indices.form_of(1_000_000, 256) == "IVF4096,PQ64x4fs,RFlat"
    assert indices.form_of(1_000_000, 61) == "IVF4096,Flat"


@pytest.mark.parametrize("form", ["Flat", "IVF16,Flat", "IVF16,PQ4x4fs,RFlat"])
def test_building_does_not_depend_on_row_order_or_threads(form: str) -> None:
    vectors, ids = _vectors(3000)
    order = np.random.default_rng(1).permutation(3000)
    threads = faiss.omp_get_max_threads()
    one = indices.build(vectors, ids, form=form)
    faiss.omp_set_num_threads(1)
    two = indices.build(vectors[order], [ids[i] for i in order], form=form)
    faiss.omp_set_num_threads(threads)
    assert one.version == two.version
    assert faiss.serialize_index(one.index).tobytes() == faiss.serialize_index(two.index).tobytes()
    assert one.version != indices.build(vectors, ids, form=form, meta={"encoder_version": "2"}).version


@pytest.mark.parametrize("form", ["Flat", "IVF16,Flat", "IVF16,PQ4x4fs,RFlat"])
def test_search_finds_itself_and_keeps_to_the_allowed(form: str) -> None:
    vectors, ids = _vectors(3000)
    index = indices.build(vectors, ids, form=form)
    hits = index.search(vectors[:40], 5)
    assert [row[0].id for row in hits] == ids[:40] and all(len(row) == 5 for row in hits)
    for allowed in (ids[:7], ids[2990:]):
        for row in index.search(vectors[100:120], 10, allowed=allowed):
            assert {hit.id for hit in row} <= set(allowed) and len(row) == min(10, len(allowed))
    assert index.search(vectors[:2], 3, allowed=["nobody"]) == [[], []]


def spread(n: int, d: int = 32, seed: int = 0) -> np.ndarray:
    """Vectors about a few centres, as frames of some scenes are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(50, d))
    return (centres[rng.integers(50, size=n)] + 0.3 * rng.normal(size=(n, d))).astype(np.float32)


@pytest.mark.parametrize("form", ["IVF256,Flat", "IVF256,PQ8x4fs,RFlat"])
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_a_search_looks_as_hard_as_it_must_and_says_what_it_finds(
    lake: Lake, form: str, metric: indices.Metric
) -> None:
    base, asked = spread(8000), spread(100, seed=0) + np.random.default_rng(1).normal(0, 0.05, (100, 32))
    vectors, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (base, asked.astype(np.float32)))
    ids = [f"{i:04d}" for i in range(8000)]
    exact = indices.build(vectors, ids, metric=metric)
    assert (exact.form, exact.effort.recall) == ("Flat", 1.0)
    index = indices.build(vectors, ids, metric=metric, form=form)
    assert index.effort.recall >= RECALL
    assert index.effort.probes < 256  # it does not compare with everything
    found = zip(exact.search(queries, 10), index.search(queries, 10), strict=True)
    assert np.mean([len({h.id for h in a} & {h.id for h in b}) / 10 for a, b in found]) >= RECALL - 0.05
    indices.save(lake, "s", index)
    assert indices.load(lake, "s").effort == index.effort
    lazy = replace(index, effort=Effort(probes=1, refine=1))
    found = zip(exact.search(queries, 10), lazy.search(queries, 10), strict=True)
    assert np.mean([len({h.id for h in a} & {h.id for h in b}) / 10 for a, b in found]) < RECALL  # it is the effort


@pytest.mark.parametrize("form", ["IVF64,Flat", "IVF64,PQ8x4fs,RFlat"])
def test_a_narrow_filter_is_exact_and_a_wide_one_finds_as_many_as_asked_for(monkeypatch, form: str) -> None:
    vectors = spread(4000)
    units = pa.table({"id": [f"ep{i // 20:03d}" for i in range(4000)], "start": [i % 20 for i in range(4000)]})
    index = indices.build(vectors, units, metric="l2", form=form)
    assert index.units.equals(units)
    narrow = [f"ep{i:03d}" for i in (3, 77, 140)]
    mine = np.flatnonzero(np.isin(units["id"].to_numpy(zero_copy_only=False), narrow))
    true = mine[((vectors[:20, None] - vectors[mine]) ** 2).sum(-1).argsort(axis=1)[:, :30]]
    hits = index.search(vectors[:20], 30, allowed=narrow)
    assert np.mean([len({h.row for h in row} & set(right)) / 30 for row, right in zip(hits, true, strict=True)]) > 0.999
    assert all(hit.id == units["id"][hit.row].as_py() for row in hits for hit in row)
    monkeypatch.setattr(forms, "EXACT_BELOW", 100)  # so that a tenth of the index is a wide filter
    wide = [f"ep{i:03d}" for i in range(0, 200, 10)]
    for row in index.search(vectors[:20], 400, allowed=wide):
        assert len(row) == 400 and {hit.id for hit in row} <= set(wide)


@pytest.mark.parametrize("form", ["IVF128,Flat", "IVF128,PQ8x4fs,RFlat"])
def test_an_episodes_own_frames_do_not_flatter_the_recall(form: str) -> None:
    """Its frames are all alike and found with no effort; those of an episode that is not in the index are not."""
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(12, 32))

    def episodes(count: int) -> np.ndarray:
        each = 0.5 * centres[rng.integers(12, size=count)] + rng.normal(size=(count, 32))
        return (each[:, None] + 0.05 * rng.normal(size=(count, 20, 32))).astype(np.float32).reshape(-1, 32)

    base, queries = episodes(500), episodes(100)[::20]
    units = pa.table({"id": [f"ep{i // 20:03d}" for i in range(10_000)], "start": [i % 20 for i in range(10_000)]})
    exact, index = (indices.build(base, units, metric="l2", form=it) for it in ("Flat", form))
    assert index.effort.recall >= RECALL and (index.effort.probes, index.effort.refine) != (16, 8)
    found = zip(exact.search(queries, 10), index.search(queries, 10), strict=True)
    assert np.mean([len({h.row for h in a} & {h.row for h in b}) / 10 for a, b in found]) >= RECALL - 0.05


def test_without_the_form_on_a_gpu_the_cpu_answers(monkeypatch) -> None:
    vectors = spread(500)
    index = indices.build(vectors, [str(i) for i in range(500)])
    expected = index.search(vectors[:5], 3)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)

    def full(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", full, raising=False)
    assert replace(index).search(vectors[:5], 3) == expected


def test_more_results_than_the_probed_lists_hold_are_found_all_the_same() -> None:
    vectors = spread(3000)
    index = indices.build(vectors, [str(i) for i in range(3000)], form="IVF64,Flat")
    lazy = replace(index, effort=Effort(probes=1))
    assert all(len({hit.id for hit in row}) == 2500 for row in lazy.search(vectors[:3], 2500))


def test_equal_vectors_count_as_found_whichever_is() -> None:
    base = np.repeat(spread(300), 20, axis=0)  # frozen frames
    index = indices.build(base, [f"{i:05d}" for i in range(len(base))], form="IVF32,Flat", metric="l2")
    assert index.effort.recall >= RECALL and index.effort.probes <= 16


def test_an_index_comes_back_from_the_lake(lake: Lake) -> None:
    vectors, ids = _vectors(50)
    first = indices.build(vectors, ids, meta={"embodiment": "arm"})
    version = indices.save(lake, "trajectory/arm", first)
    again = indices.load(lake, "trajectory/arm")
    assert (again.version, again.meta, again.metric) == (version, {"embodiment": "arm"}, "ip")
    assert again.search(vectors[:3], 4) == first.search(vectors[:3], 4)
    second = indices.save(lake, "trajectory/arm", indices.build(vectors[:20], ids[:20]))
    assert indices.load(lake, "trajectory/arm").version == second
    indices.save(lake, "trajectory/arm", first)
    assert indices.load(lake, "trajectory/arm").version == version
    assert indices.list_indices(lake) == sorted([("trajectory/arm", version), ("trajectory/arm", second)])


def test_a_flipped_byte_is_found_and_named(local_lake: Lake) -> None:
    vectors, ids = _vectors(50)
    version = indices.save(local_lake, "s", indices.build(vectors, ids))
    for name in ("index.faiss", "ids.parquet"):
        path = Path(local_lake.root, "indices/s", version, name)
        sound = path.read_bytes()
        path.write_bytes(sound[:60] + bytes([sound[60] ^ 1]) + sound[61:])
        with pytest.raises(SourceError, match=name):
            indices.load(local_lake, "s")
        path.write_bytes(sound)


def test_wrong_requests_are_one_clear_line(local_lake: Lake) -> None:
    vectors, ids = _vectors(5)
    index = indices.build(vectors, ids)
    with pytest.raises(RequestError, match="3 dimensions"):
        index.search(np.zeros((1, 3)), 1)
    with pytest.raises(RequestError, match="asks for nothing"):
        index.search(vectors, 0)
    with pytest.raises(RequestError, match="finite"):
        indices.build(vectors * np.nan, ids)
    with pytest.raises(RequestError, match="distinct ids"):
        indices.build(vectors, ids[:4] + ids[:1])
    with pytest.raises(RequestError, match="no index of space 's'"):
        indices.load(local_lake, "s")
    with pytest.raises(RequestError):
        indices.save(local_lake, "../s", index)
