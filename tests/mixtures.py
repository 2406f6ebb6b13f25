"""Real mixtures for tests: a source read by its format, its steps and videos in a small lake, frozen and opened."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_engine import mixture as mixtures
from data_engine.cache import sha256_of
from data_engine.formats import EncodedVideo, Format, RawFrames, Source, SourceEpisode, detect
from data_engine.freezing import freeze, write
from data_engine.mixture import FILES, Mixture
from data_engine.model import Dataset, episode_id
from data_engine.steps import EPISODE_ID, STEP, canonical, content_hash, schema
from data_engine.video import FrameReader, encode

Range = tuple[str, int, int | None, float]


def mixture_of(
    lake: Path,
    sources: Mapping[str, tuple[str, Path]],
    *,
    options: Mapping[str, Any] | None = None,
    keys: Sequence[str] | None = None,
    ranges: Sequence[Range] | None = None,
    splits: Mapping[str, float] | None = None,
    **frozen: Any,
) -> Mixture:
    """A mixture of ``sources`` (dataset name -> format and folder) in ``lake``, one selection ``all``.

    ``keys``: which episodes; ``ranges``: (source key, start, stop, weight) instead of whole episodes of weight 1.
    """
    datasets: dict[str, Dataset] = {}
    rows: list[dict[str, Any]] = []
    for name, (form, path) in sources.items():
        source = Source(str(path))
        chosen, probe = detect(source, form, options)
        datasets[name] = Dataset(
            name=name,
            embodiment=probe.embodiment,
            fps=probe.fps,
            features=probe.features,
            origin="test",
            format=chosen.name,
        )
        wanted = [ref.key for ref in probe.episodes if keys is None or ref.key in keys]
        rows += _ingest(lake, datasets[name], source, chosen, probe, wanted, ranges)
    paths = sorted({row["steps_file"] for row in rows} | {video["blob"] for row in rows for video in row["videos"]})
    files = [{"path": p, "bytes": (lake / p).stat().st_size, "sha256": sha256_of(lake / p)} for p in paths]
    steps = {path: pq.read_table(lake / path) for path in {row["steps_file"] for row in rows}}

    def steps_of(i: int) -> pa.Table:
        row = rows[i]
        table = steps[row["steps_file"]].slice(row["row_start"], row["row_count"])
        return table.drop_columns([EPISODE_ID, STEP])

    made = freeze(
        name="test",
        episodes=pa.Table.from_pylist(rows, schema=_schema_of(rows)),
        files=pa.Table.from_pylist(files, schema=FILES),
        datasets=datasets,
        entries=[{"selection": "all", "weight": 1.0}],
        steps=steps_of,
        splits=splits,
        **frozen,
    )
    return mixtures.open(write(made, str(lake)), cache_dir=lake / "cache")


def _ingest(
    lake: Path,
    dataset: Dataset,
    source: Source,
    chosen: Format,
    probe: Any,
    keys: Sequence[str],
    ranges: Sequence[Range] | None,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    steps_file = f"steps/{dataset.name}.parquet"
    (lake / "steps").mkdir(parents=True, exist_ok=True)
    (lake / "videos").mkdir(exist_ok=True)
    tables, position = [], 0
    for episode in chosen.read(source, probe, keys):
        assert isinstance(episode, SourceEpisode), episode
        table = canonical(episode.steps, dataset.features, dataset.fps)
        videos = [_video(lake, source, dataset.fps, name, camera) for name, camera in sorted(episode.cameras.items())]
        for key, start, stop, weight in ranges or [(episode.key, 0, None, 1.0)]:
            if key == episode.key:
                last = table.num_rows if stop is None else stop
                rows.append(
                    {
                        "episode_id": episode_id(dataset.name, episode.key),
                        "content_hash": content_hash(table),
                        "dataset": dataset.name,
                        "source_key": episode.key,
                        "embodiment": dataset.embodiment,
                        "control_mode": dataset.control_mode,
                        "fps": dataset.fps,
                        "task": episode.task,
                        "language": list(episode.language),
                        "success": episode.success,
                        "operator": episode.operator,
                        "selection": "all",
                        "start": start,
                        "stop": last,
                        "weight": weight,
                        "steps_file": steps_file,
                        "row_start": position + start,
                        "row_count": last - start,
                        "videos": videos,
                    }
                )
        identity = [pa.array([episode_id(dataset.name, episode.key)] * table.num_rows), pa.array(range(table.num_rows))]
        whole = pa.table([*identity, *table.columns], names=[EPISODE_ID, STEP, *table.column_names])
        tables.append(whole.select(schema(dataset.features).names))
        position += table.num_rows
    pq.write_table(pa.concat_tables(tables), lake / steps_file, row_group_size=16_384)
    return rows


def _video(lake: Path, source: Source, fps: float, name: str, camera: RawFrames | EncodedVideo) -> dict[str, Any]:
    if isinstance(camera, EncodedVideo):
        held = Path(source.path(camera.path))
        start, end = camera.start_s, camera.end_s
        blob = f"videos/{sha256_of(held)}.mp4"
        if not (lake / blob).exists():
            shutil.copyfile(held, lake / blob)
    else:
        made = lake / "videos" / "new.mp4"
        encode(camera.frames(), made, fps)
        blob, start, end = f"videos/{sha256_of(made)}.mp4", 0.0, None
        made.rename(lake / blob)
    with FrameReader(lake / blob) as reader:
        info = reader.info
        return {
            "camera": name,
            "blob": blob,
            "start_s": start,
            "end_s": end if end is not None else info.duration_s,
            "codec": info.codec,
            "width": info.width,
            "height": info.height,
            "fps": info.fps,
            "frames": reader.count(start, end),
        }


def _schema_of(rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    return pa.schema([field for field in mixtures.EPISODES if field.name in rows[0]])
