"""What :func:`flows.apart.apart` is handed in tests: it answers, fails or dies. Light: each start imports it."""

from __future__ import annotations

import os
import signal

from data_engine.errors import SourceError
from data_engine.fragile import fragile, reading


def add(first: int, second: int) -> tuple[int, int]:
    return first + second, os.getpid()


def tread(what: str) -> int:
    fragile(what)
    return os.getpid()


def refuse() -> None:
    raise SourceError("cannot", code="no", fix="do another")


def cut_off() -> None:
    raise EOFError("the file ends")


class Odd(Exception):
    """One that does not pickle."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def fail_oddly() -> None:
    raise Odd(1, 2)


def die(how: str, *spoken: str) -> None:
    for what in spoken:
        reading(what)
    os.kill(os.getpid(), signal.Signals[how])


def spin(what: str) -> None:
    reading(what)
    while True:
        pass
