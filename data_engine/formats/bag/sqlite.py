"""ROS 2 bags stored as SQLite databases (``.db3``), versions 1 to 4 of their tables.

A database needs a local file: a remote one is fetched whole, once a process, and a note says how much that was.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections import OrderedDict
from collections.abc import Collection, Iterator
from urllib.parse import quote

from data_engine.errors import SourceError
from data_engine.formats import Source
from data_engine.formats.bag.codec import Channel
from data_engine.formats.bag.container import Bag, Message, Where
from data_engine.formats.bag.definitions import standard
from data_engine.formats.bag.ranges import CHUNK_BYTES, inflate

__all__ = ["MAGIC", "SqliteBag"]

MAGIC = b"SQLite format 3\0"
_COPIES = 4
_FAULTS = (sqlite3.Error, UnicodeError, OverflowError)  # of a damaged file; its errors may quote what is no text
_copies: OrderedDict[tuple[str, int, str], tempfile.TemporaryDirectory[str]] = OrderedDict()


class SqliteBag(Bag):
    """An open database. ``zstd``: each message is compressed by itself, as ``metadata.yaml`` says."""

    def __init__(self, source: Source, *, zstd: bool = False) -> None:
        self.channels, self.notes, self.zstd = {}, [], zstd
        self.uri = source.uri
        path = source.path() if source.is_local else self._copied(source)
        if os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal"):
            self.notes.append(
                "a write-ahead log lies beside the database and is not read: its recorder did not close it"
            )
        try:
            self._db = sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True)
            self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, CHUNK_BYTES)
            self._db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            self._db.text_factory = lambda data: data.decode("utf-8", "backslashreplace")
            self._db.execute("PRAGMA trusted_schema=OFF")
            self._open()
        except _FAULTS as error:
            self.close()
            raise self._damaged(error) from None
        except BaseException:
            self.close()
            raise

    def _copied(self, source: Source) -> str:
        size, mark = source.stamp()
        self.notes.append(f"a database needs a local copy: {size / 1e6:.1f} MB were fetched")
        key = source.uri, size, mark
        if key not in _copies:
            folder = tempfile.TemporaryDirectory(prefix="data-engine-")
            source.fs.get_file(source.root, os.path.join(folder.name, "bag.db3"))
            _copies[key] = folder
            if len(_copies) > _COPIES:
                _copies.popitem(last=False)[1].cleanup()
        _copies.move_to_end(key)
        return os.path.join(_copies[key].name, "bag.db3")

    def _open(self) -> None:
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"topics", "messages"} <= tables:
            raise SourceError(f"{self.uri} is a database without topics and messages: no ROS 2 bag", code="bad_bag")
        distro = self._distro() if "schema" in tables else None
        definitions = self._definitions() if "message_definitions" in tables else {}
        absent: set[str] = set()
        rows = self._db.execute("SELECT id, name, type, serialization_format FROM topics")
        for number, topic, kind, encoding in rows:
            if not all(isinstance(value, str) for value in (topic, kind, encoding)) or not isinstance(number, int):
                raise SourceError(f"{self.uri} lists a topic without a name or type", code="bad_bag")
            how, text = definitions.get(kind, ("", ""))
            if encoding == "cdr" and how != "ros2msg" and (found := standard(kind, distro)):
                how, text = "ros2msg", found[0]
                absent.add(found[1])
            self.channels[number] = Channel(topic, kind, encoding, how, text.encode())  # type: ignore[index]
        if absent:
            releases = ", ".join(sorted(absent))
            self.notes.append(f"the bag lacks message definitions: the standard ones of ROS 2 {releases} are taken")

    def _distro(self) -> str | None:
        columns = {row[1] for row in self._db.execute("PRAGMA table_info(schema)")}
        row = self._db.execute("SELECT ros_distro FROM schema").fetchone() if "ros_distro" in columns else None
        return row[0] if row and isinstance(row[0], str) else None

    def _definitions(self) -> dict[str, tuple[str, str]]:
        rows = self._db.execute("SELECT topic_type, encoding, encoded_message_definition FROM message_definitions")
        return {kind: (how, text) for kind, how, text in rows if isinstance(how, str) and isinstance(text, str)}

    def messages(
        self, channels: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Message]:
        """See :meth:`Bag.messages`."""
        numbers = ",".join(str(int(number)) for number in channels)
        bounds = [("timestamp >= ?", start), ("timestamp < ?", stop)]
        clauses = [f"topic_id IN ({numbers})", *(clause for clause, bound in bounds if bound is not None)]
        query = f"SELECT id, topic_id, timestamp, data FROM messages WHERE {' AND '.join(clauses)} ORDER BY id"
        try:
            for number, channel, logged, data in self._db.execute(query, [b for _, b in bounds if b is not None]):
                if channel not in channels:
                    continue
                if not isinstance(logged, int) or not isinstance(data, bytes):
                    raise SourceError(f"message {number} of {self.uri} has no time or bytes", code="bad_message")
                yield Message(channel, logged, None, (number,), self._plain(data, number))
        except _FAULTS as error:
            raise self._damaged(error) from None

    def load(self, where: Where) -> bytes:
        """See :meth:`Bag.load`."""
        try:
            row = self._db.execute("SELECT data FROM messages WHERE id = ?", where).fetchone()
        except _FAULTS as error:
            raise self._damaged(error) from None
        if row is None or not isinstance(row[0], bytes):
            raise SourceError(f"message {where[0]} of {self.uri} is gone", code="bad_message")
        return self._plain(row[0], where[0])

    def _plain(self, data: bytes, number: int) -> bytes:
        return inflate(data, "zstd", None, f"message {number}") if self.zstd else data

    def _damaged(self, error: Exception) -> SourceError:
        return SourceError(
            f"{self.uri} cannot be read as a database: {error}", code="damaged_file", fix="copy it again"
        )

    def close(self) -> None:
        """See :meth:`Bag.close`."""
        db = self.__dict__.pop("_db", None)
        if db is not None:
            db.close()
