"""Encoders of what cameras show: one image model a file on this seam, which samples, decodes, batches and places."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from data_engine.canonical import canonical_json, digest
from data_engine.errors import RequestError
from data_engine.model import TIMESTAMP
from data_engine.scoring import Clips, Encoded, Encoder, EpisodeBatch, Fit, Metric, Needs, Resources, Spec
from scorers.sampling import decoded, decoders, plan
from scorers.weights import state_sha256

if TYPE_CHECKING:
    import torch

__all__ = ["BATCH", "ImageEncoder", "ImageModel", "image_spec", "normalised"]

BATCH = 64  # frames that a model sees at once: the same everywhere, so that sums round alike


@dataclass(frozen=True)
class ImageModel:
    """A loaded model and the preprocessing it was trained with.

    ``encode``: float tensor [n, 3, h, w] to [n, d]. ``geometry``: a PIL image to the PIL image of ``size`` (h, w) that
    the model looks at; what is left of its preprocessing is (x / 255 - ``mean``) / ``std``, done where the model is.
    ``facts``: what the preprocessing is, as plain JSON. ``tokenizer``: hash of what turns text into numbers, if any
    does; ``extra`` is that itself.
    """

    module: torch.nn.Module
    encode: Callable[[torch.Tensor], torch.Tensor]
    geometry: Callable[[Any], Any]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str = ""
    extra: Any = None

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [h, w, 3] of any size as the uint8 [*size, 3] that the model looks at."""
        from PIL import Image

        return np.array(self.geometry(Image.fromarray(frame)).convert("RGB"))

    def version(self) -> str:
        """sha256 in hex over the weights, the preprocessing and the tokenizer."""
        shown = {"size": self.size, "mean": self.mean, "std": self.std, **self.facts}
        return hashlib.sha256(canonical_json([state_sha256(self.module), shown, self.tokenizer]).encode()).hexdigest()


def image_spec(name: str, version: str) -> Spec:
    """What every encoder of frames says of itself."""
    return Spec(
        name=name,
        version=version,
        level="step",
        metrics=(Metric("vector", "unit length", "neither"),),
        needs=Needs(columns=(TIMESTAMP,), frames=True),
        resources=Resources(cpus=1, memory_mb=4096),
        learns=False,
    )


