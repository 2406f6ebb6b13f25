"""What the metadata of a set say of each of its episodes, kept as Arrow columns: a tenth of the memory of dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

__all__ = ["EpisodeRows"]

_BLOCK = 256  # rows made at a time: those of a shard


class EpisodeRows(Mapping[str, dict[str, Any]]):
    """Row ``i`` of ``table`` as a plain dict under ``keys[i]``, made when it is asked for: quick in the table's order.

    It pickles as the columns that it holds, and :meth:`cut` holds no other rows.
    """

    def __init__(self, keys: Sequence[str], table: pa.Table) -> None:
        if len(keys) != table.num_rows:
            raise ValueError(f"{len(keys)} keys for {table.num_rows} rows")
        self.table = table
        self._at = {key: i for i, key in enumerate(keys)}
        self._block: tuple[int, list[dict[str, Any]]] = (-1, [])

    def __getitem__(self, key: str) -> dict[str, Any]:
        number, offset = divmod(self._at[key], _BLOCK)
        if self._block[0] != number:
            self._block = number, self.table.slice(number * _BLOCK, _BLOCK).to_pylist()
        return self._block[1][offset]

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def cut(self, keys: Sequence[str]) -> EpisodeRows:
        """The rows of ``keys`` alone, in their order. Raises ``KeyError`` for one that is not there."""
        return EpisodeRows(
            keys, self.table.take(pa.array([self._at[key] for key in keys], pa.int64())).combine_chunks()
        )

    def __reduce__(self) -> tuple[type[EpisodeRows], tuple[list[str], pa.Table]]:
        return EpisodeRows, (list(self._at), self.table)
