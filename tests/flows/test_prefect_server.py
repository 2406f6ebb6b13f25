from __future__ import annotations

import base64
import os
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from data_engine.errors import EngineError
from flows import prefect_server
from flows.prefect_server import home, prefect_api

VARIABLES = (
    "PREFECT_HOME", "PREFECT_SERVER_ANALYTICS_ENABLED", "DO_NOT_TRACK", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL",
    "PREFECT_CLI_PROMPT",
)  # fmt: skip


class Ended(Exception):
    pass


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory):
    """A cache folder of its own, and every variable of Prefect's as it was afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        for name in VARIABLES:
            patch.setenv(name, os.environ.get(name, ""))
            patch.delenv(name)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def running(environment):
    """A server of our own: its API's URL, the key and its process id. It is gone at the end, also after an error."""
    with pytest.raises(Ended), prefect_api("/some/lake"):
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

        (pid,) = servers()
        yield PREFECT_API_URL.value(), PREFECT_API_AUTH_STRING.value(), pid
        raise Ended
    assert not Path(f"/proc/{pid}").exists()


def servers() -> list[int]:
    """Children of this process that serve Prefect's API."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
            command = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if parent == os.getpid() and b"prefect.server.api.server" in command:
            found.append(int(name))
    return found


def answer(url: str, key: str | None = None, **headers: str) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer, without any proxy."""
    if key is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(key.encode()).decode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=30) as found:
            return found.status, dict(found.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)


def test_it_answers_whoever_has_the_key_and_nobody_else(running):
    url, key, _ = running
    assert answer(f"{url}/health", key)[0] == 200
    assert answer(f"{url}/admin/version", key)[0] == 200
    for wrong in (None, "", "data-engine:", "data-engine:guess", key + "x"):
        assert answer(f"{url}/admin/version", wrong)[0] == 401


def test_it_listens_on_loopback_only_and_its_key_is_on_no_command_line(running):
    url, key, pid = running
    assert url.startswith("http://127.0.0.1:")
    port = int(url.split(":")[2].split("/")[0])
    sockets = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    listening = [row[1] for row in sockets if row[1].endswith(f":{port:04X}") and row[3] == "0A"]
    assert listening == [f"0100007F:{port:04X}"]
    assert key.partition(":")[2].encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_no_other_page_may_read_its_answers(running):
    url, key, _ = running
    _, headers = answer(f"{url}/health", key, Origin="http://evil.example")
    assert headers.get("Access-Control-Allow-Origin", "") not in ("*", "http://evil.example")


def test_each_lake_has_a_home_of_its_own_outside_of_it(running):
    assert home("/some/lake") != home("/other/lake")
    assert home("/some/lake").is_relative_to(os.environ["XDG_CACHE_HOME"])
    assert (home("/some/lake") / "prefect.db").exists()
    assert os.environ["PREFECT_HOME"] == str(home("/some/lake"))


def test_a_named_server_is_used_and_none_is_started(monkeypatch):
    before = servers()
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example:4200/api")
    with prefect_api("/third/lake"):
        assert servers() == before
        assert os.environ["PREFECT_API_URL"] == "http://prefect.example:4200/api"
    assert not home("/third/lake").exists()


def test_one_that_cannot_start_is_one_line_with_a_way_out(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EngineError, match="Prefect's API did not start: it ended with 1") as caught:
        prefect_api("/broken/lake").__enter__()
    assert caught.value.code == "prefect_down"
    assert "--engine plain" in caught.value.fix


def test_where_its_port_is_taken_it_takes_another(monkeypatch):
    free = prefect_server._free_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports, others = [taken.getsockname()[1]], set(servers())
        monkeypatch.setattr(prefect_server, "_free_port", lambda: ports.pop() if ports else free())
        with prefect_api("/fourth/lake"):
            assert len(set(servers()) - others) == 1
        assert ports == []
