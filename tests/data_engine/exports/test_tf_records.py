from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_engine.exports.tf_records import Shards, example
from tests.data_engine.formats.rlds_sets import proto_values, record, records

INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5)
FLOATS = st.lists(st.floats(width=32, allow_nan=False), max_size=5)
VALUES = st.one_of(
    INTEGERS.map(lambda values: np.array(values, np.int64)),
    FLOATS.map(lambda values: np.array(values, np.float32)),
    st.lists(st.binary(max_size=300), min_size=1, max_size=3),
)


@settings(max_examples=60)
@given(st.dictionaries(st.text(min_size=1, max_size=8), VALUES, max_size=4))
def test_protobuf_reads_what_is_written(features: dict) -> None:
    read = proto_values(example(features))
    assert read.keys() == features.keys()
    for name, values in features.items():
        assert read[name] == (values.tolist() if isinstance(values, np.ndarray) else values)


def test_files_are_cut_at_their_size_and_framed_as_tensorflow_frames_them(tmp_path: Path) -> None:
    shards = Shards(tmp_path, "toy", "val", 80)
    data = [bytes([i]) * 20 for i in range(5)]
    for item in data:
        shards.add(item)
    shards.close()
    assert shards.lengths == [2, 2, 1]
    assert shards.data_bytes == 100
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"toy-val.tfrecord-{i:05d}-of-00003" for i in range(3)]
    assert [(tmp_path / name).read_bytes() for name in names] == [
        record(data[0]) + record(data[1]),
        record(data[2]) + record(data[3]),
        record(data[4]),
    ]
    whole = Shards(tmp_path, "all", "val", 1000)
    for item in data:
        whole.add(item)
    whole.close()
    assert list(records((tmp_path / "all-val.tfrecord-00000-of-00001").read_bytes())) == data
