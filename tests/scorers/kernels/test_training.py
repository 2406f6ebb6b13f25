import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scorers.kernels.training import Stopping

LOSSES = st.lists(st.one_of(st.floats(0.001, 2.0), st.just(float("nan"))), min_size=2, max_size=2)


def followed(losses, holds, **options):
    """Looks at ``losses`` [looks, K] until it ends; the weights of a look are its number."""
    stopping = Stopping([torch.zeros(len(holds), 1)], torch.tensor(holds), **options)
    for number, row in enumerate(losses, 1):
        if stopping.look([torch.full((len(holds), 1), float(number))], torch.tensor(row)):
            break
    return stopping, number


def by_hand(losses, alone):
    """The look that each of two members keeps, whether it has converged, and the last look."""
    best, at, waited = np.full(2, np.inf, np.float32), [0, 0], [0, 0]
    for number, row in enumerate(np.float32(losses), 1):
        for member in (0, 1):
            if alone and waited[member] >= 6:
                continue
            better = row[member] < best[member] * np.float32(0.999)
            if better:
                best[member], at[member] = row[member], number
            waited[member] = 0 if better else waited[member] + 1
        if min(waited) >= 6:
            break
    return at, [each >= 6 for each in waited], number


@settings(max_examples=60, deadline=None)
@given(st.lists(LOSSES, min_size=1, max_size=30), st.booleans())
def test_ends_when_no_held_out_loss_falls(losses, alone):
    stopping, last = followed(losses, [True, True], alone=alone)
    kept, converged, want = by_hand(losses, alone)
    assert (stopping.kept[0][:, 0].tolist(), stopping.converged.tolist(), last) == (kept, converged, want)


def test_alone_a_member_keeps_what_it_had_when_it_converged():
    losses = [(1.0, 1.0 / number) for number in range(1, 10)] + [(0.5, 1.0)] * 6
    for alone, kept in ((True, 1), (False, 10)):
        stopping, last = followed(losses, [True, True], alone=alone)
        assert (stopping.kept[0][:, 0].tolist(), last) == ([kept, 9], 15)


def test_one_that_holds_nothing_out_keeps_the_newest_and_stops_nobody():
    falling = [(1.0 / number, float("nan")) for number in range(1, 4)] + [(1.0, float("nan"))] * 6
    stopping, last = followed(falling, [True, False])
    assert last == 9
    assert stopping.kept[0][:, 0].tolist() == [3, 9]
    training = stopping.training({}, last)
    np.testing.assert_allclose(training.held_out, [1 / 3, np.nan], rtol=1e-6)
    assert training.ended == {"iterations": 9, "held_out": training.held_out[0], "converged": True}
    alone, last = followed([(0.5,)] * 20, [False])
    assert last == 20
    assert alone.training({}, last).ended == {"iterations": 20, "held_out": None, "converged": False}


def test_what_is_kept_is_a_copy():
    weights = torch.zeros(1, 2)
    stopping = Stopping([weights], torch.tensor([True]))
    stopping.look([weights], torch.tensor([1.0]))
    weights += 5
    assert stopping.kept[0].tolist() == [[0, 0]]
