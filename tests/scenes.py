"""Rendered scenes with true progress, and a small open_clip model trained on them: eyes that need no download.

A coloured gripper moves to a coloured block. What is true of every frame is known, so rewards, search and matching can
be held against it. The model is a custom architecture of open_clip's own, trained with open_clip's own loss, and its
checkpoint lies beside its config JSON, as a user's does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import h5py
import numpy as np

SIZE = 64
_ROWS, _COLUMNS = np.mgrid[0:SIZE, 0:SIZE]
GRIPPERS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "white": (245, 245, 245)}
BLOCKS = {"yellow": (235, 215, 40), "purple": (150, 50, 170), "orange": (245, 140, 30), "cyan": (40, 205, 215)}
TASKS = tuple(product(GRIPPERS, BLOCKS))
STATES = ((7.0, "touching"), (15.0, "close to"), (26.0, "away from"), (np.inf, "far from"))  # pixels between centres
VIEWS = ("front", "side")
KINDS = ("progress", "still", "reversed", "regressing")
CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def instruction(task: tuple[str, str]) -> str:
    """What the episode is told to do."""
    return f"move the {task[0]} gripper to the {task[1]} block"


def caption(task: tuple[str, str], state: str, view: str = "front") -> str:
    """What a frame shows."""
    return f"the {task[0]} gripper is {state} the {task[1]} block" + ("" if view == "front" else " from the side")


def state_of(distance: float) -> str:
    """The word for a distance in pixels."""
    return next(word for limit, word in STATES if distance < limit)


def render(
    task: tuple[str, str], gripper: np.ndarray, block: np.ndarray, shade: int, view: str = "front"
) -> np.ndarray:
    """uint8 [64, 64, 3]: a disc at ``gripper`` (x, y in pixels), a square at ``block``, on a floor of grey ``shade``.

    The view ``side`` is darker, striped, and shows it mirrored.
    """
    y, x = _ROWS, _COLUMNS
    frame = np.full((SIZE, SIZE, 3), shade, np.uint8)
    if view == "side":
        x = SIZE - 1 - x
        frame = np.where((y // 8 % 2 == 0)[..., None], frame // 4, frame // 6).astype(np.uint8)
    frame[np.maximum(abs(x - block[0]), abs(y - block[1])) <= 6] = BLOCKS[task[1]]
    away = np.hypot(x - gripper[0], y - gripper[1])
    frame[away <= 6] = (15, 15, 15)
    frame[away <= 5] = GRIPPERS[task[0]]
    return frame


@dataclass(frozen=True)
class Scene:
    """A clip: ``gripper`` [T, 2] and ``block`` [2] in pixels, ``progress`` [T] of 1 where they touch."""

    task: tuple[str, str]
    kind: str
    gripper: np.ndarray
    block: np.ndarray
    shade: int

    @property
    def distance(self) -> np.ndarray:
        """[T] pixels."""
        return np.linalg.norm(self.gripper - self.block, axis=1)

    @property
    def progress(self) -> np.ndarray:
        """[T], 1 at the block, falling with distance."""
        return 1 - self.distance / 50

    def frames(self, view: str = "front") -> np.ndarray:
        """uint8 [T, 64, 64, 3]."""
        return np.stack([render(self.task, at, self.block, self.shade, view) for at in self.gripper])


def scene(rng: np.random.Generator, task: tuple[str, str], kind: str = "progress", steps: int = 24) -> Scene:
    """A clip of ``steps`` frames: towards the block; around it; away from it; or there and half back."""
    while True:
        block, start = rng.uniform(12, SIZE - 12, 2), rng.uniform(8, SIZE - 8, 2)
        far = np.linalg.norm(start - block)
        if far > 30:
            break
    when = np.linspace(0, 1, steps)
    if kind == "still":
        radius, angle = rng.uniform(9, 22), rng.uniform(0, 2 * np.pi)
        block = np.clip(block, 24, SIZE - 24)
        turn = angle + rng.choice([-1, 1]) * when * rng.uniform(1.5, 4)
        path = block + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    else:
        share = when ** rng.uniform(0.6, 1.6)
        if kind == "reversed":
            share = share[::-1]
        if kind == "regressing":
            share = np.interp(when, [0, rng.uniform(0.35, 0.6), 1], [0, 1, rng.uniform(0, 0.3)])
        path = start + share[:, None] * (block - start) * (1 - 3 / far)
    path = np.clip(path + rng.normal(0, 0.3, path.shape), 3, SIZE - 4)
    return Scene(task, kind, path, block, int(rng.integers(90, 150)))


def scenes(seed: int, each: int = 1, kinds: Sequence[str] = KINDS, steps: int = 24) -> list[Scene]:
    """``each`` clips of every task and kind."""
    rng = np.random.default_rng(seed)
    return [scene(rng, task, kind, steps) for _ in range(each) for kind in kinds for task in TASKS]


def write_scenes(path: Path, clips: Sequence[Scene], views: Sequence[str] = ("front",)) -> Path:
    """``clips`` as a robomimic HDF5 with raw frames; demo_i is clip i, its kind the operator, its task the text."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Scenes", "env_kwargs": {"robots": "dot", "control_freq": 10}})
        for number, clip in enumerate(clips):
            demo = data.create_group(f"demo_{number}")
            states = clip.gripper.astype(np.float32) / SIZE
            demo.attrs.update({"num_samples": len(states), "task": instruction(clip.task), "operator": clip.kind})
            demo["obs/robot0_eef_pos"] = states
            demo["actions"] = np.diff(states, axis=0, append=states[-1:])
            demo["dones"] = np.arange(len(states)) == len(states) - 1
            for view in views:
                demo[f"obs/{view}_image"] = clip.frames(view)
        data.attrs["total"] = sum(len(clip.gripper) for clip in clips)
    return path


