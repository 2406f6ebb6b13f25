from __future__ import annotations

import json
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch

from data_engine import registry
from data_engine.errors import RequestError
from scorers import hub
from scorers.images import normalised
from scorers.open_clip import OpenClip, OpenClipText
from tests import scenes

open_clip = pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def towers(eyes) -> OpenClip:
    return OpenClip(checkpoint=str(eyes))


def test_pictures_are_prepared_as_the_model_was_trained(towers):
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    rng = np.random.default_rng(0)
    model = towers.loaded()
    transform = image_transform_v2(PreprocessCfg(**model.module.visual.preprocess_cfg), False)

    for height, width in [(48, 64), (97, 33), (32, 32), (20, 25)]:
        frame = rng.integers(0, 256, (height, width, 3), np.uint8)
        ours = normalised(torch.from_numpy(model.prepare(frame))[None], model.mean, model.std)[0]
        torch.testing.assert_close(ours, transform(Image.fromarray(frame)), rtol=0, atol=1e-5)


def test_vectors_are_the_models_own(towers, eyes):
    frames = scenes.scenes(3, kinds=("progress",))[0].frames()[:5]
    model = towers.loaded()
    with torch.inference_mode():
        pixels = normalised(torch.from_numpy(np.stack([model.prepare(f) for f in frames])), model.mean, model.std)
        wanted = model.module.encode_image(pixels, normalize=True)
        said = model.module.encode_text(model.extra(["a red gripper", "a block"]), normalize=True)
    np.testing.assert_allclose(towers.images(frames), wanted, atol=1e-6)
    np.testing.assert_allclose(towers.texts(["a red gripper", "a block"]), said, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(towers.images(frames), axis=1), 1, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_sees_and_reads_the_same(towers, eyes):
    frames = scenes.scenes(3, kinds=("progress",))[0].frames()
    there = OpenClip(checkpoint=str(eyes))
    for here, found in [
        (towers.images(frames), there.images(frames, "cuda")),
        (towers.texts(["a red gripper"]), there.texts(["a red gripper"], "cuda")),
    ]:
        np.testing.assert_allclose((here * found).sum(axis=1), 1, atol=1e-4)


def test_the_version_is_of_what_the_model_holds_not_of_where_it_lies(towers, eyes, tmp_path):
    from safetensors.torch import save_file

    state = torch.load(eyes, weights_only=True)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "other.safetensors")
    shutil.copy(eyes.with_suffix(".json"), tmp_path / "open_clip_config.json")
    other = OpenClip(checkpoint=str(tmp_path / "other.safetensors"))
    assert other.version() == towers.version()
    assert other.model_version() == OpenClipText(checkpoint=str(eyes)).version().partition(".")[0]
    assert OpenClip(checkpoint=str(eyes), every_s=1.0).version() != towers.version()
    assert OpenClip(checkpoint=str(eyes), every_s=1.0).model_version() == towers.model_version()
    state["logit_scale"] += 1
    torch.save(state, tmp_path / "third.pt")
    assert OpenClip(checkpoint=str(tmp_path / "third.pt")).model_version() != towers.model_version()


def test_a_checkpoint_replaced_in_its_place_is_another_model(eyes, tmp_path):
    path = tmp_path / "clip.pt"
    shutil.copy(eyes, path)
    shutil.copy(eyes.with_suffix(".json"), path.with_suffix(".json"))
    before = OpenClip(checkpoint=str(path)).model_version()
    state = torch.load(path, weights_only=True)
    torch.save({name: value * 2 for name, value in state.items()}, path)
    assert OpenClip(checkpoint=str(path)).model_version() != before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "a model without weights: give checkpoint=PATH, or model=NAME with pretrained=TAG"),
        ({"model": "ViT-B-32"}, "a model without weights"),
        ({"model": "ViT-B-32", "pretrained": "openai", "checkpoint": "x.pt"}, "not both"),
        ({"pretrained": "openai"}, "pretrained needs model"),
        ({"checkpoint": "x.pt", "every_s": 0}, "greater than 0"),
    ],
)
def test_weights_come_from_exactly_one_place(options, said):
    for name in ("open_clip", "open_clip_text"):
        if "every_s" in options and name == "open_clip_text":
            continue
        with pytest.raises(RequestError, match=said):
            registry.make("encoders", name, options)


def test_what_is_no_such_model_is_one_line(eyes, tmp_path):
    def wrong(**options) -> RequestError:
        with pytest.raises(RequestError) as caught:
            OpenClip(**options).model_version()
        assert "\n" not in str(caught.value)
        return caught.value

    assert wrong(checkpoint=str(tmp_path / "gone.pt")).code == "no_weights"
    assert "did you mean 'ViT-B-32'" in str(wrong(model="ViT-B-23", checkpoint=str(eyes)))
    assert wrong(model="RN50", checkpoint=str(eyes)).code == "bad_weights"
    (tmp_path / "bare.pt").write_bytes(eyes.read_bytes())
    assert "says no architecture" in str(wrong(checkpoint=str(tmp_path / "bare.pt")))
    (tmp_path / "bare.json").write_text(json.dumps({"embed_dim": 64}))
    assert "has no vision_cfg" in str(wrong(checkpoint=str(tmp_path / "bare.pt")))
    (tmp_path / "bare.json").write_text("[]")
    assert wrong(checkpoint=str(tmp_path / "bare.pt")).code == "bad_model"


