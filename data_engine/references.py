"""References: videos that stay where they are, because copying tens of terabytes would be folly.

A lake names every video ``videos/<sha256>.mp4``. Where it does not hold those bytes, ``references/<sha256>.mp4.json``
says where they lie and how they were when they were hashed. So episodes and mixtures read the same whether a video was
copied or referred to, and a copy that is made later takes the reference's place.

A file that is no longer what it was is an error and never another's frames. A remote file is fetched into the cache and
hashed there; a local one is held against its size and time, and hashed where those differ or the reference came with
somebody else's mixture.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec import AbstractFileSystem
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from data_engine.cache import Cache
from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.fs import filesystem, is_local, join, stamp

__all__ = ["REFERENCES", "VIDEOS", "Reference", "as_evidence", "blob_of", "find", "pointer", "refuse"]

VIDEOS = "videos"
REFERENCES = "references"
SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf")
_MOST_BYTES = 1 << 16  # of a reference itself


class Reference(BaseModel):
    """Where a video lies: ``uri`` is an absolute local path or on an object store.

    ``bytes``: its size. ``stamp``: its modification time locally, its ETag elsewhere, as it was when it was hashed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    bytes: int = Field(gt=0)
    stamp: str

    @field_validator("uri")
    @classmethod
    def _known_place(cls, uri: str) -> str:
        scheme, separator, rest = uri.partition("://")
        parts = (rest if separator else uri).split("/")
        if "::" in uri or ".." in parts or not (scheme in SCHEMES if separator else os.path.isabs(uri)):
            raise ValueError(f"{uri!r} is neither an absolute path nor on {', '.join(SCHEMES[:3])} ...")
        return uri

    @property
    def is_local(self) -> bool:
        """Whether it is a file of this machine."""
        return is_local(self.uri)

    def local(
        self, sha256: str, cache: Cache, *, trusted: bool, storage_options: Mapping[str, str] | None = None
    ) -> Path:
        """A local file with the bytes that hash to ``sha256``: itself, or a copy in ``cache``.

        ``trusted``: the reference is of a lake of one's own, and equal size and stamp stand for equal bytes. Otherwise
        a local file is hashed once a machine, and again after it was touched. Raises ``SourceError`` where it is gone,
        has changed or cannot be reached.
        """
        try:
            if not self.is_local:
                fs, path = filesystem(self.uri, storage_options)
                return cache.copy(fs, path, sha256, size=self.bytes)
            size, mark = self._now()
            if size != self.bytes:
                raise self._changed(f"{size} bytes, {self.bytes} then")
            if not (trusted and mark == self.stamp):
                cache.verify(Path(self.uri), sha256)
            return Path(self.uri)
        except FileNotFoundError as error:
            raise self._gone() from error
        except SourceError as error:
            if error.code == "missing_file":
                raise self._gone() from error
            raise self._changed("its bytes are others") if error.code == "changed_file" else error from error
        except EngineError:
            raise
        except Exception as error:  # each store has its own: no credentials, no route, no permission
            raise SourceError(f"cannot read {self.uri}: {error}", code="unreadable_file") from error

    def drift(self, sha256: str, *, deep: bool) -> str | None:
        """What is wrong with the file now, in words; None where it is what was ingested.

        ``deep`` reads every byte. Without it another stamp counts as a change, though it may be a mere touch.
        """
        try:
            size, mark = self._now()
            if size != self.bytes:
                return f"{size} bytes, {self.bytes} were ingested"
            if deep:
                fs, path = filesystem(self.uri)
                with fs.open(path, "rb", block_size=8 << 20) as file:
                    same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
                return None if same else "its bytes are not the ones that were ingested"
            if mark != self.stamp:
                return f"touched or changed: {'time' if self.is_local else 'ETag'} {mark}, {self.stamp} when ingested"
            return None
        except FileNotFoundError:
            return "missing"
        except Exception as error:  # each store has its own
            return f"cannot be read: {error}"

    def _now(self) -> tuple[int, str]:
        fs, path = filesystem(self.uri)
        if self.is_local and os.path.exists(path) and not os.path.isfile(path):
            raise FileNotFoundError(path)  # a folder, or a pipe that would never end
        return stamp(fs, path)

    def _gone(self) -> SourceError:
        return SourceError(f"{self.uri} is gone; it was ingested by reference", code="missing_file")

    def _changed(self, what: str) -> SourceError:
        return SourceError(
            f"{self.uri} has changed since it was ingested by reference: {what}",
            code="changed_file",
            fix="put it back, or ingest it again",
        )


def pointer(blob: str) -> str:
    """The path in the lake of the reference that stands for ``blob``."""
    return f"{REFERENCES}/{PurePosixPath(blob).name}.json"


def blob_of(path: str) -> str:
    """The way back from :func:`pointer`."""
    return f"{VIDEOS}/{PurePosixPath(path).name.removesuffix('.json')}"


def find(fs: AbstractFileSystem, root: str, blob: str) -> Reference | None:
    """The reference that stands for ``blob`` in the lake at ``root`` of ``fs``; None where there is none.

    Raises ``SourceError`` for one that is damaged or names a place that no reference may name.
    """
    if PurePosixPath(blob).parent != PurePosixPath(VIDEOS):
        return None
    try:
        data = fs.cat_file(join(root, pointer(blob)), end=_MOST_BYTES)
    except FileNotFoundError:
        return None
    try:
        return Reference.model_validate_json(data)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise SourceError(f"{pointer(blob)} is no reference: {why}", code="bad_reference") from error


def refuse(uri: str) -> None:
    """Raise ``RequestError`` where files at ``uri`` cannot be referred to."""
    try:
        Reference(uri=uri, bytes=1, stamp="")
    except ValidationError as error:
        raise RequestError(
            f"{uri} cannot be ingested by reference: {error.errors()[0]['msg']}",
            code="bad_uri",
            fix="leave --by-reference out",
        ) from error


def as_evidence(reference: Reference) -> dict[str, Any]:
    """What a receipt says of it."""
    return {"uri": reference.uri, "mtime" if reference.is_local else "etag": reference.stamp}