def train(folder: Path, seed: int = 0, rounds: int = 260) -> Path:
    """Train the small model and return its checkpoint, ``clip.pt``, with ``clip.json`` beside it."""
    import open_clip
    import torch
    from open_clip.loss import ClipLoss

    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "clip.json"
    config.write_text(json.dumps(CONFIG))
    name = folder.name + "-scenes"
    registered = folder / f"{name}.json"
    registered.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(registered)
    before = torch.get_num_threads(), torch.random.get_rng_state()
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    try:
        model, _, prepare = open_clip.create_model_and_transforms(name)  # random weights, to be trained
        tokens = open_clip.get_tokenizer(name)
        words = [word for _, word in STATES]
        wanted = list(product(TASKS, words))
        seen = torch.stack([tokens([caption(task, word, view) for task, word in wanted]) for view in VIEWS])
        told = tokens([instruction(task) for task in TASKS])
        rng = np.random.default_rng(seed)
        pool = [_frames(rng, task, word, view, prepare, 32) for view in VIEWS for task, word in wanted]
        pool = torch.stack(pool).unflatten(0, (len(VIEWS), len(wanted)))  # [views, captions, n, 3, h, w]
        each = torch.arange(len(wanted))
        loss = ClipLoss()
        model.token_embedding.requires_grad_(False)  # most of the numbers, and random ones do
        learned = [weight for weight in model.parameters() if weight.requires_grad]
        optimiser = torch.optim.AdamW(learned, lr=4e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=rounds, pct_start=0.12)
        model.train()
        for _ in range(rounds):
            pick = torch.from_numpy(rng.integers(0, pool.shape[2], len(wanted)))
            view = torch.from_numpy((rng.random(len(wanted)) < 0.35).astype(np.int64))
            features = model.encode_image(pool[view, each, pick], normalize=True)
            scale = model.logit_scale.exp()
            found = loss(features, model.encode_text(seen[view, each], normalize=True), scale)
            state = torch.from_numpy(rng.integers(0, len(words), len(TASKS)))
            shown = features.view(len(TASKS), len(words), -1)[torch.arange(len(TASKS)), state]
            found = found + 0.5 * loss(shown, model.encode_text(told, normalize=True), scale)
            optimiser.zero_grad()
            found.backward()
            optimiser.step()
            schedule.step()
        path = folder / "clip.pt"
        torch.save(model.state_dict(), path)
        return path
    finally:
        torch.set_num_threads(before[0])
        torch.random.set_rng_state(before[1])


def _frames(rng: np.random.Generator, task: tuple[str, str], word: str, view: str, prepare, count: int):
    """float [count, 3, h, w]: frames of one task in one state and view, at random places, as the model takes them."""
    import torch
    from PIL import Image

    found = []
    while len(found) < count:
        block, angle = rng.uniform(10, SIZE - 10, 2), rng.uniform(0, 2 * np.pi)
        limits = [limit for limit, _ in STATES]
        at = [name for _, name in STATES].index(word)
        distance = rng.uniform(0 if at == 0 else limits[at - 1], min(limits[at], 50))
        gripper = block + distance * np.array([np.cos(angle), np.sin(angle)])
        if (gripper < 4).any() or (gripper > SIZE - 5).any():
            continue
        frame = render(task, gripper, block, int(rng.integers(90, 150)), view)
        found.append(prepare(Image.fromarray(frame)))
    return torch.stack(found)
