from __future__ import annotations

import numpy as np
import pytest
import torch

from data_engine import registry
from data_engine.errors import RequestError
from scorers.images import normalised
from scorers.timm import Timm

timm = pytest.importorskip("timm")

NAME = "test_vit"  # timm's own small model for tests


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = timm.create_model(NAME)
    path = tmp_path_factory.mktemp("timm") / "weights.pt"
    torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, path)
    return path, model.eval()


def test_vectors_are_what_the_model_sees_before_its_classifier(checkpoint):
    path, model = checkpoint
    encoder = Timm(model=NAME, checkpoint=str(path))
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 120, 160, 3), np.uint8)
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(**resolve_data_config({}, model=model))
    pixels = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
    held = encoder.loaded()
    ours = normalised(torch.from_numpy(np.stack([held.prepare(f) for f in frames])), held.mean, held.std)
    torch.testing.assert_close(ours, pixels, rtol=0, atol=1e-5)
    with torch.inference_mode():
        wanted = model.forward_head(model.forward_features(pixels), pre_logits=True)
        wanted = torch.nn.functional.normalize(wanted, dim=-1)
    np.testing.assert_allclose(encoder.images(frames), wanted, atol=1e-5)


def test_weights_are_required_and_must_fit(checkpoint, tmp_path):
    path, _ = checkpoint
    with pytest.raises(RequestError, match="weights from one place"):
        registry.make("encoders", "timm", {"model": NAME})
    with pytest.raises(RequestError, match="timm has no model 'tset_vit'"):
        Timm(model="tset_vit", checkpoint=str(path)).version()
    with pytest.raises(RequestError, match=r"lacks|has what the model has not|another shape") as caught:
        Timm(model="test_resnet", checkpoint=str(path)).version()
    assert caught.value.code == "bad_weights"
    state = torch.load(path, weights_only=True)["state_dict"]
    state.pop("module.norm.weight")
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(RequestError, match=r"lacks norm\.weight"):
        Timm(model=NAME, checkpoint=str(tmp_path / "part.pt")).version()
