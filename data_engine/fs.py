"""Where bytes lie: one function makes the options for all four storage clients, which otherwise disagree.

A root is a local folder or ``s3://bucket/prefix``; credentials, region and endpoint come from the usual ``AWS_*``
environment variables. s3fs (fsspec), pyarrow, deltalake and polars each spell those differently.
"""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from data_engine.errors import RequestError

__all__ = ["Options", "filesystem", "is_local", "join", "options", "resolve", "write_atomic"]


@dataclass(frozen=True)
class Options:
    """Storage options of one root, in each client's own words."""

    fsspec: dict[str, Any] = field(default_factory=dict)
    delta: dict[str, str] = field(default_factory=dict)
    polars: dict[str, str] = field(default_factory=dict)
    pyarrow: dict[str, Any] = field(default_factory=dict)


def is_local(uri: str) -> bool:
    """True for a plain path or a ``file://`` URI."""
    return "://" not in uri or uri.startswith("file://")


def resolve(uri: str) -> str:
    """``uri`` without a trailing slash; a local path absolute, ``~`` expanded. Chained fsspec URLs are refused."""
    if "::" in uri:
        raise RequestError(
            f"chained URL {uri!r} is refused", code="bad_uri", fix="name one file system, as in s3://bucket/path"
        )
    if is_local(uri):
        return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))
    return uri.rstrip("/")


def join(uri: str, *parts: str) -> str:
    """``uri`` and relative ``parts`` joined with slashes. Raises ``RequestError`` where a part would leave ``uri``."""
    tail = posixpath.normpath(posixpath.join(*parts)) if parts else "."
    if tail.startswith(("/", "..")):
        raise RequestError(f"path {'/'.join(parts)!r} leaves {uri!r}", code="bad_path")
    return uri if tail == "." else f"{uri.rstrip('/')}/{tail}"


def options(uri: str, storage_options: Mapping[str, str] | None = None) -> Options:
    """The options that each client needs for ``uri``; empty for a local folder.

    ``storage_options`` overrides the environment, in the ``AWS_*`` spelling (``AWS_ENDPOINT_URL``, ...).
    """
    if not uri.startswith(("s3://", "s3a://")):
        return Options()
    given = {**os.environ, **(storage_options or {})}
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION")
    found = {name: given[name] for name in names if given.get(name)}
    region = given.get("AWS_REGION") or given.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL")
    s3fs: dict[str, Any] = {"client_kwargs": {"region_name": region}}
    arrow: dict[str, Any] = {"region": region}
    plain = {**found, "AWS_REGION": region}
    for name, fsspec_name, arrow_name in (
        ("AWS_ACCESS_KEY_ID", "key", "access_key"),
        ("AWS_SECRET_ACCESS_KEY", "secret", "secret_key"),
        ("AWS_SESSION_TOKEN", "token", "session_token"),
    ):
        if name in found:
            s3fs[fsspec_name] = arrow[arrow_name] = found[name]
    if endpoint:
        s3fs["endpoint_url"] = endpoint
        scheme, _, host = endpoint.partition("://")
        arrow |= {"endpoint_override": host, "scheme": scheme}
        plain["AWS_ENDPOINT_URL"] = endpoint
        if scheme == "http":
            plain["AWS_ALLOW_HTTP"] = "true"
    return Options(fsspec=s3fs, delta={**plain, "aws_conditional_put": "etag"}, polars=plain, pyarrow=arrow)


def filesystem(uri: str, storage_options: Mapping[str, str] | None = None) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of ``uri`` and the path inside it.

    Listings are never cached: another process may be writing. Raises ``RequestError`` for a scheme nobody serves.
    """
    uri = resolve(uri)
    if is_local(uri):
        return fsspec.filesystem("file", auto_mkdir=False), uri
    scheme = uri.split("://", 1)[0]
    try:
        fs = fsspec.filesystem(scheme, use_listings_cache=False, **options(uri, storage_options).fsspec)
    except (ImportError, ValueError) as error:
        raise RequestError(f"cannot open {uri!r}: {error}", code="bad_uri") from error
    return fs, fs._strip_protocol(uri)


def write_atomic(fs: AbstractFileSystem, path: str, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the whole of it or nothing, also after a crash.

    Locally: a temporary file in the same folder, flushed to disk, then renamed. On an object store one put is atomic.
    """
    if "file" not in fs.protocol:
        fs.pipe_file(path, data)
        return
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
