"""zarr replay buffers (Chi et al., "Diffusion Policy"): flat ``data/*`` arrays, cut by ``meta/episode_ends``.

zarr v2 and v3, as a folder or a zip, local or remote. Arrays are read by chunk; an episode never loads a whole array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from data_engine.errors import RequestError, SourceError
from data_engine.formats import EpisodeRef, Format, Probe, RawFrames, Source, SourceEpisode, Unreadable
from data_engine.formats.arrays import EPISODE_BYTES, Layout, Spec, free_name, to_rgb
from data_engine.formats.attributes import pick, plain
from data_engine.formats.rows import unstored
from data_engine.formats.zarr_store import Rows, Store, open_store
from data_engine.model import ACTION, STATE

__all__ = ["ZarrReplay"]

_STATE_KEYS = ("state", "agent_pos", "obs")
_ACTION_KEYS = ("action", "actions")
_ENDS = "meta/episode_ends"
_DEFAULT_FPS = 10.0


class ZarrReplay(Format):
    """A replay buffer.

    ``state`` (else ``agent_pos``, else ``obs``) -> ``observation.state``, ``action`` (else ``actions``) -> ``action``;
    ``state_key`` and ``action_key`` name another array, or several to join. Arrays of (n, h, w, 3) or (n, 3, h, w) in
    uint8 or a float type are cameras of the same name; float frames must be whole numbers out of 255 and become uint8
    without loss, or are refused unless ``image_rounding``; ``image_range`` says whether they span 0 to 255 or 0 to 1
    (else read off three frames). Every other array is a column by its name; ``meta`` arrays of one row an episode, and
    the store's attributes, are the episode's attributes. Episode keys are ``episode_000012``.
    """

    name: ClassVar[str] = "zarr_replay"

    state_key: str | tuple[str, ...] | None = None
    action_key: str | tuple[str, ...] | None = None
    image_range: Literal[1, 255] | None = None
    image_rounding: bool = False

    def probe(self, source: Source) -> Probe | None:
        """See :meth:`Format.probe`. A zarr group without ``meta/episode_ends`` is of another layout: None."""
        store = open_store(source)
        if store is None or not store.is_array(_ENDS):
            return None
        ends = _episode_ends(store)
        rows, notes = _arrays(store, ends)
        specs = {key: found.spec for key, found in rows.items()}
        layout, more = self._layout(specs)
        tops = {key: self._range(rows[key]) for key in layout.cameras.values() if specs[key].dtype != "uint8"}
        attributes = {name: plain(value) for name, value in store.attributes("").items()}
        rate = attributes.get("fps")
        stated = self.fps or (rate if isinstance(rate, int | float) and rate > 0 else None)
        if stated is None:
            notes.append(f"fps is not stated: {_DEFAULT_FPS:g} is assumed; give the option fps")
        starts = np.concatenate([[0], ends[:-1]])
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        spans = {f"episode_{index:06d}": pair for index, pair in enumerate(pairs)}
        path = (source.relative(source.root),)
        return Probe(
            format=self.name,
            fps=float(stated or _DEFAULT_FPS),
            features=layout.features,
            episodes=tuple(EpisodeRef(key, stop - start, path) for key, (start, stop) in spans.items()),
            embodiment=self.embodiment or "unknown",
            control_mode=self.control_mode,
            licence=self.licence,
            provenance=self.provenance,
            notes=(*notes, *more),
            context={"layout": layout, "tops": tops, "attributes": attributes, "all": len(spans), "places": spans},
        )

    def _layout(self, specs: Mapping[str, Spec]) -> tuple[Layout, list[str]]:
        state = _named("state_key", self.state_key, _STATE_KEYS, specs)
        action = _named("action_key", self.action_key, _ACTION_KEYS, specs)
        joined = {name: keys for name, keys in ((STATE, state), (ACTION, action)) if keys}
        taken = {*state, *action}
        cameras = {key: key for key, spec in specs.items() if spec.is_rgb and key not in taken}
        others = {free_name(key, joined): (key,) for key in specs if key not in taken and key not in cameras}
        notes = [
            f"no array for {name}: give the option {option}"
            for name, option in ((STATE, "state_key"), (ACTION, "action_key"))
            if name not in joined
        ]
        return Layout(specs, {**joined, **others}, cameras), notes

    def _range(self, rows: Rows) -> float:
        """The top of the range of float frames: stated, or 1 where three frames hold nothing above it, else 255."""
        if self.image_range is not None:
            return float(self.image_range)
        at = sorted({0, len(rows) // 2, len(rows) - 1})
        return 1.0 if max(float(rows.read(i, i + 1).max()) for i in at) <= 1 else 255.0

    def read(self, source: Source, probe: Probe, keys: Sequence[str]) -> Iterator[SourceEpisode | Unreadable]:
        """See :meth:`Format.read`."""
        store = open_store(source)
        if store is None:
            raise SourceError(f"{source.uri} is no zarr group any more")
        layout: Layout = probe.context["layout"]
        rows = {key: Rows(store.array(f"data/{key}"), key) for key in layout.specs}
        extras = _per_episode(store, probe.context["all"])
        for key in keys:
            index = int(key.removeprefix("episode_"))
            found: SourceEpisode | Unreadable
            try:
                extra = {name: plain(values[index]) for name, values in extras.items()}
                start, stop = probe.context["places"][key]
                found = self._episode(probe, key, rows, start, stop, extra)
            except SourceError as error:
                found = Unreadable(key, error.code, str(error))
            yield found

    def _episode(
        self, probe: Probe, key: str, rows: Mapping[str, Rows], start: int, stop: int, extra: dict[str, Any]
    ) -> SourceEpisode:
        layout: Layout = probe.context["layout"]
        if stop == start:
            raise SourceError("the episode holds no steps", code="empty_episode")
        wanted = [name for name in rows if name not in layout.cameras]
        if sum(8 * layout.specs[name].size for name in wanted) * (stop - start) > EPISODE_BYTES:
            raise SourceError(f"{key} declares more than {EPISODE_BYTES >> 30} GiB of columns", code="too_large")
        timestamp = np.arange(stop - start) / probe.fps
        steps, notes = layout.table({name: rows[name].read(start, stop) for name in wanted}, timestamp)
        cameras = {}
        for camera in layout.cameras:
            spec, top = layout.specs[camera], probe.context["tops"].get(camera, 255.0)
            frames = Frames(rows[camera], start, stop, top, self.image_rounding)
            cameras[camera] = RawFrames(frames, *spec.image_shape[:2])
            if spec.dtype != "uint8":
                how = "rounded to the nearest" if self.image_rounding else "exact, or the episode is refused"
                notes.append(f"{camera}: {spec.dtype} frames in 0 to {top:g} become uint8 ({how})")
        attributes = {**probe.context["attributes"], **extra}
        stated = {"task": self.task, "operator": self.operator, "provenance": self.provenance}
        return SourceEpisode(
            key=key,
            steps=steps,
            cameras=cameras,
            attributes=attributes,
            notes=tuple(notes),
            **{**pick(attributes), **{name: value for name, value in stated.items() if value is not None}},
        )


@dataclass(frozen=True)
class Frames:
    """The frames of one camera of one episode, decoded a block at a time whenever they are asked for."""

    rows: Rows
    start: int
    stop: int
    top: float
    rounding: bool

    def __call__(self) -> Iterator[np.ndarray]:
        """A fresh iterator of uint8 (h, w, 3). Raises ``SourceError`` for a damaged chunk and for a lossy frame."""
        return to_rgb(self.rows.blocks(self.start, self.stop), self.rows.name, top=self.top, rounding=self.rounding)


def _episode_ends(store: Store) -> np.ndarray:
    """The row after each episode's last, int64 [episodes]. Raises ``SourceError`` where they cannot be."""
    rows = Rows(store.array(_ENDS), _ENDS)
    if rows.spec.shape or not rows.spec.dtype.removeprefix("u").startswith("int") or not len(rows):
        raise SourceError(f"meta/episode_ends of {store.uri} is no list of whole numbers", code="bad_episode_ends")
    ends = rows.read(0, len(rows)).astype(np.int64)
    if ends[0] < 0 or (np.diff(ends) < 0).any():
        raise SourceError(f"meta/episode_ends of {store.uri} does not rise", code="bad_episode_ends")
    return ends


