from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError, SourceError
from storage import indices
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


def test_large_forms_recall_what_the_exact_one_finds() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, 32))
    vectors = (centres[rng.integers(50, size=5000)] + 0.3 * rng.normal(size=(5000, 32))).astype(np.float32)
    ids = [str(i) for i in range(5000)]
    exact = indices.build(vectors, ids, metric="l2").search(vectors[:100], 10)
    for form in ("IVF64,Flat", "IVF64,PQ8x4fs,RFlat"):
        found = indices.build(vectors, ids, metric="l2", form=form).search(vectors[:100], 10)
        recall = np.mean([len({h.id for h in a} & {h.id for h in b}) / 10 for a, b in zip(exact, found, strict=True)])
        assert recall > 0.9


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
