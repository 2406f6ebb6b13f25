from __future__ import annotations

import pytest

from data_engine.errors import RequestError
from storage import keys
from storage.check import fingerprint
from storage.lake import Lake


def test_a_key_is_found_by_its_token_and_kept_as_a_hash(lake_uri):
    lake = Lake.open(lake_uri, create=True)
    key, token = keys.make(lake, "anna", "curate")
    ring = keys.Keyring(keys.keys(lake))
    found = ring.find(token)
    assert found is not None
    assert (found.name, found.allows("read"), found.allows("curate"), found.allows("admin")) == (
        "anna", True, True, False,
    )  # fmt: skip
    last = "A" if token[-1] != "A" else "B"
    for wrong in ("", "de_", token[:-1], token[:-1] + last, token + "A", f"de_{'0' * 12}_{token[16:]}", key.sha256):
        assert ring.find(wrong) is None
    kept = b"".join(lake.read_bytes(path) for path in lake.list("tables/service"))
    assert token.encode() not in kept
    assert token[16:].encode() not in kept


def test_a_revoked_key_stays_revoked(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    assert keys.keys(lake) == []
    key, token = keys.make(lake, "anna", "read")
    keys.make(lake, "bert", "admin")
    keys.revoke(lake, "anna")
    assert keys.revoke(lake, key.id).revoked
    assert [(each.name, each.revoked) for each in keys.keys(lake)] == [("anna", True), ("bert", False)]
    assert keys.Keyring(keys.keys(lake)).find(token) is None
    with pytest.raises(RequestError, match="no key 'carl'"):
        keys.revoke(lake, "carl")


def test_a_name_that_two_keys_have_revokes_neither(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    for _ in range(2):
        keys.make(lake, "anna", "read")
    with pytest.raises(RequestError, match="2 keys are called"):
        keys.revoke(lake, "anna")


@pytest.mark.parametrize(("name", "scope"), [("", "read"), ("a\nb", "read"), ("x" * 101, "read"), ("anna", "root")])
def test_wrong_names_and_scopes_are_refused(tmp_path, name, scope):
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    with pytest.raises(RequestError):
        keys.make(lake, name, scope)
    assert keys.keys(lake) == []


def test_keys_are_no_part_of_what_makes_lakes_the_same(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    before = fingerprint(lake)
    keys.make(lake, "anna", "read")
    assert fingerprint(lake) == before


def test_a_key_that_expired_is_none(tmp_path):
    lake = Lake.open(str(tmp_path / "lake"), create=True)
    _, late = keys.make(lake, "anna", "read", days=30)
    _, over = keys.make(lake, "bert", "read", days=1e-9)
    ring = keys.Keyring(keys.keys(lake))
    assert [key.state for key in keys.keys(lake)] == ["live", "expired"]
    assert (ring.find(late) is not None, ring.find(over), len(ring)) == (True, None, 1)
    keys.revoke(lake, "anna")
    assert [key.state for key in keys.keys(lake)] == ["revoked", "expired"]