def test_a_tag_that_is_none_is_not_asked_for(monkeypatch):
    from huggingface_hub import constants

    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(hub, "PATIENCE_S", 60)  # it answers, however busy the machine is
        with pytest.raises(RequestError, match="ViT-B-32 has no pretrained weights 'nothing'") as caught:
            OpenClip(model="ViT-B-32", pretrained="nothing").model_version()
        server.shutdown()
    assert "laion2b_s34b_b79k" in str(caught.value.fix)
    assert asked == ["/"]


class _Bomb:
    def __reduce__(self):
        return (open, ("bomb-went-off", "w"))


def test_a_pickle_that_would_run_is_refused(eyes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(eyes.with_suffix(".json"), tmp_path / "evil.json")
    torch.save({"state_dict": _Bomb()}, tmp_path / "evil.pt")
    with pytest.raises(RequestError) as caught:
        OpenClip(checkpoint=str(tmp_path / "evil.pt")).model_version()
    assert caught.value.code == "bad_weights"
    assert "evil.pt does not hold the weights of evil.json: it is no plain table of tensors" in str(caught.value)
    assert not (tmp_path / "bomb-went-off").exists()


@pytest.fixture
def silent_hub(monkeypatch, tmp_path):
    """A hub that takes connections and never answers, and an empty cache of what was downloaded before."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(hub, "PATIENCE_S", 0.2)
        yield


@pytest.mark.parametrize(
    "options", [{"model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}, {"model": "hf-hub:laion/CLIP-x"}]
)
@pytest.mark.parametrize("how", ["silent", "refused", "offline"])
def test_without_a_network_a_name_is_one_line_that_says_what_to_do(silent_hub, monkeypatch, options, how):
    from huggingface_hub import constants

    if how == "refused":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(RequestError) as caught:
        OpenClip(**options).model_version()
    assert caught.value.code == "no_weights"
    assert "checkpoint=PATH" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before == constants.HF_HUB_OFFLINE


def test_instructions_are_one_vector_and_none_where_nothing_was_said(eyes):
    import pyarrow as pa

    from data_engine.model import EPISODES, Dataset
    from data_engine.scoring import EpisodeBatch

    texts = OpenClipText(checkpoint=str(eyes))
    rows = [
        {"task": "reach", "language": ["a red gripper", "a block"]},
        {"task": "a block", "language": []},
        {"task": None, "language": None},
        {"task": "x", "language": [" ", "a block", "a block"]},
    ]
    batch = EpisodeBatch(
        Dataset(name="set", fps=10, features=(), origin="-", format="-"),
        pa.Table.from_pylist(rows, schema=EPISODES),
        pa.table({"timestamp": np.zeros(8)}),
        np.array([0, 2, 5, 7, 8]),
    )
    found = texts.encode(batch, texts.fit([]))
    red, block = texts.towers.texts(["a red gripper", "a block"])
    mean = (red + block) / np.linalg.norm(red + block)
    np.testing.assert_allclose(found[0].clips.vectors, mean[None], atol=1e-6)
    np.testing.assert_allclose(found[1].clips.vectors, block[None], atol=1e-6)
    np.testing.assert_array_equal(found[3].clips.vectors, found[1].clips.vectors)
    assert [len(one.clips) for one in found] == [1, 1, 0, 1]
    assert (found[1].clips.starts.tolist(), found[1].clips.stops.tolist()) == ([0], [3])


def test_half_precision_is_the_same_space_to_its_precision_and_another_version(towers, eyes):
    frames = scenes.scenes(3, kinds=("progress",))[0].frames()[:8]
    half = OpenClip(checkpoint=str(eyes), precision="bf16")
    assert (towers.images(frames) * half.images(frames)).sum(axis=1).min() > 0.99
    assert half.version() != towers.version()
    assert half.model_version() == towers.model_version()


def test_what_was_downloaded_before_needs_no_network(silent_hub, towers, eyes, tmp_path):
    from safetensors.torch import save_file

    held = tmp_path / "hub" / "models--some--eyes"
    snapshot = held / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text("0" * 40)
    config = {"model_cfg": json.loads(eyes.with_suffix(".json").read_text()), "preprocess_cfg": {}}
    (snapshot / "open_clip_config.json").write_text(json.dumps(config))
    save_file(torch.load(eyes, weights_only=True), snapshot / "open_clip_model.safetensors")
    assert OpenClip(model="hf-hub:some/eyes").model_version() == towers.model_version()
    with pytest.raises(RequestError, match="the hub cannot be reached") as caught:
        OpenClip(model="hf-hub:some/others").model_version()
    assert caught.value.code == "no_weights"
