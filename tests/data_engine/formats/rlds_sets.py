"""Small sets as TensorFlow Datasets writes them, by Google's own protobuf package, for tests to bend and break.

A set is described by dictionaries of ``Tensor``, ``Text``, ``Label``, ``Image`` and ``Sequence``; an example is a value
of that shape. How a value is laid out follows TFDS' documentation and its ``ExampleSerializer``.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from data_engine.formats import Source

CORE = "tensorflow_datasets.core.features"


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int | None, ...] = ()
    encoding: str = "none"


@dataclass(frozen=True)
class Text:
    pass


@dataclass(frozen=True)
class Label:
    classes: int


@dataclass(frozen=True)
class Image:
    shape: tuple[int | None, ...]
    dtype: str = "uint8"
    format: str = "png"


@dataclass(frozen=True)
class Sequence:
    inner: Any
    length: int | None = None
    name: str = "sequence_feature.Sequence"


def steps(inner: Mapping[str, Any], **beside: Any) -> dict[str, Any]:
    """The features of an RLDS set whose steps hold ``inner``, and what is ``beside`` them."""
    return {"steps": Sequence(inner, name="dataset_feature.Dataset"), **beside}


def _example_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="rlds_sets.proto", package="rlds_sets", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), 1):
        feature.field.add(
            name=name.replace("List", "_list").lower(), number=number, type=field.TYPE_MESSAGE,
            type_name=f".rlds_sets.{name}", label=field.LABEL_OPTIONAL, oneof_index=0,
        )  # fmt: skip
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=field.TYPE_MESSAGE, type_name=".rlds_sets.Feature", label=field.LABEL_OPTIONAL
    )
    features.field.add(
        name="feature", number=1, type=field.TYPE_MESSAGE, type_name=".rlds_sets.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )  # fmt: skip
    example = file.message_type.add(name="Example")
    example.field.add(
        name="features", number=1, type=field.TYPE_MESSAGE, type_name=".rlds_sets.Features", label=field.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("rlds_sets.Example"))


ProtoExample = _example_class()


def proto_values(data: bytes) -> dict[str, Any]:
    """Name -> list of bytes, floats or integers of a serialised example, as protobuf itself decodes it."""
    features = ProtoExample.FromString(data).features.feature
    return {
        name: list(getattr(feature, kind).value) if (kind := feature.WhichOneof("kind")) else []
        for name, feature in features.items()
    }


def image_bytes(values: np.ndarray, form: str) -> bytes:
    from PIL import Image as Pillow

    if values.dtype == np.float32:
        values = np.ascontiguousarray(values).view(np.uint8)
    out = io.BytesIO()
    Pillow.fromarray(values[..., 0] if values.shape[-1] == 1 else values).save(out, form.upper())
    return out.getvalue()


def serialise(features: Mapping[str, Any], value: Mapping[str, Any]) -> bytes:
    """One example. Nested sequences become ``ragged_flat_values`` and ``ragged_row_lengths_<level>``."""
    example = ProtoExample()
    for path, leaf, take, levels in _leaves(features, "", (), 0):
        _write(example.features.feature, path, leaf, take(value), levels)
    return example.SerializeToString()


def _leaves(
    spec: Any, path: str, route: tuple[str | None, ...], levels: int
) -> Iterator[tuple[str, Any, Callable, int]]:
    if isinstance(spec, Mapping):
        for name, inner in spec.items():
            yield from _leaves(inner, f"{path}/{name}" if path else name, (*route, name), levels)
    elif isinstance(spec, Sequence):
        yield from _leaves(spec.inner, path, (*route, None), levels + 1)
    else:
        yield path, spec, lambda value: _take(value, route), levels


def _take(value: Any, route: tuple[str | None, ...]) -> Any:
    if not route:
        return value
    if route[0] is None:
        return [_take(item, route[1:]) for item in value]
    return _take(value[route[0]], route[1:])


def _write(into: Any, path: str, leaf: Any, value: Any, levels: int) -> None:
    items, lengths = [value], []
    for _ in range(levels):
        lengths.append([len(item) for item in items])
        items = [inner for item in items for inner in item]
    name = path if levels < 2 else f"{path}/ragged_flat_values"
    for level, found in enumerate(lengths[1:]):
        into[f"{path}/ragged_row_lengths_{level}"].int64_list.value.extend(found)
    if isinstance(leaf, Image):
        into[name].bytes_list.value.extend(
            item if isinstance(item, bytes) else image_bytes(item, leaf.format) for item in items
        )
    elif isinstance(leaf, Text):
        into[name].bytes_list.value.extend(item.encode() for item in items)
    elif isinstance(leaf, Label):
        into[name].int64_list.value.extend(map(int, items))
    elif leaf.encoding != "none":
        if leaf.shape.count(None) > 1:
            into[f"{name}/shape"].int64_list.value.extend(side for item in items for side in np.shape(item))
            name += "/value"
        packed = [np.asarray(item, leaf.dtype).tobytes() for item in items]
        into[name].bytes_list.value.extend(map(zlib.compress, packed) if leaf.encoding == "zlib" else packed)
    elif leaf.dtype == "string":
        flat = [text for item in items for text in np.asarray(item, object).reshape(-1).tolist()]
        into[name].bytes_list.value.extend(text.encode() for text in flat)
    else:
        flat = np.concatenate([np.asarray(item, leaf.dtype).reshape(-1) for item in items] or [np.empty(0)])
        if leaf.dtype.startswith("float"):
            into[name].float_list.value.extend(flat.astype(np.float32).tolist())
        else:
            into[name].int64_list.value.extend(flat.astype(np.uint64).view(np.int64).tolist())


def features_json(spec: Any, form: str = "proto") -> dict[str, Any]:
    """``features.json`` spelled as ``proto`` (a content for each kind), ``text`` (JSON in JSON) or ``old``."""
    if isinstance(spec, Mapping):
        inner = {name: features_json(value, form) for name, value in spec.items()}
        cls = f"{CORE}.features_dict.FeaturesDict"
        if form == "old":
            return {"type": cls, "content": inner}
        return {"pythonClassName": cls, "featuresDict": {"features": inner}}
    if isinstance(spec, Sequence):
        cls, inner = f"{CORE}.{spec.name}", features_json(spec.inner, form)
        if form == "old":
            return {"type": cls, "content": {"feature": inner, "length": spec.length}}
        return {
            "pythonClassName": cls,
            "sequence": {"feature": inner, "length": str(-1 if spec.length is None else spec.length)},
        }
    if isinstance(spec, Tensor):
        cls = f"{CORE}.tensor_feature.Tensor" if spec.shape else f"{CORE}.scalar.Scalar"
        key, content = "tensor", {"dtype": spec.dtype, "encoding": spec.encoding}
    elif isinstance(spec, Image):
        cls, key = f"{CORE}.image_feature.Image", "image"
        content = {"dtype": spec.dtype, ("encodingFormat" if form == "proto" else "encoding_format"): spec.format}
    elif isinstance(spec, Label):
        cls, key, content = f"{CORE}.class_label_feature.ClassLabel", "classLabel", {"numClasses": str(spec.classes)}
    else:
        cls, key, content = f"{CORE}.text_feature.Text", "text", {}
    if isinstance(spec, Tensor | Image):
        if form == "proto":
            content["shape"] = {"dimensions": [str(-1 if s is None else s) for s in spec.shape]} if spec.shape else {}
        else:
            content["shape"] = list(spec.shape)
    if form == "old":
        return {"type": cls, "content": content}
    if form == "text":
        return {"pythonClassName": cls, "jsonFeature": {"json": json.dumps(content)}}
    return {"pythonClassName": cls, key: content, "description": "what it is"}


def record(data: bytes) -> bytes:
    """One TFRecord."""

    def checksum(part: bytes) -> bytes:
        crc = google_crc32c.value(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


def records(content: bytes) -> Iterator[bytes]:
    """The data of each record, unchecked."""
    at = 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield content[at + 12 : at + 12 + length]
        at += length + 16


def shard_name(split: str, number: int, total: int, dataset: str = "toy") -> str:
    return f"{dataset}-{split}.tfrecord-{number:05d}-of-{total:05d}"


def write_set(
    folder: Path,
    features: Mapping[str, Any],
    splits: Mapping[str, Many[Many[Any]]],
    form: str = "proto",
    **info: Any,
) -> Source:
    """A version folder: ``splits`` has the examples of each shard, as values or already serialised."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.json").write_text(json.dumps(features_json(features, form)))
    declared = []
    for split, shards in splits.items():
        size = 0
        for number, examples in enumerate(shards):
            coded = [item if isinstance(item, bytes) else serialise(features, item) for item in examples]
            (folder / shard_name(split, number, len(shards))).write_bytes(b"".join(map(record, coded)))
            size += sum(map(len, coded))
        lengths = [str(len(examples)) for examples in shards]
        declared.append({"name": split, "numBytes": str(size), "shardLengths": lengths})
    facts = {"name": "toy", "fileFormat": "tfrecord", "version": "1.0.0", "splits": declared, **info}
    (folder / "dataset_info.json").write_text(json.dumps(facts))
    return Source(str(folder))
