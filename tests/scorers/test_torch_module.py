from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from data_engine import registry
from data_engine.errors import RequestError
from scorers.torch_module import TorchModule
from scorers.weights import read_state

torchvision = pytest.importorskip("torchvision")

FACTORY = "torchvision.models:squeezenet1_1"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(num_classes=8)
    path = tmp_path_factory.mktemp("module") / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path, model.eval()


def test_a_users_module_is_loaded_and_run(checkpoint):
    path, model = checkpoint
    encoder = TorchModule(factory=FACTORY, checkpoint=str(path), options={"num_classes": 8}, size=64, mean=(0, 0, 0))
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None] / 255 / torch.tensor(encoder.std).view(1, 3, 1, 1)
    with torch.inference_mode():
        wanted = torch.nn.functional.normalize(model(pixels), dim=-1)
    np.testing.assert_allclose(encoder.images([frame]), wanted, atol=1e-5)
    assert len(encoder.model_version()) == 64


def test_only_installed_code_runs(checkpoint, tmp_path, monkeypatch):
    path, _ = checkpoint
    (tmp_path / "loose_model.py").write_text("raise SystemExit('this ran')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def wrong(**options) -> str:
        with pytest.raises(RequestError) as caught:
            encoder = registry.make("encoders", "torch_module", {"checkpoint": str(path), **options})
            encoder.version()
        return str(caught.value)

    assert "'loose_model' is of no installed package" in wrong(factory="loose_model:make")
    assert "'subprocess' is of no installed package" in wrong(factory="subprocess:run")
    monkeypatch.chdir(Path(__file__).parents[2])  # where an installation in place lies
    assert "'os' is of no installed package" in wrong(factory="os:getcwd")
    assert "'sys' is of no installed package" in wrong(factory="sys:getrecursionlimit")
    assert "makes no module" in wrong(factory="torchvision.models:nothing")
    assert "made a list, no torch module" in wrong(factory="torchvision.models:list_models")
    assert "options" in wrong(factory="pandas:read_pickle", options={"path": "evil.pkl"})
    assert "factory" in wrong(factory="not a name")


class _Bomb:
    def __reduce__(self):
        return (open, ("bomb-went-off", "w"))


def test_a_file_that_is_no_table_of_tensors_is_refused_without_advice_on_running_it(tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": _Bomb()}, "evil.pt")
    with open("plain.pt", "wb") as file:
        pickle.dump(_Bomb(), file)
    Path("junk.pt").write_bytes(b"hello")
    Path("empty.pt").touch()
    Path("junk.safetensors").write_bytes(b"hello")
    for name in ("evil.pt", "plain.pt", "junk.pt", "empty.pt", "junk.safetensors"):
        with pytest.raises(RequestError, match=r"holds no weights that can be read safely: .") as caught:
            read_state(name)
        assert caught.value.code == "bad_weights"
        assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    assert not Path("bomb-went-off").exists()
    assert not recwarn.list


def test_a_checkpoint_of_another_model_is_refused(checkpoint):
    path, _ = checkpoint
    with pytest.raises(RequestError, match=r"has another shape of classifier\.1"):
        TorchModule(factory=FACTORY, checkpoint=str(path)).version()
