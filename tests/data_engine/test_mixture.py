from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from data_engine import mixture as mixtures
from data_engine.errors import RequestError, SourceError

LENGTHS = {"a": [12, 5, 9, 30], "b": [8, 20]}


def test_what_is_frozen_is_what_is_opened(toy_at, lake_uri, tmp_path) -> None:
    made = toy_at(lake_uri, LENGTHS)
    mixture = made.mixture(tmp_path / "cache", splits={"train": 0.5, "val": 0.5}, seed=3, recorded={"episodes": 7})
    assert mixture.uri == f"{lake_uri}/mixtures/{mixture.id}"
    assert len(mixture) == 6
    assert mixture.document.recorded == {"episodes": 7}
    assert mixture.files == sorted(file["path"] for file in made.files)
    assert set(mixture.datasets) == {"a", "b"}
    number = {row["episode_id"]: i for i, row in enumerate(made.rows)}
    for i, episode in enumerate(mixture.episodes["episode_id"].to_pylist()):
        assert mixture.steps(i) == made.steps[number[episode]]
        assert mixture.steps(i, ["action"]).column_names == ["action"]
    again = pickle.loads(pickle.dumps(mixture))
    assert again.steps(0) == mixture.steps(0)


def test_a_range_has_its_own_steps(toy, tmp_path) -> None:
    made = toy({"a": [30, 30]})
    row = made.rows[1] | {"start": 9, "stop": 21, "row_start": made.rows[1]["row_start"] + 9, "row_count": 12}
    mixture = made.mixture(tmp_path, rows=[row])
    assert [action[1] for action in mixture.steps(0)["action"].to_pylist()] == list(range(9, 21))


def test_statistics_are_of_the_train_split_by_group(toy, tmp_path) -> None:
    made = toy({"a": [12, 5, 9, 30, 3, 4, 8, 9], "b": [8]}, {"b": 3})
    mixture = made.mixture(tmp_path, splits={"train": 0.5, "val": 0.5})
    rows = mixture.episodes.to_pylist()
    train = [i for i, row in enumerate(rows) if row["dataset"] == "a" and row["split"] == "train"]
    assert 0 < len(train) < 8
    values = np.concatenate([np.array(mixture.steps(i)["action"].to_pylist()) for i in train])
    found = mixture.statistics("arm2/delta")
    assert found["action"]["mean"] == pytest.approx(values.mean(0), rel=1e-5)
    assert found["action"]["count"] == len(values)
    assert found["reward"]["max"].tolist() == [1.0]
    assert mixture.statistics("arm3/delta")["action"]["count"] == 8
    with pytest.raises(RequestError, match=r"no statistics of 'arm9/delta' .*known: arm2/delta, arm3/delta"):
        mixture.statistics("arm9/delta")


def test_a_mixture_that_cannot_be_read_gets_one_line(toy, tmp_path) -> None:
    made = toy(LENGTHS)
    folder = Path(mixtures.write(made.freeze(), made.lake))
    with pytest.raises(RequestError, match="is no mixture"):
        mixtures.open(str(tmp_path))
    path = folder / "mixture.json"
    whole = json.loads(path.read_text())
    for change, message in (
        ({"format_version": 2}, "is of format 2, this program reads 1"),
        ({"status": "broken", "reason": "an episode was withdrawn"}, "is broken: an episode was withdrawn"),
        ({"seed": "x"}, r"mixture\.json: seed"),
        ({"unknown": 1}, "unknown key 'unknown'"),
    ):
        path.write_text(json.dumps(whole | change))
        with pytest.raises(RequestError, match=message):
            mixtures.open(str(folder))
    path.write_text("{")
    with pytest.raises(RequestError, match="is no mixture document"):
        mixtures.open(str(folder))
    path.write_text(json.dumps(whole))
    (folder / "episodes.parquet").write_bytes(b"something else")
    with pytest.raises(RequestError, match=r"episodes\.parquet is not what was frozen"):
        mixtures.open(str(folder))


def test_an_unreachable_store_gets_one_line(monkeypatch) -> None:
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(RequestError, match="cannot read 's3://nowhere"):
        mixtures.open("s3://nowhere/mixtures/0a")


def test_a_missing_or_changed_steps_file_gets_one_line(toy, tmp_path) -> None:
    made = toy({"a": [12]})
    mixture = made.mixture(tmp_path / "cache")
    file = Path(made.lake) / made.files[0]["path"]
    data = file.read_bytes()
    file.unlink()
    with pytest.raises(SourceError, match=r"lacks its file steps/a/0\.parquet"):
        mixture.steps(0)
    file.write_bytes(data[:-1])
    with pytest.raises(SourceError, match=f"has {len(data) - 1} bytes, {len(data)} when it was frozen"):
        mixture.steps(0)
    file.write_bytes(bytes([data[0]]) + bytes(len(data) - 1))
    with pytest.raises(SourceError, match="its sha256 differs"):
        mixture.array("steps/a/0.parquet", "action")
    with pytest.raises(RequestError, match="is no file of mixture 'toy'"):
        mixture.local("../../etc/passwd")


def test_a_large_mixture_is_mapped_and_the_same(toy, tmp_path, monkeypatch) -> None:
    made = toy({"a": [6] * 11, "b": [8, 20]})
    small = made.mixture(tmp_path / "small", splits={"train": 0.5, "val": 0.5})
    monkeypatch.setattr(mixtures, "_MAPPED_BYTES", 1)
    for _ in range(2):  # made, and found
        large = mixtures.open(small.uri, cache_dir=tmp_path / "cache")
        assert len(list((tmp_path / "cache").glob("tables/*/*/table.arrow"))) == 2
        assert len(large) == len(small)
        assert large.files == small.files
        assert repr(list(large.samples())) == repr(list(small.samples()))
        assert large.steps(3).equals(small.steps(3))
        assert large.episodes.equals(small.episodes)
        assert len(pickle.dumps(large)) < 1000
        assert repr(list(pickle.loads(pickle.dumps(large)).samples())) == repr(list(small.samples()))
    (Path(small.uri) / "episodes.parquet").write_bytes(b"PAR1")
    with pytest.raises(RequestError, match=r"episodes\.parquet is not what was frozen"):
        _ = mixtures.open(small.uri, cache_dir=tmp_path / "cache").episodes
    with pytest.raises(RequestError, match=r"episodes\.parquet is not what was frozen"):
        mixtures.open(small.uri, cache_dir=tmp_path / "other")
