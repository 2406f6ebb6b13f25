"""Images and texts in one space, by any model of open_clip: a name with pretrained weights, or a checkpoint."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import model_validator

from data_engine.canonical import canonical_json, digest
from data_engine.errors import RequestError
from data_engine.model import TIMESTAMP
from data_engine.registry import Plugin
from data_engine.scoring import Clips, Encoded, Encoder, EpisodeBatch, Fit, Metric, Needs, Resources, Spec
from scorers.hub import from_hub
from scorers.images import ImageEncoder, ImageModel, image_spec
from scorers.weights import checked, unreadable

if TYPE_CHECKING:
    pass

__all__ = ["Beside", "OpenClip", "OpenClipText", "Weights", "instructions"]

_HUB = "hf-hub:"
_CONFIG_BYTES = 1 << 20
_PARTS = ("embed_dim", "vision_cfg", "text_cfg")
_TEXTS = 256  # encoded at once


class Weights(Plugin):
    """Where the weights of an open_clip model come from. Raises for none, and for two at once."""

    model: str | None = None
    pretrained: str | None = None
    checkpoint: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Weights:
        if self.checkpoint is None and not self.pretrained and not (self.model or "").startswith(_HUB):
            raise ValueError("a model without weights: give checkpoint=PATH, or model=NAME with pretrained=TAG")
        if self.checkpoint is not None and self.pretrained:
            raise ValueError("give checkpoint or pretrained, not both")
        if self.pretrained and not self.model:
            raise ValueError("pretrained needs model, as in model=ViT-B-32")
        return self

    @property
    def towers(self) -> OpenClip:
        """Both towers of the model."""
        return OpenClip(model=self.model, pretrained=self.pretrained, checkpoint=self.checkpoint)


class OpenClip(Weights, ImageEncoder):
    """The image tower of an open_clip model, with its text tower beside it. For that see :meth:`texts`.

    ``model``: open_clip's name (``ViT-B-32``) with ``pretrained``, a tag (``laion2b_s34b_b79k``), or with
    ``checkpoint``, a file; or ``hf-hub:org/name``. With a ``checkpoint`` alone the architecture is the JSON beside it:
    the file's name with ``.json``, or ``open_clip_config.json``; it holds ``embed_dim``, ``vision_cfg`` and
    ``text_cfg``, or these under ``model_cfg`` with ``preprocess_cfg`` next to them.

    Weights are required: open_clip otherwise only warns, and makes random ones.
    """

    spec: ClassVar[Spec] = image_spec("open_clip", "1")

    def load(self) -> ImageModel:
        """The model with its weights, its preprocessing and its tokenizer."""
        return load(self.model, self.pretrained, self.checkpoint)

    def texts(self, texts: Sequence[str], device: str = "cpu") -> np.ndarray:
        """float32 [n, d], unit length: vectors of texts, which compare with those of frames."""
        import torch

        model = self.loaded(device)
        found = []
        for at in range(0, len(texts), _TEXTS):
            tokens = model.extra(list(texts[at : at + _TEXTS])).to(device)
            with torch.inference_mode():
                vectors = model.module.encode_text(tokens).float()  # type: ignore[operator]
                found.append(torch.nn.functional.normalize(vectors, dim=-1).cpu())
        return torch.cat(found).numpy() if found else np.zeros((0, 0), np.float32)


class OpenClipText(Weights, Encoder):
    """The vector, of unit length, of each episode's instructions, by the text tower of an open_clip model.

    Several instructions of an episode are normalised each and then averaged; one without any has no vector. ``model``,
    ``pretrained``, ``checkpoint`` as of ``open_clip``: of the same model they compare with frames.
    """

    spec: ClassVar[Spec] = Spec(
        name="open_clip_text",
        version="1",
        level="episode",
        metrics=(Metric("vector", "unit length", "neither"),),
        needs=Needs(columns=(TIMESTAMP,)),
        resources=Resources(cpus=1, memory_mb=4096),
        learns=False,
    )

    def version(self) -> str:
        """The model's sha256, and that it is of an episode's text."""
        return f"{self.towers.model_version()}.text"

    def fit(
        self, batches: Iterable[EpisodeBatch], *, base: Fit | None = None, seed: int = 0, device: str = "cpu"
    ) -> Fit:
        """Nothing is learned: what the model is, for the record."""
        facts = {"model": self.towers.model_version(), **self.towers.loaded().facts}
        return Fit(self.spec.name, self.spec.version, self.config, seed, (), meta=facts)

    def encode(self, batch: EpisodeBatch, fit: Fit, *, device: str = "cpu") -> list[Encoded]:
        """A vector an episode, of all its steps; each distinct text is encoded once."""
        said = [instructions(row) for row in batch.episodes.select(["task", "language"]).to_pylist()]
        distinct = sorted({text for texts in said for text in texts})
        vectors = dict(zip(distinct, self.towers.texts(distinct, device), strict=True))
        found = []
        for texts, span in zip(said, batch, strict=True):
            clips = Clips.none()
            if texts:
                mean = np.mean([vectors[text] for text in texts], axis=0)
                clips = Clips.whole(span.stop - span.start, mean / max(np.linalg.norm(mean), 1e-12))
            found.append(Encoded(clips))
        return found


class Beside(Weights):
    """Of a producer that holds texts against stored frame vectors, both by one model.

    ``space``: where the frames' vectors are; ``camera``: whose frames, None: all. ``model``, ``pretrained`` and
    ``checkpoint`` as of the space's own encoder.
    """

    space: str = "open_clip"
    camera: str | None = None

    @property
    def needs(self) -> Needs:
        """The vectors of ``space``."""
        return Needs(columns=(TIMESTAMP,), spaces=(self.space,))

    def check(self, parts: Mapping[str, str]) -> None:
        """Raise ``RequestError`` where another model made the space: its vectors say nothing of these texts."""
        if parts[f"space {self.space}"].partition(".")[0] != self.towers.model_version():
            raise RequestError(
                f"space {self.space!r} was made by another model than the one that reads the texts",
                code="unlike_spaces",
                fix="name the checkpoint, or model and pretrained, of that space's encoder",
            )

    def shown(self, clips: Clips) -> Clips:
        """The vectors that count."""
        return clips if self.camera is None else clips.of(self.camera)


def instructions(episode: Any) -> list[str]:
    """What an episode was told to do: its language, else its task; empty texts left out."""
    texts = [text.strip() for text in episode["language"] or [] if text and text.strip()]
    task = (episode["task"] or "").strip()
    return list(dict.fromkeys(texts)) or ([task] if task else [])


def load(model: str | None, pretrained: str | None, checkpoint: str | None) -> ImageModel:
    """The open_clip model of that name and tag, or of that checkpoint. Raises ``RequestError`` with one line."""
    if checkpoint is not None:
        path = checked(checkpoint)
        if model is not None:
            return _load(model, path, {})
        told, config, preprocess = _config_beside(path)
        with tempfile.TemporaryDirectory(prefix="data-engine-") as folder:
            name = f"custom-{digest(config, length=16)}"
            import open_clip

            at = Path(folder, f"{name}.json")
            at.write_text(canonical_json(config))
            open_clip.add_model_config(at)
            return _load(name, path, preprocess, told.name)
    what = f"{model} ({pretrained})" if pretrained else str(model)
    with from_hub(what):
        return _load(str(model), pretrained, {})


def _load(name: str, weights: str | None, preprocess: dict[str, Any], told: str | None = None) -> ImageModel:
    """``told``: what a person knows the architecture as, where that is not its ``name``."""
    import open_clip
    import torch
    from torchvision.transforms import Compose, Normalize, ToTensor

    _refuse_unknown(name, weights)
    keys = {f"image_{key}": preprocess[key] for key in ("mean", "std", "interpolation", "resize_mode") if preprocess}
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.filterwarnings("ignore", message="Detected pickle protocol.*")
            warnings.filterwarnings("error", message=".*QuickGELU.*")
            module, transform = open_clip.create_model_from_pretrained(name, pretrained=weights, **keys)
            tokenizer = open_clip.get_tokenizer(name)
    except UserWarning as error:
        raise RequestError(
            f"{name} with these weights computes another activation than they were trained with",
            code="bad_weights",
            fix=f"name the model {name}-quickgelu" if not name.endswith("-quickgelu") else "name it without -quickgelu",
        ) from error
    except Exception as error:  # pickle, zip, torch and open_clip each raise their own
        if weights and os.path.isfile(weights):
            raise RequestError(
                f"{weights} does not hold the weights of {told or name}: {unreadable(error)}", code="bad_weights",
                fix="name the model it was trained as, or lay its config JSON beside it",
            ) from error  # fmt: skip
        raise
    config = module.visual.preprocess_cfg
    steps = [step for step in transform.transforms if not isinstance(step, ToTensor | Normalize)]
    size = config["size"]
    assert isinstance(module, torch.nn.Module)
    return ImageModel(
        module=module,
        encode=module.encode_image,
        geometry=Compose(steps),
        size=(size, size) if isinstance(size, int) else (int(size[0]), int(size[1])),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        facts={"interpolation": config["interpolation"], "resize_mode": config["resize_mode"]},
        tokenizer=_tokenizer_hash(tokenizer),
        extra=tokenizer,
    )


def _refuse_unknown(name: str, weights: str | None) -> None:
    import difflib

    import open_clip

    if name.startswith(_HUB):
        return
    known = open_clip.list_models()
    if name.replace("/", "-") not in known:
        near = difflib.get_close_matches(name, known, n=1)
        fix = f"did you mean {near[0]!r}?" if near else "see open_clip.list_models()"
        raise RequestError(f"open_clip has no model {name!r}", code="unknown_model", fix=fix)
    tags = open_clip.list_pretrained_tags_by_model(name.replace("/", "-"))
    if weights and not os.path.isfile(weights) and weights.lower().replace("-", "_") not in tags:
        raise RequestError(
            f"{name} has no pretrained weights {weights!r}", code="no_weights",
            fix=f"there are: {', '.join(tags[:12]) or 'none'}; or give checkpoint=PATH",
        )  # fmt: skip


def _config_beside(path: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The JSON beside a checkpoint, and the architecture and preprocessing in it."""
    beside = [Path(path).with_suffix(".json"), Path(path).with_name("open_clip_config.json")]
    found = next((at for at in beside if at.is_file()), None)
    if found is None:
        raise RequestError(
            f"{path} says no architecture", code="no_model",
            fix=f"give model=NAME, or lay {beside[0].name} or {beside[1].name} beside it",
        )  # fmt: skip
    try:
        if found.stat().st_size > _CONFIG_BYTES:
            raise ValueError("it is too large for a configuration")
        value = json.loads(found.read_text(encoding="utf-8"))
        config = value.get("model_cfg", value)
        missing = [part for part in _PARTS if part not in config]
        if missing:
            raise ValueError(f"it has no {missing[0]}")
        return found, config, dict(value.get("preprocess_cfg", {}))
    except (ValueError, AttributeError, TypeError) as error:
        raise RequestError(f"{found} is no configuration of open_clip: {error}", code="bad_model") from error


def _tokenizer_hash(tokenizer: Any) -> str:
    """What the tokenizer makes of any text, as a hash: its kind, its length and its whole vocabulary if it is told."""
    kind, length = type(tokenizer).__name__, int(getattr(tokenizer, "context_length", 0) or 0)
    if isinstance(vocabulary := getattr(tokenizer, "encoder", None), dict):
        return digest(kind, str(length), sorted(vocabulary.items()))
    inner = getattr(getattr(tokenizer, "tokenizer", None), "backend_tokenizer", None)
    told = inner.to_str() if inner is not None else str(getattr(tokenizer, "vocab_size", ""))
    return digest(kind, str(length), told)


class _quiet:
    """open_clip tells of every model on the root logger: errors come as exceptions, the rest is nobody's business."""

    def __enter__(self) -> None:
        self.before = logging.root.manager.disable
        logging.disable(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.before)
