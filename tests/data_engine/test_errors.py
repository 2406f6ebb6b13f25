from __future__ import annotations

import pickle

from data_engine.errors import DefectError, RequestError, SourceError


def test_says_one_line_with_a_fix():
    error = RequestError("no such\n   thing", code="unknown_thing", fix="name another")
    assert str(error) == "no such thing (name another)"
    assert error.as_dict() == {"code": "unknown_thing", "message": "no such thing", "fix": "name another"}


def test_exit_codes_tell_a_wrong_request_from_a_failed_run():
    assert (RequestError("x").exit_code, SourceError("x").exit_code, DefectError("x").exit_code) == (2, 2, 1)


def test_survives_the_way_between_processes():
    error = SourceError("broken", code="bad_file", fix="repair it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is SourceError
    assert again.as_dict() == error.as_dict()
