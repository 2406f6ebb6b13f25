"""Where bytes lie: one function makes the options for all four storage clients, which otherwise disagree.

A root is a local folder or ``s3://bucket/prefix``. Region, endpoint and credentials come from the usual ``AWS_*``
environment variables; where those name no keys, each client asks the usual chain (profile, web identity, instance
role). s3fs (fsspec), pyarrow, deltalake and polars each spell all that differently. So it is with patience: a request
that fails (500, 503, "slow down", a broken or silent connection) is made again, each time after a longer pause,
``AWS_MAX_ATTEMPTS`` (8) times in all.

Sources may also lie on a Hugging Face hub, ``hf://datasets/org/name@revision/path``; ``HF_ENDPOINT`` and ``HF_TOKEN``
are its own variables.
"""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from data_engine.errors import RequestError

__all__ = ["Options", "attempts", "filesystem", "is_local", "join", "options", "resolve", "stamp", "write_atomic"]

ATTEMPTS = 8  # of one request, where AWS_MAX_ATTEMPTS does not say otherwise
PATIENCE_S = 180  # after which no client starts another attempt
CONNECT_S, SILENCE_S = 10, 60  # to wait for a connection, and for the next bytes of an answer
BLOCK = 8 << 20  # bytes that s3fs reads ahead, and of a download that it holds at once


@dataclass(frozen=True)
class Options:
    """Storage options of one root, in each client's own words."""

    fsspec: dict[str, Any] = field(default_factory=dict)
    delta: dict[str, str] = field(default_factory=dict)
    polars: dict[str, Any] = field(default_factory=dict)
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
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    found = {name: given[name] for name in names if given.get(name)}
    chain = _Chain() if found else _chain(*(given.get(name) for name in _CHAIN))
    region = given.get("AWS_REGION") or given.get("AWS_DEFAULT_REGION") or chain.region or "us-east-1"
    endpoint = given.get("AWS_ENDPOINT_URL_S3") or given.get("AWS_ENDPOINT_URL")
    tries = attempts(given)
    s3fs: dict[str, Any] = {
        "client_kwargs": {"region_name": region},
        "config_kwargs": {
            "retries": {"mode": "standard", "max_attempts": tries},
            "connect_timeout": CONNECT_S,
            "read_timeout": SILENCE_S,
        },
        "default_block_size": BLOCK,
        "max_concurrency": 1,  # only then does s3fs read again what broke off, and it holds one block, not ten
    }
    arrow: dict[str, Any] = {"region": region, "connect_timeout": CONNECT_S, "request_timeout": SILENCE_S}
    plain = {**(found or chain.keys()), "AWS_REGION": region}
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
    rust = {"connect_timeout": f"{CONNECT_S}s", "timeout": f"{SILENCE_S}s"}
    delta = {"max_retries": str(tries - 1), "retry_timeout": f"{PATIENCE_S}s", "aws_conditional_put": "etag"}
    polars = {"max_retries": tries - 1, "retry_timeout_ms": PATIENCE_S * 1000}
    return Options(s3fs, {**plain, **rust, **delta}, {**plain, **rust, **polars}, arrow)


_CHAIN = (
    "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN",
)  # fmt: skip


@dataclass(frozen=True)
class _Chain:
    """What the usual chain says. deltalake and polars know of no profiles: they get keys that hold for now."""

    credentials: Any = None
    region: str | None = None

    def keys(self) -> dict[str, str]:
        if self.credentials is None:
            return {}
        now = self.credentials.get_frozen_credentials()  # made anew where they are about to expire
        keys = {"AWS_ACCESS_KEY_ID": now.access_key, "AWS_SECRET_ACCESS_KEY": now.secret_key}
        return keys | ({"AWS_SESSION_TOKEN": now.token} if now.token else {})


@lru_cache(maxsize=8)
def _chain(profile: str | None, *_: str | None) -> _Chain:
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError:  # comes with s3fs
        return _Chain()
    try:
        session = Session(profile=profile)
        return _Chain(session.get_credentials(), session.get_config_variable("region"))
    except BotoCoreError as error:
        raise RequestError(f"no credentials: {error}", code="no_credentials") from error


def attempts(given: Mapping[str, str] = os.environ) -> int:
    """How often a request is made before it has failed."""
    said = given.get("AWS_MAX_ATTEMPTS", "")
    return max(int(said), 1) if said.isdigit() else ATTEMPTS


def filesystem(uri: str, storage_options: Mapping[str, str] | None = None) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of ``uri`` and the path inside it.

    Listings are never cached: another process may be writing. Raises ``RequestError`` for a scheme nobody serves.
    """
    uri = resolve(uri)
    if is_local(uri):
        return fsspec.filesystem("file", auto_mkdir=False), uri
    scheme = uri.split("://", 1)[0]
    try:
        if scheme == "hf":  # lists a commit, which nobody writes to: remembered by this one object
            fs = fsspec.filesystem(scheme, endpoint=os.environ.get("HF_ENDPOINT"), skip_instance_cache=True)
        elif scheme in ("s3", "s3a"):
            from data_engine.s3 import S3Store

            own = options(uri, storage_options).fsspec
            tries = own["config_kwargs"]["retries"]["max_attempts"]
            fs = S3Store(attempts=tries, use_listings_cache=False, **own)
        else:
            fs = fsspec.filesystem(scheme, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise RequestError(f"cannot open {uri!r}: {error}", code="bad_uri") from error
    return fs, fs._strip_protocol(uri)


def stamp(fs: AbstractFileSystem, path: str) -> tuple[int, str]:
    """(size in bytes, change stamp) of one file: modification time locally, ETag or blob id on a store.

    Raises ``FileNotFoundError`` where it is not there.
    """
    info = fs.info(path)
    marks = ("ETag", "etag", "mtime", "LastModified", "blob_id")
    return int(info.get("size") or 0), str(next((info[name] for name in marks if info.get(name)), ""))


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
