from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.api.commands import answer, call, refusal


def test_keys_are_made_listed_and_revoked(capsys, tmp_path):
    lake = ("--lake", tmp_path / "lake")
    made = answer(capsys, "keys", "make", "anna", "--scope", "curate", *lake)
    code, token, _ = call(capsys, "keys", "make", "bert", *lake)
    assert (code, bool(re.fullmatch(r"de_[0-9a-f]{12}_[\w-]{43}\n", token))) == (0, True)
    listed = answer(capsys, "keys", "list", *lake)
    assert [(key["name"], key["scope"], key["state"]) for key in listed["items"]] == [
        ("anna", "curate", "live"), ("bert", "read", "live"),
    ]  # fmt: skip
    assert made["key"][20:] not in json.dumps(listed)
    answer(capsys, "keys", "revoke", made["key_id"], *lake)
    assert [key["state"] for key in answer(capsys, "keys", "list", *lake)["items"]] == ["revoked", "live"]
    assert "no key 'carl'" in refusal(capsys, "keys", "revoke", "carl", *lake)


def test_a_key_that_expires_says_when_and_a_wrong_time_is_refused(capsys, tmp_path):
    lake = ("--lake", tmp_path / "lake")
    made = answer(capsys, "keys", "make", "anna", "--expires", "30d", *lake)
    assert made["expires_at"]
    assert [key["state"] for key in answer(capsys, "keys", "list", *lake)["items"]] == ["live"]
    for wrong in ("soon", "-1d", "0s", "30", "999999999d"):
        assert "error: " in refusal(capsys, "keys", "make", "bert", "--expires", wrong, *lake)


def test_it_does_not_start_open(capsys, tmp_path):
    lake = ("--lake", tmp_path / "lake")
    assert "no lake" in refusal(capsys, "serve", *lake)
    answer(capsys, "keys", "revoke", answer(capsys, "keys", "make", "anna", *lake)["key_id"], *lake)
    for host in ("0.0.0.0", "::", "10.0.0.1", "robots.lab"):
        assert "not served without keys" in refusal(capsys, "serve", "--host", host, "--no-keys", *lake)
        assert "the lake has no key" in refusal(capsys, "serve", "--host", host, *lake)
    assert "the lake has no key" in refusal(capsys, "serve", "--keys", *lake)


@pytest.mark.parametrize("keys", [True, False])
def test_it_serves_until_interrupted(capsys, tmp_path, keys):
    lake = str(tmp_path / "lake")
    token = answer(capsys, "keys", "make", "anna", "--lake", lake)["key"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--lake", lake, "--no-schedules",
               *(["--keys"] if keys else [])]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            line = server.stderr.readline()
            url = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
            assert url, line
            request = urllib.request.Request(f"{url[0]}/datasets", headers={"Authorization": f"Bearer {token}"})
            while True:
                try:
                    with urllib.request.urlopen(request, timeout=30) as said:
                        assert json.load(said)["items"] == []
                        break
                except urllib.error.HTTPError as error:
                    assert error.code in (401, 503)  # the lake is still being read
            if keys:
                with pytest.raises(urllib.error.HTTPError, match="401"):
                    urllib.request.urlopen(f"{url[0]}/datasets", timeout=30)
            else:
                urllib.request.urlopen(f"{url[0]}/datasets", timeout=30).close()
        finally:
            server.send_signal(signal.SIGINT)
            server.stderr.read()
    assert server.returncode == 0
    assert "Traceback" not in line
