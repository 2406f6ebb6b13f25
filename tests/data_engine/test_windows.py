from __future__ import annotations

import numpy as np
import pytest

from data_engine.errors import RequestError
from data_engine.model import Feature
from data_engine.windows import Layout, Windows, span_of


def test_columns_look_back_ahead_or_here() -> None:
    windows = Windows(history=3, action_horizon=2)
    for column, deltas in (
        ("observation.state", [-2, -1, 0]),
        ("action", [0, 1]),
        ("action.gripper", [0, 1]),
        ("actions_taken", [0]),
        ("reward", [0]),
    ):
        assert windows.deltas(span_of(column)).tolist() == deltas


@pytest.mark.parametrize("wrong", [{"history": 0}, {"action_horizon": 0}, {"normalise": "zscore"}])
def test_wrong_windows_are_refused(wrong) -> None:
    with pytest.raises(RequestError):
        Windows(**wrong)


def test_a_layout_says_what_a_dataset_gives(toy, tmp_path) -> None:
    made = toy({"a": [9]})
    extra = (
        Feature(name="observation.keypoints", dtype="float32", shape=(9, 2)),
        Feature(name="count", dtype="uint8"),
        Feature(name="done", dtype="bool"),
        Feature(name="frame_time.top", dtype="float64"),
        Feature(name="observation.images.top", dtype="image", shape=(4, 6, 3)),
        Feature(name="note", dtype="string"),
    )
    dataset = made.datasets["a"]
    made.datasets["a"] = dataset.model_copy(update={"features": dataset.features + extra})
    mixture = made.mixture(tmp_path)
    names = ("observation.keypoints", "count", "done", "frame_time.top", "absent")
    layout = Layout(mixture, "a", Windows(columns=names))
    assert layout.key == {
        "observation.keypoints": (9, 2), "count": (), "done": (), "frame_time.top": (),
        "observation.images.top": (4, 6, 3),
    }  # fmt: skip
    assert [column.dtype for column in layout.columns.values()] == [np.float32, np.int64, np.bool_, np.float64]
    assert layout.clocks == {"top": "frame_time.top"}
    assert Layout(mixture, "a", Windows(cameras=())).cameras == {}
    for name in ("note", "observation.images.top"):
        with pytest.raises(RequestError, match=f"'{name}' is no numeric column"):
            Layout(mixture, "a", Windows(columns=(name,)))
    with pytest.raises(RequestError, match=r"no statistics of 'observation[.]keypoints'"):
        Layout(mixture, "a", Windows(columns=names[:1], normalise="min_max"))


def test_min_max_goes_to_one_and_constants_to_zero(toy, tmp_path) -> None:
    mixture = toy({"a": [9]}).mixture(tmp_path)  # the first dimension is the episode's number, 0
    column = Layout(mixture, "a", Windows(normalise="min_max")).columns["action"]
    ends = (np.array([[0, 0], [0, 8]]) - column.shift) * column.scale
    assert ends.tolist() == [[0, -1], [0, 1]]


def test_a_width_without_its_column_is_refused() -> None:
    with pytest.raises(RequestError, match="pad_to 7 names no column"):
        Windows(pad_to=7)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["columns", "texts", "cameras"])
def test_a_name_is_no_list_of_its_letters(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} are several names, not 'action'"):
        Windows(**{name: "action"})
