from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.coded import NUMBERS, Coded, coded, decode
from data_engine.document import EPISODES

TEXT = st.text("abcé", max_size=4)
VIDEOS = st.dictionaries(st.sampled_from(["top", "wrist"]), st.tuples(TEXT, st.floats(0, 9)), max_size=2)
ROWS = st.lists(st.tuples(st.text("xyz", min_size=1, max_size=5), st.none() | TEXT, VIDEOS), max_size=12)


def table(rows) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"episode_id": name, "task": task, "start": i, "stop": i + 2, "row_start": 3, "row_count": 2, "weight": 0.5,
             "videos": [{"camera": c, "blob": blob, "start_s": s} for c, (blob, s) in videos.items()]}
            for i, (name, task, videos) in enumerate(rows)
        ],
        schema=EPISODES,
    )  # fmt: skip


@given(ROWS)
@settings(max_examples=40, deadline=None)
def test_it_says_what_the_rows_say_from_the_table_and_from_its_bytes(rows) -> None:
    episodes = table(rows)
    sink = pa.BufferOutputStream()
    pq.write_table(episodes, sink, row_group_size=5)
    for found in (Coded(coded(episodes)), Coded(coded(decode(sink.getvalue().to_pybytes())))):
        assert len(found) == len(rows)
        assert found.ids.tolist() == [name for name, _, _ in rows]
        for name in NUMBERS:
            assert found.numbers[name].tolist() == episodes[name].to_pylist()
        texts, code = found.codes("task")
        assert [texts[i].as_py() for i in code.tolist()] == [task for _, task, _ in rows]
        for camera in ("top", "wrist"):
            video = found.video(camera)
            wanted = [videos.get(camera) for _, _, videos in rows]
            if video is None:
                assert not any(wanted)
                continue
            blobs, code, start = video
            for i, shown in enumerate(wanted):
                assert np.isnan(start[i]) == (shown is None)
                assert shown is None or (blobs[int(code[i])].as_py(), start[i]) == shown


def test_equally_long_ids_are_read_at_once_and_from_a_slice() -> None:
    rows = [(f"ep_{i:04d}", None, {}) for i in range(50)]
    assert Coded(coded(table(rows).slice(7, 20))).ids.tolist() == [name for name, _, _ in rows[7:27]]


@pytest.mark.parametrize("rows", [[], [("", None, {})]])
def test_nothing_and_an_empty_id_are_fine(rows) -> None:
    assert Coded(coded(table(rows))).ids.tolist() == [name for name, _, _ in rows]
