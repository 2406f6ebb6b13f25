"""What the numeric kernels reach on a device: beside its ceilings, and whether they agree with the CPU there.

    python -m benchmarks.on_device [--device cuda] [--steps N] [--quick] [--json]

Needs torch, numpy and scorers/kernels, nothing else. Ceilings are measured: the best of several copies inside the
device, copies of pageable memory to it, and products of matrices of float64 and float32. Each kernel of consistency,
action_divergence, transition_diversity and mutual_information is then given ``--steps`` made steps (10 million on CUDA)
in calls of 65,536, arrays in and arrays out. Beside the time: the shares of the ceilings that its least work stands
for, which are its products, its distances written and read once, and its arrays sent and fetched. Parity: the largest
difference from the CPU on the first 4,096 steps, and what is tolerated.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scorers.kernels import vae
from scorers.kernels.ksg import pointwise
from scorers.kernels.neighbours import nearest, within
from scorers.kernels.response import Model, Rows, curved, fit, respond

STATE, ACTION, POOL, BATCH = 30, 4, 4096, 1024  # coordinates, reference steps of a pool, and of an information batch
CALL, COMPARED = 65_536, 4096
TRAINING = 400  # steps of a VAE
Work = Mapping[str, float]  # a step's: flop (float64), device_bytes, transfer_bytes


@dataclass(frozen=True)
class Kernel:
    """``run(rows, device)`` computes the steps ``rows``; ``work`` is the least that a step takes; ``tolerance``: of the
    relative difference between two devices."""

    run: Callable[[slice, str], list[np.ndarray]]
    work: Work
    tolerance: float


def kernels(steps: int, seed: int = 0) -> dict[str, Kernel]:
    """What is measured, over the same ``steps`` made steps of a hundred to an episode."""
    draw = np.random.default_rng(seed)
    state = np.cumsum(draw.normal(size=(steps, STATE)), axis=0) % 4 - 2
    action = draw.normal(size=(steps, ACTION)) / 4 + state[:, :ACTION]
    state, action, owner = state.astype(np.float32), action.astype(np.float32), np.arange(steps) // 100
    some, few = draw.permutation(steps)[:POOL], draw.permutation(steps)[:BATCH]
    rows, model = _motions(state, action)
    weights = {"mean": np.zeros(STATE), "deviation": np.ones(STATE)}  # as a VAE of states that has learnt nothing
    for i, (inputs, outputs) in enumerate(((STATE, 512), (512, 512), (512, 24))):
        weights |= {f"weight{i}": draw.normal(size=(outputs, inputs)) / inputs**0.5, f"bias{i}": np.zeros(outputs)}
    hidden = STATE * 512 + 512 * 512 + 512 * 24
    own = rows.own.shape[1] * rows.own.shape[2]

    def near(part: slice, device: str) -> list[np.ndarray]:
        both = nearest(state[part], state[some], 10, owner=owner[part], pool_owner=owner[some], device=device)
        return [both[0], both[1].astype(np.float64)]

    def close(part: slice, device: str) -> list[np.ndarray]:
        found = within(state[part], state[some], 8.0, owner=owner[part], pool_owner=owner[some], device=device)
        return [found.astype(np.float64)]

    def information(part: slice, device: str) -> list[np.ndarray]:
        whose = {"owner": owner[part], "reference_owner": owner[few]}
        return [pointwise(state[part], action[part], state[few], action[few], **whose, device=device)]

    def answer(part: slice, device: str) -> list[np.ndarray]:
        mine = Rows(rows.step[part], rows.action[part], rows.own[part], rows.motion[part], rows.alone)
        return list(respond(mine, model, device))

    def learnt(part: slice, device: str) -> list[np.ndarray]:
        mine = Rows(rows.step[part], rows.action[part], rows.own[part], rows.motion[part], rows.alone)
        (found,) = fit(mine, device=device)
        return [found.weight, found.own_weight]

    def coded(part: slice, device: str) -> list[np.ndarray]:
        return [vae.codes(state[part], weights, device=device)]

    gone = 8 * (rows.action.shape[1] + own + STATE)
    return {
        "consistency: respond": Kernel(
            answer, _work(2.0 * (rows.action.shape[1] * STATE + 2 * own), 0, 2 * gone), 1e-9
        ),
        "consistency: fit": Kernel(
            learnt, _work(2.0 * STATE * (rows.action.shape[1] + own // STATE) ** 2, 2 * gone, gone), 1e-6
        ),
        "action_divergence: nearest": Kernel(near, _work(2.0 * POOL * STATE, 16 * POOL, 8 * STATE + 160), 0.0),
        "transition_diversity: within": Kernel(close, _work(2.0 * POOL * STATE, 16 * POOL, 8 * STATE + 16), 0.0),
        "mutual_information: pointwise": Kernel(
            information, _work(2.0 * BATCH * (STATE + ACTION), 16 * BATCH, 8 * (STATE + ACTION) + 8), 1e-12
        ),
        "mutual_information: codes": Kernel(coded, _work(2.0 * hidden, 2 * 8 * 1024, 8 * STATE + 48), 1e-6),
    }


def _work(flop: float, device_bytes: float, transfer_bytes: float) -> Work:
    return {"flop": flop, "device_bytes": device_bytes, "transfer_bytes": transfer_bytes}


def _motions(state: np.ndarray, action: np.ndarray) -> tuple[Rows, Model]:
    """Rows as consistency has them, one a step, of motion that follows the action; and the model of them."""
    n = len(state)
    taps = np.concatenate([np.roll(action, back, axis=0) for back in range(4)], axis=1).astype(np.float64)
    motion = 0.1 * np.tile(action, (1, -(-STATE // ACTION)))[:, :STATE].astype(np.float64) + 0.01 * state
    own = np.stack([state.astype(np.float64), np.roll(motion, 1, axis=0), np.roll(motion, 2, axis=0)], axis=2)
    plain = Rows(np.arange(n), taps, own, motion)
    bent = curved(plain, np.arange(STATE) % ACTION, np.zeros(STATE), np.ones(STATE))
    few = Rows(*(x[: 4 * COMPARED] for x in (bent.step, bent.action, bent.own, bent.motion)), alone=bent.alone)
    (model,) = fit(few)
    return bent, model


def ceilings(device: str, quick: bool = False) -> dict[str, float]:
    """Bytes a second copied inside the device (read and written) and sent to it, flop a second of float64 and float32
    products: the best of several."""
    size, side = (2**20, 256) if quick else (2**24, 1024) if device == "cpu" else (2**28, 8192)
    source = torch.ones(size, dtype=torch.float32, device=device)
    target, outside = torch.empty_like(source), torch.ones(size, dtype=torch.float32)
    found = {
        "device_bytes": 8 * size / _best(lambda: target.copy_(source), device),
        "transfer_bytes": 4 * size / _best(lambda: target.copy_(outside), device),
    }
    for name, dtype in (("flop", torch.float64), ("flop_float32", torch.float32)):
        one = torch.ones((side, side), dtype=dtype, device=device)
        out = torch.empty_like(one)
        found[name] = 2 * side**3 / _best(lambda one=one, out=out: torch.mm(one, one, out=out), device)
    return found


def _best(do: Callable[[], object], device: str, rounds: int = 7) -> float:
    """The least seconds that ``do`` takes."""
    times = []
    for _ in range(rounds):
        _wait(device)
        began = time.perf_counter()
        do()
        _wait(device)
        times.append(time.perf_counter() - began)
    return min(times)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def measured(device: str, steps: int, quick: bool = False) -> dict[str, Any]:
    """Ceilings, and of each kernel: ``seconds`` for ``steps`` steps, ``steps_per_second``, ``share`` of each ceiling,
    ``difference`` from the CPU and whether it is ``tolerated``."""
    top = ceilings(device, quick)
    made = min(steps, 4 * CALL)  # and then the same again
    table = kernels(max(made, 2 * COMPARED))
    lines = {}
    for name, kernel in table.items():
        kernel.run(slice(0, COMPARED), device)  # as warm-up
        _wait(device)
        began, done = time.perf_counter(), 0
        while done < steps:
            first = done % made
            last = min(first + CALL, made, first + steps - done)
            kernel.run(slice(first, last), device)
            done += last - first
        _wait(device)
        seconds = time.perf_counter() - began
        some = slice(0, COMPARED)
        apart = difference(kernel.run(some, "cpu"), kernel.run(some, device))
        lines[name] = {
            "seconds": seconds,
            "steps_per_second": steps / seconds,
            "share": {what: amount * steps / seconds / top[what] for what, amount in kernel.work.items()},
            "difference": apart,
            "tolerance": kernel.tolerance,
            "tolerated": apart <= kernel.tolerance,
        }
    return {
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device,
        "steps": steps,
        "ceilings": top,
        "kernels": lines,
        "training": _training(device),
    }


def _training(device: str) -> dict[str, float]:
    """Seconds for ``TRAINING`` steps of DemInf's VAE of states, and how codes that the CPU and the device learnt from
    one seed agree: the correlation of the ranks of distances between pairs of steps."""
    draw = np.random.default_rng(1)
    x = (draw.normal(size=(2048, 6)) @ draw.normal(size=(6, STATE))).astype(np.float32)
    began = time.perf_counter()
    held = np.arange(len(x)) % 10 == 0
    there = vae.train(x, latent=12, seed=0, held=held, limit=TRAINING, device=device).weights
    seconds = time.perf_counter() - began
    here = there if device == "cpu" else vae.train(x, latent=12, seed=0, held=held, limit=TRAINING).weights
    apart = [
        np.linalg.norm(np.diff(vae.codes(x, weights), axis=0), axis=1).argsort().argsort() for weights in (here, there)
    ]
    return {"steps": TRAINING, "seconds": seconds, "rank_correlation": float(np.corrcoef(*apart)[0, 1])}


def difference(here: list[np.ndarray], there: list[np.ndarray]) -> float:
    """The largest difference, relative to the largest value; infinite where only one is finite."""
    worst = 0.0
    for a, b in zip(here, there, strict=True):
        finite = np.isfinite(a)
        if (finite != np.isfinite(b)).any():
            return np.inf
        size = np.abs(a[finite]).max(initial=1e-300)
        worst = max(worst, float(np.abs(a[finite] - b[finite]).max(initial=0.0) / size))
    return worst


def text(found: Mapping[str, Any]) -> str:
    """The figures for people."""
    top = found["ceilings"]
    steps = f"{found['steps']:,} steps"
    lines = [
        f"{found['device']}: copies {top['device_bytes'] / 1e9:,.1f} GB/s inside, {top['transfer_bytes'] / 1e9:,.1f} "
        f"GB/s to it; products of float64 {top['flop'] / 1e12:,.3g} TFLOP/s, of float32 "
        f"{top['flop_float32'] / 1e12:,.3g}",
        f"{steps:34}{'s':>9}{'steps/s':>14}{'products':>10}{'copies':>8}{'sent':>7}{'from the CPU':>14}{'allowed':>11}",
    ]
    for name, line in found["kernels"].items():
        share = line["share"]
        lines.append(
            f"{name:34}{line['seconds']:9.2f}{line['steps_per_second']:14,.0f}{share['flop']:10.1%}"
            f"{share['device_bytes']:8.1%}{share['transfer_bytes']:7.1%}{line['difference']:14.1e}"
            f"{line['tolerance']:11.0e}{'' if line['tolerated'] else ' MISSED'}"
        )
    training = found["training"]
    lines.append(
        f"a VAE of states, {training['steps']} training steps: {training['seconds']:.1f} s; its codes agree with those "
        f"learnt on the CPU in rank by {training['rank_correlation']:.3f} (at least 0.98 is aimed at)"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="made steps; ten million on CUDA, a hundred thousand on the CPU")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the steps, small ceilings")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)  # what scorers declare
    steps = asked.steps or default_steps(asked.device, asked.quick)
    found = measured(asked.device, steps, asked.quick)
    print(json.dumps(found) if asked.json else text(found))
    return 0 if all(line["tolerated"] for line in found["kernels"].values()) else 1


def default_steps(device: str, quick: bool) -> int:
    """How many steps a device is given."""
    return (100_000 if device == "cpu" else 10_000_000) // (100 if quick else 1)


if __name__ == "__main__":
    sys.exit(main())
