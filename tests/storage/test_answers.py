from __future__ import annotations

import pytest

from data_engine.errors import RequestError
from storage.answers import answer_path, get_answer, list_answers, put_answer
from storage.check import check
from storage.lake import Lake

KEY = "0a" * 32


def test_an_answer_is_kept_and_read_back(lake_uri: str) -> None:
    lake = Lake.open(lake_uri, create=True)
    assert get_answer(lake, KEY) is None and list_answers(lake) == []
    put_answer(lake, KEY, {"reply": {"choices": [1.5, None, "ü"]}})
    assert get_answer(lake, KEY)["reply"] == {"choices": [1.5, None, "ü"]}
    assert list_answers(lake) == [KEY]
    assert check(lake) == []


def test_a_changed_byte_is_no_answer(lake_uri: str) -> None:
    lake = Lake.open(lake_uri, create=True)
    put_answer(lake, KEY, {"reply": "yes"})
    lake.write_bytes(answer_path(KEY), lake.read_bytes(answer_path(KEY)).replace(b"yes", b"yea"))
    assert get_answer(lake, KEY) is None
    assert [problem["path"] for problem in check(lake)] == [answer_path(KEY)]
    assert check(lake, deep=False) == []


@pytest.mark.parametrize("key", ["", "../" * 20, "0a" * 31, "0A" * 32, "0a" * 32 + "\n"])
def test_no_key_leads_elsewhere(lake_uri: str, key: str) -> None:
    with pytest.raises(RequestError):
        get_answer(Lake.open(lake_uri, create=True), key)
