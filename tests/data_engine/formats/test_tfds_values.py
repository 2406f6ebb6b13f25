from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_engine.errors import SourceError
from data_engine.formats.tf_example import Example
from data_engine.formats.tfds_features import read_features
from data_engine.formats.tfds_values import single_value, step_values
from tests.data_engine.formats.rlds_sets import (
    Image,
    ProtoExample,
    Sequence,
    Tensor,
    Text,
    features_json,
    serialise,
    steps,
)  # fmt: skip

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip


def values(spec, items: list):
    """What is read of steps that hold ``items``, each of ``spec``."""
    features = steps({"x": spec})
    (leaf,) = read_features(features_json(features))[0]
    return step_values(Example(serialise(features, {"steps": [{"x": item} for item in items]})), leaf)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), encoding=st.sampled_from(["none", "bytes", "zlib"]))
def test_any_tensor_round_trips(data, dtype: str, encoding: str) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    n = data.draw(st.integers(1, 4))
    inexact = dtype == "float64" and encoding == "none"  # floats lie on disk in 32 bits
    items = data.draw(hnp.arrays(dtype, (n, *shape), elements=st.floats(width=32) if inexact else None))
    found = values(Tensor(dtype, shape, encoding), list(items))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, items)


@settings(max_examples=30, deadline=None)
@given(items=st.lists(st.lists(st.lists(st.text(max_size=4), max_size=3), max_size=3), min_size=1, max_size=4))
@example(items=[[["\0", "a\0"]]])
def test_sequences_inside_steps_round_trip_as_json(items: list) -> None:
    found = values(Sequence(Sequence(Text())), items)
    assert (found is None and not any(items)) or [json.loads(text) for text in found] == items


def test_sequences_of_fixed_length_are_arrays() -> None:
    items = np.arange(4 * 3 * 2 * 5).reshape(4, 3, 2, 5)
    np.testing.assert_array_equal(values(Sequence(Sequence(Tensor("int16", (5,)), 2), 3), items.tolist()), items)
    with pytest.raises(SourceError, match=r"sequences of \[2\], declared 3"):
        values(Sequence(Tensor("int16"), 3), [[1, 2], [3, 4]])


@pytest.mark.parametrize("shape", [(None, 3), (None, None), (2, None, None)])
@pytest.mark.parametrize("encoding", ["bytes", "zlib"])
def test_tensors_of_any_shape_become_json(shape: tuple, encoding: str) -> None:
    rng = np.random.default_rng(0)
    items = [rng.normal(size=[side or size for side in shape]).astype("float32") for size in (1, 4, 0)]
    if shape == (None, 3):
        items[2] = np.empty((0, 3), np.float32)
    found = values(Tensor("float32", shape, encoding), items)
    for text, item in zip(found, items, strict=True):
        np.testing.assert_array_equal(np.asarray(json.loads(text), np.float32).reshape(item.shape), item)


def test_text_and_what_is_not_utf8() -> None:
    assert values(Text(), ["pick up", "", "拿起"]).tolist() == ["pick up", "", "拿起"]
    assert values(Tensor("string", (2,)), [["a", "b"], ["c", "d"]]).tolist() == [["a", "b"], ["c", "d"]]
    example = ProtoExample()
    example.features.feature["steps/x"].bytes_list.value.append(b"caf\xe9")
    (leaf,) = read_features(features_json(steps({"x": Text()})))[0]
    assert step_values(Example(example.SerializeToString()), leaf).tolist() == ["caf\\xe9"]


def test_images_that_are_no_cameras_are_exact_arrays() -> None:
    rng = np.random.default_rng(0)
    for dtype, channels in (("uint16", 1), ("uint8", 1), ("uint8", 4)):
        items = rng.integers(0, np.iinfo(dtype).max, (3, 6, 8, channels), dtype=dtype)
        np.testing.assert_array_equal(values(Image((6, 8, channels), dtype), list(items)), items)
    depth = rng.normal(size=(2, 6, 8, 1)).astype(np.float32)
    np.testing.assert_array_equal(values(Image((6, 8, 1), "float32"), list(depth)), depth)
    with pytest.raises(SourceError, match="declared"):
        values(Image((7, 8, 1), "uint16"), [np.zeros((6, 8, 1), np.uint16)])


