"""The errors a person sees: one clear line that says what is wrong and what would be right."""

from __future__ import annotations

from typing import Any

__all__ = ["DefectError", "EngineError", "RequestError", "SourceError"]


class EngineError(Exception):
    """A failure with a stable ``code``, one line of ``message`` and, where there is one, a ``fix``.

    ``exit_code`` is what the command line exits with: 1 the run failed, 2 the request was wrong.
    """

    exit_code = 1
    default_code = "failed"

    def __init__(self, message: str, *, code: str | None = None, fix: str | None = None) -> None:
        self.message = " ".join(str(message).split())
        self.code = code or self.default_code
        self.fix = " ".join(fix.split()) if fix else None
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message

    def __reduce__(self) -> tuple[Any, ...]:  # keyword arguments would be lost between processes otherwise
        return (_rebuild, (type(self), self.message, self.code, self.fix))

    def as_dict(self) -> dict[str, str | None]:
        """``{"code", "message", "fix"}``, the shape of ``--json`` errors and problem+json."""
        return {"code": self.code, "message": self.message, "fix": self.fix}


class RequestError(EngineError):
    """The request was wrong (unknown name, bad expression, missing path): nothing was started. Exit 2."""

    exit_code = 2
    default_code = "bad_request"


class SourceError(EngineError):
    """A source, or a part of it, cannot be read as what it claims to be.

    Raised for one episode it becomes a quarantine row and the rest goes in; raised by ``probe`` it ends the ingest.
    """

    exit_code = 2
    default_code = "bad_source"


class DefectError(EngineError):
    """A verification found what it was asked to gate on (a lost row, a flipped byte). Exit 1."""

    default_code = "defect"


def _rebuild(kind: type[EngineError], message: str, code: str, fix: str | None) -> EngineError:
    return kind(message, code=code, fix=fix)
