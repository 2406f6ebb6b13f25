"""Expressions made up of what would do harm elsewhere: an answer or one line, and no file, process or address."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_engine.errors import RequestError
from flows.paging import page
from storage.lake import Lake
from storage.snapshot import Snapshot

HARM = ("open", "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "urllib.", "shutil.", "compile")
WORDS = "success task n_steps integrity 3 NULL = < AND OR NOT LIKE ILIKE IN ( ) , ; -- IS SELECT FROM * ATTACH COPY"
HARMFUL = [
    "percentile(integrity)", "'%a%'", "'/etc/passwd'", "read_csv('/etc/passwd')", "read_parquet('s3://other/x')",
    "load_extension('x')", "getenv('HOME')", "pg_read_file('/etc/passwd')", "INSTALL httpfs", "{0}", "\\x00", "é",
    "'http://169.254.169.254/'", "__import__('os')",
]  # fmt: skip
PIECES = st.sampled_from([*WORDS.split(), *HARMFUL])
seen: list[str] = []
watch = {"on": False}


def _hook(event: str, arguments: tuple) -> None:
    if watch["on"] and event.startswith(HARM):
        seen.append(f"{event} {arguments!r}"[:300])


@pytest.fixture(scope="module")
def held(curated) -> Snapshot:
    snapshot = Snapshot.take(Lake.open(str(curated)))
    for where in ("success AND integrity < 1", "percentile(integrity) < 5", "task LIKE '%a%'"):  # what is imported once
        page(snapshot, where)
    sys.addaudithook(_hook)
    watch["on"] = True
    Path(__file__).open().close()
    watch["on"] = False
    assert seen  # it does see what is opened
    return snapshot


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.lists(PIECES, min_size=1, max_size=12).map(" ".join), st.text(max_size=60)))
@example(text="task IN (SELECT task FROM read_csv('/etc/passwd'))")
@example(text="1=1; COPY episodes TO '/tmp/x'")
def test_nothing_is_opened_run_or_asked(held, text):
    seen.clear()
    watch["on"] = True
    try:
        found = page(held, text, limit=5)
        assert found.matched + found.undecided <= len(held.episodes())
    except RequestError as error:
        assert "\n" not in str(error)
    finally:
        watch["on"] = False
    assert seen == []
