from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_engine.errors import SourceError
from data_engine.formats.arrays import Spec
from data_engine.formats.column_map import ColumnMap, Part, guess

NAMES = st.text("abcxyz/._-0", min_size=1, max_size=12)


@given(path=NAMES, start=st.integers(0, 50), width=st.integers(1, 50))
def test_a_part_is_the_range_it_says(path: str, start: int, width: int) -> None:
    stop = start + width
    assert Part.parse(path) == Part(path)
    assert Part.parse(f"{path}[{start}:{stop}]") == Part(path, start, stop)
    assert Part.parse(f"{path}[:{stop}]") == Part(path, 0, stop)
    assert Part.parse(f"{path}[{start}:]") == Part(path, start)


@pytest.mark.parametrize("text", ["", "a[", "a[1]", "a[3:2]", "a[2:2]", "a[-1:2]", "a[0:1][0:1]", "[0:1]"])
def test_what_is_no_field(text: str) -> None:
    with pytest.raises(ValueError, match=r"no field|empty range"):
        Part.parse(text)


@given(start=st.integers(0, 8), stop=st.none() | st.integers(1, 9), shape=st.sampled_from([(6,), (2, 3), ()]))
def test_a_part_takes_what_its_width_says(start: int, stop: int | None, shape: tuple[int, ...]) -> None:
    part, spec = Part("a", start, stop), Spec("float32", shape)
    values = np.arange(4 * spec.size, dtype=np.float32).reshape(4, *shape)
    flat = values.reshape(4, -1)[:, start:stop]
    if start >= spec.size or (stop is not None and (stop > spec.size or stop <= start)):
        with pytest.raises(SourceError, match="leaves its"):
            part.width(spec)
        return
    assert part.width(spec) == flat.shape[1]
    np.testing.assert_array_equal(part.take(values).reshape(4, -1), flat)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"timestamp": "t"}}, "is no column"),
        ({"columns": {"observation.images.top": "t"}}, "is no column"),
        ({"columns": {"action": []}}, "names no field"),
        ({"columns": {"action": "a[3:1]"}}, "empty range"),
        ({"episode": {"weather": "w"}}, "no field of an episode"),
        ({"colums": {}}, "colums"),
        ({"clock_unit": "h"}, "clock_unit"),
    ],
)
def test_wrong_maps_say_so(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ColumnMap(**options)


def test_a_map_is_written_as_it_is_read() -> None:
    options = {
        "columns": {"observation.state": ["arm/q", "hand/q[0:1]"], "action": "cmd"},
        "cameras": {"top": "view"},
        "episode": {"task": "=pick", "success": "done"},
        "clock": "t",
        "clock_unit": "ns",
    }
    known = ColumnMap(**options)
    assert known.as_options() == options
    assert ColumnMap(**known.as_options()) == known
    assert known.fields == {"arm/q", "hand/q", "cmd", "view", "done", "t"}
    assert known.parts("observation.state") == (Part("arm/q"), Part("hand/q", 0, 1))
    assert known.clock_scale == 1e-9


def test_the_guess_goes_by_names() -> None:
    specs = {
        "data/obs/qpos": Spec("float32", (7,)),
        "data/obs/state": Spec("float32", (9,)),
        "data/actions": Spec("float64", (7,)),
        "data/deep/actions": Spec("float64", (7,)),
        "data/rewards": Spec("float64", ()),
        "data/dones": Spec("bool", ()),
        "data/obs/view": Spec("uint8", (64, 64, 3)),
        "data/other/view": Spec("uint8", (3, 64, 64)),
        "data/note": Spec("string", ()),
    }
    known = guess(specs)
    assert known.columns == {
        "action": ("data/actions",),
        "observation.state": ("data/obs/state",),
        "reward": ("data/rewards",),
        "terminated": ("data/dones",),
        "note": ("data/note",),
        "deep.actions": ("data/deep/actions",),
        "obs.qpos": ("data/obs/qpos",),
    }
    assert known.cameras == {"view": "data/obs/view", "data.other.view": "data/other/view"}


@given(st.dictionaries(NAMES, st.sampled_from([Spec("float32", (3,)), Spec("uint8", (16, 16, 3)), Spec("string", ())])))
def test_the_guess_takes_every_field_once(specs: dict[str, Spec]) -> None:
    known = guess(specs)
    used = [field for column in known.columns.values() for field in column] + list(known.cameras.values())
    assert sorted(used) == sorted(specs)
