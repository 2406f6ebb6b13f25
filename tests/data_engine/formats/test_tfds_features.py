from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_engine.errors import SourceError
from data_engine.formats.tfds_features import Leaf, is_features, read_features
from tests.data_engine.formats.rlds_sets import Image, Label, Sequence, Tensor, Text, features_json, steps

SPEC = steps(
    {
        "observation": {
            "image": Image((None, 80, 3), format="jpeg"),
            "depth": Image((64, 80, 1), "uint16"),
            "state": Tensor("float64", (7,)),
            "cloud": Tensor("float32", (None, None, 3), "zlib"),
            "names": Sequence(Tensor("string")),
            "boxes": Sequence({"corner": Tensor("int32", (2,))}, 5),
        },
        "is_last": Tensor("bool"),
        "said": Text(),
        "kind": Label(4),
    },
    episode_metadata={"file_path": Text(), "times": Tensor("int64", (None,))},
)
LEAVES = (
    Leaf("episode_metadata/file_path", "tensor", "string"),
    Leaf("episode_metadata/times", "tensor", "int64", (None,)),
    Leaf("steps/is_last", "tensor", "bool", levels=(None,)),
    Leaf("steps/kind", "tensor", "int64", levels=(None,)),
    Leaf("steps/observation/boxes/corner", "tensor", "int32", (2,), levels=(None, 5)),
    Leaf("steps/observation/cloud", "tensor", "float32", (None, None, 3), "zlib", (None,)),
    Leaf("steps/observation/depth", "image", "uint16", (64, 80, 1), levels=(None,)),
    Leaf("steps/observation/image", "image", "uint8", (None, 80, 3), levels=(None,)),
    Leaf("steps/observation/names", "tensor", "string", (), levels=(None, None)),
    Leaf("steps/observation/state", "tensor", "float64", (7,), levels=(None,)),
    Leaf("steps/said", "tensor", "string", levels=(None,)),
)


@pytest.mark.parametrize("form", ["proto", "text", "old"])
def test_every_spelling_says_the_same(form: str) -> None:
    content = json.loads(json.dumps(features_json(SPEC, form)))
    assert is_features(content)
    assert read_features(content) == (LEAVES, ())


def test_the_real_file(shared_data: Path) -> None:
    content = json.loads((shared_data / "bridge_rlds/1.0.0/features.json").read_text())
    leaves, notes = read_features(content)
    assert notes == ()
    found = {leaf.path: leaf for leaf in leaves}
    assert len(found) == 20
    assert found["steps/action"] == Leaf("steps/action", "tensor", "float32", (7,), levels=(None,))
    assert found["steps/observation/image_3"].shape == (64, 64, 3)
    assert found["episode_metadata/episode_id"] == Leaf("episode_metadata/episode_id", "tensor", "int32")


def test_features_called_like_the_keys_of_the_file() -> None:
    spec = {"features": Text(), "content": Tensor("int8"), "type": Text(), "sequence": Text()}
    for form in ("proto", "old"):
        assert [leaf.path for leaf in read_features(features_json(spec, form))[0]] == sorted(spec)


def node(name: str, **content) -> dict:
    return {"pythonClassName": f"tensorflow_datasets.core.features.{name}", **content}


def test_videos_boxes_and_subclasses() -> None:
    shape = {"dimensions": ["-1", "48", "64", "3"]}
    spec = {
        "clip": node("video_feature.Video", video={"shape": shape, "dtype": "uint8", "encodingFormat": "png"}),
        "box": node("bounding_boxes.BBoxFeature", boundingBox={"shape": {"dimensions": ["4"]}, "dtype": "float32"}),
        "own": {"python_class_name": "somebody.Own", "tensor": {"shape": {"dimensions": [3]}, "dtype": "int16"}},
    }
    leaves, notes = read_features(node("features_dict.FeaturesDict", featuresDict={"features": spec}))
    assert leaves == (
        Leaf("box", "tensor", "float32", (4,)),
        Leaf("clip", "image", "uint8", (48, 64, 3), levels=(None,)),
        Leaf("own", "tensor", "int16", (3,)),
    )
    assert notes == ()


def test_kinds_that_are_not_read_are_noted() -> None:
    spec = {
        "sound": node("audio_feature.Audio", audio={"dtype": "int64"}),
        "half": node("tensor_feature.Tensor", tensor={"dtype": "bfloat16"}),
        "deep": node("image_feature.Image", image={"shape": {"dimensions": [4, 4, 3]}, "dtype": "uint16"}),
        "good": node("text_feature.Text", text={}),
    }
    leaves, notes = read_features(node("features_dict.FeaturesDict", featuresDict={"features": spec}))
    assert [leaf.path for leaf in leaves] == ["good"]
    assert sorted(note.split()[0] for note in notes) == ["deep", "half", "sound"]


def deep(levels: int) -> dict:
    inner = node("text_feature.Text", text={})
    for _ in range(levels):
        inner = node("sequence_feature.Sequence", sequence={"feature": inner})
    return inner


@pytest.mark.parametrize(
    "content",
    [
        node("features_dict.FeaturesDict", featuresDict={"features": {"a": 5}}),
        node("features_dict.FeaturesDict", featuresDict=7),
        node("sequence_feature.Sequence", sequence={"length": "-1"}),
        node("sequence_feature.Sequence", sequence={"feature": deep(0), "length": "many"}),
        node("tensor_feature.Tensor", tensor={"shape": {"dimensions": ["x"]}, "dtype": "int8"}),
        node("tensor_feature.Tensor", tensor={"shape": {"dimensions": [1 << 40]}, "dtype": "int8"}),
        node("tensor_feature.Tensor", tensor={"shape": {"dimensions": [1 << 20, 1 << 20]}, "dtype": "int8"}),
        node("tensor_feature.Tensor", tensor={"shape": "wide", "dtype": "int8"}),
        node("tensor_feature.Tensor", tensor={"dtype": "int8", "encoding": "rot13"}),
        node("image_feature.Image", image={"shape": {"dimensions": [4]}, "dtype": "uint8"}),
        node("tensor_feature.Tensor", jsonFeature={"json": "{"}),
        node("tensor_feature.Tensor", jsonFeature={"json": "[" * 100_000}),
        {"type": "a.Tensor", "content": "[1]"},
        node("features_dict.FeaturesDict", featuresDict={"features": {"a/b": deep(0), "a": node(
            "features_dict.FeaturesDict", featuresDict={"features": {"b": deep(0)}})}}),
        deep(100),
    ],
)  # fmt: skip
def test_broken_descriptions_say_so(content: dict) -> None:
    with pytest.raises(SourceError) as raised:
        read_features(content)
    assert raised.value.code == "bad_features"


@pytest.mark.parametrize("content", [None, [], {}, {"features": {}}, {"type": 5}])
def test_other_json_is_no_description(content) -> None:
    assert not is_features(content)
