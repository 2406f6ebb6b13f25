"""CALVIN (Mees et al. 2022): one npz a step, episodes by their first and last number in ``ep_start_end_ids.npy``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from data_engine.errors import SourceError
from data_engine.formats import EpisodeRef, Source, json_text
from data_engine.formats.any_npz import open_npz
from data_engine.formats.arrays import Layout, Spec
from data_engine.formats.episode_arrays import EpisodeArrays, Recording, Survey
from data_engine.formats.npz_file import NpzArray, npz_arrays, read_npy
from data_engine.formats.rows import Rows
from data_engine.model import ACTION, STATE

__all__ = ["Calvin"]

_SPLITS = ("", "training/", "validation/")
_IDS = "ep_start_end_ids.npy"
_LANGUAGE = "lang_annotations/auto_lang_ann"
_SMALL = 4096  # bytes of a step's member that is read along with its neighbours
_MOST_STEPS = 1 << 22
_MOTION = ("x", "y", "z", "rx", "ry", "rz")
_JOINTS = tuple(f"joint_{i}" for i in range(1, 8))
_ENTRIES = {
    "robot_obs": (*_MOTION, "gripper_width", *_JOINTS, "gripper_action"),
    "actions": (*_MOTION, "gripper"),
    "rel_actions": (*_MOTION, "gripper"),
}


class Calvin(EpisodeArrays):
    """A split's folder, or the folder above ``training`` and ``validation``, which are then the episodes' labels.

    ``robot_obs`` -> ``observation.state``, ``actions`` (absolute) -> ``action``; ``action_keys: [rel_actions]`` takes
    the relative ones. ``rgb_static`` and ``rgb_gripper`` are cameras; depth and touch are columns of their numbers
    (``leave_out: [depth_*, rgb_tactile]`` saves their room). The rate is 30 Hz unless stated. Keys are
    ``training/episode_0000012`` by the first step's number.

    The language annotations are a pickle, which could run code and is never read: their dictionary written as JSON, at
    ``lang_annotations/auto_lang_ann.json``, is. An episode's ``language`` lists its texts, and ``language_spans`` says
    which steps each belongs to.
    """

    name: ClassVar[str] = "calvin"
    length_from: ClassVar[tuple[str, ...]] = ("actions",)
    usual_fps: ClassVar[float] = 30.0

    state_keys: tuple[str, ...] | None = None
    action_keys: tuple[str, ...] | None = None

    def survey(self, source: Source) -> Survey | None:
        """See :meth:`EpisodeArrays.survey`."""
        if source.is_file:
            return None
        splits = [split for split in _SPLITS if source.exists(split + _IDS)]
        if not splits:
            return None
        refs: list[EpisodeRef] = []
        places: dict[str, tuple[str, int, int, list[dict[str, Any]]]] = {}
        notes: list[str] = []
        for split in splits:
            spoken, more = _spoken(source, split)
            notes += more
            for start, stop in _ranges(source, split):
                key = f"{split}episode_{start:07d}"
                refs.append(EpisodeRef(key, stop - start, _paths(split, start, stop)))
                spans = [
                    {**said, "start": max(said["start"] - start, 0), "stop": min(said["stop"], stop) - start}
                    for said in spoken
                    if said["start"] < stop and said["stop"] > start
                ]
                places[key] = (split, start, stop, spans)
        return Survey(tuple(refs), provenance="sim", notes=tuple(notes), context={"places": places})

    @contextmanager
    def opened(self, source: Source, context: Mapping[str, Any]) -> Iterator[Callable[[str], Recording]]:
        """See :meth:`EpisodeArrays.opened`."""

        def recording(key: str) -> Recording:
            split, start, stop, spans = context["places"][key]
            steps = _Steps(source, _paths(split, start, stop))
            values = {"language_spans": spans, "language": list(dict.fromkeys(s["language"] for s in spans))}
            labels = (split.rstrip("/"),) if split else ()
            return Recording(steps.rows(), values if spans else {}, n_steps=stop - start, labels=labels)

        yield recording

    def layout(self, specs: Mapping[str, Spec]) -> tuple[Layout, list[str]]:
        """See the class."""
        state = self.chosen("state_keys", "", specs) or ("robot_obs",)
        action = self.chosen("action_keys", "", specs) or ("actions",)
        cameras = {path: path for path, spec in specs.items() if spec.is_rgb and spec.dtype == "uint8"}
        columns = {name: keys for name, keys in ((STATE, state), (ACTION, action)) if set(keys) & specs.keys()}
        taken = {*state, *action, *cameras}
        columns |= {path: (path,) for path in specs if path not in taken}
        return Layout(specs, columns, cameras, names=_ENTRIES), []


class _Steps:
    """The files of one episode's steps. Small members are read together, once; large ones when they are asked for."""

    def __init__(self, source: Source, paths: Sequence[str]) -> None:
        self.source, self.paths = source, paths
        self._small: dict[int, dict[str, np.ndarray]] = {}

    def rows(self) -> dict[str, Rows]:
        """Every member of the first step, over all steps."""
        if not self.source.exists(self.paths[0]):
            raise SourceError(f"{self.paths[0]} is missing", code="missing")
        with open_npz(self.source, self.paths[0]) as archive:
            return {name: _Member(self, found) for name, found in npz_arrays(archive).items()}

    def value(self, index: int, name: str, small: bool) -> np.ndarray:
        """The member ``name`` of step ``index``."""
        if small and index in self._small:
            found = self._small[index].get(name)
        else:
            path = self.paths[index]
            if not self.source.exists(path):
                raise SourceError(f"{path} is missing", code="missing")
            with open_npz(self.source, path) as archive:
                arrays = npz_arrays(archive)
                found = arrays[name].whole() if name in arrays else None
                if small:
                    self._small[index] = {
                        key: array.whole() for key, array in arrays.items() if array.info.file_size <= _SMALL
                    }
        if found is None:
            raise SourceError(f"{self.paths[index]} has no {name}", code="missing")
        return found


