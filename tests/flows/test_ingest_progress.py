"""What a person sees of an ingest: on a terminal a bar that moves within a shard, elsewhere warnings alone."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_engine.recipe import SourceRecipe
from flows.executor import Local
from flows.ingest import ingest
from flows.progress import Progress
from storage.lake import Lake
from tests.data_engine.formats.lerobot_sets import write_v3

COLUMNS = 80
"""Of the terminal; a runner of tests may have named others in the environment."""


def on_a_terminal(*arguments: object) -> tuple[str, str]:
    """(stdout, what was drawn on the terminal that is stderr) of a command that must succeed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    command = [sys.executable, "-m", "api.cli", *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as child:
        os.close(theirs)
        drawn = b""
        try:
            while piece := os.read(ours, 1 << 16):
                drawn += piece
        except OSError:  # how a terminal says that its last writer is gone
            pass
        os.close(ours)
        out = child.communicate()[0]
    assert child.returncode == 0, drawn
    return out.decode(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """60 episodes of 40 steps: one shard."""
    write_v3(tmp_path / "set", [40] * 60)
    return tmp_path / "set"


class Watching(Local):
    """Keeps what a shard told while it ran: (episodes, steps)."""

    told: tuple[int, int] = (0, 0)

    def run(self, lake, function, shards, resources):
        for index, result in super().run(lake, function, shards, resources):
            path, line = shards[index].payload["ticket"]
            self.told = tuple(np.fromfile(path, np.int64).reshape(-1, 2)[line].tolist())
            yield index, result


def test_a_shard_tells_of_each_episode_bad_ones_too(source: Path, tmp_path: Path) -> None:
    path = source / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.field("episode_index") != 7), path, row_group_size=40)
    watching = Watching()
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    progress = Progress(bars=True, warnings=False)
    made = ingest(lake, SourceRecipe(name="set", uri=str(source)), on=watching, progress=progress, run_id="run")
    assert (made["stored"]["episodes"], len(made["quarantined"])) == (59, 1)
    assert watching.told == (60, 59 * 40)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_terminal_shows_episodes_rate_and_time_left(source: Path, tmp_path: Path, workers: int) -> None:
    out, drawn = on_a_terminal("ingest", source, "--lake", tmp_path / "lake", "--json", "--workers", workers)
    assert json.loads(out)["stored"]["episodes"] == 60
    assert f"looking at {source}"[: COLUMNS - 4] in drawn
    lines = [line for line in re.split(r"[\r\n]+", drawn) if line.startswith("ingest set ")]
    assert re.search(r"\b0/60\b.*-:--:--", lines[0])
    assert re.search(r"60/60 episodes [\d,]+ frames/s 0:00:00", re.sub(" +", " ", lines[-1]))


def test_piped_it_says_nothing_but_warnings(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "api.cli", "ingest", source, "--lake", tmp_path / "lake"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert done.stdout == "set: 60 episodes, 2400 steps stored; 0 unchanged, 0 quarantined\n"
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())
