"""Rows as answers: Arrow IPC stream or Parquet where the Accept header asks for it, JSON otherwise."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from data_engine.errors import RequestError
from flows.paging import Page

__all__ = [
    "ARROW", "JSON", "PARQUET", "TABULAR", "UNCHANGED", "Rows", "columnar", "immutable", "paged", "tabular",
    "unchanged", "wanted",
]  # fmt: skip

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
_BATCH_ROWS = 16_384
_CHUNK = 1 << 20


class Rows(BaseModel):
    """A page of rows."""

    items: list[dict[str, Any]]
    matched: int = Field(description="Rows that the expression admits, on all pages.")
    undecided: int = Field(description="Rows left out because a value that the expression looks at is null.")
    next: str | None = Field(description="Where the next page begins, as `after`; null on the last.")


TABULAR: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Rows,
        "description": "Rows, as JSON, an Arrow IPC stream or Parquet by Accept. In the latter two the facts beside "
        "the rows stand in the headers X-Matched, X-Undecided and X-Next.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in (ARROW, PARQUET)},
    }
}


def wanted(request: Request) -> str:
    """The form that the Accept header likes best. Raises ``RequestError`` (406) where it takes none of the three."""
    accept = request.headers.get("accept", "*/*")
    ranked = []
    for place, part in enumerate(accept.split(",")):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            ranked.append((-float(quality), place, kind))
        except ValueError:
            continue
    for quality, _, kind in sorted(ranked):
        if quality == 0:
            continue
        if kind in (JSON, ARROW, PARQUET):
            return kind
        if kind in ("*/*", "application/*"):
            return JSON
    raise RequestError(f"cannot answer as {accept[:100]}", code="not_acceptable", fix=f"{JSON}, {ARROW} or {PARQUET}")


def columnar(request: Request) -> bool:
    """Whether the answer goes out in columns, and so has no need of pages."""
    return wanted(request) != JSON


def paged(request: Request, page: Page) -> Response:
    """A page of rows in the form asked for."""
    facts = {"matched": page.matched, "undecided": page.undecided, "next": page.next}
    return tabular(request, page.rows, facts)


def tabular(
    request: Request, rows: pl.DataFrame | pa.Table, facts: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:  # fmt: skip
    """``rows`` in the form asked for, ``facts`` beside them."""
    kind = wanted(request)
    said = {"matched": len(rows), "undecided": 0, "next": None, **(facts or {})}
    given = {"Vary": "Accept", **(headers or {})}
    if kind == JSON:
        frame = pl.DataFrame(rows) if isinstance(rows, pa.Table) else rows
        frame = frame.with_columns(pl.col(pl.Binary).bin.encode("base64"))  # polars cannot write bytes as JSON
        body = f'{{"items":{frame.write_json()},{json.dumps(said)[1:]}'
        return Response(body, headers=given, media_type=JSON)
    given |= {f"X-{name.capitalize()}": str(value) for name, value in said.items() if value is not None}
    table = rows if isinstance(rows, pa.Table) else rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    if kind == PARQUET:
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        return Response(sink.getvalue(), headers=given, media_type=PARQUET)
    return StreamingResponse(_stream(table), headers=given, media_type=ARROW)


def _stream(table: pa.Table) -> Iterator[bytes]:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
            writer.write_batch(batch)
            if sink.tell() >= _CHUNK:
                yield sink.getvalue()
                sink.seek(0)
                sink.truncate()
    yield sink.getvalue()


def immutable(request: Request, tag: str, *, formed: bool = False) -> tuple[dict[str, str], bool]:
    """Headers of what never changes under its name, and whether the asker holds it already. ``formed``: the answer has
    the form that Accept likes, and each form a tag of its own: who holds one does not hold the others.

    It must still be asked for again: a takedown withdraws what nothing else changes.
    """
    tag = f"{tag}-{wanted(request).rpartition('.')[2].rpartition('/')[2]}" if formed else tag
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache", **({"Vary": "Accept"} if formed else {})}
    held = {part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")}
    return headers, bool(held & {headers["ETag"], "*"})


def unchanged(request: Request, response: Response, tag: str) -> Response | None:
    """The answer to who holds ``tag`` already (:func:`immutable`); None otherwise, with its headers on ``response``."""
    headers, held = immutable(request, tag)
    if held:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return None


UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "It is what you hold."}}
