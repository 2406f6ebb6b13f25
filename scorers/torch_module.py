"""Images by a user's own torch module: a factory in an installed package, and a checkpoint that it loads."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlparse

from pydantic import Field

from data_engine.errors import RequestError
from data_engine.scoring import Spec
from scorers.images import ImageEncoder, ImageModel, image_spec
from scorers.weights import load_into, read_state

__all__ = ["TorchModule"]


class TorchModule(ImageEncoder):
    """The output [n, d] of a module that maps float [n, 3, size, size] to it.

    ``factory``: ``package.module:function`` of an installed package, called with ``options`` (numbers and truth values:
    no text, which could name a file); it makes the module. ``checkpoint``: its weights, all of them, read without
    running anything in it. Frames are resized so that the shorter side is ``size``, cropped in the middle, and scaled
    by ``mean`` and ``std``.
    """

    factory: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    checkpoint: str
    options: dict[str, bool | int | float] = Field(default_factory=dict)
    size: int = Field(default=224, ge=8, le=4096)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    spec: ClassVar[Spec] = image_spec("torch_module", "1")

    def load(self) -> ImageModel:
        """The module with its weights."""
        import torch
        from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

        state = read_state(self.checkpoint)
        where, _, name = self.factory.partition(":")
        _refuse_loose(where)
        try:
            module = getattr(importlib.import_module(where), name)(**self.options)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise RequestError(f"{self.factory} makes no module: {error}", code="bad_factory") from error
        if not isinstance(module, torch.nn.Module):
            raise RequestError(f"{self.factory} made a {type(module).__name__}, no torch module", code="bad_factory")
        load_into(module, state, self.checkpoint)
        return ImageModel(
            module=module,
            encode=module,
            geometry=Compose([Resize(self.size, InterpolationMode.BICUBIC), CenterCrop(self.size)]),
            size=(self.size, self.size),
            mean=self.mean,
            std=self.std,
            facts={"interpolation": "bicubic", "resize_mode": "shortest", "factory": self.factory},
        )


def _refuse_loose(module: str) -> None:
    """Raise ``RequestError`` unless ``module`` belongs to an installed distribution, in place or editable: a file that
    merely lies in the current folder is not run, nor is the standard library a factory of models."""
    top = module.partition(".")[0]
    if top in metadata.packages_distributions():
        return
    found = importlib.util.find_spec(top)
    if found is not None and found.has_location and found.origin:  # frozen modules of Python itself have none
        origin = Path(found.origin).resolve()
        if any(origin.is_relative_to(folder) for folder in _editable()):
            return
    raise RequestError(
        f"{top!r} is of no installed package", code="bad_factory", fix="install the package that holds the factory"
    )


def _editable() -> list[Path]:
    found = []
    for distribution in metadata.distributions():
        told: Mapping[str, object] = json.loads(distribution.read_text("direct_url.json") or "{}")
        if isinstance(kind := told.get("dir_info"), dict) and kind.get("editable"):
            found.append(Path(unquote(urlparse(str(told["url"])).path)).resolve())
    return found
