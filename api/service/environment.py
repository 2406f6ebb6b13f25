"""The environment of the serving process, settled before it has threads."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

__all__ = ["settle"]


def settle() -> None:
    """Set now what libraries set when they are first imported or used: TorchInductor's folder, the tokenizers' threads,
    OpenMP's two and the encoder's log, to the values that they would give.

    A variable more moves the environment (``setenv`` in glibc before 2.41), and a thread that reads it at that moment
    reads freed memory; Delta tables are opened by code that reads it (object_store), outside Python's lock.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name in the environment or the system's list
        user = str(os.getuid())
    for name, value in {
        "TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir()) / f"torchinductor_{user}"),
        "TOKENIZERS_PARALLELISM": "false",
        "KMP_DUPLICATE_LIB_OK": "True",
        "KMP_INIT_AT_FORK": "FALSE",
        "SVT_LOG": "1",
    }.items():
        os.environ.setdefault(name, value)
