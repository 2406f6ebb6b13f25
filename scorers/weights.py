"""Weights of models that others trained: read without running anything in them, and known by what they hold."""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_engine.errors import RequestError

if TYPE_CHECKING:
    import torch

__all__ = ["checked", "load_into", "read_state", "state_sha256", "unreadable"]

_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which trainers keep the weights
_PREFIX = "module."  # what data-parallel training puts before every name


def checked(path: str) -> str:
    """``path`` made absolute. Raises ``RequestError`` where no file is there."""
    full = os.path.abspath(os.path.expanduser(path))
    if not os.path.isfile(full):
        raise RequestError(f"no checkpoint at {path}", code="no_weights", fix="give the path of a .safetensors or .pt")
    return full


def read_state(path: str) -> dict[str, torch.Tensor]:
    """The named tensors of a ``.safetensors`` file, or of a torch file read with ``weights_only``: no code in it runs.

    Raises ``RequestError`` where there is none, or where it holds anything else.
    """
    import torch

    full = checked(path)
    try:
        if full.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(full)
        with warnings.catch_warnings(action="ignore"):
            found: Any = torch.load(full, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle, zip and safetensors each raise their own
        raise RequestError(
            f"{path} holds no weights that can be read safely: {unreadable(error)}", code="bad_weights",
            fix="save a state_dict, or a .safetensors",
        ) from error  # fmt: skip
    while isinstance(found, Mapping) and (inner := next(_wrapped(found), None)):
        found = inner
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise RequestError(f"{path} holds no table of named tensors", code="bad_weights", fix="save a state_dict")
    return {str(name).removeprefix(_PREFIX): value for name, value in found.items()}


def unreadable(error: Exception) -> str:
    """Why a checkpoint cannot be read, in one line: of a pickle not torch's own words, which tell how to run it."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is no plain table of tensors"
    said = "" if isinstance(error, KeyError | EOFError) else " ".join(str(error).split())[:300]
    return said or "it is no file of weights"


def state_sha256(module: torch.nn.Module) -> str:
    """sha256 in hex over the names, types, shapes and bytes of every parameter and buffer; the file's form is no
    matter."""
    import torch

    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        sha.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        sha.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _wrapped(found: Mapping[Any, Any]) -> Iterator[Mapping[Any, Any]]:
    return (found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping))


def load_into(
    module: torch.nn.Module, state: Mapping[str, torch.Tensor], path: str, optional: Sequence[str] = ()
) -> None:
    """Give ``module`` the weights of ``state``, each of its own and no others.

    ``optional``: parts of the checkpoint that the module was made without. Raises ``RequestError`` naming what is
    missing, left over or of another shape: a weight that stayed random would be silent otherwise.
    """
    kept = {name: value for name, value in state.items() if not name.startswith(tuple(f"{part}." for part in optional))}
    own = module.state_dict()
    wrong = [
        (sorted(set(own) - set(kept)), "lacks"),
        (sorted(set(kept) - set(own)), "has what the model has not:"),
        (sorted(name for name in set(own) & set(kept) if own[name].shape != kept[name].shape), "has another shape of"),
    ]
    for names, how in wrong:
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise RequestError(
                f"{path} {how} {names[0]}{more}", code="bad_weights", fix="give the checkpoint of this very model"
            )
    module.load_state_dict(dict(kept), strict=True)
