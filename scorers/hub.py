"""Models by name from a hub: whether it answers is asked first, so that no network is one clear line at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_engine.errors import RequestError

__all__ = ["PATIENCE_S", "from_hub"]

_UNREACHED = "the hub cannot be reached and nothing of it was downloaded before"
PATIENCE_S = 2.0  # for the hub's first answer; its own client would wait and try again for a minute


@contextmanager
def from_hub(what: str) -> Iterator[None]:
    """Whatever is loaded inside comes from the hub, or from what was downloaded before where the hub does not answer.

    Raises ``RequestError`` that names ``what`` and says how to do without a network.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    offline = before or not _answers(constants.ENDPOINT)
    if offline and not any(Path(constants.HF_HUB_CACHE).glob("models--*")):  # known before torch is imported
        raise _missing(what, _UNREACHED)
    try:
        constants.HF_HUB_OFFLINE = offline
        yield
    except RequestError:
        raise
    except Exception as error:
        raise _missing(what, _UNREACHED if offline else " ".join(str(error).split())[:400]) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _missing(what: str, why: str) -> RequestError:
    fix = "give a file: checkpoint=PATH of a .safetensors or .pt"
    return RequestError(f"no weights of {what}: {why}", code="no_weights", fix=fix)


def _answers(endpoint: str) -> bool:
    """Whether anything answers at ``endpoint`` in time, if only with an error or a certificate that is not trusted.

    In a thread of its own: looking a name up has no time-out. By the standard library, as importing the hub's own
    client takes longer than a refusal.
    """
    import ssl
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    found = threading.Event()

    def ask() -> None:
        try:
            urlopen(Request(endpoint, method="HEAD"), timeout=PATIENCE_S).close()
            found.set()
        except HTTPError:
            found.set()
        except URLError as error:
            if isinstance(error.reason, ssl.SSLError):
                found.set()
        except Exception:  # no name, no route, no answer: all the same here
            return

    asking = threading.Thread(target=ask, name="hub", daemon=True)
    asking.start()
    asking.join(PATIENCE_S + 0.2)
    return found.is_set()