class _Member(Rows):
    def __init__(self, steps: _Steps, first: NpzArray) -> None:
        self.steps, self.name = steps, first.name
        self.spec = Spec.of(first.dtype, (1, *first.shape))
        self._is_small = first.info.file_size <= _SMALL

    def __len__(self) -> int:
        return len(self.steps.paths)

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See :meth:`Rows.blocks`: a step at a time."""
        for index in range(start, stop):
            value = self.steps.value(index, self.name, self._is_small)
            if Spec.of(value.dtype, (1, *value.shape)) != self.spec:
                raise SourceError(f"{self.steps.paths[index]} holds another {self.name}", code="layout_differs")
            yield value[None]


def _paths(split: str, start: int, stop: int) -> tuple[str, ...]:
    return tuple(f"{split}episode_{number:07d}.npz" for number in range(start, stop))


def _ranges(source: Source, split: str) -> list[tuple[int, int]]:
    """(first, after the last) number of each episode's steps, in order."""
    path = split + _IDS
    with source.open(path) as file:
        ids = read_npy(file, path, source.stamp(path)[0])
    if ids.ndim != 2 or ids.shape[1] != 2 or ids.dtype.kind not in "iu":
        raise SourceError(f"{path} of {source.uri} is no list of first and last steps", code="bad_episode_ends")
    ranges = sorted((int(first), int(last) + 1) for first, last in ids.tolist())
    if any(stop <= start or start < 0 or stop - start > _MOST_STEPS for start, stop in ranges):
        raise SourceError(
            f"{path} of {source.uri} holds an episode that ends before it starts", code="bad_episode_ends"
        )
    return ranges


def _spoken(source: Source, split: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The annotated spans, by numbers of steps, and notes."""
    path = f"{split}{_LANGUAGE}.json"
    if not source.exists(path):
        pickled = f"{split}{_LANGUAGE}.npy"
        why = f"{pickled} is a pickle, which is never read: write its dictionary as {path} to have its language"
        return [], [why] if source.exists(pickled) else []
    try:
        found = json_text.loads(source.fs.cat_file(source.path(path)))
        texts, tasks, spans = found["language"]["ann"], found["language"].get("task"), found["info"]["indx"]
        return [
            {
                "start": int(first),
                "stop": int(last) + 1,
                "language": str(text),
                "task": str(task) if task is not None else None,
            }
            for text, task, (first, last) in zip(texts, tasks or [None] * len(texts), spans, strict=True)
        ], []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [], [f"{path} is no annotation as CALVIN's, in JSON, and is not read: {error!r}"]
