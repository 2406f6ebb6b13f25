"""A Hugging Face hub on loopback: the few endpoints that reading a data set takes, over a folder of this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "1234567890abcdef1234567890abcdef12345678"


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    repo: str
    revisions: frozenset[str]

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> object:
        path = unquote(urlsplit(self.path).path)
        api, files = f"/api/datasets/{self.repo}", f"/datasets/{self.repo}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            revision = path.removeprefix(f"{api}/revision/") if path != api else "main"
            if revision in self.revisions:
                return self._json({"id": self.repo, "sha": COMMIT, "siblings": [], "private": False, "tags": []})
            return self._missing("RevisionNotFound")
        if path.startswith(f"{api}/tree/"):
            revision, _, below = path.removeprefix(f"{api}/tree/").partition("/")
            folder = self.folder / below
            if not folder.is_dir():
                return self._missing("EntryNotFound")
            found = (
                folder.rglob("*")
                if "recursive=True" in self.path or "recursive=true" in self.path
                else folder.iterdir()
            )
            return self._json([self._entry(entry) for entry in sorted(found)])
        if path.startswith(files):
            _, _, name = path.removeprefix(files).partition("/")
            return self._file(self.folder / name)
        return self._missing("RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        text = body.decode()
        paths = json.loads(text)["paths"] if text.startswith("{") else []
        self._json([self._entry(self.folder / path) for path in paths if (self.folder / path).exists()])

    def log_message(self, *_: object) -> None:
        pass

    def _entry(self, path: Path) -> dict[str, object]:
        name = path.relative_to(self.folder).as_posix()
        oid = hashlib.sha1(name.encode() + (path.read_bytes() if path.is_file() else b"")).hexdigest()
        kind = "file" if path.is_file() else "directory"
        return {"type": kind, "path": name, "oid": oid, "size": path.stat().st_size if path.is_file() else 0}

    def _file(self, path: Path) -> None:
        if not path.is_file():
            self._missing("EntryNotFound")
            return
        data = path.read_bytes()
        wanted, status, extra = self.headers.get("range"), 200, {}
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            stop = min(int(last) + 1, len(data)) if last else len(data)
            extra = {"content-range": f"bytes {first}-{stop - 1}/{len(data)}"}
            data, status = data[int(first) : stop], 206
        etag = hashlib.sha1(path.read_bytes()).hexdigest()
        self._send(status, data, {"etag": f'"{etag}"', "x-repo-commit": COMMIT, "accept-ranges": "bytes", **extra})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"content-type": "application/json"})

    def _missing(self, code: str) -> None:
        self._send(404, b"{}", {"x-error-code": code, "content-type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def hub(folder: Path, repo: str, revisions: frozenset[str] = frozenset({"main"})) -> Iterator[str]:
    """The endpoint of a hub whose one data set ``repo`` is ``folder``, the same in each of ``revisions``."""
    handler = type("Hub", (_Hub,), {"folder": folder, "repo": repo, "revisions": revisions})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
