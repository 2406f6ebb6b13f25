from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest

from data_engine import mixture as mixtures
from data_engine.errors import RequestError, SourceError

LENGTHS = {"a": [12, 5, 9, 30], "b": [8, 20]}


def test_order_paths_and_table_versions_do_not_change_the_identity(toy, tmp_path) -> None:
    made = toy(LENGTHS)
    first = made.freeze(splits={"train": 0.5, "val": 0.5}, scorers=[lineage("x"), lineage("y")])
    shuffled = random.Random(0).sample(made.rows, len(made.rows))
    moved = {file["path"]: f"elsewhere/{i}.parquet" for i, file in enumerate(made.files)}
    rows = [row | {"steps_file": moved[row["steps_file"]]} for row in shuffled]
    files = pa.Table.from_pylist([file | {"path": moved[file["path"]]} for file in made.files], mixtures.FILES)
    second = made.freeze(
        rows=rows,
        files=files,
        name="other",
        recorded={"tables": {"episodes": 9}},
        splits={"val": 0.5, "train": 0.5},
        scorers=[lineage("y"), lineage("x")],
        entries=[{"selection": "b", "weight": 1.0000000001}, {"selection": "a", "weight": 1}],
    )
    assert second.mixture_id == first.mixture_id
    assert second.episodes["split"] == first.episodes["split"]


def test_what_a_trainer_sees_changes_the_identity(toy) -> None:
    made = toy(LENGTHS)
    rows = made.rows
    cut = rows[3] | {"stop": 29, "row_count": 29}
    ids = [
        made.freeze(**options).mixture_id
        for options in (
            {},
            {"seed": 1},
            {"epoch_size": 10},
            {"unit": "episode"},
            {"weight_kind": "repeat"},
            {"entries": [{"selection": "a", "weight": 1}, {"selection": "b", "weight": 1.001}]},
            {"rows": [rows[0] | {"weight": 1.5}, *rows[1:]]},
            {"rows": rows[1:]},
            {"rows": [*rows[:3], cut, *rows[4:]]},
            {"rows": [rows[0] | {"task": "another task"}, *rows[1:]]},
            {"splits": {"train": 0.5, "val": 0.5}},
            {"scorers": [lineage("x")]},
            {"scorers": [lineage("x", fit_id="fit_1")]},
            {"conversions": [{"dataset": "a", "column": "action", "from": "deg", "to": "rad", "components": [1]}]},
        )
    ]
    assert len(set(ids)) == len(ids)
    assert made.freeze().mixture_id == ids[0]


def lineage(scorer: str, fit_id: str | None = None) -> dict[str, str | None]:
    return {"scorer": scorer, "version": "1", "config_hash": "0", "fit_id": fit_id}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entries": [{"selection": "a", "weight": 0}, {"selection": "b", "weight": 1}]}, "greater than 0"),
        ({"entries": [{"selection": "a", "weight": 1}]}, "selection 'b' are in no entry"),
        ({"entries": [{"selection": name, "weight": 1} for name in "abc"]}, "selection 'c' has no episodes"),
        ({"entries": [{"selection": name, "weight": 1} for name in "aab"]}, "'a' is two entries"),
        ({"splits": {"train": 0.5, "val": 0.4}}, "do not share out 1"),
        ({"weight_kind": "repeat", "epoch_size": 5}, "epoch_size goes with weight_kind: probability"),
        ({"datasets": {}}, "dataset 'a' is not described"),
        ({"files": pa.Table.from_pylist([], mixtures.FILES)}, "is not listed with its sha256"),
    ],
)
def test_a_wrong_mixture_is_refused_in_one_line(toy, options, message) -> None:
    with pytest.raises(RequestError, match=message):
        toy(LENGTHS).freeze(**options)


def test_rows_that_cannot_be_are_refused(toy) -> None:
    made = toy({"a": [5]})
    for change, message in (
        ({"weight": float("nan")}, "has weight nan"),
        ({"weight": None}, "has weight None"),
        ({"stop": 4}, "steps 0 to 4 in 5 rows"),
        ({"start": 5}, "steps 5 to 5"),
    ):
        with pytest.raises(RequestError, match=message):
            made.freeze(rows=[made.rows[0] | change])
    with pytest.raises(SourceError, match="has 5 steps, not 6"):
        made.freeze(rows=[made.rows[0] | {"stop": 6, "row_count": 6}])


def test_unlike_units_and_widths_of_one_group_are_refused(toy) -> None:
    made = toy(LENGTHS)
    for change, message in (({"unit": "deg"}, "units 'rad' and 'deg'"), ({"shape": (3,)}, "2 and 3 values")):
        datasets = dict(made.datasets)
        for name, update in (("a", {"unit": "rad"}), ("b", {"unit": "rad"} | change)):
            action = datasets[name].feature("action").model_copy(update=update)
            datasets[name] = datasets[name].model_copy(update={"features": (action,)})
        with pytest.raises(RequestError, match=f"both arm2/delta, but action has {message}"):
            made.freeze(datasets=datasets)


def test_half_a_mixture_is_never_visible(toy, tmp_path) -> None:
    made = toy(LENGTHS)
    folder = Path(mixtures.write(made.freeze(), made.lake))
    document = (folder / "mixture.json").read_bytes()
    (folder / "mixture.json").unlink()
    with pytest.raises(RequestError, match=r"no mixture at .*mixture\.json is missing"):
        mixtures.open(str(folder))
    mixtures.write(made.freeze(), made.lake)
    assert (folder / "mixture.json").read_bytes() == document
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    mixtures.write(made.freeze(recorded={"tables": 2}), made.lake)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
