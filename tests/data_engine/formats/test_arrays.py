from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_engine.errors import SourceError
from data_engine.formats.arrays import Layout, Spec, natural, to_rgb


@given(st.permutations([f"demo_{i}" for i in range(0, 40, 3)]))
def test_natural_order_follows_the_numbers(names: list[str]) -> None:
    assert sorted(names, key=natural) == [f"demo_{i}" for i in range(0, 40, 3)]


@pytest.mark.parametrize(
    ("dtype", "shape", "rgb"),
    [
        ("uint8", (16, 24, 3), (16, 24, 3)),
        ("float32", (3, 16, 24), (16, 24, 3)),
        ("uint8", (16, 24, 1), None),
        ("uint16", (16, 24, 3), None),
        ("uint8", (4, 4, 3), None),
        ("float32", (9, 2), None),
    ],
)
def test_what_looks_like_an_image(dtype: str, shape: tuple[int, ...], rgb: tuple[int, ...] | None) -> None:
    spec = Spec(dtype, shape)
    assert spec.is_rgb == (rgb is not None)
    if rgb is not None:
        assert spec.image_shape == rgb


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_byte_survives_float_frames(dtype: type) -> None:
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    for top in (1, 255):
        given = (frames / (255 / top)).astype(dtype)
        np.testing.assert_array_equal(np.stack(list(to_rgb(iter([given]), "img", top=top))), frames)


def test_a_state_joined_from_two_types_holds_both() -> None:
    layout = Layout(
        {"a": Spec("float32", (2,)), "b": Spec("int32", ())}, {"observation.state": ("a", "b"), "kept": ("a",)}
    )
    (state, kept) = layout.features
    assert (state.dtype, state.shape, state.components) == ("float64", (3,), ("a.0", "a.1", "b.0"))
    arrays = {"a": np.array([[0.5, 1.5]], np.float32), "b": np.array([2**31 - 1], np.int32)}
    table, notes = layout.table(arrays, np.zeros(1))
    assert table["observation.state"].to_pylist() == [[0.5, 1.5, 2147483647.0]]
    assert (kept.components, notes) == (None, [])
    with pytest.raises(SourceError, match="no b, which"):
        layout.table({"a": arrays["a"]}, np.zeros(1))
