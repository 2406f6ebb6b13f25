"""Verbs of the service: run it, and who may ask it."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import click
from pydantic import SecretStr

from api.cli.verb import EXECUTOR, cli, existing, seconds, verb
from data_engine.errors import RequestError


@verb()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", default=8321, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@click.option("--keys/--no-keys", default=None, help="Whether requests need a key; default: unless only this machine "
              "reaches the address.")  # fmt: skip
@click.option("--allow", multiple=True, metavar="PREFIX", help="URIs below it, models and endpoints that requests may "
              "name; may be given again.")  # fmt: skip
@click.option("--allow-host", "hosts", multiple=True, metavar="NAME", help="A name by which the service is reached.")
@click.option("--allow-origin", "origins", multiple=True, metavar="ORIGIN", help="A site whose pages may ask.")
@click.option("--allow-env", "environment", multiple=True, metavar="NAME", help="A variable that requests may name the "
              "key of an endpoint by.")  # fmt: skip
@click.option("--rate", default=50.0, show_default=True, type=click.FloatRange(0, min_open=True),
              help="Requests a second of one key.")  # fmt: skip
@click.option("--runs", default=1, show_default=True, type=click.IntRange(1), help="Runs at a time; others wait.")
@click.option("--gpu-runs", default=1, show_default=True, type=click.IntRange(1), help="Of all lakes, runs at a time "
              "that compute where this machine has a GPU.")  # fmt: skip
@EXECUTOR
@click.option("--webhook", "webhooks", multiple=True, metavar="URL", help="Told, signed with the secret in "
              "DATA_ENGINE_WEBHOOK_SECRET, of every run that ends and of scores that drift.")  # fmt: skip
@click.option("--schedules/--no-schedules", default=True, show_default=True, help="Whether it keeps schedules, with a "
              "Prefect server of its own or the one that PREFECT_API_URL names.")  # fmt: skip
def serve(
    lake: str, host: str, port: int, keys: bool | None, allow: tuple[str, ...], hosts: tuple[str, ...],
    origins: tuple[str, ...], environment: tuple[str, ...], rate: float, runs: int, gpu_runs: int,
    executor: Any, webhooks: tuple[str, ...], schedules: bool,
) -> dict[str, Any]:  # fmt: skip
    """Serve the lake over REST until interrupted, and run what is scheduled (`schedule add`).

    At an address that other machines reach it wants keys (`keys make`) and does not start without.
    """
    from api.service.serving import run
    from api.service.settings import Settings, is_loopback
    from storage.keys import Keyring
    from storage.keys import keys as all_keys

    target = existing(lake)
    open_to_others = not is_loopback(host)
    if keys is False and open_to_others:
        raise RequestError(
            f"other machines reach {host}: it is not served without keys", code="open_service",
            fix="leave --no-keys out, or listen at 127.0.0.1",
        )  # fmt: skip
    wanted = open_to_others if keys is None else keys
    if wanted and not len(Keyring(all_keys(target))):
        raise RequestError(
            "the lake has no key, so nobody could ask", code="no_keys", fix="run `data-engine keys make NAME` first"
        )
    secret = os.environ.get("DATA_ENGINE_WEBHOOK_SECRET", "")
    for url in webhooks:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RequestError(f"{url!r} is no address of a webhook", code="bad_uri", fix="https://HOST/PATH")
    if webhooks and len(secret) < 16:
        raise RequestError(
            "webhooks are signed, and there is no secret", code="no_secret",
            fix="set DATA_ENGINE_WEBHOOK_SECRET to at least 16 characters",
        )  # fmt: skip
    named = () if host in ("0.0.0.0", "::") or not open_to_others else (host.lower(),)
    settings = Settings(
        lake=lake, keys=wanted, hosts=tuple(name.lower() for name in hosts) + named, origins=origins, allow=allow,
        environment=environment, rate=rate, burst=max(1, int(4 * rate)), runs=runs,
        gpu_runs=gpu_runs, executor=executor, schedules=schedules, webhooks=webhooks, secret=SecretStr(secret),
    )  # fmt: skip
    run(settings, host, port)
    return {"text": ""}


@cli.group()
def keys() -> None:
    """Keys of the service; the lake keeps their hashes alone."""


@verb("make", keys)
@click.argument("name")
@click.option("--scope", type=click.Choice(["read", "curate", "admin"]), default="read", show_default=True)
@click.option("--expires", metavar="TIME", help="As in 12h, 30d; default: never.")
def keys_make(lake: str, name: str, scope: Any, expires: str | None) -> dict[str, Any]:
    """Make a key for NAME and print it, once: nothing can bring it back."""
    from storage.keys import make
    from storage.lake import Lake

    days = seconds(expires) / 86400 if expires is not None else None
    key, token = make(Lake.open(lake, create=True), name, scope, days=days)
    return {"key": token, "key_id": key.id, "name": name, "scope": scope, "expires_at": key.expires_at, "text": token}


@verb("list", keys)
def keys_list(lake: str) -> dict[str, Any]:
    """Every key there is or was, without its secret."""
    from storage.keys import keys as all_keys

    return {
        "items": [
            {"name": key.name, "scope": key.scope, "key_id": key.id, "state": key.state, "at": key.at,
             "expires_at": key.expires_at}
            for key in all_keys(existing(lake))
        ]
    }  # fmt: skip


@verb("revoke", keys)
@click.argument("key")
def keys_revoke(lake: str, key: str) -> dict[str, Any]:
    """Revoke a KEY by its id, or its name; a running service refuses it within two seconds."""
    from storage.keys import revoke

    gone = revoke(existing(lake), key)
    return {"key_id": gone.id, "name": gone.name, "text": f"{gone.name} ({gone.id}) is revoked"}