class ImageEncoder(Encoder):
    """Vectors of unit length, float32 [d], of (episode, [start, stop), camera), by a model that others trained.

    ``every_s``: seconds between the frames looked at, each standing for the steps until the next; None: every step.
    ``cameras``: those looked at; None: all of a dataset. ``precision``: what the model computes in. A camera whose
    video cannot be decoded gets no vectors of that episode, and the reason; the rest goes on.
    """

    every_s: float | None = Field(default=None, gt=0)
    cameras: tuple[str, ...] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"

    spec: ClassVar[Spec]

    @abstractmethod
    def load(self) -> ImageModel:
        """The model with its weights, on the CPU. Raises ``RequestError`` where it has none."""

    def loaded(self, device: str = "cpu") -> ImageModel:
        """The model on ``device``, one copy of it, kept while it is one of the two used last."""
        model = self._held()[0]
        model.module.to(device)
        return model

    def version(self) -> str:
        """The model's sha256, a dot, and what of an episode it is shown: rows of other sampling are other rows."""
        return f"{self.model_version()}.{digest([self.every_s, self.cameras, self.precision], length=8)}"

    def model_version(self) -> str:
        """sha256 over weights, preprocessing and tokenizer: vectors of one model compare, whatever they are of."""
        return self._held()[1]

    def _held(self) -> tuple[ImageModel, str]:
        weights = self.model_copy(update={"every_s": None, "cameras": None, "precision": "fp32"})
        return held(type(self), canonical_json(weights.config), stamp(getattr(self, "checkpoint", None)))

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Nothing is learned: what the model is, for the record."""
        model = self.loaded()
        facts = {"model": self.model_version(), "size": list(model.size), **model.facts}
        return Fit(self.spec.name, self.spec.version, self.config, seed, (), meta=facts)

    def encode(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[Encoded]:
        """Every frame asked for, each video decoded once, ahead of the model and beside it.

        Raises ``RequestError`` where the model is not the one that ``fit`` tells of.
        """
        model = self.loaded(device)
        if self.model_version() != fit.meta["model"]:
            raise RequestError(
                f"the weights of {self.spec.name} are not the ones of fit {fit.id}", code="unlike_weights",
                fix="give every worker the same checkpoint",
            )  # fmt: skip
        wants = plan(batch, self.every_s, self.cameras)
        vectors: list[np.ndarray | None] = [None] * len(wants)
        failed: dict[int, str] = {}
        waiting: tuple[Any, Any] | None = None

        def place(shown: Any, found: torch.Tensor) -> None:
            rows = found.float().cpu().numpy()
            for number in np.unique(shown.wants).tolist():
                mine = shown.wants == number
                kept = vectors[number]
                if kept is None:
                    kept = vectors[number] = np.empty((len(wants[number]), rows.shape[1]), np.float32)
                kept[shown.at[mine]] = rows[mine]

        for shown in decoded(batch, wants, model.prepare, model.size, BATCH, decoders(self.spec.resources.cpus)):
            failed |= shown.failed
            found = self._run(model, shown.frames, device)  # on a GPU this returns before it is computed
            if waiting:
                place(*waiting)
            waiting = shown, found
        if waiting:
            place(*waiting)
        return _by_episode(len(batch), wants, vectors, failed)

    def images(self, frames: Sequence[np.ndarray], device: str = "cpu") -> np.ndarray:
        """float32 [n, d], unit length: vectors of pictures, each uint8 [h, w, 3] of any size."""
        import torch

        model = self.loaded(device)
        found = []
        for at in range(0, len(frames), BATCH):
            shown = np.stack([model.prepare(frame) for frame in frames[at : at + BATCH]])
            found.append(self._run(model, shown, device))
        return torch.cat(found).float().cpu().numpy()

    def _run(self, model: ImageModel, frames: np.ndarray, device: str) -> torch.Tensor:
        import torch

        pixels = torch.from_numpy(frames)
        if device != "cpu":
            pixels = pixels.pin_memory().to(device, non_blocking=True)
        with torch.inference_mode(), torch.autocast(device.partition(":")[0], torch.bfloat16, self.precision == "bf16"):
            return torch.nn.functional.normalize(
                model.encode(normalised(pixels, model.mean, model.std)).float(), dim=-1
            )


def normalised(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """float32 [n, 3, h, w] of uint8 [n, h, w, 3]: the end of every model's preprocessing, a batch at once."""
    import torch

    scale = torch.tensor(std, device=pixels.device).view(1, 3, 1, 1)
    shift = torch.tensor(mean, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.permute(0, 3, 1, 2).float().div_(255) - shift) / scale


def _by_episode(
    count: int, wants: Sequence[Any], vectors: Sequence[np.ndarray | None], failed: Mapping[int, str]
) -> list[Encoded]:
    held: list[list[int]] = [[] for _ in range(count)]
    for number in sorted(range(len(wants)), key=lambda n: wants[n].camera):
        held[wants[number].episode].append(number)
    found = []
    for numbers in held:
        good = [number for number in numbers if number not in failed and vectors[number] is not None]
        bad = {wants[number].camera: failed[number] for number in numbers if number in failed}
        clips = Clips.none()
        if good:
            clips = Clips(
                np.concatenate([wants[n].steps for n in good]),
                np.concatenate([wants[n].stops for n in good]),
                tuple(wants[n].camera for n in good for _ in range(len(wants[n]))),
                np.concatenate([vectors[n] for n in good]),
            )
        found.append(Encoded(clips, bad))
    return found


def stamp(path: str | None) -> tuple[int, int] | None:
    """Size and time of change of a checkpoint: another file of the same name is another model. None where there is
    none."""
    try:
        found = os.stat(os.path.expanduser(path)) if path else None
    except OSError:
        return None
    return found and (found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=2)
def held(kind: type[ImageEncoder], config: str, _: tuple[int, int] | None) -> tuple[ImageModel, str]:
    """The model of an encoder and its version, loaded once a process."""
    model = kind.model_validate_json(config).load()
    model.module.eval().requires_grad_(False)
    return model, model.version()
