import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine import registry
from data_engine.errors import RequestError
from data_engine.selection import Candidates, semantic_dedup
from data_engine.selection.neighbours import directions
from data_engine.selection.semantic_dedup import SemanticDedup


def copies(groups, each, d=16, noise=0.005, seed=0):
    rng = np.random.default_rng(seed)
    return np.repeat(rng.normal(size=(groups, d)), each, axis=0) + noise * rng.normal(size=(groups * each, d))


def test_one_of_each_group_is_kept_and_the_others_say_of_whom_they_are_duplicates(units):
    candidates = units(copies(30, 4), "c")
    chosen = SemanticDedup(threshold=0.99).select(candidates, None, budget=None, seed=0)
    assert sorted((chosen.order // 4).tolist()) == list(range(30))
    kept = {at // 4: candidates.ids[at] for at in chosen.order.tolist()}
    for at, reason in enumerate(chosen.reasons):
        if at not in chosen.order:
            assert reason.startswith(f"left out: duplicate of {kept[at // 4]}, cosine ")


def test_a_set_without_duplicates_stays_whole(units):
    vectors = np.random.default_rng(0).normal(size=(200, 16))
    assert len(SemanticDedup().select(units(vectors, "c"), None, budget=None, seed=0).order) == 200


def test_the_better_is_kept_else_the_nearest_to_the_centroid(units):
    candidates = units(copies(20, 5), "c")
    scores = np.random.default_rng(1).normal(size=100)
    scores[:5] = np.nan
    scores[5:9] = np.nan
    by = dataclasses.replace(candidates, scores=scores)
    chosen = SemanticDedup(by="composite").select(by, None, budget=None, seed=0)
    best = {group * 5 + int(np.argmax(scores[group * 5 : group * 5 + 5])) for group in range(2, 20)}
    assert best | {9} <= set(chosen.order.tolist())
    assert len(chosen.order) == 20
    along = np.array([[1.0, 0.08], [1.0, 0.0], [1.0, -0.09]])
    chosen = SemanticDedup(threshold=0.99).select(units(along, "c"), None, budget=None, seed=0)
    assert chosen.order.tolist() == [1]


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 60), threshold=st.floats(0.3, 0.99), seed=st.integers(0, 999))
def test_no_two_kept_are_duplicates_and_each_other_has_a_kept_one_beside_it(n, threshold, seed):
    vectors = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    names = [str(i) for i in range(n)]
    chosen = SemanticDedup(threshold=threshold).select(
        Candidates(names, names, np.ones(n), vectors), None, budget=None, seed=0
    )
    unit = directions(vectors)
    cosine = unit @ unit.T
    kept = chosen.order.tolist()
    among = cosine[np.ix_(kept, kept)] - 2 * np.eye(len(kept))
    assert (among < threshold + 1e-5).all()
    for at in set(range(n)) - set(kept):
        of = int(chosen.reasons[at].split("duplicate of ")[1].split(",")[0])
        assert of in kept
        assert cosine[at, of] >= threshold - 1e-5


def test_in_cells_it_finds_what_comparing_all_finds(units, monkeypatch):
    vectors = copies(300, 3, d=12)
    monkeypatch.setattr(semantic_dedup, "_ONE_CELL", 100)
    monkeypatch.setattr(semantic_dedup, "_CELL", 60)
    chosen = SemanticDedup().select(units(vectors, "c"), None, budget=None, seed=0)
    assert chosen.report["cells"] > 10
    assert set((chosen.order // 3).tolist()) == set(range(300))
    assert len(chosen.order) <= 303  # a pair that lies on two sides of borders both times may be missed
    again = SemanticDedup().select(units(vectors, "c"), None, budget=None, seed=0)
    assert again.order.tolist() == chosen.order.tolist()


def test_neither_names_nor_order_change_the_choice(units, permuted):
    rng = np.random.default_rng(3)
    candidates = units(np.concatenate([copies(20, 3), copies(5, 2, noise=0.0, seed=4)]), "c")
    other = permuted(candidates, rng.permutation(70))
    first, second = (SemanticDedup().select(given, None, budget=None, seed=0) for given in (candidates, other))
    assert [candidates.content_hashes[i] for i in first.order] == [other.content_hashes[i] for i in second.order]


def test_refuses_a_budget_and_is_registered(units):
    with pytest.raises(RequestError, match="has no budget"):
        SemanticDedup().select(units(np.eye(3), "c"), None, budget=2, seed=0)
    assert isinstance(registry.make("selectors", "semantic_dedup"), SemanticDedup)
