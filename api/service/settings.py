"""What the service is started with."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

__all__ = ["Settings", "is_loopback"]


class Settings(BaseModel):
    """``keys``: whether a request needs one; without, whoever reaches the service is an admin, so loopback only.

    ``hosts``: the names in the Host header that are answered (beside loopback's). ``origins``: pages of other sites
    that may ask. ``allow``: prefixes of the URIs, model names and endpoints that a request may name. ``environment``:
    the variables that a request may name the key of an endpoint by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lake: str
    keys: bool = True
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    body_bytes: int = Field(default=16 << 20, ge=1)
    rate: float = Field(default=50.0, gt=0, description="Requests a second of one key, in the long run.")
    burst: int = Field(default=200, ge=1, description="Requests that a key may make at once.")
    refresh_s: float = Field(default=1.0, gt=0, le=2.0, description="How often the lake is looked at.")
    folder: str | None = Field(default=None, description="Where runs are kept; default: in the user's cache.")
    runs: int = Field(default=1, ge=1, description="Runs at a time; others wait.")
    gpu_runs: int = Field(default=1, ge=1, description="Runs at a time that compute where this machine has a GPU.")
    executor: Literal["local", "ray"] = Field(default="local", description="What runs compute on.")
    webhooks: tuple[str, ...] = Field(default=(), description="Told of runs that end and of scores that drift.")
    secret: SecretStr = Field(default=SecretStr(""), description="Signs what webhooks are told.")
    schedules: bool = Field(default=False, description="Whether it keeps schedules, with Prefect.")
    rows: int = Field(default=1000, ge=1, description="The most rows of a page as JSON.")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
