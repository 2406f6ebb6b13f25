"""A byte that changes anywhere in a lake is found and named, or changes nothing that anybody reads."""

from __future__ import annotations

import random
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from data_engine.errors import EngineError
from data_engine.recipe import MixtureRecipe, SelectRecipe, SourceRecipe
from data_engine.scoring import Fit
from flows.executor import Local
from flows.ingest import ingest
from flows.mix import mix
from flows.progress import silent
from flows.select import select
from storage import indices
from storage.check import check
from storage.check.look import Look
from storage.check.tables import tables
from storage.lake import Lake
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.recordings import write_robomimic


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with a file of every kind; a test leaves it as it was."""
    folder = tmp_path_factory.mktemp("small")
    lake = Lake.open(str(folder / "lake"), create=True)
    common = {"on": Local(), "progress": silent(), "run_id": "run_test"}
    write_v3(folder / "set", [6, 5], video=True)
    ingest(lake, SourceRecipe(name="reach", uri=str(write_robomimic(folder / "a.hdf5", episodes=3))), **common)
    ingest(lake, SourceRecipe(name="set", uri=str(folder / "set")), **common)
    for number in range(12):  # enough for a checkpoint
        lake.append_rows("runs", [{"run_id": str(number)}], transaction=str(number))
    lake.put_fit(Fit("p", "1", {}, 0, ("h",), {"w": np.ones(4)}, meta={"steps": 4}))
    indices.save(lake, "s", indices.build(np.eye(4), list("abcd")))
    select(lake, SelectRecipe(name="all", method="filter"), lake.episodes(), progress=silent(), run_id="run_select")
    mix(lake, MixtureRecipe(entries=[{"selection": "all"}]), run_id="run_mix")
    return lake


def test_a_flipped_byte_in_any_file_is_found_and_named(small: Lake) -> None:
    assert check(small, decode=True) == []
    kinds = set()
    for path in small.list():
        if "_delta_log" in path:
            continue
        kinds.add(path.split("/")[0])
        for at, bit in places(small, path, 2):
            with flipped(small, path, at, bit):
                assert path in " ".join(found(small)), (path, at, bit)
    assert kinds == {"_ledger", "_pending", "fits", "indices", "lake.json", "mixtures", "tables", "videos"}


def test_a_flipped_byte_in_any_log_is_found_or_means_nothing(small: Lake) -> None:
    names = {small.folder(name): name for name in small.tables()}
    look = Look(small, deep=False)
    assert list(tables(look)) == []
    before = {name: state(small, name, look) for name in names.values()}
    noticed = 0
    for path in small.list("tables"):
        if "_delta_log" not in path:
            continue
        folder = str(PurePosixPath(path).parent.parent)
        for at, bit in places(small, path, 3):
            with flipped(small, path, at, bit):
                named = [line for line in found(small, deep=False) if folder in line]
                noticed += bool(named)
                assert named or state(small, names[folder], look) == before[names[folder]], (path, at, bit)
    assert noticed > 20
    assert check(small) == []


def test_a_stream_that_decodes_otherwise_than_its_receipt_says_is_named(small: Lake, monkeypatch) -> None:
    from data_engine.video import FrameReader

    real = FrameReader.at
    monkeypatch.setattr(FrameReader, "at", lambda self, times: 255 - real(self, times))
    assert check(small) == []
    problems = check(small, decode=True)
    assert {problem["path"] for problem in problems} == set(small.list("videos"))
    assert all("its receipt says" in problem["what"] for problem in problems)


def places(lake: Lake, path: str, count: int) -> list[tuple[int, int]]:
    """Where to flip which bit, the same every time."""
    rng, size = random.Random(PurePosixPath(path).name), lake.size(path)
    return [(rng.randrange(size), 1 << rng.randrange(8)) for _ in range(count)]


def found(lake: Lake, deep: bool = True) -> list[str]:
    """What a check of the lake says, a line each."""
    try:
        return [f"{problem['path']}: {problem['what']}" for problem in check(Lake.open(lake.uri), deep)]
    except EngineError as error:  # there is no lake to check
        return [str(error)]


def state(lake: Lake, name: str, look: Look) -> tuple:
    """What a reader or writer of the table sees; ``look`` knows its transactions."""
    done = [lake.committed(table, transaction) for table, transaction in sorted(look.committed) if table == name]
    return lake.files(name), lake.schema(name), lake.version(name), done


class flipped:
    """A bit of a file, for a while."""

    def __init__(self, lake: Lake, path: str, at: int, bit: int) -> None:
        self.path = Path(lake.root, path)
        self.sound = self.path.read_bytes()
        self.at, self.bit = at, bit

    def __enter__(self) -> None:
        at, data = self.at, self.sound
        self.path.write_bytes(data[:at] + bytes([data[at] ^ self.bit]) + data[at + 1 :])

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(self.sound)
