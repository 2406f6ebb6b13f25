"""``evaluate``: what a mixture is worth. The engine's own policy is trained on it and rolled out in simulators.

Training and rollouts are shards: what was done before a run was cut off is not done again, and a pool of processes or
Ray takes them like any others. Outcomes become rows of the ``evaluations`` table in one commit. Rollouts of one
training share its luck, so several seeds are trained, each with initial conditions of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from data_engine import mixture as mixtures
from data_engine import registry
from data_engine.canonical import digest
from data_engine.errors import RequestError
from data_engine.mixture import Mixture
from data_engine.model import ACTION, STATE, Feature
from data_engine.outcomes import wilson
from data_engine.reference import Reference
from data_engine.samples import Samples
from data_engine.scoring import EpisodeBatch
from data_engine.view import fit_views
from data_engine.windows import Windows
from flows.executor import Executor, Shard, run_shards, set_threads
from flows.policy import VERSION, Coordinates, Demonstrated, Policy, PolicyConfig, learn
from flows.progress import Progress
from flows.rollout import roll
from flows.simulators import Simulator, World, named
from storage import ledger
from storage.checkpoints import get_checkpoint, has_checkpoint, put_checkpoint
from storage.lake import Lake

__all__ = ["Place", "evaluate", "place", "roll_shard", "train_shard"]

_DRAWS = 4  # samples for each step of the mixture, so that few steps are never drawn
_MOST_DRAWS = 400_000
_MOST_NUMBERS = 50_000_000  # of states and actions in them: what fits in memory, several times over
_BLOCK = 8192  # samples gathered at once
_PIECE = 10  # rollouts of a shard
_APART = 100_000  # initial conditions of one training seed
_VIEW_STEPS = 20_000  # steps of a task that the policy's coordinates are taken from


@dataclass(frozen=True)
class Place:
    """Where a policy is rolled out: the simulator as it was named, its software, and the mixture's task that it is."""

    name: str
    simulator: Simulator
    version: str
    task: str


def place(text: str, mixture: Mixture, options: Mapping[str, Any] | None = None) -> Place:
    """The place that ``NAME[:ID][=TASK]`` means for ``mixture``.

    Without ``TASK`` it is the one that the mixture has, or the one that is called ``ID``. Raises ``RequestError`` where
    the simulator is unknown, the task is not in the mixture, or states, actions or control mode do not fit.
    """
    name, _, asked = text.partition("=")
    simulator = named(name, options)
    shown = zip(*(mixture.episodes[name].to_pylist() for name in ("task", "split")), strict=True)
    tasks = sorted({task or "" for task, split in shown if split == "train"})
    task = asked or (tasks[0] if len(tasks) == 1 else simulator.id)
    if task not in tasks:
        raise RequestError(
            f"the mixture has no task {task!r} for {name}" if task else f"which task of the mixture is {name}?",
            code="unknown_task",
            fix=f"--env {name}=TASK, where TASK is one of: {', '.join(map(repr, tasks[:20]))}",
        )
    world = simulator.open()
    try:
        _fits(name, simulator, world, mixture)
    finally:
        world.close()
    return Place(name, simulator, world.version, task)


