"""Exactly-once commits to a Delta table, by any number of racing writers.

A transaction is named by an application id. deltalake itself accepts a repeated id in silence, and answers a concurrent
repeat with the same ``CommitFailedError`` as a writer that ran out of retries; so the id is looked up before every
attempt, the first as well as each one after an error, and only an id that is not there is committed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from data_engine.errors import EngineError, RequestError, SourceError
from data_engine.fs import attempts, is_local
from data_engine.outages import is_outage

__all__ = ["commit", "create", "open_table", "schema_of", "swap", "turn"]

CONFIGURATION = {
    "delta.checkpointInterval": "10",
    "delta.enableExpiredLogCleanup": "false",  # mixtures and selections record versions: they stay readable
}
RETRIES = 1000  # inside deltalake, per attempt: at its default of 15, eight writers were measured to lose commits
ATTEMPTS = 20

_COLOUR = re.compile(r"\x1b\[\d*m")  # deltalake colours its errors

T = TypeVar("T")


def _asked(uri: str, ask: Callable[[], T]) -> T:
    """What ``ask`` returns. deltalake makes a request again that failed, not one whose answer broke off: this does.

    Raises ``EngineError`` with code ``unreachable`` where the store does not answer.
    """
    if is_local(uri):
        return ask()
    again = Retrying(
        stop=stop_after_attempt(attempts()),
        wait=wait_random_exponential(multiplier=0.1, max=10),
        retry=retry_if_exception(is_outage),
        reraise=True,
    )
    try:
        return again(ask)
    except (DeltaError, OSError) as error:
        if not is_outage(error):
            raise
        raise _unreachable(uri, error) from error


def _unreachable(uri: str, error: Exception) -> EngineError:
    why = _COLOUR.sub("", " ".join(str(error).split()))[:300]
    return EngineError(
        f"a store did not answer: table {uri}: {why}", code="unreachable", fix="run it again: it goes on"
    )


def open_table(uri: str, options: Mapping[str, str], version: int | None = None) -> DeltaTable | None:
    """The Delta table at ``uri``, at its newest version or at ``version``; None where there is none.

    Raises ``RequestError`` for a version that the table does not have, ``SourceError`` where its log cannot be read,
    ``EngineError`` where its store does not answer.
    """
    try:
        return _asked(uri, lambda: DeltaTable(uri, version=version, storage_options=dict(options)))
    except TableNotFoundError:
        return None
    except DeltaError as error:
        if version is None:
            raise SourceError(f"the log of table {uri} cannot be read: {error}", code="damaged") from error
        raise RequestError(f"{uri} has no version {version}", code="no_version") from error


def create(uri: str, options: Mapping[str, str], schema: pa.Schema) -> None:
    """Create the table at ``uri``. Nothing happens where it exists with the same schema, also if another just made it.

    Raises ``RequestError`` where it has another schema, or for a type that Delta would change or cut.
    """
    for field in schema:
        _refuse(field.name, field.type)
    table = _asked(uri, lambda: _opened_or_made(uri, options, schema))
    difference = _difference(schema_of(table), schema)
    if difference:
        raise RequestError(f"table {uri} exists with another schema: {difference}", code="schema_conflict")


def _opened_or_made(uri: str, options: Mapping[str, str], schema: pa.Schema) -> DeltaTable:
    table = open_table(uri, options)
    if table is not None:
        return table
    try:
        return DeltaTable.create(
            uri,
            schema,
            mode="error",
            configuration=CONFIGURATION,
            storage_options=dict(options),
            commit_properties=CommitProperties(max_commit_retries=0),  # a retry would make it once more, as version 1
        )
    except DeltaError:
        table = open_table(uri, options)
        if table is None:
            raise
        return table


def commit(
    uri: str,
    options: Mapping[str, str],
    files: Sequence[tuple[str, int, int]],
    *,
    transaction: str,
    metadata: Mapping[str, Any],
    table: DeltaTable | None = None,
    after: tuple[str, int] | None = None,
) -> int:
    """Add ``files`` (path inside the table, bytes, rows) in one Delta transaction and return the table's version.

    A ``transaction`` that the table has seen adds nothing. ``table`` may be passed where it was opened just now and has
    not seen it. ``after`` is a turn (see :func:`turn`) and its number as the caller knows it. Raises ``EngineError``
    where the table stays contended through all attempts (nothing was added then), where its store does not answer (the
    same transaction again finds out), and with code ``overtaken`` where another commit has taken that turn.
    """
    adds: list[AddAction | RemoveAction] = [
        AddAction(path, size, {}, int(time.time() * 1000), True, json.dumps({"numRecords": rows}))
        for path, size, rows in files
    ]
    said = [Transaction(transaction, 1), *([Transaction(after[0], after[1] + 1)] if after else [])]
    properties = CommitProperties(custom_metadata=dict(metadata), max_commit_retries=RETRIES, app_transactions=said)
    error: Exception | None = None
    outages = 0
    for attempt in range(ATTEMPTS):
        if table is None:
            table = open_table(uri, options)
            if table is None:
                raise EngineError(f"no table at {uri}", code="no_table")
            if table.transaction_version(transaction) is not None:
                return table.version()
        if after is not None and turn(table, after[0]) != after[1]:
            raise EngineError(
                f"{after[0]} was changed meanwhile; nothing was published", code="overtaken", fix="run it again"
            )
        try:
            table.create_write_transaction(adds, "append", table.schema(), commit_properties=properties)
            table.update_incremental()
            return table.version()
        except (DeltaError, OSError) as failed:
            if not isinstance(failed, CommitFailedError):  # it may have gone in all the same
                if not is_outage(failed):
                    raise
                outages += 1
                if outages >= attempts():
                    raise _unreachable(uri, failed) from failed
            error, table = failed, None
            time.sleep(min(0.01 * 2**attempt, 1.0))
    raise EngineError(f"could not commit to {uri}: {error}", code="commit_failed") from error


def turn(table: DeltaTable, name: str) -> int:
    """How many commits have taken turns under ``name``: of two that come after the same one, one only goes in."""
    return table.transaction_version(name) or 0


def swap(
    uri: str,
    options: Mapping[str, str],
    table: DeltaTable,
    removed: Sequence[tuple[str, int]],
    added: Sequence[tuple[str, int, int]],
    metadata: Mapping[str, Any],
) -> bool:
    """Replace files of ``table`` (path, bytes) by others (path, bytes, rows) in one transaction; whether it went in.

    False where another writer changed those files meanwhile, and where the store did not answer, with which it may have
    gone in all the same: look again at what is there. Appends are no hindrance.
    """
    now = int(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = [RemoveAction(path, True, now, size, {}) for path, size in removed]
    actions += [AddAction(path, size, {}, now, True, json.dumps({"numRecords": rows})) for path, size, rows in added]
    properties = CommitProperties(custom_metadata=dict(metadata), max_commit_retries=RETRIES)
    try:
        table.create_write_transaction(actions, "append", table.schema(), commit_properties=properties)
    except (DeltaError, OSError) as failed:
        if not isinstance(failed, CommitFailedError) and not is_outage(failed):
            raise
        return False
    return True


def schema_of(table: DeltaTable) -> pa.Schema:
    """The table's Arrow schema, list items named as pyarrow names them."""
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in pa.schema(table.schema().to_arrow())])


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in kind])
    return kind


def _difference(there: pa.Schema, wanted: pa.Schema) -> str | None:
    wanted = pa.schema([pa.field(field.name, _plain(field.type)) for field in wanted])
    for name in dict.fromkeys([*there.names, *wanted.names]):
        old = there.field(name).type if name in there.names else "absent"
        new = wanted.field(name).type if name in wanted.names else "absent"
        if old != new:
            return f"{name} is {old} there, {new} here"
    return None if there.names == wanted.names else "the columns are in another order"


def _refuse(name: str, kind: pa.DataType) -> None:
    if pa.types.is_list(kind):
        return _refuse(name, kind.value_type)
    if pa.types.is_struct(kind):
        for field in kind:
            _refuse(f"{name}.{field.name}", field.type)
        return None
    if not (kind in PLAIN or pa.types.is_decimal128(kind)):
        raise RequestError(
            f"column {name!r} of type {kind} cannot be kept unchanged in a Delta table",
            code="bad_type",
            fix=f"cast it first; known: {', '.join(map(str, PLAIN))}, decimal128, lists and structs of them",
        )
    return None


PLAIN = (
    pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.binary(),
    pa.date32(), pa.timestamp("us", tz="UTC"),
)  # fmt: skip