def test_values_beside_the_steps() -> None:
    spec = {"n": Tensor("int32"), "t": Text(), "v": Tensor("float32", (3,)), "any": Tensor("int8", (None,)),
            "list": Sequence(Text()), "ragged": Sequence(Sequence(Tensor("int8")))}  # fmt: skip
    given = {"n": 5, "t": "a", "v": [1, 2, 3], "any": [4, 5], "list": ["b", "c"], "ragged": [[1], [], [2, 3]]}
    example = Example(serialise(spec, given))
    found = {leaf.path: single_value(example, leaf) for leaf in read_features(features_json(spec))[0]}
    assert found["n"] == 5 and found["t"] == "a"
    assert [np.asarray(found[name]).tolist() for name in ("v", "any", "list")] == [
        given[n] for n in ("v", "any", "list")
    ]
    assert found["ragged"] == given["ragged"]
    assert single_value(Example(b""), read_features(features_json({"n": Tensor("int32")}))[0][0]) is None


def raw(spec, **lists: list):
    example = ProtoExample()
    for name, items in lists.items():
        feature = example.features.feature[f"steps/{name.replace('__', '/')}"]
        kind = {bytes: feature.bytes_list, float: feature.float_list}.get(type(items[0]), feature.int64_list)
        kind.value.extend(items)
    (leaf,) = read_features(features_json(steps({"x": spec})))[0]
    return step_values(Example(example.SerializeToString()), leaf)


@pytest.mark.parametrize(
    ("spec", "lists", "why"),
    [
        (Tensor("float32", (3,)), {"x": [1.0, 2.0]}, "2 values, which do not make"),
        (Tensor("float32"), {"x": [1, 2]}, "holds int64, declared float32"),
        (Tensor("int32"), {"x": [1.0]}, "holds float32, declared int32"),
        (Tensor("int32"), {"x": [b"1"]}, "holds bytes, declared int32"),
        (Text(), {"x": [1]}, "holds int64, declared text"),
        (Tensor("uint8"), {"x": [256]}, "no uint8"),
        (Tensor("bool"), {"x": [2]}, "no bool"),
        (Tensor("int8"), {"x": [-129]}, "no int8"),
        (Tensor("float16"), {"x": [1e9]}, "no float16"),
        (Tensor("int16", (2,), "bytes"), {"x": [b"123"]}, "no whole number"),
        (Tensor("int16", (2,), "bytes"), {"x": [b"12"]}, "do not make"),
        (Tensor("int16", (2,), "bytes"), {"x": [b"123456"]}, "more than its shape"),
        (Tensor("int16", (2,), "bytes"), {"x": [1]}, "numbers where bytes"),
        (Tensor("bool", (2,), "bytes"), {"x": [b"\x01\x02"]}, "other than 0 and 1"),
        (Tensor("int16", (2,), "zlib"), {"x": [b"abc"]}, "cannot be unpacked"),
        (Tensor("int16", (2,), "zlib"), {"x": [zlib.compress(b"1234")[:-2]]}, "ends too early"),
        (Tensor("int16", (2,), "zlib"), {"x": [zlib.compress(b"0" * 10_000_000)]}, "more than its shape"),
        (Tensor("int16", (None,), "zlib"), {"x": [zlib.compress(bytes(80 << 20))]}, "more than 64 MiB"),
        (Tensor("int16", (None, None), "bytes"), {"x__value": [b"1234"], "x__shape": [1]}, "do not make"),
        (Tensor("int16", (None, None), "bytes"), {"x__value": [b"1234"], "x__shape": [-5, -7]}, "steps/x"),
        (
            Tensor("int16", (None, None), "bytes"),
            {"x__value": [b"1234"], "x__shape": [1 << 40, 1 << 40]},
            "do not make",
        ),
        (Sequence(Text()), {"x__ragged_flat_values": [b"a"], "x__ragged_row_lengths_0": [1, 1]}, "add up to 2"),
        (
            Sequence(Text()),
            {"x__ragged_flat_values": [b"a"], "x__ragged_row_lengths_0": [2, -1]},
            "shorter than nothing",
        ),
        (Image((4, 4, 1), "uint16"), {"x": [1]}, "numbers where images"),
        (Image((4, 4, 1), "uint16"), {"x": [b"no image"]}, "not decodable"),
    ],
)
def test_lists_that_do_not_fit_say_so(spec, lists: dict, why: str) -> None:
    with pytest.raises(SourceError, match=why) as raised:
        raw(spec, **lists)
    assert "\n" not in str(raised.value)
