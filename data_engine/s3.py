"""The S3 client: s3fs, except that what it gave up on is an outage and no odd error (:mod:`data_engine.outages`)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from s3fs import S3FileSystem

from data_engine import outages

__all__ = ["S3Store"]

_ANSWERS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, NotImplementedError, ValueError)


class S3Store(S3FileSystem):
    """s3fs. Where a request fails for good ``Outage`` is raised in place of botocore's many errors, and noted.

    ``attempts``: how often a body is read that breaks off; the requests themselves are botocore's.
    """

    def __init__(self, *args: Any, attempts: int = 5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.retries = attempts

    async def _call_s3(self, method: str, *args: Any, **kwargs: Any) -> Any:
        with _noted(refusals=method == "get_object"):
            return await super()._call_s3(method, *args, **kwargs)

    async def _cat_file(self, *args: Any, **kwargs: Any) -> bytes:
        with _noted():
            return await super()._cat_file(*args, **kwargs)

    async def _get_file(self, *args: Any, **kwargs: Any) -> None:
        with _noted():
            await super()._get_file(*args, **kwargs)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        file = super()._open(path, mode, **kwargs)
        if mode == "rb":
            fetch = file.cache.fetcher

            def fetcher(start: int, end: int) -> bytes:
                with _noted():
                    return fetch(start, end)

            file.cache.fetcher = fetcher
        return file


@contextmanager
def _noted(refusals: bool = True) -> Iterator[None]:
    """Turn what is no answer of the store into an outage. s3fs asks in another way where some requests are refused."""
    try:
        yield
    except (outages.Outage, *_ANSWERS):
        raise
    except Exception as error:
        refused = isinstance(error, PermissionError) and not refusals
        wrong = isinstance(error, OSError) and error.errno == errno.EINVAL  # such as a range of an empty file
        if refused or wrong:
            raise
        raise outages.note(error) from error
