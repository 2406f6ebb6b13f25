"""Images by any model of timm (DINOv2, ConvNeXt, ...): what it sees before its classifier."""

from __future__ import annotations

from typing import ClassVar

from pydantic import model_validator

from data_engine.errors import RequestError
from data_engine.scoring import Spec
from scorers.hub import from_hub
from scorers.images import ImageEncoder, ImageModel, image_spec
from scorers.weights import load_into, read_state

__all__ = ["Timm"]


class Timm(ImageEncoder):
    """The pooled features of a timm model.

    ``model``: timm's name (``vit_small_patch14_dinov2.lvd142m``), whose weights come from the hub where ``pretrained``
    is set; or ``checkpoint``, a file with them. Its classifier, if it has one, is left out. Preprocessing is the one
    that timm states for the name.
    """

    model: str
    pretrained: bool = False
    checkpoint: str | None = None

    spec: ClassVar[Spec] = image_spec("timm", "1")

    @model_validator(mode="after")
    def _has_weights(self) -> Timm:
        if self.pretrained == (self.checkpoint is not None):
            raise ValueError("a model has weights from one place: give checkpoint=PATH, or pretrained=true")
        return self

    def load(self) -> ImageModel:
        """The model with its weights and the preprocessing that timm states for it."""
        import timm
        from timm.data import create_transform, resolve_data_config
        from torchvision.transforms import Compose, Normalize, ToTensor

        if not timm.is_model(self.model.partition(".")[0]):
            import difflib

            near = difflib.get_close_matches(self.model, timm.list_models(), n=1)
            fix = f"did you mean {near[0]!r}?" if near else "see timm.list_models()"
            raise RequestError(f"timm has no model {self.model!r}", code="unknown_model", fix=fix)
        if self.checkpoint is not None:
            state = read_state(self.checkpoint)
            module = timm.create_model(self.model, pretrained=False, num_classes=0)
            named = module.pretrained_cfg.get("classifier") or ()
            heads = (named,) if isinstance(named, str) else tuple(named)
            load_into(module, state, self.checkpoint, optional=heads)
        else:
            with from_hub(self.model):
                module = timm.create_model(self.model, pretrained=True, num_classes=0)
        config = resolve_data_config({}, model=module)
        steps = create_transform(**config, is_training=False).transforms
        pictures = [step for step in steps if not isinstance(step, Normalize | ToTensor) and _is_image(step)]
        return ImageModel(
            module=module,
            encode=module,
            geometry=Compose(pictures),
            size=(int(config["input_size"][1]), int(config["input_size"][2])),
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            facts={name: config[name] for name in ("interpolation", "crop_pct", "crop_mode")},
        )


def _is_image(step: object) -> bool:
    """Whether a step of timm's preprocessing takes and makes pictures; its own conversion to a tensor does not."""
    return type(step).__name__ not in ("MaybeToTensor", "ToNumpy", "MaybePILToTensor")