def evaluate(
    lake: Lake,
    mixture_uri: str,
    envs: Sequence[str],
    *,
    config: PolicyConfig,
    seeds: int,
    rollouts: int,
    seed: int,
    on: Executor,
    progress: Progress,
    run_id: str,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train ``seeds`` policies on the mixture, roll each out ``rollouts`` times in each of ``envs``, and keep it all.

    Training seed k starts from the initial conditions (seed + k) * 100,000 on, so that mixtures are compared on the
    same ones. Returns ``{"mixture_id", "items": [{"env", "task", "success", "low", "high", "least", "most",
    "progress", "rollouts", "successes"}], "checkpoints": [{"checkpoint", "seed", "held_out"}], "added", "notes"}``:
    Wilson's interval over all rollouts, and the least and the most successful seed. Raises ``RequestError`` where a
    simulator and the mixture do not fit.
    """
    mixture = mixtures.open(mixture_uri)
    places = [place(env, mixture, options) for env in envs]
    if len({(spot.name, spot.task) for spot in places}) < len(places):
        raise RequestError("one simulator and task is named twice", code="bad_request", fix="name each once")
    trained = _train(lake, mixture, config, seeds, seed, on, progress)
    shards = list(_shards(trained["checkpoints"], places, rollouts))
    found = run_shards(lake, "flows.evaluate:roll_shard", shards, on=on, progress=progress, title="rolling out")
    rows = [_row(mixture.id, shard.payload, outcome)
            for shard, result in zip(shards, found, strict=True) for outcome in result["outcomes"]]  # fmt: skip
    return {
        "mixture_id": mixture.id,
        "items": [_summary(spot, rows) for spot in places],
        "checkpoints": trained["checkpoints"],
        "added": _keep(lake, rows, run_id),
        "notes": [*trained["notes"], *_assumed(mixture, places)],
    }


def train_shard(lake: Lake, payload: Mapping[str, Any], fingerprint: str, cpus: int) -> dict[str, Any]:
    """Train the policies of ``payload`` and store their checkpoints."""
    set_threads(cpus)
    mixture = mixtures.open(payload["mixture"])
    config = PolicyConfig(**payload["config"])
    samples, notes = _demonstrated(mixture, config)
    coordinates = _coordinates(mixture)
    facts = {"mixture_id": mixture.id, "trained": fingerprint}
    learned = learn(samples, coordinates, config, seeds=payload["seeds"], seed=payload["seed"], facts=facts)
    return {
        "checkpoints": [
            {"checkpoint": put_checkpoint(lake, policy.to_bytes()), "seed": policy.facts["seed"], "held_out": held_out}
            for policy, held_out in zip(learned.policies, learned.held_out, strict=True)
        ],
        "notes": notes,
    }


def roll_shard(lake: Lake, payload: Mapping[str, Any], fingerprint: str, cpus: int) -> dict[str, Any]:
    """Roll one checkpoint out from the initial conditions of ``payload``."""
    set_threads(cpus)
    policy = Policy.from_bytes(get_checkpoint(lake, payload["checkpoint"]))
    simulator: Simulator = registry.make("simulators", payload["simulator"], payload["options"])
    world = simulator.open()
    try:
        conditions = range(payload["first"], payload["stop"])
        return {"outcomes": [asdict(outcome) for outcome in roll(policy, world, payload["task"], conditions)]}
    finally:
        world.close()


def _train(
    lake: Lake, mixture: Mixture, config: PolicyConfig, seeds: int, seed: int, on: Executor, progress: Progress
) -> dict[str, Any]:
    shard = Shard(
        digest("evaluate train", VERSION, mixture.id, config.config, seeds, seed),
        {"mixture": mixture.uri, "config": config.config, "seeds": seeds, "seed": seed},
    )
    known = lake.done(shard.fingerprint)
    if known and not all(has_checkpoint(lake, each["checkpoint"]) for each in known["checkpoints"]):
        ledger.forget(lake, shard.fingerprint)
    (found,) = run_shards(lake, "flows.evaluate:train_shard", [shard], on=on, progress=progress, title="training")
    return found


def _shards(checkpoints: Sequence[Mapping[str, Any]], places: Sequence[Place], rollouts: int) -> Iterator[Shard]:
    for spot in places:
        kind = spot.name.partition(":")[0]
        for each in checkpoints:
            for first in range(0, rollouts, _PIECE):
                start = each["seed"] * _APART
                payload = {
                    "checkpoint": each["checkpoint"], "seed": each["seed"], "task": spot.task, "env": spot.name,
                    "simulator": kind, "options": spot.simulator.config, "version": spot.version,
                    "first": start + first, "stop": start + min(first + _PIECE, rollouts),
                }  # fmt: skip
                yield Shard(digest("evaluate roll", VERSION, payload), payload)


def _row(mixture_id: str, payload: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, Any]:
    simulator = digest(payload["options"], length=8)  # other options are another initial condition
    condition = f"{payload['env']}@{simulator}#{outcome['condition']}"
    return {
        "evaluation_id": "ev_" + digest(payload["checkpoint"], payload["task"], condition, length=20),
        "checkpoint": payload["checkpoint"],
        "mixture_id": mixture_id,
        "task": payload["task"],
        "initial_condition": condition,
        "seed": payload["seed"],
        "success": outcome["success"],
        "progress": outcome["progress"],
    }


def _keep(lake: Lake, rows: Sequence[Mapping[str, Any]], run_id: str) -> int:
    """Enter the rows that the table does not hold; how many."""
    known = set(lake.scan("evaluations").select("evaluation_id").collect()["evaluation_id"])
    new = [row for row in rows if row["evaluation_id"] not in known]
    if new:
        now = datetime.now(UTC)
        transaction = digest("evaluate", sorted(row["evaluation_id"] for row in new))
        lake.append_rows("evaluations", [{**row, "created_at": now} for row in new], transaction=transaction,
                         run_id=run_id)  # fmt: skip
    return len(new)


def _summary(spot: Place, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    here = pl.col("initial_condition").str.starts_with(f"{spot.name}@") & (pl.col("task") == spot.task)
    mine = pl.DataFrame(rows).filter(here)
    by_seed = mine.group_by("seed").agg(pl.col("success").mean())["success"]
    successes, trials = int(mine["success"].sum()), len(mine)
    low, high = wilson(successes, trials)
    return {
        "env": spot.name, "task": spot.task, "success": successes / trials, "low": low, "high": high,
        "least": by_seed.min(), "most": by_seed.max(), "progress": mine["progress"].mean(), "rollouts": trials,
        "successes": successes,
    }  # fmt: skip


def _assumed(mixture: Mixture, places: Sequence[Place]) -> list[str]:
    """What had to be taken for granted of the mixture's actions."""
    unsaid = sorted(name for name, dataset in mixture.datasets.items() if dataset.control_mode == "unspecified")
    modes = sorted({mode for spot in places for mode in spot.simulator.control_modes[:1]})
    if not (unsaid and modes):
        return []
    return [f"actions of {', '.join(unsaid)} are taken as {', '.join(modes)}: their control mode is not stated"]


# what a mixture shows


def _demonstrated(mixture: Mixture, config: PolicyConfig) -> tuple[Demonstrated, list[str]]:
    """Samples as any trainer of the mixture draws them: weights and all. What is not finite is left out, and said."""
    windows = Windows(history=config.history, action_horizon=config.horizon, cameras=())
    samples = Samples(mixture, windows, split="train")
    steps = int(mixture.rows["row_count"].sum())
    wanted = min(_DRAWS * steps, _MOST_DRAWS, max(_MOST_NUMBERS // _numbers(mixture, config), _BLOCK))
    parts: list[dict[str, Any]] = []
    epoch = count = 0
    while count < wanted:
        size = min(samples.size(epoch), wanted - count)
        if not size:
            raise RequestError("the mixture's epochs are empty", code="empty_mixture")
        parts += [samples.read(epoch, np.arange(first, min(first + _BLOCK, size))) for first in range(0, size, _BLOCK)]
        count, epoch = count + size, epoch + 1
    states, actions = (np.concatenate([part[name] for part in parts]) for name in (STATE, ACTION))
    known = ~np.concatenate([part["action_is_pad"] for part in parts]) & np.isfinite(actions).all(axis=2)
    good = np.isfinite(states).all(axis=(1, 2)) & known[:, 0]
    if not good.any():
        raise RequestError("no sample of the mixture has a finite state and action", code="empty_mixture")
    content = dict(zip(*(mixture.episodes[name].to_pylist() for name in ("episode_id", "content_hash")), strict=True))
    ids = [each for part in parts for each in part["episode_id"]]
    contents, owner = np.unique([content[each] for each in ids], return_inverse=True)
    task = [each or "" for part in parts for each in part["task"]]
    notes = [] if good.all() else [f"{int((~good).sum())} of {len(good)} samples were not finite and left out"]
    return Demonstrated(
        states[good], np.where(known[..., None], actions, 0)[good], known[good],
        [each for each, ok in zip(task, good, strict=True) if ok], owner[good], contents.tolist(),
    ), notes  # fmt: skip


def _coordinates(mixture: Mixture) -> Coordinates:
    """The policy's coordinates, from steps of the train split."""
    rows = np.flatnonzero(np.array(mixture.episodes["split"].to_pylist()) == "train")

    def batches() -> Iterator[EpisodeBatch]:
        for row in rows.tolist():
            steps = mixture.steps(row, [STATE, ACTION])
            dataset = mixture.datasets[mixture.episodes["dataset"][row].as_py()]
            yield EpisodeBatch(dataset, mixture.episodes.slice(row, 1), steps, np.array([0, steps.num_rows]))

    reference = Reference(batches(), seed=0, budget=_VIEW_STEPS)
    if len(reference.groups) != 1:
        kinds = ", ".join(sorted(reference.groups)) or "none"
        raise RequestError(
            f"a policy is trained on one embodiment and control mode, the mixture has {kinds}", code="unlike_samples"
        )
    (group,) = reference.groups
    finite = [(each.state[each.finite], each.action[each.finite]) for each in reference.groups[group]]
    states, actions = (np.concatenate(part) for part in zip(*finite, strict=True))
    return Coordinates.of(fit_views(reference)[group], states, actions)


def _fits(name: str, simulator: Simulator, world: World, mixture: Mixture) -> None:
    """Raises ``RequestError`` where a dataset of the mixture is none of this simulator's."""
    for dataset in mixture.datasets.values():
        for column, size, verb in ((STATE, world.observation_size, "shows"), (ACTION, world.action_size, "takes")):
            width = _width(dataset.feature(column))
            if width != size:
                has = f"{column} of {width} numbers" if width else f"no {column}"
                raise RequestError(
                    f"{name} {verb} {size} numbers, dataset {dataset.name!r} has {has}", code="unlike_simulator"
                )
        mode = dataset.control_mode
        if simulator.control_modes and mode not in (*simulator.control_modes, "unspecified"):
            raise RequestError(
                f"actions of {name} are {' or '.join(simulator.control_modes)}, those of dataset {dataset.name!r} are "
                f"{mode}",
                code="unlike_simulator",
            )


def _numbers(mixture: Mixture, config: PolicyConfig) -> int:
    """Of the widest sample: the states and actions of a window."""
    return max(
        config.history * _width(dataset.feature(STATE)) + config.horizon * _width(dataset.feature(ACTION))
        for dataset in mixture.datasets.values()
    )


def _width(feature: Feature | None) -> int:
    return 0 if feature is None or feature.is_camera or feature.dtype in ("string", "bytes") else feature.size
