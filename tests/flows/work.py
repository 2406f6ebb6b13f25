"""Shard functions for the executor's tests."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

from data_engine.errors import SourceError


def double(lake, payload, fingerprint, cpus):
    with open(payload["log"], "a") as file:
        file.write(f"{fingerprint}\n")
    return {"value": 2 * payload["value"], "pid": os.getpid()}


def refuse(lake, payload, fingerprint, cpus):
    raise SourceError(f"cannot do {payload['value']}", code="cannot", fix="do another")


def vanish(lake, payload, fingerprint, cpus):
    os.kill(os.getpid(), signal.SIGKILL)


def vanish_elsewhere(lake, payload, fingerprint, cpus):
    """Killed where it runs in a helper; here every shard but the first waits until that is so."""
    log = Path(payload["log"])
    if multiprocessing.parent_process() is not None:
        log.write_text("gone")
        os.kill(os.getpid(), signal.SIGKILL)
    while payload["value"] and not log.exists():
        time.sleep(0.02)
    return {"value": payload["value"], "pid": os.getpid()}


def sleep(lake, payload, fingerprint, cpus):
    time.sleep(600)
    return {}


def meet(lake, payload, fingerprint, cpus):
    """Every shard but the first waits until two processes are at work."""
    log = Path(payload["log"])
    with log.open("a") as file:
        file.write(f"{os.getpid()}\n")
    end = time.monotonic() + 120
    while payload["value"] and len(set(log.read_text().split())) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    return {"value": payload["value"], "pid": os.getpid()}
