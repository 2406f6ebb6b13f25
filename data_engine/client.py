"""The service from Python: rows as Arrow tables, mixtures ready for a loader. Needs nothing but the light wheel.

    from data_engine.client import Client

    lake = Client("http://127.0.0.1:8321", key)            # or DATA_ENGINE_URL and DATA_ENGINE_KEY
    rows = lake.episodes("success AND percentile(composite) > 50", columns=["episode_id", "task", "composite"])
    lake.select("good", where="success AND percentile(composite) > 50")
    frozen = lake.freeze("training", ["good"])
    demos = lake.mixture(frozen["mixture_id"])             # a data_engine.mixture.Mixture, its files verified

Tables are ``pyarrow.Table``; ``polars.from_arrow(table)`` takes one over without a copy. What fails raises
``EngineError`` (``RequestError`` where the request was wrong) with the service's code and fix.
"""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_engine import mixture as mixtures
from data_engine.cache import sha256_of
from data_engine.errors import EngineError, RequestError, SourceError

__all__ = ["Client"]

_ARROW = "application/vnd.apache.arrow.stream"
_ATTEMPTS = 5
_CHUNK = 1 << 20
_MOST_PROBLEM = 1 << 20  # bytes of an answer that says what is wrong
_OVER = ("completed", "failed", "cancelled")


