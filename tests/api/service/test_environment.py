from __future__ import annotations

import json
import subprocess
import sys


def test_what_a_service_imports_later_sets_no_variable_that_is_not_there(tmp_path):
    """A thread that opens a Delta table while a variable is added reads freed memory."""
    script = """
import importlib, json, os, pkgutil, sys
import api.service.app
from api.service.environment import settle

settle()
there, new = set(os.environ), []

def seen(event, arguments):
    if event in ("os.putenv", "os.unsetenv") and os.fsdecode(arguments[0]) not in there:
        new.append(os.fsdecode(arguments[0]))

sys.addaudithook(seen)
for package in ("data_engine", "flows", "scorers", "storage"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)
for name in ("av", "faiss", "open_clip", "ot", "prefect", "sklearn", "threadpoolctl", "torch", "torch._dynamo"):
    importlib.import_module(name)
print(json.dumps(new))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