def _arrays(store: Store, ends: np.ndarray) -> tuple[dict[str, Rows], list[str]]:
    """The arrays under ``data`` and notes. Raises ``SourceError`` where their lengths differ or are too short."""
    rows: dict[str, Rows] = {}
    notes = []
    for name in store.members("data"):
        if not store.is_array(f"data/{name}"):
            notes.append(f"data/{name} is no array and is not read")
            continue
        array = store.array(f"data/{name}")
        try:
            found = Rows(array, name)
        except SourceError as error:
            raise SourceError(f"data/{name} of {store.uri}: {error.message}", code=error.code) from None
        if not array.shape:
            raise SourceError(f"data/{name} of {store.uri} is a single value", code="lengths_differ")
        if found.spec.size == 0:
            notes.append(f"{name} has no numbers a step and is left out")
            continue
        notes += unstored(name, found)
        rows[name] = found
    if not rows:
        raise SourceError(f"{store.uri} has no arrays under data", code="no_arrays")
    lengths = {name: len(found) for name, found in rows.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise SourceError(f"arrays of {store.uri} differ in length: {listed}", code="lengths_differ")
    n = next(iter(lengths.values()))
    if ends[-1] > n:
        raise SourceError(
            f"meta/episode_ends of {store.uri} ends at {ends[-1]}, the arrays at {n}", code="bad_episode_ends"
        )
    if ends[-1] < n:
        notes.append(f"{n - ends[-1]} steps after the last episode belong to none and are not read")
    return rows, notes


def _per_episode(store: Store, episodes: int) -> dict[str, np.ndarray]:
    """The ``meta`` arrays of one row an episode."""
    found = {}
    for name in store.members("meta"):
        if name == "episode_ends" or not store.is_array(f"meta/{name}"):
            continue
        array = store.array(f"meta/{name}")
        if array.shape and array.shape[0] == episodes:
            found[name] = Rows(array, f"meta/{name}").read(0, episodes)
    return found


def _named(
    option: str, given: str | tuple[str, ...] | None, usual: Sequence[str], specs: Mapping[str, Spec]
) -> tuple[str, ...]:
    """The arrays that an option names, or the first usual one that is there."""
    vectors = [key for key, spec in specs.items() if spec.is_vector]
    if given is None:
        return next(((key,) for key in usual if key in vectors), ())
    names = (given,) if isinstance(given, str) else given
    for name in names:
        if name not in vectors:
            raise RequestError(f"{option} names {name!r}", code="bad_option", fix=f"known: {', '.join(vectors)}")
    return names
