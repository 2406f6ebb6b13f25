from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_engine.errors import RequestError, SourceError
from data_engine.scoring import Fit
from storage.lake import Lake

FIT = Fit(
    "mutual_information", "1", {"k": [5, 6, 7]}, 3, ("b", "a"),
    arrays={"z": np.arange(6, dtype=np.int64).reshape(2, 3).T, "a": np.ones((2, 0), np.float32), "b": np.array(2.5)},
    meta={"groups": ["arm/joint"]}, base="fit_0",
)  # fmt: skip


def test_a_fit_comes_back_as_it_was(lake: Lake) -> None:
    fit_id = lake.put_fit(FIT)
    assert fit_id == FIT.id == lake.put_fit(FIT)
    again = lake.get_fit("mutual_information", fit_id)
    assert (again.id, again.meta, again.config, again.base) == (FIT.id, FIT.meta, FIT.config, FIT.base)
    for name, array in FIT.arrays.items():
        assert again.arrays[name].dtype == array.dtype and np.array_equal(again.arrays[name], array)
        assert again.arrays[name].shape == array.shape


def test_a_fit_without_arrays_is_a_fit(local_lake: Lake) -> None:
    fit = Fit("integrity", "1", {}, 0, ())
    assert local_lake.get_fit("integrity", local_lake.put_fit(fit)).arrays == {}


def test_the_first_fit_of_an_identity_stays(local_lake: Lake) -> None:
    local_lake.put_fit(FIT)
    local_lake.put_fit(
        Fit(FIT.producer, FIT.version, FIT.config, FIT.seed, FIT.reference, {"z": np.zeros(1)}, base="fit_0")
    )
    assert local_lake.get_fit(FIT.producer, FIT.id).arrays["z"].shape == (3, 2)


def test_an_unknown_fit_names_the_known_ones(local_lake: Lake) -> None:
    local_lake.put_fit(FIT)
    with pytest.raises(RequestError, match=FIT.id):
        local_lake.get_fit("mutual_information", "fit_none")


def test_a_flipped_byte_in_arrays_or_json_is_found(local_lake: Lake) -> None:
    local_lake.put_fit(FIT)
    folder = Path(local_lake.root, "fits/mutual_information", FIT.id)
    for name, before, after in [
        (next(folder.glob("*.safetensors")).name, b"\x05", b"\x15"),
        ("fit.json", b'"seed":3', b'"seed":4'),
    ]:
        sound = (folder / name).read_bytes()
        (folder / name).write_bytes(sound.replace(before, after))
        with pytest.raises(SourceError, match="damaged"):
            local_lake.get_fit(FIT.producer, FIT.id)
        (folder / name).write_bytes(sound)
    (folder / "fit.json").write_bytes(b"{")
    with pytest.raises(SourceError, match="damaged"):
        local_lake.get_fit(FIT.producer, FIT.id)
