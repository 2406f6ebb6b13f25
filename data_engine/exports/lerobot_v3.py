"""A mixture as a LeRobot v3.0 dataset, which lerobot's own LeRobotDataset (0.4) opens, iterates and trains from."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from data_engine.errors import EngineError, RequestError
from data_engine.exports import Exporter, ExportReport
from data_engine.exports.lerobot_data import CHUNKS_SIZE, DataFiles
from data_engine.exports.lerobot_features import Columns, camera_name, lerobot_name, merge
from data_engine.exports.lerobot_meta import write_meta
from data_engine.exports.lerobot_verify import differences
from data_engine.exports.lerobot_videos import CameraFiles, Clip, write_camera
from data_engine.exports.publish import staged
from data_engine.exports.rates import meaning
from data_engine.exports.rows import export_order, rows_and_steps
from data_engine.formats import Source
from data_engine.mixture import Mixture
from data_engine.model import IMAGES, Feature

__all__ = ["LeRobotV3Exporter"]


class LeRobotV3Exporter(Exporter):
    """Merges the mixture's datasets into one LeRobot v3.0 dataset, one LeRobot episode a row of the mixture.

    ``columns``: ``all`` (every dataset must have the same), ``common``, or a list of canonical names. ``stats_frames``:
    frames sampled an episode and camera for image statistics. ``uneven_clock``: LeRobot's time is frame_index / fps, so
    an episode whose recorded clock is not even is refused, or with ``retime`` (without cameras only) loses it and is
    named in ``meta/mixture.json``. The sizes are LeRobot's own settings, in MB.

    Episodes come split by split in the order of their sources; time is rewritten as frame_index / fps, from 0 also for
    a range of steps. Original dtypes are restored. Video packets are copied; what had to be re-encoded is named in
    ``meta/mixture.json``. The task is the first language instruction, else the task, else empty.
    ``meta/provenance.parquet`` traces each episode to its source and holds its weight, and its rate: how often an epoch
    of the mixture draws each of its steps; LeRobot has no place for either. Equal mixtures make equal bytes.
    """

    name: ClassVar[str] = "lerobot_v3"

    columns: Literal["all", "common"] | tuple[str, ...] = "all"
    uneven_clock: Literal["refuse", "retime"] = "refuse"
    data_files_size_in_mb: int = Field(default=100, gt=0)
    video_files_size_in_mb: int = Field(default=200, gt=0)
    stats_frames: int = Field(default=16, gt=0)

    def export(self, mixture: Mixture, uri: str) -> ExportReport:
        """Write ``mixture`` to ``uri`` (absent or empty). Memory: some row groups, and every episode's statistics.

        The same export that already lies there is left as it is, so that a run that was killed can be run again.
        Raises ``RequestError`` for datasets that are not one LeRobot dataset, for missing values and for times that are
        not steps at the dataset's fps; then nothing is left at ``uri``.
        """
        if mixture.episodes.num_rows == 0:
            raise RequestError(f"mixture {mixture.name!r} has no episodes", code="empty_mixture")
        done = self._done(mixture, uri)
        if done is not None:
            return done
        columns = self._columns(mixture)
        retime = self.uneven_clock == "retime" and not columns.cameras
        with staged(uri, "meta/info.json") as folder:
            data = DataFiles(folder, columns, self.data_files_size_in_mb << 20, retime)
            order = export_order(mixture)
            for row, steps in rows_and_steps(mixture, order):
                data.add(row, steps)
            data.close()
            cameras = {feature: self._write_camera(mixture, feature, data, folder) for feature in columns.cameras}
            sizes = {
                "data_files_size_in_mb": self.data_files_size_in_mb,
                "video_files_size_in_mb": self.video_files_size_in_mb,
            }
            weights = f"LeRobot has no weights; {meaning(mixture)}"
            write_meta(mixture, order, columns, data, cameras, folder, sizes, self.config, weights)
        done = self._done(mixture, uri)
        if done is None:
            raise EngineError(f"{uri} is not what was just written there", code="bad_export")
        return done

    def verify(self, mixture: Mixture, uri: str) -> list[str]:
        """Read ``uri`` back through the LeRobot reader; hold rows, values, frames and origins against ``mixture``."""
        even = self.uneven_clock == "retime"
        return differences(mixture, self._columns(mixture), export_order(mixture), uri, even)

    def _done(self, mixture: Mixture, uri: str) -> ExportReport | None:
        """The report of this very export where it already lies whole at ``uri``."""
        source = Source(uri)
        if not all(source.exists("meta", name) for name in ("info.json", "mixture.json")):
            return None
        try:
            with source.open("meta", "mixture.json") as origin, source.open("meta", "info.json") as info:
                made, told = json.loads(origin.read()), json.loads(info.read())
            if made["mixture_id"] != mixture.id or made["options"] != self.config:
                return None
            names = [name for name, spec in told["features"].items() if spec["dtype"] == "video"]
            episodes, steps, weights = told["total_episodes"], told["total_frames"], made["weights"]
        except (ValueError, KeyError, TypeError):  # somebody else's files: the place is occupied
            return None
        return ExportReport(
            format=self.name,
            uri=uri,
            episodes=episodes,
            steps=steps,
            frames={name.removeprefix(IMAGES): steps for name in names},
            bytes=source.fs.du(source.root),
            weights=weights,
        )

    def _columns(self, mixture: Mixture) -> Columns:
        used = sorted(set(mixture.episodes["dataset"].to_pylist()))
        return merge([mixture.datasets[name] for name in used], self.columns)

    def _write_camera(self, mixture: Mixture, feature: Feature, data: DataFiles, folder: Path) -> CameraFiles:
        """One camera's videos. Raises ``RequestError`` where an episode lacks it."""
        camera, clips = camera_name(feature), []
        for row, (_, first, stop), start in zip(data.rows, data.places, data.starts, strict=True):
            video = next((video for video in row["videos"] or () if video["camera"] == camera), None)
            if video is None:
                raise RequestError(
                    f"episode {row['source_key']!r} of {row['dataset']!r} has no camera {camera!r}",
                    code="missing_camera",
                    fix="leave the camera out with the exporter's columns, or the episode with a where",
                )
            path, sha256 = mixture.local(video["blob"]), mixture.sha256(video["blob"])
            clips.append(Clip(path, video["start_s"] + start, stop - first, sha256))
        with tempfile.TemporaryDirectory(prefix="data-engine-video-") as scratch:
            return write_camera(
                clips,
                folder / "videos" / lerobot_name(feature.name),
                data.columns.fps,
                CHUNKS_SIZE,
                self.video_files_size_in_mb << 20,
                self.stats_frames,
                Path(scratch),
                mixture.cache,
            )
