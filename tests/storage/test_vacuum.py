from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_engine.steps import schema
from storage.lake import Lake


def _pin(lake: Lake, *paths: str) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"path": list(paths), "bytes": [1] * len(paths), "sha256": [""] * len(paths)}), sink)
    lake.write_bytes("mixtures/m/files.parquet", sink.getvalue())


def test_orphans_go_and_everything_named_stays(lake: Lake, filler, tmp_path: Path) -> None:
    fill = filler(lake)
    fill.dataset()
    fill.shard(["a"], videos=[fill.video(tmp_path)])
    before = {path for path in lake.list() if "_delta_log" not in path}
    orphan = lake.write_file("steps/arms", "orphan", fill.steps("z", 3), schema(fill.lake.datasets()["arms"].features))
    pinned = lake.write_file("steps/arms", "pinned", fill.steps("y", 3), schema(fill.lake.datasets()["arms"].features))
    (tmp_path / "x.mp4").write_bytes(b"x")
    video = lake.put_video(tmp_path / "x.mp4")
    lake.mark_done("lost", {"file": orphan.as_dict()})
    lake.mark_done("published", {"file": {"path": lake.episodes()["steps_file"][0]}})
    lake.write_pending("waiting", pa.table({"a": [1]}))
    lake.mark_done("waiting", {})
    _pin(lake, pinned.path)

    assert lake.vacuum(grace_hours=1.0)["removed"] == []
    report = lake.vacuum(grace_hours=-1.0)
    assert report["removed"] == sorted([orphan.path, video, "_pending/waiting.parquet"])
    assert report["forgotten"] == ["lost", "waiting"] and report["bytes"] > orphan.bytes
    after = {path for path in lake.list() if "_delta_log" not in path}
    assert after == before | {pinned.path, "mixtures/m/files.parquet", "_ledger/published.json"}
    assert lake.done("lost") is None and lake.done("published") is not None
    assert len(list(lake.steps(lake.episodes()))) == 1


def test_an_empty_lake_has_nothing_to_remove(local_lake: Lake) -> None:
    assert local_lake.vacuum(grace_hours=-1.0) == {"removed": [], "bytes": 0, "kept": 0, "forgotten": []}
