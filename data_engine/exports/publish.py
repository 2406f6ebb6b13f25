"""Publishing a folder whole or not at all, on a local disk and on an object store."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_engine.errors import RequestError
from data_engine.fs import filesystem, is_local, resolve

__all__ = ["staged"]

_UNFINISHED = "_unfinished"


@contextmanager
def staged(uri: str, last: str) -> Iterator[Path]:
    """A local folder to write into, which becomes ``uri`` when the block ends well.

    Locally it is a hidden sibling, renamed at the end. On an object store its files are uploaded, ``last`` (relative,
    the file without which a reader finds nothing) after all others; a marker tells an upload that was killed, which the
    next one replaces. Raises ``RequestError`` where ``uri`` already holds something, or cannot be written.
    """
    uri = resolve(uri)
    if is_local(uri):
        yield from _local(Path(uri))
    else:
        yield from _remote(uri, last)


def _local(target: Path) -> Iterator[Path]:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise _occupied(str(target))
    stage = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)  # of an export that was killed
        stage.mkdir()
    except OSError as error:
        raise RequestError(
            f"cannot write {target}: {error.strerror or error}", code="bad_path", fix="name another --out"
        ) from error
    try:
        yield stage
        for path in _files(stage):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if target.exists():
            target.rmdir()
        stage.rename(target)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _remote(uri: str, last: str) -> Iterator[Path]:
    fs, root = filesystem(uri)
    marker = f"{root}/{_UNFINISHED}"
    if fs.exists(root):
        if not fs.exists(marker) and fs.find(root):
            raise _occupied(uri)
        fs.rm(root, recursive=True)
    with tempfile.TemporaryDirectory(prefix="data-engine-export-") as folder:
        stage = Path(folder)
        yield stage
        fs.pipe_file(marker, b"")
        for path in sorted(_files(stage), key=lambda path: (str(path.relative_to(stage)) == last, path)):
            fs.put_file(str(path), f"{root}/{path.relative_to(stage).as_posix()}")
        fs.rm_file(marker)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _occupied(uri: str) -> RequestError:
    return RequestError(f"{uri} is not empty", code="occupied", fix="name another --out, or remove it first")
