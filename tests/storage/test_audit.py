from __future__ import annotations

from storage.audit import Once, audited, enter
from storage.lake import Lake

ROW = {"key_id": "k", "name": "anna", "method": "POST", "route": "/v1/x", "status": 201, "request_sha256": "s"}


def test_rows_are_kept_in_order_and_found_by_key_and_idempotency_key(lake_uri):
    lake = Lake.open(lake_uri, create=True)
    assert len(audited(lake)) == 0
    written = Once(lake)
    assert written.earlier("k", "once") is None
    enter(lake, ROW | {"request_id": "1", "status": 422, "idempotency_key": "once"})
    assert written.earlier("k", "once") is None  # what was refused may be asked again
    enter(lake, ROW | {"request_id": "2", "idempotency_key": "once", "answer": "{}"})
    enter(lake, ROW | {"request_id": "2", "idempotency_key": "once", "answer": "{}"})
    found = written.earlier("k", "once")
    assert found is not None
    assert (found["answer"], found["request_id"]) == ("{}", "2")
    assert written.earlier("other", "once") is None
    assert Once(Lake.open(lake_uri)).earlier("k", "once") == found  # as another process knows it
    assert audited(lake)["status"].to_list() == [422, 201]
