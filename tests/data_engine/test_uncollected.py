import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import h5py
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_engine.formats import Source
from data_engine.formats.hdf5 import open_file
from data_engine.uncollected import uncollected


class Served(MemoryFileSystem):
    """Memory, read by another thread, which drops ``garbage`` and allocates: what a collection starts on."""

    protocol = "served"
    garbage: ClassVar[list[Any]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("served://").strip("/")

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        file = super()._open(path, mode, **kwargs)
        read = file.readinto

        def serve(buffer: Any) -> int:
            self.garbage.clear()
            [[] for _ in range(20_000)]
            return read(buffer)

        def readinto(buffer: Any) -> int:
            with ThreadPoolExecutor(1) as threads:
                return threads.submit(serve, buffer).result()

        file.readinto = readinto
        return file


def test_who_serves_a_remote_file_never_waits_for_its_reader(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["x"] = np.arange(100)
    fsspec.register_implementation("served", Served, clobber=True)
    fs = fsspec.filesystem("served")
    fs.pipe_file("/a.hdf5", (tmp_path / "a.hdf5").read_bytes())
    with open_file(Source("served://a.hdf5")) as file:
        ring: list[Any] = [h5py.File(tmp_path / "a.hdf5", "r")]
        ring.append(ring)
        Served.garbage.append(ring)
        del ring
        np.testing.assert_array_equal(file["x"][()], np.arange(100))


def test_garbage_is_collected_again_once_the_last_is_out() -> None:
    first, both, second = threading.Event(), threading.Event(), threading.Event()

    def stay(inside: threading.Event, leave: threading.Event) -> None:
        with uncollected():
            inside.set()
            assert leave.wait(60)

    threads = [threading.Thread(target=stay, args=(first, both)), threading.Thread(target=stay, args=(second, both))]
    for thread in threads:
        thread.start()
    assert first.wait(60)
    assert second.wait(60)
    assert not gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
    assert not gc.isenabled()
    both.set()
    for thread in threads:
        thread.join()
    assert gc.isenabled()


@pytest.mark.parametrize("was_on", [True, False])
def test_it_is_left_as_it_was(was_on: bool) -> None:
    (gc.enable if was_on else gc.disable)()
    try:
        with pytest.raises(ValueError, match="why"), uncollected():
            raise ValueError("why")
        assert gc.isenabled() is was_on
    finally:
        gc.enable()
