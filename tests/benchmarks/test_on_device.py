from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import on_device

# whatever else is installed is hidden from the process, as on a machine that has torch and numpy alone
ALONE = """
import importlib, pkgutil, sys
for name in "pyarrow pydantic polars pandas scipy sklearn faiss data_engine storage flows api".split():
    sys.modules[name] = None
import scorers.kernels
for module in pkgutil.iter_modules(scorers.kernels.__path__):
    importlib.import_module(f"scorers.kernels.{module.name}")
from benchmarks import on_device
on_device.COMPARED = 64
on_device._training = lambda device: {"steps": 0, "seconds": 0.0, "rank_correlation": 1.0}  # the optimiser's start: 3 s
sys.exit(on_device.main(["--device", "cpu", "--steps", "500", "--quick"]))
"""


def test_kernels_and_their_benchmark_need_torch_and_numpy_alone():
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        capture_output=True,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("cpu: copies")
    assert {line.split()[0] for line in lines[2:-1]} == {
        "consistency:", "action_divergence:", "transition_diversity:", "mutual_information:",
    }  # fmt: skip


def test_a_kernel_answers_for_the_steps_that_it_is_given(monkeypatch):
    monkeypatch.setattr(on_device, "POOL", 512)
    for name, kernel in on_device.kernels(2000).items():
        found = kernel.run(slice(100, 400), "cpu")
        assert all(np.isfinite(each).any() for each in found), name
        if not name.endswith("fit"):
            assert {len(each) for each in found} == {300}
            whole = kernel.run(slice(0, 500), "cpu")
            assert on_device.difference([each[100:400] for each in whole], found) <= 1e-12, name


def test_a_difference_is_relative_and_infinite_where_one_is_undefined():
    some = np.array([1.0, -4.0, np.nan])
    assert on_device.difference([some], [some]) == 0
    assert on_device.difference([some], [np.array([1.0, -3.0, np.nan])]) == 0.25
    assert on_device.difference([some], [np.array([1.0, -4.0, 2.0])]) == np.inf


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_kernels_agree_with_the_cpu():
    found = on_device.measured("cuda", 10_000, quick=True)
    assert all(line["tolerated"] for line in found["kernels"].values())
