from __future__ import annotations

import numpy as np
import pytest

from data_engine.conventions.control import control_mode
from data_engine.model import ACTION, Feature


def walk(rng, n=200, d=3):
    return np.cumsum(rng.normal(size=(n, d)), axis=0)


def action(*names):
    return [Feature(name=ACTION, dtype="float32", shape=(3,), components=names or None)]


def test_names_speak_first():
    mode, evidence = control_mode(action("dx", "dy", "dz", "gripper"), [])
    assert mode == "delta"
    assert "dx, dy, dz" in evidence


def test_an_action_that_leads_the_state_is_absolute():
    rng = np.random.default_rng(0)
    state = walk(rng)
    assert control_mode(action(), [(state[:-1], state[1:])])[0] == "absolute"


def test_a_step_of_the_state_is_not_absolute():
    rng = np.random.default_rng(0)
    state = walk(rng)
    assert control_mode(action(), [(state[:-1], np.diff(state, axis=0))])[0] == "unspecified"


def test_other_units_are_not_absolute():
    rng = np.random.default_rng(0)
    state = walk(rng)
    assert control_mode(action(), [(state[:-1], np.degrees(state[1:]) + 500)])[0] == "unspecified"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_rows_are_passed_over(bad):
    rng = np.random.default_rng(0)
    state = walk(rng)
    state[3] = bad
    assert control_mode(action(), [(state[:-1], state[1:])])[0] == "absolute"
    assert control_mode(action(), [(np.full((9, 3), bad), np.zeros((9, 3)))])[0] == "unspecified"


def test_no_action_is_its_own_mode():
    assert control_mode([], [])[0] == "none"
