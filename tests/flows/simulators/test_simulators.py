"""Every simulator behind its seam: the same rollout from one seed, success and progress as the simulator has them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from data_engine.errors import EngineError, RequestError
from flows.simulators import World, named


def rollout(world: World, seed: int, actions: np.ndarray) -> list[tuple]:
    seen = [tuple(world.reset(seed))]
    for action in actions:
        step = world.step(action)
        seen.append((*step.observation, step.success, step.progress, step.done))
    return seen


@pytest.mark.parametrize(
    ("name", "package", "low", "high"),
    [("metaworld:drawer-open-v3", "metaworld", -1, 1), ("pusht", "gym_pusht", 0, 512),
     ("gymnasium:Pendulum-v1", "gymnasium", -2, 2)],
)  # fmt: skip
def test_a_seed_is_the_whole_initial_condition(name, package, low, high):
    pytest.importorskip(package, reason=f"the simulator {package} is not installed")
    options = {"success": "TimeLimit.truncated"} if package == "gymnasium" else {}
    world = named(name, options).open()
    actions = np.random.default_rng(0).uniform(low, high, (6, world.action_size))
    if package == "gymnasium":
        assert len(world.reset(1)) == world.observation_size
        with pytest.raises(RequestError, match=r"says no 'TimeLimit.truncated' of a step"):
            world.step(actions[0])
        return
    first = rollout(world, 5, actions)
    rollout(world, 6, actions)  # leaves nothing behind
    assert rollout(world, 5, actions) == first
    assert rollout(named(name).open(), 5, actions) == first
    assert rollout(world, 6, actions)[0] != first[0]
    assert len(first[0]) == world.observation_size


def test_metaworlds_first_observation_shows_where_things_are():
    pytest.importorskip("metaworld", reason="the simulator metaworld is not installed")
    world = named("metaworld:drawer-open-v3").open()
    for seed in range(3):
        first = world.reset(seed)
        second = world.step(np.array([0, 0, 0, -1.0])).observation
        np.testing.assert_allclose(first[4:7], second[4:7], atol=1e-3)
        np.testing.assert_array_equal(first[36:], second[36:])
        np.testing.assert_allclose(first[:18], second[18:36], atol=1e-6)  # the frame before


@pytest.mark.parametrize("task", ["window-open-v3", "pick-place-v3", "peg-insert-side-v3"])
def test_metaworld_is_as_if_the_hand_had_been_brought_to_rest_by_simulation(task):
    pytest.importorskip("metaworld", reason="the simulator metaworld is not installed")
    import mujoco

    world, whole = named(f"metaworld:{task}").open(), named(f"metaworld:{task}").open().env
    actions = np.random.default_rng(1).uniform(-1, 1, (20, 4))
    for seed in range(3):
        first = world.reset(seed)
        whole.seed(seed)
        whole.reset()
        mujoco.mj_forward(whole.model, whole.data)
        whole._get_obs()
        np.testing.assert_allclose(first, whole._get_obs(), atol=1e-4)
        mine = np.stack([world.step(action).observation for action in actions])
        theirs = np.stack([whole.step(action.astype(np.float32))[0] for action in actions])
        np.testing.assert_allclose(mine, theirs, atol=1e-3)


def test_pushts_progress_is_the_largest_coverage_so_far():
    pytest.importorskip("gym_pusht", reason="the simulator gym_pusht is not installed")
    world, seen = named("pusht").open(), []
    state = world.reset(11)  # the block covers some of the goal
    for _ in range(30):
        step = world.step(state[2:4])  # right into the block
        state = step.observation
        seen.append(world.env.unwrapped._get_coverage())
        assert step.progress == pytest.approx(max(seen))
        assert step.success == (seen[-1] > 0.95)
    assert max(seen) > seen[-1]


def test_a_simulator_that_is_not_installed_is_one_line(monkeypatch):
    pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    for name in [module for module in sys.modules if module.partition(".")[0] == "gym_pusht"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if "site-packages" not in folder])
    with pytest.raises(EngineError, match=r"'pusht' needs a package that is not installed: gym-pusht"):
        named("pusht").open()


def test_an_experts_rollout_succeeds_and_progress_never_falls():
    pytest.importorskip("metaworld", reason="the simulator metaworld is not installed")
    from metaworld.policies import ENV_POLICY_MAP

    world, expert = named("metaworld:window-open-v3").open(), ENV_POLICY_MAP["window-open-v3"]()
    state, progress = world.reset(0), [0.0]
    for _ in range(200):
        step = world.step(expert.get_action(state))
        state = step.observation
        progress.append(step.progress)
        if step.done:
            break
    assert step.success
    assert progress == sorted(progress)
    assert progress[-1] > 0.9


def test_a_rollout_ends_at_its_limit():
    pytest.importorskip("metaworld", reason="the simulator metaworld is not installed")
    world = named("metaworld:window-open-v3", {"limit": 3}).open()
    world.reset(0)
    assert [world.step(np.zeros(4)).done for _ in range(3)] == [False, False, True]


@pytest.fixture
def parts() -> str:
    """The id of an environment whose observation is a dictionary: where it is, how fast, and what nobody needs."""
    gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    box = gymnasium.spaces.Box

    class Parts(gymnasium.Env):
        action_space = box(-1.0, 1.0, (1,))
        observation_space = gymnasium.spaces.Dict(
            {"speed": box(-9.0, 9.0, (1,)), "at": box(-9.0, 9.0, (2,)), "noise": box(-9.0, 9.0, (4,))}
        )

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.at = self.np_random.uniform(-1, 1)
            return self._seen(0.0), {}

        def step(self, action):
            self.at += float(action[0])
            return self._seen(float(action[0])), 0.0, False, False, {"won": self.at > 2, "share": min(self.at / 2, 1)}

        def _seen(self, speed):
            return {"speed": np.array([speed]), "at": np.array([self.at, 7.0]), "noise": np.zeros(4)}

    gymnasium.register(id="Parts-v0", entry_point=Parts, disable_env_checker=True)
    yield "gymnasium:Parts-v0"
    del gymnasium.registry["Parts-v0"]


def test_parts_of_an_observation_come_in_the_order_they_are_named(parts):
    world = named(parts, {"observation": ["at", "speed"], "success": "won", "progress": "share"}).open()
    assert (world.observation_size, world.action_size) == (3, 1)
    assert world.reset(3)[1:].tolist() == [7.0, 0.0]
    steps = [world.step(np.array([50.0])) for _ in range(4)]
    assert [step.observation[2] for step in steps] == [1.0] * 4  # cut to the box
    assert steps[-1].success and steps[-1].done and steps[-1].progress == 1.0


def test_a_part_that_is_not_named_or_not_there_is_one_line(parts):
    with pytest.raises(RequestError, match=r"observes several parts .*of at, noise, speed"):
        named(parts).open()
    with pytest.raises(RequestError, match="observes no 'where'"):
        named(parts, {"observation": ["where"]}).open()
