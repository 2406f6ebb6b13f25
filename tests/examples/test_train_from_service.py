from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.api.service.conftest import curated, writable  # noqa: F401  (fixtures)

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_from_service.py"


def test_a_trainer_queries_freezes_and_trains_from_the_url(writable, tmp_path):  # noqa: F811
    environment = {**os.environ, "DATA_ENGINE_KEY": writable.tokens["curate"], "DATA_ENGINE_CACHE": str(tmp_path / "c")}

    def train(*more: str) -> dict:
        command = [sys.executable, SCRIPT, "--url", writable.url, "--where", "operator = 'steady'", *more]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    once = train("--steps", "60")
    assert once["last_loss"] < 0.5 * once["first_loss"]
    with writable.client("read") as client:
        document = client.get(f"/v1/mixtures/{once['mixture_id']}").json()
        assert document["name"] == "from_service"
    assert train("--steps", "60") == once  # the same data by id, and the same numbers from it
