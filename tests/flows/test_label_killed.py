"""Labelling that is killed goes on to the lake of one that was not."""

from __future__ import annotations

import shutil
import subprocess
import sys

from data_engine.recipe import LabelRecipe
from flows.label import label
from storage.check import check, fingerprint
from storage.lake import Lake

LABELLER = "keyposes"
DYING = """
import os, signal, sys
from data_engine.recipe import LabelRecipe
from flows.executor import Local
from flows.label import label
from flows.progress import silent
from storage.lake import Lake

left = int(sys.argv[2])


def dying(method):
    def call(self, *given, **named):
        global left
        answer = method(self, *given, **named)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return call


for name in ("put_fit", "write_pending", "write_file", "commit"):
    setattr(Lake, name, dying(getattr(Lake, name)))
lake = Lake.open(sys.argv[1])
label(lake, LabelRecipe(labeller=sys.argv[3]), lake.episodes(), on=Local(), progress=silent(), run_id="run_killed")
"""


def test_killed_after_each_of_its_writes_it_is_the_same_lake(filled, common, tmp_path):
    """Killed after the first, run again, killed after the second, and so on: each goes on from what the last left."""
    whole = Lake.open(str(shutil.copytree(filled.root, tmp_path / "whole")))
    label(whole, LabelRecipe(labeller=LABELLER), whole.episodes(), **common)
    assert fingerprint(whole) != fingerprint(filled)
    killed = 0
    while (done := subprocess.run([sys.executable, "-c", DYING, filled.root, str(killed + 1), LABELLER])).returncode:
        assert done.returncode == -9
        killed += 1
    assert killed >= 4
    lake = Lake.open(filled.root)
    assert fingerprint(lake) == fingerprint(whole)
    assert check(lake) == []
