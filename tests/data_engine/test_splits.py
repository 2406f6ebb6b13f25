from __future__ import annotations

from data_engine.splits import assign


def test_siblings_share_a_split(toy) -> None:
    made = toy({"a": [4] * 60})
    rows = [row | {"parent": f"ep_a_{i - i % 3}" if i % 3 else None} for i, row in enumerate(made.rows)]
    rows.append(rows[7] | {"start": 1, "stop": 3, "row_start": rows[7]["row_start"] + 1, "row_count": 2})
    rows[30] |= {"content_hash": rows[0]["content_hash"]}  # the same recording under another name
    split = {row["episode_id"]: set() for row in rows}
    for row in made.freeze(rows=rows, splits={"train": 0.6, "val": 0.4}).episodes.to_pylist():
        split[row["episode_id"]].add(row["split"])
    assert all(len(found) == 1 for found in split.values())
    families = [{next(iter(split[f"ep_a_{i + j}"])) for j in range(3)} for i in range(0, 60, 3)]
    assert all(len(family) == 1 for family in families)
    assert split["ep_a_30"] == split["ep_a_0"]
    assert {next(iter(family)) for family in families} == {"train", "val"}


def test_a_split_stays_when_the_mixture_grows(toy) -> None:
    made = toy({"a": [4] * 30})
    few, all_of_them = (
        dict(zip(frozen.episodes["episode_id"].to_pylist(), frozen.episodes["split"].to_pylist(), strict=True))
        for frozen in (
            made.freeze(rows=made.rows[:10], splits={"train": 0.7, "val": 0.3}, seed=1),
            made.freeze(splits={"train": 0.7, "val": 0.3}, seed=2),
        )
    )
    assert few.items() <= all_of_them.items()


def test_fractions_come_out() -> None:
    n = 4000
    ids = [f"e{i}" for i in range(n)]
    found = assign(ids, [None] * n, ids, {"val": 0.2, "train": 0.7, "test": 0.1})
    for name, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        assert abs(found.count(name) / n - share) < 4 * (share * (1 - share) / n) ** 0.5
    assert assign(ids[:3], [None] * 3, ids[:3], {"all": 1.0}) == ["all"] * 3


def test_a_long_line_of_descent_is_one_family_in_any_order() -> None:
    ids = [f"e{i}" for i in range(300)]
    parents = [None, *ids[:-1]]
    for step in (1, -1):
        found = assign(ids[::step], parents[::step], ids[::step], {"a": 0.5, "b": 0.5})
        assert len(set(found)) == 1
