"""RLDS (Ramos et al. 2021): episodes as TensorFlow Datasets stores them, which is how Open X-Embodiment comes.

A record is an episode, its steps a sequence. Read without TensorFlow, a record at a time; nothing is kept of a file but
where its records lie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.formats import EpisodeRef, Format, Probe, RawFrames, Source, SourceEpisode, Unreadable
from data_engine.formats.arrays import EPISODE_BYTES, Layout, Spec, free_name, natural
from data_engine.formats.attributes import pick, plain
from data_engine.formats.images import decode_rgb, image_size
from data_engine.formats.tf_example import Example
from data_engine.formats.tfds_features import Leaf, is_features, read_features
from data_engine.formats.tfds_files import Shard, find_version, open_records, read_json, read_shards
from data_engine.formats.tfds_values import coded_images, single_value, step_values
from data_engine.formats.tfrecord import RecordFile
from data_engine.model import ACTION, STATE, TERMINATED, TRUNCATED

__all__ = ["RLDS"]

_STEPS = "steps/"
_OBSERVATION = "steps/observation/"
_METADATA = "episode_metadata/"
_FIRST, _LAST, _TERMINAL = "steps/is_first", "steps/is_last", "steps/is_terminal"
_CUT_OFF = "steps/is_last and not steps/is_terminal"
_STATE_KEYS = ("state", "proprio", "robot_state", "robot_obs")
_LANGUAGE = re.compile(r"(.*/)?(natural_)?language_instruction(_\d+)?")
_SMALL = 4096  # numbers: a list up to this long becomes an attribute
_TRIES = 8  # records looked at for the size of images
_DEFAULT_FPS = 10.0
_RATES = {  # Hz, as the authors publish them; a TFDS set states none
    re.compile(r"bridge.*"): 5.0,
    re.compile(r"fractal20220817_data"): 3.0,
    re.compile(r"kuka"): 10.0,
    re.compile(r"taco_play"): 15.0,
    re.compile(r"jaco_play"): 10.0,
    re.compile(r"toto"): 30.0,
    re.compile(r"droid(_100)?"): 15.0,
}


class RLDS(Format):
    """A TFDS version folder (``features.json``, ``dataset_info.json``, TFRecord files), or the builder's folder above.

    ``observation/state`` (else ``proprio``, ``robot_state``, ``robot_obs``) -> ``observation.state``; ``action`` ->
    ``action``, or the vectors of a dictionary ``action`` joined in the order of their names, as TFDS orders them.
    ``state_key`` and ``action_key`` name another tensor, or several to join, below ``observation`` or the step.

    ``is_terminal`` -> ``terminated``; ``is_last`` without ``is_terminal`` -> ``truncated``; ``is_first`` and
    ``is_last`` then say nothing more and are no columns, and where they do say more a note tells. Without
    ``is_terminal`` they keep their names. The last step's action, reward and discount are kept as they are: many
    writers fill them with stand-ins there.

    Images of 8-bit colour are cameras; others (depth, masks, 16 bits) stay exact, as columns of their numbers. Every
    other tensor of a step is a column by its path with points for slashes (``observation.gripper``); one whose size
    varies from step to step is a column of JSON text. ``language_instruction`` (also numbered, also below
    ``observation``) stays a column, as it may change on the way; its different texts are the episode's ``language``,
    the first its task. What is beside the steps (``episode_metadata``) becomes the episode's attributes.

    Keys are ``<split>/<shard>/<record>``, as in ``train/00003/000012``; the split is the episode's label.
    """

    name: ClassVar[str] = "rlds"

    state_key: str | tuple[str, ...] | None = None
    action_key: str | tuple[str, ...] | None = None

    def probe(self, source: Source) -> Probe | None:
        """See :meth:`Format.probe`. Reads no record, unless declared counts or image sizes leave a question."""
        folder = find_version(source)
        if folder is None:
            return None
        has_info = source.exists(folder, "dataset_info.json")
        try:
            content = read_json(source, f"{folder}/features.json")
        except SourceError:
            if has_info:
                raise
            return None
        if not is_features(content):
            return None
        if not has_info:
            raise SourceError(f"{source.uri} has features.json and no dataset_info.json", code="bad_info")
        info = read_json(source, f"{folder}/dataset_info.json")
        if not isinstance(info, dict):
            raise SourceError(f"dataset_info.json of {source.uri} is no object", code="bad_info")
        leaves, notes = read_features(content)
        steps = {leaf.path: leaf for leaf in leaves if leaf.path.startswith(_STEPS) and leaf.levels}
        if not steps:
            raise SourceError(f"{source.uri} is a TFDS set without steps: it is no RLDS", code="no_steps")
        shards, lies = read_shards(source, folder, info)
        steps = _sized(source, shards, steps)
        layout, more = self._layout(steps)
        fps, assumed = self._rate(str(info.get("name") or ""))
        extras, skipped = _extras([leaf for leaf in leaves if leaf.path not in steps])
        cameras = set(layout.cameras.values())
        read = {path: steps[path] for path in layout.specs if path in steps and path not in cameras}
        licence = info.get("redistributionInfo")
        return Probe(
            format=self.name,
            fps=fps,
            features=layout.features,
            episodes=tuple(
                EpisodeRef(f"{shard.split}/{shard.number:05d}/{record:06d}", None, (shard.path,))
                for shard in shards
                for record in range(shard.records)
            ),
            embodiment=self.embodiment or "unknown",
            control_mode=self.control_mode,
            licence=self.licence or (str(licence.get("license") or "") or None if isinstance(licence, dict) else None),
            provenance=self.provenance,
            notes=(*notes, *lies, *more, *skipped, *assumed),
            context={
                "layout": layout,
                "columns": read,
                "cameras": {camera: steps[path] for camera, path in layout.cameras.items()},
                "language": sorted(filter(_LANGUAGE.fullmatch, read), key=natural),
                "extras": extras,
                "files": {f"{shard.split}/{shard.number:05d}": shard.path for shard in shards},
            },
        )

    def _rate(self, name: str) -> tuple[float, list[str]]:
        if self.fps is not None:
            return self.fps, []
        for known, rate in _RATES.items():
            if known.fullmatch(name):
                return rate, [f"fps is not stated: {rate:g}, the published rate of {name}, is taken; option fps wins"]
        return _DEFAULT_FPS, [f"fps is not stated: {_DEFAULT_FPS:g} is assumed; give the option fps"]

    def _layout(self, steps: Mapping[str, Leaf]) -> tuple[Layout, list[str]]:
        """The columns for the values of a step, and notes."""
        specs, notes = _specs(steps)
        state, action = self._named("state_key", _usual_state, specs), self._named("action_key", _usual_action, specs)
        columns = {name: keys for name, keys in ((STATE, state), (ACTION, action)) if keys}
        notes += [
            f"no tensor for {name}: give the option {option}"
            for name, option in ((STATE, "state_key"), (ACTION, "action_key"))
            if name not in columns
        ]
        ends = {path for path in (_FIRST, _LAST, _TERMINAL) if path in specs and specs[path].size == 1}
        flags = set()
        if _TERMINAL in ends:
            columns[TERMINATED] = (_TERMINAL,)
            flags.add(TERMINATED)
            if _LAST in ends:
                specs[_CUT_OFF] = Spec("bool", specs[_TERMINAL].shape)
                columns[TRUNCATED] = (_CUT_OFF,)
        told = ends if _TERMINAL in ends and _LAST in ends else set()
        cameras: dict[str, str] = {}
        for path in steps:
            if path not in specs or path in told or any(path in keys for keys in columns.values()):
                continue
            if _is_camera(steps[path]):
                camera = path.removeprefix(_OBSERVATION).removeprefix(_STEPS).replace("/", ".")
                cameras[free_name(camera, cameras)] = path
            else:
                columns[free_name(path.removeprefix(_STEPS).replace("/", "."), columns)] = (path,)
        return Layout(specs, columns, cameras, frozenset(flags)), notes

    def _named(
        self, option: str, usual: Callable[[Mapping[str, Spec]], tuple[str, ...]], specs: Mapping[str, Spec]
    ) -> tuple[str, ...]:
        """The tensors that an option names, or the usual ones. Raises ``RequestError`` for one that is no vector."""
        given: str | tuple[str, ...] | None = getattr(self, option)
        if given is None:
            return usual(specs)
        found = []
        for name in (given,) if isinstance(given, str) else given:
            places = (_OBSERVATION + name, _STEPS + name, name)
            path = next((place for place in places if place in specs and specs[place].is_vector), None)
            if path is None:
                known = ", ".join(path.removeprefix(_STEPS) for path in specs if specs[path].is_vector)
                raise RequestError(f"{option} names {name!r}", code="bad_option", fix=f"known: {known}")
            found.append(path)
        return tuple(found)

    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
        """See :meth:`Format.read`. One file is open at a time; keys in the order of the probe are read straight on."""
        with ExitStack() as opened:
            here, records = "", None
            for key in keys:
                shard, _, number = key.rpartition("/")
                found: SourceEpisode | Unreadable
                try:
                    if shard != here or records is None:
                        opened.close()
                        records = None
                        here, records = shard, _opened(opened, source, probe.context["files"][shard])
                    found = self._episode(probe, key, Example(records.read(int(number))))
                except EngineError as error:
                    found = Unreadable(key, error.code, str(error))
                except OSError as error:
                    found = Unreadable(key, "damaged_file", f"{probe.context['files'][shard]}: {error}")
                yield found

    def _episode(self, probe: Probe, key: str, example: Example) -> SourceEpisode:
        layout: Layout = probe.context["layout"]
        read = {path: step_values(example, leaf) for path, leaf in probe.context["columns"].items()}
        arrays = {path: values for path, values in read.items() if values is not None}
        if sum(values.nbytes for values in arrays.values()) > EPISODE_BYTES:
            raise SourceError(f"{key} holds more than {EPISODE_BYTES >> 30} GiB of columns", code="too_large")
        coded = {camera: coded_images(example, leaf) for camera, leaf in probe.context["cameras"].items()}
        n = _length({**arrays, **{layout.cameras[camera]: images for camera, images in coded.items() if images}})
        notes = _check_ends(arrays)
        if _CUT_OFF in layout.specs and _LAST in arrays and _TERMINAL in arrays:
            arrays[_CUT_OFF] = (arrays[_LAST] != 0) & (arrays[_TERMINAL] == 0)
        table, nulls = layout.table(arrays, np.arange(n) / probe.fps)
        cameras = {}
        for camera, images in coded.items():
            if not images:
                notes.append(f"no frames of camera {camera}")
                continue
            size = image_size(images[0])
            declared = layout.specs[layout.cameras[camera]].shape[:2]
            if size != declared:
                notes.append(f"{camera}: declared {declared}, the images are {size}")
            cameras[camera] = RawFrames(Frames(tuple(images), size, camera), *size)
        attributes, left_out = _attributes(example, probe.context["extras"])
        for camera in cameras:
            if attributes.get(f"has_{camera}") is False:
                notes.append(f"has_{camera} is false: its frames may be stand-ins")
        said = _said([arrays[path] for path in probe.context["language"] if path in arrays])
        fields = {**({"language": said} if said else {}), **pick(attributes)}
        if fields.get("language"):
            fields.setdefault("task", fields["language"][0])
        stated = {"task": self.task, "operator": self.operator, "provenance": self.provenance}
        return SourceEpisode(
            key=key,
            steps=table,
            cameras=cameras,
            labels=(key.split("/", 1)[0],),
            attributes=attributes,
            notes=(*notes, *nulls, *left_out),
            **{**fields, **{name: value for name, value in stated.items() if value is not None}},
        )


@dataclass(frozen=True)
class Frames:
    """The frames of one camera of one episode, decoded one at a time whenever they are asked for."""

    images: tuple[memoryview, ...]
    size: tuple[int, int]
    camera: str

    def __call__(self) -> Iterator[np.ndarray]:
        """A fresh iterator of uint8 (h, w, 3).

        Raises ``SourceError`` for a damaged image and for one of another size than the first.
        """
        for number, data in enumerate(self.images):
            try:
                frame = decode_rgb(data, self.size)
            except SourceError as error:
                raise SourceError(f"{self.camera}, frame {number}: {error.message}", code=error.code) from error
            yield frame


def _opened(stack: ExitStack, source: Source, path: str) -> RecordFile:
    return stack.enter_context(open_records(source, path))


def _is_camera(leaf: Leaf) -> bool:
    return leaf.kind == "image" and leaf.dtype == "uint8" and leaf.shape[2] == 3


def _usual_state(specs: Mapping[str, Spec]) -> tuple[str, ...]:
    paths = (_OBSERVATION + name for name in _STATE_KEYS)
    return next(((path,) for path in paths if path in specs and specs[path].is_vector), ())


def _usual_action(specs: Mapping[str, Spec]) -> tuple[str, ...]:
    if "steps/action" in specs:
        return ("steps/action",) if specs["steps/action"].is_vector else ()
    return tuple(sorted(path for path in specs if path.startswith("steps/action/") and specs[path].is_vector))


def _specs(steps: Mapping[str, Leaf]) -> tuple[dict[str, Spec], list[str]]:
    """What each leaf holds a step, and notes on what is kept in another form or not at all."""
    specs: dict[str, Spec] = {}
    notes: list[str] = []
    halved = []
    for path, leaf in steps.items():
        shape = tuple(side or 0 for side in (*leaf.levels[1:], *leaf.shape))
        if leaf.kind == "image" and (len(leaf.levels) > 1 or None in leaf.shape):
            notes.append(f"{path} holds several images a step, or none of a size, and is left out")
        elif not leaf.is_fixed:
            specs[path] = Spec("string", ())
            notes.append(f"{path} varies in size and is kept as JSON text")
        elif 0 in shape:
            notes.append(f"{path} has no numbers a step and is left out")
        else:
            specs[path] = Spec(leaf.dtype, shape)
        if leaf.dtype == "float64" and leaf.encoding == "none":
            halved.append(path)
    if halved:
        notes.append(f"the files hold {len(halved)} float64 tensors with the precision of float32: {halved[0]}")
    return specs, notes


def _extras(leaves: Sequence[Leaf]) -> tuple[dict[str, Leaf], list[str]]:
    """The leaves beside the steps that become attributes, by an attribute's name; a note for each that does not."""
    kept = {leaf.path: leaf for leaf in leaves if leaf.kind != "image"}
    notes = [f"{leaf.path} is an image beside the steps and is left out" for leaf in leaves if leaf.path not in kept]
    short = {path: path.removeprefix(_METADATA) for path in kept}
    return {path if short[path] in kept else short[path]: leaf for path, leaf in kept.items()}, notes


