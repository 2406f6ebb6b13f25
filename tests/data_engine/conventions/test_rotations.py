from __future__ import annotations

import numpy as np
import pytest

from data_engine.conventions.rotations import (
    angles,
    evenly,
    matrices,
    order_of_quaternion,
    quaternions,
    rot6d,
    sign_flips,
    turns_of,
)  # fmt: skip

Q = {"xyzw": [0, 1, 2, 3], "wxyz": [3, 0, 1, 2]}  # from xyzw into the order


def turning(spins: np.ndarray) -> np.ndarray:
    """Quaternions xyzw [n + 1, 4] that turn by the rotation vectors ``spins`` [n, 3], in the fixed frame."""
    q = [np.array([0.1, -0.3, 0.2, 0.9])]
    q[0] /= np.linalg.norm(q[0])
    for spin in spins:
        angle = np.linalg.norm(spin)
        v, w = spin / max(angle, 1e-12) * np.sin(angle / 2), np.cos(angle / 2)
        u, s = q[-1][:3], q[-1][3]
        q.append(np.append(w * u + s * v + np.cross(v, u), w * s - v @ u))
    return np.array(q)


@pytest.fixture
def spins() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.06, (300, 3))


@pytest.mark.parametrize("order", Q)
def test_the_commanded_rotation_tells_the_order(spins, order):
    q = turning(spins)[:-1, Q[order]]
    value, confidence, evidence = order_of_quaternion((), frozenset(), [q], [spins])
    assert (value, confidence) == (order, 0.9), evidence


@pytest.mark.parametrize("order", Q)
def test_a_canonical_sign_tells_the_order(order):
    q = turning(np.random.default_rng(1).normal(0, 0.3, (2000, 3)))
    q *= np.where(q[:, 3:] < 0, -1, 1)
    assert order_of_quaternion((), frozenset(), [q[:, Q[order]]])[:2] == (order, 0.75)


@pytest.mark.parametrize("order", Q)
def test_things_that_stand_turn_about_the_vertical(order):
    yaw = np.linspace(-1.5, 1.5, 200)
    q = np.stack([0 * yaw, 0 * yaw, np.sin(yaw / 2), np.cos(yaw / 2)], axis=1)
    assert order_of_quaternion((), frozenset(), [q[:, Q[order]]])[0] == order


def test_names_tell_first_and_too_little_is_unknown(spins):
    q = turning(spins)[:-1]
    assert order_of_quaternion("wxyz", frozenset(), [q])[0] == "wxyz"
    assert order_of_quaternion("0123", frozenset({"robot0", "eef", "quat"}), [q])[0] == "xyzw"
    mixed = turning(np.random.default_rng(2).normal(0, 0.4, (2000, 3)))
    assert order_of_quaternion((), frozenset(), [mixed])[0] == "unknown"
    down = np.tile([0.998, 0.03, -0.04, 0.03], (50, 1)) + np.random.default_rng(0).normal(0, 0.002, (50, 4))
    assert order_of_quaternion((), frozenset(), [down])[1] < 0.8  # x of a gripper that points down, or w


def test_matrices_and_turns_agree(spins):
    q = turning(spins)
    r = matrices(q)
    np.testing.assert_allclose(r @ np.swapaxes(r, 1, 2), np.tile(np.eye(3), (len(q), 1, 1)), atol=1e-12)
    np.testing.assert_allclose(matrices(q[:, Q["wxyz"]], "wxyz"), r)
    np.testing.assert_allclose(turns_of(q, "xyzw"), spins, atol=5e-3)  # small angles


def test_what_is_a_quaternion_and_what_a_rot6d(spins):
    q = turning(spins)
    r = matrices(q)
    rows = np.concatenate([np.zeros((len(q), 2)), q, np.full((len(q), 1), 7.0), r[:, :, 0], r[:, :, 1]], axis=1)
    assert quaternions([rows]) == [2]
    assert rot6d(rows) == [7]
    one_hot = np.eye(4)[np.random.default_rng(0).integers(0, 4, 100)]
    assert quaternions([one_hot]) == []


def test_signs_that_flip_are_counted(spins):
    q = turning(spins)
    assert sign_flips([q]) == 0
    q[100:200] *= -1
    assert sign_flips([q]) == 2


def test_angles_that_wrap():
    turn = (np.cumsum(np.full((300, 2), [0.1, 0.0]), axis=0) + np.pi) % (2 * np.pi) - np.pi
    assert angles([turn, turn], set()) == [(0, pytest.approx(2 * np.pi))]
    assert angles([turn, 0 * turn], set()) == []  # one episode proves nothing
    assert len(evenly(turn)) == 64
