"""Where a vision-language model answers: any server that speaks the OpenAI protocol of chat completions.

vLLM, SGLang, llama.cpp, Ollama and the paid services all do. What decides the answer (model, sampling, how pictures are
drawn) is told apart from how it is fetched (address, key, patience, price): only the first names a stored answer.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["Endpoint"]


class Endpoint(BaseModel):
    """A model behind ``POST <url>/chat/completions``.

    What decides the answer: ``model``, ``temperature``, ``seed`` (null: not sent), ``max_tokens`` of an answer,
    ``side`` (pictures are shrunk until no side is longer, in pixels), ``quality`` (of their JPEG, or null for PNG).

    How it is fetched: ``url``, up to and without ``/chat/completions``; ``key_env``, the name of the environment
    variable that holds the key, never the key; ``concurrency``, questions in flight; ``timeout_s`` of one attempt,
    ``attempts`` of one question, ``pause_s`` before the second one (doubled for each further one, at random).

    What it costs: ``price_in`` and ``price_out`` of a million tokens, ``budget`` in the same currency, and
    ``most_questions``; beyond either nothing is asked. ``picture_tokens``: tokens of one picture, where the model's
    own count is known; ``seconds``: of one answer, assumed until the lake holds answers of this model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(min_length=1, max_length=2000)
    model: str = Field(min_length=1, max_length=300)
    temperature: float = Field(default=0.0, ge=0, le=2)
    seed: int | None = 0
    max_tokens: int = Field(default=512, ge=1, le=65536)
    side: int = Field(default=448, ge=16, le=4096)
    quality: int | None = Field(default=90, ge=1, le=100)

    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")
    concurrency: int = Field(default=8, ge=1, le=512)
    timeout_s: float = Field(default=120.0, gt=0, le=3600)
    attempts: int = Field(default=6, ge=1, le=20)
    pause_s: float = Field(default=0.5, ge=0, le=60)

    price_in: float = Field(default=0.0, ge=0)
    price_out: float = Field(default=0.0, ge=0)
    budget: float | None = Field(default=None, ge=0)
    most_questions: int | None = Field(default=None, ge=0)
    picture_tokens: int | None = Field(default=None, ge=1)
    seconds: float = Field(default=2.0, gt=0)

    @field_validator("url")
    @classmethod
    def _plain(cls, url: str) -> str:
        """http or https, a host, and nothing that a log should not show."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError("it is no URL") from error
        if parts.scheme not in ("http", "https") or not host or any(c.isspace() for c in url):
            raise ValueError("an endpoint is http://host[:port]/path or https://host[:port]/path")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("a URL holds no user, key or query: name the key's environment variable as key_env")
        return url.rstrip("/").removesuffix("/chat/completions")

    @model_validator(mode="after")
    def _priced(self) -> Endpoint:
        if self.budget is not None and not (self.price_in or self.price_out):
            raise ValueError("a budget needs price_in and price_out, of a million tokens")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the answer, as plain JSON values."""
        decisive = {"model", "temperature", "seed", "max_tokens", "side", "quality"}
        return self.model_dump(mode="json", include=decisive)
