import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.selection import Candidates
from data_engine.selection.pool import canonical_order, unit_keys, vector_pools


def test_unusable_vectors_are_left_out_with_a_reason(units):
    vectors = np.ones((5, 3), dtype=np.float32)
    vectors[1, 0], vectors[2, 1], vectors[3] = np.nan, np.inf, 0
    pool, wanted = vector_pools(units(vectors, "c"), units(np.ones((1, 3)), "t"))
    assert sorted(pool.rows.tolist()) == [0, 4]
    assert {i: reason.split(": ")[1] for i, reason in pool.left_out.items()} == {
        1: "its vector has a value that is not finite",
        2: "its vector has a value that is not finite",
        3: "its vector is zero",
    }
    assert len(wanted) == 1


def test_a_target_under_another_name_is_no_candidate():
    candidates = Candidates(["a", "b"], ["same", "other"], np.ones(2), np.eye(2, dtype=np.float32))
    targets = Candidates(["c"], ["same"], np.ones(1), np.ones((1, 2), dtype=np.float32))
    pool, _ = vector_pools(candidates, targets)
    assert pool.rows.tolist() == [1]
    assert pool.left_out == {0: "left out: the same recording as a target"}


def test_ranges_of_an_episode_are_units_of_their_own():
    ranges = Candidates(["ep_a:0:10", "ep_a:10:20", "ep_b"], ["h", "h", "g"], np.ones(3))
    assert unit_keys(ranges) == ["h:0:10", "h:10:20", "g"]
    assert canonical_order(ranges).tolist() == [2, 0, 1]


def test_refusals_say_what_is_wrong(units):
    good, bad = units(np.ones((2, 3)), "c"), units(np.full((2, 3), np.nan), "t")
    for candidates, targets, says in (
        (good, None, "needs targets"),
        (good, units(np.ones((0, 3)), "t"), "needs targets"),
        (good, bad, "none of the 2 targets can be used: its vector has a value that is not finite"),
        (bad, good, "none of the 2 candidates can be used"),
        (good, units(np.ones((1, 4)), "t"), "candidates have 3 numbers a vector and targets 4"),
        (units(None, "c", 2), good, "the candidates have no vectors"),
    ):
        with pytest.raises(RequestError, match=says):
            vector_pools(candidates, targets)