class Client:
    """One service. Safe to use from several threads; pickles without a connection."""

    def __init__(
        self, url: str | None = None, key: str | None = None, *, timeout_s: float = 60.0,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        """``url``: as in ``http://robots.lab:8321``, default ``DATA_ENGINE_URL``; ``key``: default ``DATA_ENGINE_KEY``.

        ``timeout_s``: for each answer to begin and to go on. ``cache_dir``: where mixtures are kept, default
        ``DATA_ENGINE_CACHE``, else ``~/.cache/data-engine``. Raises ``RequestError`` for an address that is none.
        """
        address = url or os.environ.get("DATA_ENGINE_URL") or "http://127.0.0.1:8321"
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise RequestError(f"{address!r} is no address of a service", code="bad_uri", fix="http://HOST:PORT")
        self.url = address.rstrip("/").removesuffix("/v1")
        self.timeout_s = timeout_s
        self.cache_dir = Path(
            cache_dir or os.environ.get("DATA_ENGINE_CACHE") or Path.home() / ".cache" / "data-engine"
        )  # fmt: skip
        self._key = key or os.environ.get("DATA_ENGINE_KEY")

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    # reading

    def episodes(
        self, where: str | None = None, *, columns: Sequence[str] | None = None, order_by: Sequence[str] = (),
        limit: int | None = None,
    ) -> pa.Table:  # fmt: skip
        """The episodes that ``where`` admits, at most ``limit``; ``columns`` and ``order_by`` may name scores."""
        return self._rows("/episodes", where=where, columns=columns, order_by=order_by, limit=limit)

    def table(
        self, name: str, where: str | None = None, *, columns: Sequence[str] | None = None,
        order_by: Sequence[str] = (), limit: int | None = None,
    ) -> pa.Table:  # fmt: skip
        """Rows of ``scores``, ``annotations``, ``preferences``, ``evaluations``, ``quarantine``, ``datasets``,
        ``receipts``, ``selections``, ``mixtures`` or ``runs``; the last five take no parameters.
        """
        return self._rows(f"/{_part(name)}", where=where, columns=columns, order_by=order_by, limit=limit)

    def episode(self, episode_id: str) -> dict[str, Any]:
        """One episode with its scores, annotations and lineage."""
        return self._json("GET", f"/episodes/{_part(episode_id)}")

    def steps(self, episode_id: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The steps of an episode, in order."""
        return self._rows(f"/episodes/{_part(episode_id)}/steps", columns=columns)

    def video(self, episode_id: str, camera: str, path: str | os.PathLike[str]) -> tuple[float, float]:
        """Write the video file that an episode lies in to ``path``; the seconds where the episode begins and ends."""
        with self._open("GET", f"/episodes/{_part(episode_id)}/video/{_part(camera)}") as answer:
            _write(answer, Path(path))
            return float(answer.headers["X-Start-S"]), float(answer.headers["X-End-S"])

    def frame(self, episode_id: str, camera: str, at: float = 0.0, width: int = 0) -> bytes:
        """The frame nearest ``at`` seconds, as a JPEG; ``width`` 0 is the video's own."""
        path = f"/episodes/{_part(episode_id)}/frame/{_part(camera)}?{_query(at=at, width=width)}"
        with self._open("GET", path) as answer:
            return answer.read()

    def search(
        self, episode_id: str | None = None, *, steps: tuple[int, int] | None = None, camera: str | None = None,
        text: str | None = None, image: str | os.PathLike[str] | bytes | None = None,
        vector: Sequence[float] | None = None, space: str = "trajectory", k: int = 10, where: str | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """The ``k`` episodes nearest to one, or to a text, a picture (its file, or the file's bytes) or a vector; the
        nearest first, with ``similarity``.

        With ``steps`` (first, one past the last) of the episode, as ``camera`` shows them: the parts of other episodes
        nearest to that part, with ``cost``. Texts, pictures and parts want a ``space`` of frames.
        """
        start, stop = (None, None) if steps is None else (int(step) for step in steps)
        if image is not None:
            image = base64.b64encode(image if isinstance(image, bytes) else Path(image).read_bytes()).decode()
        numbers = None if vector is None else [float(number) for number in vector]
        body = {"episode": episode_id, "start": start, "stop": stop, "camera": camera, "text": text, "image": image,
                "vector": numbers, "space": space, "k": k, "where": where}  # fmt: skip
        return list(self._json("POST", "/search", body)["items"])

    def distribution(self, score: str, where: str | None = None, bins: int = 50) -> dict[str, Any]:
        """A histogram and quantiles of a score."""
        return self._json("GET", f"/scores/{_part(score)}/distribution?{_query(where=where, bins=bins)}")

    def selection(self, name: str) -> pa.Table:
        """The rows of a selection, the chosen first, in order."""
        return self._rows(f"/selections/{_part(name)}")

    def compare(self, first: str, second: str) -> dict[str, Any]:
        """How far policies trained on mixture ``first`` succeed more often than those trained on ``second``."""
        return self._json("GET", f"/evaluations/compare?{_query(first=first, second=second)}")

    # writing

    def select(
        self, name: str, *, where: str | None = None, method: str = "filter", budget: int | float | None = None,
        episodes: Sequence[str] | None = None, dataset: str | None = None, seed: int = 0, **params: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Choose episodes and store the choice; methods that compare vectors go through :meth:`run`."""
        recipe = {"name": name, "method": method, "where": where, "budget": budget, "seed": seed, "params": params}
        chosen = None if episodes is None else list(episodes)
        return self._json("POST", "/selections", {"recipe": recipe, "episodes": chosen, "dataset": dataset})

    def freeze(
        self, name: str, selections: Sequence[str] | Mapping[str, float], **settings: Any
    ) -> dict[str, Any]:  # fmt: skip
        """Freeze a mixture of stored selections, which may have weights; ``settings`` as in a recipe's ``mixture``."""
        weights = selections if isinstance(selections, Mapping) else dict.fromkeys(selections, 1.0)
        entries = [{"selection": each, "weight": weight} for each, weight in weights.items()]
        return self._json("POST", "/mixtures", {"name": name, "entries": entries, **settings})

    def annotate(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Enter annotations: ``episode_id``, ``kind``, and ``start``, ``stop``, ``label``, ``text``, ``value``, ..."""
        return self._json("POST", "/annotations", {"items": [dict(item) for item in items]})

    def prefer(self, items: Sequence[Mapping[str, Any]], collection: str = "default") -> dict[str, Any]:
        """Enter preferences: ``first``, ``second`` and ``verdict``; or ``ranking``; or ``winner`` and ``items``."""
        return self._json("POST", "/preferences", {"collection": collection, "items": [dict(item) for item in items]})

    def evaluated(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Enter rollouts: ``checkpoint``, ``mixture_id``, ``task``, ``initial_condition``, ``seed``, ``success``, …"""
        return self._json("POST", "/evaluations", {"items": [dict(item) for item in items]})

    # long work

    def run(self, verb: str, **work: Any) -> dict[str, Any]:
        """Start long work: curate, ingest, score, label, embed, select, mix or export."""
        return self._json("POST", "/runs", {"verb": verb, **work})

    def wait(self, run_id: str, *, every_s: float = 0.5, limit_s: float | None = None) -> dict[str, Any]:
        """The run once it has ended. Raises ``EngineError`` where it failed, was cancelled, or outlasts ``limit_s``."""
        end = None if limit_s is None else time.monotonic() + limit_s
        while (facts := self._json("GET", f"/runs/{_part(run_id)}"))["state"] not in _OVER:
            if end is not None and time.monotonic() > end:
                raise EngineError(f"run {run_id} has not ended after {limit_s:g} s", code="not_ended")
            time.sleep(every_s)
        if facts["state"] != "completed":
            error = facts["error"] or {}
            raise EngineError(error.get("message") or facts["state"], code=error.get("code"), fix=error.get("fix"))
        return facts

    def cancel(self, run_id: str) -> dict[str, Any]:
        """Ask a run to end."""
        return self._json("POST", f"/runs/{_part(run_id)}/cancel", {})

    # mixtures

    def mixture(self, name: str) -> mixtures.Mixture:
        """A frozen mixture by id, prefix or name, its files fetched into the cache and held against their hashes.

        What is there already is not fetched again. Raises ``SourceError`` where a file is not what was frozen.
        """
        document = self._json("GET", f"/mixtures/{_part(name)}")
        mixture_id = str(document["mixture_id"])
        if not mixture_id.isalnum():
            raise SourceError(f"{mixture_id!r} is no id of a mixture", code="bad_answer")
        root = self.cache_dir / "served" / urllib.parse.quote(self.url, safe="")
        own = root / "mixtures" / mixture_id
        for file in ("files.parquet", "episodes.parquet", "mixture.json"):
            self._fetch(mixture_id, file, own / file)
        for row in pq.read_table(own / "files.parquet").to_pylist():
            place = root / row["path"]
            if not place.resolve().is_relative_to(root.resolve()):
                raise SourceError(f"{row['path']!r} leads out of the mixture", code="bad_answer")
            if not (place.is_file() and place.stat().st_size == row["bytes"]):
                self._fetch(mixture_id, row["path"], place, row["sha256"])
        return mixtures.open(str(own), cache_dir=self.cache_dir)

    def _fetch(self, mixture_id: str, file: str, place: Path, sha256: str | None = None) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        staged = place.with_name(f".{uuid.uuid4().hex}")
        try:
            with self._open("GET", f"/mixtures/{mixture_id}/files/{urllib.parse.quote(file)}") as answer:
                _write(answer, staged)
            if sha256 is not None and sha256_of(staged) != sha256:
                raise SourceError(f"{file} is not what was frozen", code="changed_file", fix="fetch it again")
            os.replace(staged, place)
        finally:
            staged.unlink(missing_ok=True)

    # the wire

    def _rows(self, path: str, **parameters: Any) -> pa.Table:
        question = _query(**parameters)
        with self._open("GET", f"{path}?{question}" if question else path, accept=_ARROW) as answer:
            try:
                return pa.ipc.open_stream(answer).read_all()
            except (pa.ArrowException, OSError, HTTPException) as error:
                raise EngineError(f"the answer broke off: {error}", code="unreachable", fix="ask again") from error

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        with self._open(method, path, None if body is None else json.dumps(body, allow_nan=False).encode()) as answer:
            return dict(json.load(answer))

    def _open(self, method: str, path: str, body: bytes | None = None, accept: str = "*/*") -> Any:
        """The open answer. Asked again where nothing was answered or too much asked: writes carry a key of their own,
        so that what was done, and not heard of, is not done twice.
        """
        headers = {"Accept": accept, **({"Authorization": f"Bearer {self._key}"} if self._key else {})}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        request = urllib.request.Request(f"{self.url}/v1{path}", body, headers, method=method)
        for attempt in range(_ATTEMPTS):
            try:
                return _opener.open(request, timeout=self.timeout_s)
            except urllib.error.HTTPError as error:
                again = error.code in (429, 503) and attempt < _ATTEMPTS - 1
                problem = None if again else _problem(error)
                error.close()
                if problem is not None:
                    raise problem from None
            except (OSError, HTTPException) as error:
                if attempt == _ATTEMPTS - 1:
                    why = getattr(error, "reason", error)
                    fix = "is `data-engine serve` running there?"
                    raise EngineError(f"{self.url} does not answer: {why}", code="unreachable", fix=fix) from error
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The service redirects nowhere: whoever does would be handed the key."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def _problem(error: urllib.error.HTTPError) -> EngineError:
    try:
        said = json.loads(error.read(_MOST_PROBLEM))
        message, code, fix = str(said["detail"]), str(said["code"]), said.get("fix")
    except (ValueError, KeyError, TypeError, OSError):
        return EngineError(f"the service answered {error.code} {error.reason}", code="bad_answer")
    kind = RequestError if error.code < 500 else EngineError
    return kind(message, code=code, fix=fix)


def _pieces(source: IO[bytes]) -> Iterator[bytes]:
    while piece := source.read(_CHUNK):
        yield piece


def _write(source: Any, place: Path) -> None:
    told = source.headers.get("Content-Length")
    size = 0
    with place.open("wb") as file:
        for piece in _pieces(source):
            size += file.write(piece)
    if told is not None and size != int(told):
        raise EngineError(f"the answer broke off after {size} of {told} bytes", code="unreachable", fix="ask again")


def _part(text: str) -> str:
    """A segment of a path. Raises ``RequestError`` for one that would be another path."""
    if text in ("", ".", ".."):
        raise RequestError(f"{text!r} names nothing", code="bad_name")
    return urllib.parse.quote(text, safe="")


def _query(**parameters: Any) -> str:
    plain = {name: ",".join(value) if isinstance(value, list | tuple) else value for name, value in parameters.items()}
    return urllib.parse.urlencode({name: value for name, value in plain.items() if value not in (None, "")})
