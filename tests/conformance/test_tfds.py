"""What tensorflow-datasets writes and reads, RLDS reads alike: every kind of feature, to the last bit.

JPEG is held against TensorFlow's accurate decoder. tensorflow-datasets itself takes the fast one, whose pixels
differ by up to 14 of 255 on the real set.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from data_engine.formats import Source, SourceEpisode
from data_engine.formats.rlds import RLDS
from tests.conformance.environments import environment

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

WRITE = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow_datasets as tfds
F = tfds.features
rng = np.random.default_rng(0)

class Toy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.3")
    def _info(self):
        step = F.FeaturesDict({
            "observation": F.FeaturesDict({
                "state": F.Tensor(shape=(4,), dtype=np.float32), "jpeg": F.Image(shape=(64, 80, 3), encoding_format="jpeg"),
                "png": F.Image(shape=(None, None, 3), encoding_format="png"), "depth": F.Image(shape=(6, 8, 1), dtype=np.uint16, encoding_format="png"),
                "far": F.Image(shape=(6, 8, 1), dtype=np.float32, encoding_format="png"),
                "packed": F.Tensor(shape=(2, 3), dtype=np.uint16, encoding="zlib"), "raw": F.Tensor(shape=(3,), dtype=np.float64, encoding="bytes"),
                "big": F.Tensor(shape=(2,), dtype=np.int64), "words": F.Tensor(shape=(2,), dtype=np.str_),
                "boxes": F.Sequence(F.Tensor(shape=(2,), dtype=np.float32)), "ragged": F.Sequence(np.int32)}),
            "action": F.FeaturesDict({"move": F.Tensor(shape=(3,), dtype=np.float32), "close": F.Tensor(shape=(1,), dtype=np.float32)}),
            "label": F.ClassLabel(names=["a", "b"]), "language_instruction": F.Text(), "reward": F.Scalar(dtype=np.float32),
            "is_first": F.Scalar(dtype=np.bool_), "is_last": F.Scalar(dtype=np.bool_), "is_terminal": F.Scalar(dtype=np.bool_)})
        meta = F.FeaturesDict({"file_path": F.Text(), "success": np.bool_, "spans": F.Sequence(F.Tensor(shape=(2,), dtype=np.int32))})
        return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict({"steps": F.Dataset(step), "episode_metadata": meta}))
    def _split_generators(self, manager):
        return {"train": self._generate_examples(5), "val": self._generate_examples(2)}
    def _generate_examples(self, count):
        for number in range(count):
            n = 3 + number
            yield number, {"steps": [self.step(t, n) for t in range(n)], "episode_metadata": {
                "file_path": f"/{number}", "success": number % 2 == 0, "spans": [[0, t] for t in range(number)]}}
    def step(self, t, n):
        image = lambda dtype, *shape: rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
        return {"observation": {
                "state": rng.normal(size=4).astype(np.float32), "jpeg": image(np.uint8, 64, 80, 3), "png": image(np.uint8, 10, 12, 3),
                "depth": image(np.uint16, 6, 8, 1), "far": rng.normal(size=(6, 8, 1)).astype(np.float32),
                "packed": image(np.uint16, 2, 3), "raw": rng.normal(size=3), "big": np.array([-2**60, t]), "words": ["w", str(t)],
                "boxes": rng.normal(size=(3, 2)).astype(np.float32), "ragged": list(range(t))},
            "action": {"move": rng.normal(size=3).astype(np.float32), "close": rng.normal(size=1).astype(np.float32)},
            "label": t % 2, "language_instruction": "take it", "reward": float(t), "is_first": t == 0, "is_last": t == n - 1, "is_terminal": False}

Toy(data_dir=sys.argv[1]).download_and_prepare()
"""  # noqa: E501

READ = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf, tensorflow_datasets as tfds
found = {}
def walk(value, path):
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from walk(inner, f"{path}/{name}")
        elif not hasattr(inner, "to_list") and not hasattr(inner, "flat_values"):
            yield f"{path}/{name}", inner.numpy()
