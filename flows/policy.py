"""The engine's own policy, ready to act: learned from samples, kept as one checkpoint a training seed.

Behaviour cloning by a small MLP from the state to a chunk of actions (``scorers.kernels.policy``), of which the first
``execute`` are taken before it looks again (Chi et al. 2023 call it receding horizon). It sees angles as sine and
cosine, quaternions as rotation matrices, and it learns absolute targets as changes of the state, as views have them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from data_engine.canonical import canonical_json
from data_engine.errors import SourceError
from data_engine.model import ACTION, STATE, Dataset
from data_engine.reference import RawEpisode, key_of
from data_engine.registry import Plugin
from data_engine.view import BOUND, View

__all__ = ["Coordinates", "Demonstrated", "Learned", "Policy", "PolicyConfig", "learn"]

VERSION = "1"
_LAYERS = ("weight", "bias")
_HELD_OUT = 10  # one episode in this many tells a training when to stop
_BARE = Dataset(name="-", fps=1.0, features=(), origin="-", format="-")  # of what is only turned, not measured


class PolicyConfig(Plugin):
    """What is trained and how it acts.

    ``history``: steps of the state it sees. ``horizon``: actions of a chunk; ``execute``: how many of them it takes
    before it looks again. ``hidden``: width of the two hidden layers. ``limit``: iterations at most.
    """

    history: int = Field(default=1, ge=1, le=16)
    horizon: int = Field(default=8, ge=1, le=64)
    execute: int = Field(default=4, ge=1)
    hidden: int = Field(default=128, ge=1, le=1024)
    limit: int = Field(default=3000, ge=1, le=100_000)

    @model_validator(mode="after")
    def _within(self) -> PolicyConfig:
        if self.execute > self.horizon:
            raise ValueError("execute is at most horizon")
        return self


@dataclass(frozen=True)
class Coordinates:
    """How a policy sees states and means actions. Learned once, kept with the checkpoint.

    ``view`` unfolds angles and quaternions of the state and makes absolute targets relative; ``state`` and ``action``
    float64 [2, d] are centre and scale of what comes out.
    """

    view: View
    state: np.ndarray
    action: np.ndarray

    @staticmethod
    def of(view: View, state: np.ndarray, action: np.ndarray) -> Coordinates:
        """From states [n, ds] and the actions [n, da] at them."""
        plain: dict[str, Any] = {"angles": {STATE: view.angles[STATE], ACTION: ()},
                                 "quaternions": {STATE: view.quaternions[STATE], ACTION: ()}}  # fmt: skip
        view = replace(view, **plain)
        unfolded, relative = view.unfolded(_raw(state, action))
        return Coordinates(view, _spread(unfolded), _spread(relative))

    def see(self, states: np.ndarray) -> np.ndarray:
        """States [n, H, ds] as a policy's inputs, float32 [n, H * ds']."""
        n, steps, width = states.shape
        rows = np.asarray(states, np.float64).reshape(n * steps, width)
        if self.view.angles[STATE] or self.view.quaternions[STATE]:
            rows, _ = self.view.unfolded(_raw(rows, np.zeros((len(rows), self._targets))))
        centred = ((rows - self.state[0]) / self.state[1]).reshape(n, -1)
        return np.clip(centred, -BOUND, BOUND).astype(np.float32)

    def mean(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Actions [n, A, da] after states [n, ds] as a policy's outputs, float32 [n, A, da]."""
        parts = [self.view.unfolded(_raw(states, actions[:, a]))[1] for a in range(actions.shape[1])]
        return ((np.stack(parts, axis=1) - self.action[0]) / self.action[1]).astype(np.float32)

    def do(self, state: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """A policy's outputs [A, da] at a state [ds] as actions, float64 [A, da]: the way back of :meth:`mean`."""
        actions = outputs * self.action[1] + self.action[0]
        for target, source in self.view.relative:
            actions[:, target] += state[source]
        return actions

    @property
    def _targets(self) -> int:
        return self.action.shape[1]


@dataclass(frozen=True)
class Demonstrated:
    """Samples to learn from, in their own units: windows of ``states`` [n, H, ds] and ``actions`` [n, A, da], of which
    ``known`` bool [n, A] were recorded, the ``task`` of each as text, and its episode (``owner`` int64 [n], an index of
    ``contents``, the content hashes). Drawn as often as the mixture's weights say.
    """

    states: np.ndarray
    actions: np.ndarray
    known: np.ndarray
    task: Sequence[str]
    owner: np.ndarray
    contents: Sequence[str]


@dataclass(frozen=True)
class Learned:
    """What came of a training: a policy for each seed, and the held-out loss of each (None where nothing was)."""

    policies: Sequence[Policy]
    held_out: Sequence[float | None]


def learn(
    samples: Demonstrated,
    coordinates: Coordinates,
    config: PolicyConfig,
    *,
    seeds: int,
    seed: int,
    facts: Mapping[str, Any],
    device: str = "cpu",
) -> Learned:
    """Train ``seeds`` policies as one model, each holding out a tenth of the episodes of its own to know when to stop.

    ``facts`` are kept with each checkpoint. The same samples, configuration, seed and number of seeds give the same
    policies on one device with one thread.
    """
    from scorers.kernels import policy

    tasks = tuple(sorted(set(samples.task)))
    inputs = _told(coordinates.see(samples.states), [tasks.index(task) for task in samples.task], len(tasks))
    outputs = coordinates.mean(samples.states[:, -1], samples.actions)
    learns, stops = _parts([key_of(seed, content, "held out") for content in samples.contents], seeds)
    trained = policy.train(
        inputs, outputs, samples.known, samples.owner, learns, stops,
        seed=seed, hidden=config.hidden, limit=config.limit, device=device,
    )  # fmt: skip
    found = []
    for member in range(seeds):
        alone = {name: x if name in ("mean", "deviation", "horizon") else x[member : member + 1]
                 for name, x in trained.weights.items()}  # fmt: skip
        found.append(Policy(config, coordinates, tasks, alone, {**facts, "seed": seed + member}))
    return Learned(found, [float(loss) if np.isfinite(loss) else None for loss in trained.held_out])


@dataclass(frozen=True)
class Policy:
    """A trained policy. ``tasks``: those it was told apart by. ``facts``: what it was trained on, plain JSON."""

    config: PolicyConfig
    coordinates: Coordinates
    tasks: tuple[str, ...]
    weights: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]

    def act(self, states: np.ndarray, task: str) -> np.ndarray:
        """The actions [execute, da] after the states [H, ds] that led here, the newest last."""
        inputs = _told(self.coordinates.see(states[None]), [self.tasks.index(task)], len(self.tasks))
        x = (inputs[0] - self.weights["mean"]) / self.weights["deviation"]
        *hidden, (weight, bias) = self._layers
        for w, b in hidden:
            x = x @ w + b
            x = x * (0.5 + 0.5 * np.tanh(0.5 * x))  # SiLU; in this form nothing overflows
        chunk = (x @ weight + bias).reshape(self.config.horizon, -1)[: self.config.execute]
        return self.coordinates.do(states[-1], chunk)

    @cached_property
    def _layers(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weight and bias of each layer, float64. NumPy is done before torch has dispatched a call of this size."""
        weights = {name: np.asarray(x[0], np.float64) for name, x in self.weights.items() if name[:-1] in _LAYERS}
        return [(weights[f"weight{n}"], weights[f"bias{n}"][0]) for n in range(3)]

    def to_bytes(self) -> bytes:
        """The checkpoint, a safetensors file. Equal policies give equal bytes."""
        from safetensors.numpy import save

        document = {
            "version": VERSION,
            "config": self.config.config,
            "view": self.coordinates.view.as_dict(),
            "tasks": list(self.tasks),
            **self.facts,
        }
        arrays = {"state": self.coordinates.state, "action": self.coordinates.action, **self.weights}
        return bytes(save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)},
                          metadata={"policy": canonical_json(document)}))  # fmt: skip

    @staticmethod
    def from_bytes(data: bytes) -> Policy:
        """The policy of a checkpoint. Raises ``SourceError`` where the bytes hold none."""
        from safetensors.numpy import load

        try:
            size = int.from_bytes(data[:8], "little")
            document = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["policy"])
            arrays = load(data)
            coordinates = Coordinates(View(**document.pop("view")), arrays.pop("state"), arrays.pop("action"))
            config, tasks = PolicyConfig(**document.pop("config")), tuple(document.pop("tasks"))
            if document.pop("version") != VERSION:
                raise ValueError("another version")
        except Exception as error:  # json, safetensors and pydantic each raise their own on damaged bytes
            raise SourceError(f"no checkpoint of this engine: {error}", code="bad_checkpoint") from error
        return Policy(config, coordinates, tasks, arrays, document)


def _raw(state: np.ndarray, action: np.ndarray) -> RawEpisode:
    return RawEpisode("", "", "", _BARE, np.asarray(state, np.float64), np.asarray(action, np.float64))


def _spread(x: np.ndarray) -> np.ndarray:
    """Centre and scale of each column of ``x`` [n, d]; what hardly moves beside the others' size is left at its own."""
    deviation = x.std(axis=0)
    return np.stack([x.mean(axis=0), np.where(deviation > 1e-6 * max(np.abs(x).max(initial=0.0), 1e-9), deviation, 1)])


def _told(inputs: np.ndarray, which: Sequence[int], tasks: int) -> np.ndarray:
    """``inputs`` with the task of each row beside, as one of ``tasks``; alone where there is but one."""
    return inputs if tasks < 2 else np.concatenate([inputs, np.eye(tasks, dtype=np.float32)[list(which)]], axis=1)


def _parts(keys: Sequence[int], members: int) -> tuple[np.ndarray, np.ndarray]:
    """bool [members, E] twice: the episodes that each learns from, and the tenth that tells it to stop."""
    apart = min(_HELD_OUT, len(keys))
    rank = np.argsort(np.argsort(keys))
    stops = np.stack([rank % apart == member % apart for member in range(members)])
    if len(keys) < 3:
        return np.ones_like(stops), np.zeros_like(stops)
    return ~stops, stops
