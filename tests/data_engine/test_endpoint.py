from __future__ import annotations

import pytest
from pydantic import ValidationError

from data_engine.endpoint import Endpoint


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/v1", "http://", "host/v1", "http://user:secret@host/v1", "http://host/v1?key=s",
     "http://host:99999999/v1", "http://ho st/v1"],
)  # fmt: skip
def test_only_plain_http_is_an_endpoint(url):
    with pytest.raises(ValidationError):
        Endpoint(url=url, model="m")


def test_the_address_may_be_given_whole():
    assert Endpoint(url="https://host/v1/chat/completions", model="m").url == "https://host/v1"
    assert Endpoint(url="http://[::1]:8000/v1/", model="m").url == "http://[::1]:8000/v1"


def test_a_key_is_named_and_never_given():
    with pytest.raises(ValidationError):
        Endpoint(url="http://host/v1", model="m", key_env="sk-abcdef")


def test_what_fetches_an_answer_does_not_name_it():
    one = Endpoint(url="http://host/v1", model="m")
    other = Endpoint(url="http://elsewhere/v1", model="m", key_env="KEY", concurrency=64, price_in=1, budget=3)
    assert one.identity == other.identity
    assert one.identity != Endpoint(url="http://host/v1", model="m", temperature=0.5).identity


def test_a_budget_needs_prices():
    with pytest.raises(ValidationError, match="price_in"):
        Endpoint(url="http://host/v1", model="m", budget=1.0)