builder = tfds.builder_from_directory(sys.argv[1])
config = tfds.ReadConfig(interleave_cycle_length=1)
for split in builder.info.splits:
    how = {"split": split, "shuffle_files": False, "read_config": config}
    coded = builder.as_dataset(**how, decoders={"steps": tfds.decode.SkipDecoding()})
    for number, (episode, held) in enumerate(zip(builder.as_dataset(**how), coded)):
        steps = [dict(walk(step, "steps")) for step in episode["steps"]]
        for path in steps[0]:
            rows = [step[path] for step in steps]
            if len({np.shape(row) for row in rows}) == 1:
                rows = np.stack(rows)
                found[f"{split} {number} {path}"] = rows.astype("U") if rows.dtype == object else rows
        for path, rows in walk(held["steps"], "steps"):
            if rows.dtype == object and rows.ndim == 1 and rows[0].startswith(b"\\xff\\xd8"):
                found[f"{split} {number} {path}"] = np.stack([
                    tf.io.decode_jpeg(row, 3, dct_method="INTEGER_ACCURATE").numpy() for row in rows])
np.savez(sys.argv[2], **found)
"""


@pytest.fixture(scope="module")
def python() -> Path:
    try:
        return environment("tfds", ["tensorflow-cpu==2.21.0", "tensorflow-datasets==4.9.10"])
    except RuntimeError as error:
        pytest.skip(f"no environment for tensorflow-datasets: {error}")


def run(python: Path, folder: Path, script: str, *arguments: object) -> None:
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "NO_GCE_CHECK": "true"}
    file = folder / "script.py"
    file.write_text(script)
    command = [str(python), str(file), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]


def compared(folder: Path, arrays: Path) -> int:
    """Hold every value that we read against what tensorflow-datasets read; how many arrays were compared."""
    form, source = RLDS(), Source(str(folder))
    probe = form.probe(source)
    assert probe is not None
    counts: dict[str, int] = {}
    compared = 0
    sources = {feature.name: str(feature.source) for feature in probe.features}
    with np.load(arrays) as expected:
        for item in form.read(source, probe, [ref.key for ref in probe.episodes]):
            assert isinstance(item, SourceEpisode), item
            split = item.labels[0]
            number = counts[split] = counts.get(split, -1) + 1
            for name, path in sources.items():
                keys = [f"{split} {number} {part}" for part in path.split(" + ")]
                if name.startswith("observation.images.") or not all(key in expected for key in keys):
                    continue
                parts = [expected[key].reshape(len(item.steps), -1) for key in keys]
                joined = np.concatenate(parts, axis=1)
                held = item.steps[name].to_pylist()
                if isinstance(held[0], str) and joined.dtype.kind not in "SU":
                    held = [json.loads(text) for text in held]
                values = np.asarray(held).reshape(len(item.steps), -1).astype(joined.dtype)
                np.testing.assert_array_equal(values, joined, err_msg=name)
                compared += 1
            for camera, raw in item.cameras.items():
                key = f"{split} {number} {sources['observation.images.' + camera]}"
                np.testing.assert_array_equal(np.stack(list(raw.frames())), expected[key], err_msg=key)
                compared += 1
    return compared


def test_what_tensorflow_datasets_writes(python: Path, tmp_path: Path) -> None:
    run(python, tmp_path, WRITE, tmp_path / "data")
    run(python, tmp_path, READ, tmp_path / "data/toy/1.2.3", tmp_path / "read.npz")
    assert compared(tmp_path / "data/toy/1.2.3", tmp_path / "read.npz") == 7 * 15  # all but truncated and ragged
    form, source = RLDS(), Source(str(tmp_path / "data/toy"))
    probe = form.probe(source)
    assert probe is not None
    assert not any("declare" in note for note in probe.notes)
    for item in form.read(source, probe, [ref.key for ref in probe.episodes]):
        assert isinstance(item, SourceEpisode)
        assert [json.loads(text) for text in item.steps["observation.ragged"].to_pylist()] == [
            list(range(t)) for t in range(len(item.steps))
        ]
        number = int(item.attributes["file_path"][1:])
        assert (item.attributes.get("spans") or []) == [[0, t] for t in range(number)]
        assert item.success is (number % 2 == 0)
        assert len(item.steps) == 3 + number


def test_what_tensorflow_datasets_reads_of_the_real_set(python: Path, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "bridge_rlds/1.0.0"
    run(python, tmp_path, READ, folder, tmp_path / "read.npz")
    assert compared(folder, tmp_path / "read.npz") == 50 * 11  # all but truncated
