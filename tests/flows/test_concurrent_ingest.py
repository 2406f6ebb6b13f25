"""Ingests into one lake at the same time, in processes of their own that publish together, and one that was cut off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import polars as pl
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_engine.recipe import SourceRecipe
from flows import ingest as flow
from flows.executor import Local
from flows.progress import silent
from storage.check import check, fingerprint
from storage.lake import Lake
from tests.data_engine.formats.lerobot_sets import write_v3
from tests.recordings import write_robomimic

RACER = """
import json, os, sys, time
from data_engine.recipe import SourceRecipe
from flows import ingest as flow
from flows.executor import Local
from flows.progress import silent
from storage.lake import Lake

uri, dataset, source, meeting, name, count = sys.argv[1:]
publish = flow._publish

def meet(*arguments):
    flow._publish = publish  # only the first time
    open(os.path.join(meeting, name), "w").close()
    while len(os.listdir(meeting)) < int(count):
        if os.path.exists(meeting + ".off"):  # one of the others failed
            sys.exit("nobody to meet")
        time.sleep(0.01)
    return publish(*arguments)

flow._publish, flow._SHARD_EPISODES = meet, 4
made = flow.ingest(
    Lake.open(uri, create=True), SourceRecipe(name=dataset, uri=source), on=Local(), progress=silent(), run_id=name
)
print(json.dumps({key: made[key] for key in ("stored", "unchanged", "quarantined")}))
"""


def race(lake_uri: str, entries: list[tuple[str, Path]], meeting: Path) -> list[dict[str, Any]]:
    """Ingest (dataset, source) each in its own process; all have read their source before the first publishes."""
    meeting.mkdir()
    children = []
    for number, (dataset, source) in enumerate(entries):
        arguments = [lake_uri, dataset, source, meeting, f"run{number}", len(entries)]
        command = [sys.executable, "-c", RACER, *map(str, arguments)]
        children.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()})
        )
    with ThreadPoolExecutor(len(children)) as pool:
        outs = list(pool.map(partial(_answer, Path(f"{meeting}.off")), children))
    assert [child.returncode for child in children] == [0] * len(entries)
    return [json.loads(out) for out in outs]


def _answer(off: Path, child: subprocess.Popen[bytes]) -> bytes:
    out = child.communicate()[0]
    if child.returncode:
        off.touch()
    return out


def serial(uri: str, entries: list[tuple[str, Path]]) -> Lake:
    lake = Lake.open(uri, create=True)
    for dataset, source in entries:
        bring(lake, dataset, source)
    return lake


def bring(lake: Lake, dataset: str, source: Path, on: Local | None = None) -> dict[str, Any]:
    recipe = SourceRecipe(name=dataset, uri=str(source))
    return flow.ingest(lake, recipe, on=on or Local(), progress=silent(), run_id="run_serial")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "_SHARD_EPISODES", 4)


def test_other_datasets_and_the_same_one_lose_and_double_nothing(
    lake_uri: str, tmp_path: Path, small_shards: None
) -> None:
    reach = write_robomimic(tmp_path / "reach.hdf5", episodes=10)
    write_v3(tmp_path / "set", [12, 9, 14, 8, 11], video=True)
    entries = [("set", tmp_path / "set"), ("reach", reach), ("set", tmp_path / "set")]
    made = race(lake_uri, entries, tmp_path / "meeting")
    assert [answer["stored"]["episodes"] + answer["unchanged"] for answer in made] == [5, 10, 5]
    lake = Lake.open(lake_uri)
    assert check(lake) == []
    assert fingerprint(lake) == fingerprint(serial(str(tmp_path / "serial"), entries[:2]))
    rows = {name: lake.scan(name).select(pl.len()).collect().item() for name in ("episodes", "receipts", "datasets")}
    assert rows == {"episodes": 15, "receipts": 2, "datasets": 2}
    steps = lake.scan("steps/set").select("episode_id", "step").collect()
    assert len(steps) == len(steps.unique()) == lake.episodes(dataset="set")["n_steps"].sum()


def test_of_two_contents_of_one_dataset_the_later_is_a_revision_of_the_earlier(
    tmp_path: Path, small_shards: None
) -> None:
    old = write_robomimic(tmp_path / "old.hdf5", episodes=6)
    new = tmp_path / "new.hdf5"
    shutil.copy(old, new)
    with h5py.File(new, "r+") as file:
        file["data/demo_2/actions"][0] += 1
    race(str(tmp_path / "lake"), [("reach", old), ("reach", new)], tmp_path / "meeting")
    lake = Lake.open(str(tmp_path / "lake"))
    assert check(lake) == []
    rows = lake.scan("episodes").select("source_key", "revision").sort("revision", "source_key").collect().rows()
    assert rows == [*((f"demo_{i}", 0) for i in range(6)), ("demo_2", 1)]
    last = json.loads(lake.scan("receipts").sort("created_at").collect()["receipt"][-1])
    assert (last["stored"]["episodes"], last["unchanged"]) == (1, 5)


class CutOff(Local):
    """Is cut off after ``shards`` shards."""

    def __init__(self, shards: int) -> None:
        super().__init__()
        self.left = shards

    def run(self, *arguments: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        for found in super().run(*arguments):
            yield found
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


def test_a_shard_that_is_done_is_not_read_again(tmp_path: Path, small_shards: None) -> None:
    """Six shards of a data file each; those of the four that are done are made unreadable before the ingest goes on."""
    root = tmp_path / "set"
    write_v3(root, [7] * 24)
    split(root, 4)
    expected = fingerprint(serial(str(tmp_path / "serial"), [("set", root)]))
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    with pytest.raises(KeyboardInterrupt):
        bring(lake, "set", root, CutOff(4))
    assert not len(lake.episodes())
    for number in (2, 3):  # the first six episodes show the conventions: two files that are looked at again
        spoil(root / f"data/chunk-000/file-{number:03d}.parquet")
    made = bring(lake, "set", root)
    assert (made["stored"]["episodes"], made["quarantined"]) == (24, [])
    assert check(lake) == []
    assert fingerprint(lake) == expected


def split(root: Path, episodes: int) -> None:
    """A data file for each so many episodes of a set that has one."""
    first, listed = root / "data/chunk-000/file-000.parquet", root / "meta/episodes/chunk-000/file-000.parquet"
    rows, meta = pq.read_table(first), pl.read_parquet(listed)
    meta.with_columns((pl.col("episode_index") // episodes).alias("data/file_index")).write_parquet(listed)
    for number in range(-(-len(meta) // episodes)):
        index = pc.field("episode_index")
        part = rows.filter((index >= number * episodes) & (index < (number + 1) * episodes))
        pq.write_table(part, root / f"data/chunk-000/file-{number:03d}.parquet")


def spoil(path: Path) -> None:
    """Other bytes, as many and of the same time."""
    before = path.stat()
    path.write_bytes(b"\0" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
