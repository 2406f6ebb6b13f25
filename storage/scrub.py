"""What erased episodes leave in tables and texts: rows that go with them, and words that are taken out of the rest.

An episode's id is known wherever it stands. Its source key, its operator's name and its sentences are taken out only
where no episode that stays has the same, and only as whole words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_engine.canonical import canonical_json
from storage.removals import NAMES

__all__ = ["ERASED", "Traces"]

ERASED = "[erased]"
EPISODE = re.compile(r"ep_[0-9a-f]{20}")
PARTS = ("rollout_episode_id",)  # may name a part of an episode


@dataclass(frozen=True)
class Traces:
    """``ids`` of the erased episodes, their source ``keys`` by dataset, and the ``words`` that were theirs alone."""

    ids: frozenset[str]
    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)
    words: Collection[str] = ()

    @cached_property
    def _known(self) -> re.Pattern[str] | None:
        return _whole(self.words)

    @cached_property
    def _named(self) -> dict[str, re.Pattern[str] | None]:
        return {dataset: _whole([key for key in keys if not key.isdigit()]) for dataset, keys in self.keys.items()}

    def rows(self, table: pa.Table) -> pa.Table:
        """``table`` without the rows that are about an erased episode; itself where there is none."""
        keep = None
        for name in NAMES:
            if name not in table.column_names:
                continue
            column = table.column(name)
            if name == "items":
                lists = column.to_pylist()
                found = pa.array([any(x["episode_id"] in self.ids for x in items or ()) for items in lists], pa.bool_())
            elif name in PARTS:
                found = pa.array([value is not None and self.names(value) for value in column.to_pylist()], pa.bool_())
            else:
                found = pc.fill_null(pc.is_in(column, value_set=pa.array(sorted(self.ids), pa.string())), False)
            keep = pc.invert(found) if keep is None else pc.and_(keep, pc.invert(found))
        if keep is None or pc.all(keep, min_count=0).as_py():
            return table
        return table.filter(keep)

    def texts(self, table: pa.Table, columns: Sequence[str], dataset: str | None = None) -> pa.Table:
        """``table`` with ``columns`` put through :meth:`text`, itself where that changes nothing.

        ``dataset`` names the column that says whose keys count.
        """
        owners = table.column(dataset).to_pylist() if dataset else [None] * len(table)
        changed = table
        for name in columns:
            before = table.column(name).to_pylist()
            after = [self.text(value, owner) for value, owner in zip(before, owners, strict=True)]
            if after != before:
                column = pa.array(after, table.schema.field(name).type)
                changed = changed.set_column(changed.schema.get_field_index(name), name, column)
        return changed

    def text(self, value: str | None, dataset: str | None = None) -> str | None:
        """``value`` with what it says of erased episodes taken out. JSON stays JSON; entries so named go."""
        if value is None or not self.names(value, dataset):
            return value
        try:
            document = json.loads(value)
        except ValueError:
            return self._plain(value, dataset)
        if isinstance(document, dict):  # its own entries are its form, whatever they are called
            return canonical_json({key: self._cleaned(item, dataset) for key, item in document.items()})
        return canonical_json(self._cleaned(document, dataset)) if isinstance(document, list) else ERASED

    def names(self, value: str, dataset: str | None = None) -> bool:
        """Whether ``value`` names an erased episode, by id, by words that were its own, or by key in ``dataset``."""
        if value in self.words or any(found in self.ids for found in EPISODE.findall(value)):
            return True
        if any(pattern.search(value) for pattern in self._patterns(dataset)):
            return True
        return dataset is not None and any(f'"{key}"' in value for key in self.keys.get(dataset, ()) if key.isdigit())

    def _patterns(self, dataset: str | None) -> list[re.Pattern[str]]:
        found = [self._known, self._named.get(dataset) if dataset else None]
        return [pattern for pattern in found if pattern is not None]

    def _plain(self, value: str, dataset: str | None) -> str:
        if value in self.words:
            return ERASED
        value = EPISODE.sub(lambda found: ERASED if found.group() in self.ids else found.group(), value)
        for pattern in self._patterns(dataset):
            value = pattern.sub(ERASED, value)
        return value

    def _cleaned(self, value: Any, dataset: str | None) -> Any:
        if isinstance(value, str):
            mine = dataset is not None and value in self.keys.get(dataset, ())
            return ERASED if mine else self._plain(value, dataset)
        if isinstance(value, list):
            return [self._cleaned(item, dataset) for item in value]
        if isinstance(value, dict):
            kept = {key: item for key, item in value.items() if not self.names(key, dataset)}
            return {key: self._cleaned(item, dataset) for key, item in kept.items()}
        return value


def _whole(words: Collection[str]) -> re.Pattern[str] | None:
    """A pattern of any of ``words`` standing alone, the longest first; as JSON writes them, too."""
    spelled = {spelling for word in words if word for spelling in (word, json.dumps(word)[1:-1], _json(word))}
    if not spelled:
        return None
    longest_first = sorted(spelled, key=lambda word: (-len(word), word))
    long = [re.escape(word) for word in longest_first if len(word) > 2]
    short = [re.escape(word) for word in longest_first if len(word) <= 2]  # in quotes only: sentences are full of them
    parts = [rf"(?<![A-Za-z0-9_])(?:{'|'.join(long)})(?![A-Za-z0-9_])"] if long else []
    parts += [rf"""(?<=['"])(?:{"|".join(short)})(?=['"])"""] if short else []
    return re.compile("|".join(parts))


def _json(word: str) -> str:
    return canonical_json(word)[1:-1]