def _sized(source: Source, shards: Sequence[Shard], steps: Mapping[str, Leaf]) -> dict[str, Leaf]:
    """The leaves with sizes for the images that ``features.json`` leaves open: those of the first readable episode."""
    found = dict(steps)
    unknown = [leaf for leaf in steps.values() if leaf.kind == "image" and None in leaf.shape and len(leaf.levels) == 1]
    tries = [(shard, record) for shard in shards if shard.present for record in range(min(shard.records, _TRIES))]
    for shard, record in tries[:_TRIES] if unknown else []:
        try:
            with open_records(source, shard.path) as records:
                example = Example(records.read(record))
            for leaf in unknown:
                images = coded_images(example, leaf)
                if images:
                    shape = (*image_size(images[0]), leaf.shape[2])
                    found[leaf.path] = Leaf(leaf.path, "image", leaf.dtype, shape, "none", leaf.levels)
            break
        except EngineError:
            continue
    return found


def _length(values: Mapping[str, Any]) -> int:
    """The one length of all values. Raises ``SourceError`` where they differ or there are none."""
    first = next(iter(values), None)
    if first is None or not len(values[first]):
        raise SourceError("the episode holds no steps", code="empty_episode")
    for path, found in values.items():
        if len(found) != len(values[first]):
            raise SourceError(f"{path} holds {len(found)} steps, {first} {len(values[first])}", code="lengths_differ")
    return len(values[first])


