"""A real server of the OpenAI protocol on loopback, which answers from what it sees in the pictures.

Pictures show a bright square on a dark ground; how far right its centre lies is how far the task is achieved. The
server decodes every picture that it is sent and knows nothing else. It can be told to be wrong in a share of the
questions, to choose by the place, to refuse, to fail and to be slow, and it counts what it was asked.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image


@dataclass
class JudgeServer:
    """What the server does (plain attributes, changed at will) and what it saw.

    ``wrong``: the share of verdicts that it turns round; ``placed``: the share that it gives by the place;
    ``unsure_below``: the difference that it does not see. ``faults``: what to do instead of answering, taken one a
    request from the front: a status, with what it asks to wait or not, ``hang``, ``cut``, ``garbage``.
    """

    url: str = ""
    wrong: float = 0.0
    placed: float = 0.0
    unsure_below: float = 0.0
    seed: int = 0
    key: str | None = None
    refuses: str | None = None
    delay_s: float = 0.0
    faults: list[Any] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    most_at_once: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, body: dict[str, Any]) -> str:
        """What the model says."""
        content = body["messages"][-1]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        seen = [self._progress(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
        if "SUCCESS" in text:
            return f"The square ends at {seen[-1]:.2f}.\n{'SUCCESS' if seen[-1] > 0.7 else 'FAILURE'}"
        if "one sentence what the robot does" in text:
            return f"Move the square {'right' if seen[-1] > seen[0] else 'left'}."
        if "Look for yourself" in text:
            half = len(seen) // 2
            return f"I see it.\n{self._verdict(np.mean(seen[: half or 1]), np.mean(seen[half:]), text)}"
        if seen:
            half = len(seen) // 2
            return f"Situation 1 is at {np.mean(seen[: half or 1]):.4f}. Situation 2 is at {np.mean(seen[half:]):.4f}."
        one, two = (float(found) for found in re.findall(r"is at ([\d.]+\d)", text)[-2:])
        return str(self._verdict(one, two, text))

    def _verdict(self, one: float, two: float, text: str) -> int:
        """-1, 0 or 1; what goes wrong depends on the pair, not on when or in which order it is asked."""
        pair = f"{self.seed} {sorted((round(one, 3), round(two, 3)))}"
        draw = np.random.default_rng(int(hashlib.sha256(pair.encode()).hexdigest()[:16], 16)).random(2)
        if abs(one - two) < self.unsure_below:
            return -1
        if draw[1] < self.placed:
            return 0
        return int(two > one) ^ int(draw[0] < self.wrong)

    @staticmethod
    def _progress(url: str) -> float:
        head, _, data = url.partition(",")
        assert head in ("data:image/jpeg;base64", "data:image/png;base64")
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"), np.float64)
        bright = picture > 128
        return float(np.nonzero(bright)[1].mean() / (picture.shape[1] - 1)) if bright.any() else 0.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    judge: JudgeServer

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        judge, name = self.judge, hashlib.sha256(raw).hexdigest()
        with judge.lock:
            judge.asked[name] += 1
            judge.headers.append(dict(self.headers))
            fault = judge.faults.pop(0) if judge.faults else None
            judge.at_once += 1
            judge.most_at_once = max(judge.most_at_once, judge.at_once)
        try:
            self._answer(judge, name, json.loads(raw), fault)
        finally:
            with judge.lock:
                judge.at_once -= 1

    def _answer(self, judge: JudgeServer, name: str, body: dict[str, Any], fault: Any) -> None:
        if judge.delay_s:
            time.sleep(judge.delay_s)
        if self.path != "/v1/chat/completions":
            return self._send(404, {"error": {"message": "no such path"}})
        if judge.key and self.headers.get("Authorization") != f"Bearer {judge.key}":
            return self._send(401, {"error": {"message": f"bad key {self.headers.get('Authorization')}"}})
        if fault == "hang":
            time.sleep(1.5)
            return self.close()
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices"')
            return self.close()
        if fault == "garbage":
            return self._send(200, raw=b"<html>busy</html>")
        if isinstance(fault, tuple):
            return self._send(fault[0], {"error": {"message": "slow down"}}, {"Retry-After": fault[1]})
        if isinstance(fault, int):
            return self._send(fault, {"error": {"message": "induced"}})
        if judge.refuses and judge.refuses in json.dumps(body["messages"]):
            return self._send(400, {"error": {"message": "this cannot be answered"}})
        with judge.lock:
            judge.answered[name] += 1
        said = judge.reply(body)
        message = {"role": "assistant", "content": said}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        model = f"{body['model']}-of-test"
        found = {"id": name[:8], "object": "chat.completion", "model": model, "choices": choices, "usage": usage}
        self._send(200, found)
        return None

    def close(self) -> None:
        self.close_connection = True

    def _send(
        self, status: int, document: Any = None, headers: dict[str, str] | None = None, raw: bytes | None = None
    ) -> None:
        data = json.dumps(document).encode() if raw is None else raw
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """A client that is gone is no news."""


@contextmanager
def judge_server() -> Iterator[JudgeServer]:
    """The server, up for as long as the block."""
    judge = JudgeServer()
    handler = type("Handler", (_Handler,), {"judge": judge})
    server = _Server(("127.0.0.1", 0), handler)
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