def _check_ends(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Notes where the flags of an episode's ends are not at its ends."""
    notes = []
    for path, right in ((_FIRST, 0), (_LAST, -1)):
        if path in arrays:
            n = len(arrays[path])
            flags = arrays[path]
            at = np.flatnonzero(flags if flags.ndim == 1 else flags.reshape(n, -1).any(axis=1)).tolist()
            if at != [right % n]:
                listed = f"at steps {', '.join(map(str, at[:5]))}" if at else "nowhere"
                notes.append(f"{path} is true {listed} in {n} steps")
    if _LAST in arrays and _TERMINAL in arrays:
        early = np.flatnonzero((arrays[_TERMINAL] != 0) & (arrays[_LAST] == 0))
        if len(early):
            notes.append(f"is_terminal is true before is_last, at step {early[0]}")
    return notes


def _said(columns: Sequence[np.ndarray]) -> tuple[str, ...]:
    """The different instructions of an episode in the order of their columns and steps."""
    found: dict[str, None] = {}
    for texts in columns:
        if texts.dtype == object and texts.ndim == 1:
            found.update(dict.fromkeys(texts.tolist()))
    return tuple(text for text in found if text.strip())


def _attributes(example: Example, extras: Mapping[str, Leaf]) -> tuple[dict[str, Any], list[str]]:
    """What an example says beside its steps, as plain values, and notes on what is too long for that."""
    found: dict[str, Any] = {}
    notes = []
    for name, leaf in extras.items():
        value = single_value(example, leaf)
        if value is None:
            continue
        size = sum(len(str(item)) for item in value) if isinstance(value, list) else getattr(value, "size", 1)
        if size > _SMALL:
            notes.append(f"{leaf.path} holds {size} values and is left out")
        else:
            found[name] = plain(value)
    return found, notes
