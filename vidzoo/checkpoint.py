"""Reading a checkpoint file into a plain state dict, without ever executing what is in it."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidzoo.errors import WeightsError

__all__ = ["read_state_dict", "sha256_of"]

# Where projects put the weights inside a training checkpoint; averaged weights come first.
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model_state_dict", "model")
# What wrappers (DDP, torch.compile) put before every key.
_PREFIXES = ("module.", "_orig_mod.")


def read_state_dict(path: str | Path, *, sha256: str = "") -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or of a foreign torch checkpoint, containers and wrapper prefixes removed.

    Pickled files are read with ``weights_only=True``: a file that would execute code is refused, never run.

    Raises:
        WeightsError: missing, cut, wrong hash, not a checkpoint at all (it says what it looks like), or no tensors in
            it.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no checkpoint at {path}: check the path")
    if sha256:
        found = sha256_of(path)
        if found != sha256.lower():
            raise WeightsError(
                f"{path} is not the file that was published: its sha256 is {found}, expected {sha256}; "
                "delete it and load again"
            )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _unwrap(_read_torch(path), path)


def sha256_of(path: str | Path) -> str:
    """Hex sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {_describe(path) or error}") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _describe(path) or (
            "it holds Python objects besides tensors and loading them could execute code, which vidzoo never does; "
            "re-save its state_dict with the program that wrote it"
        )
        raise WeightsError(f"{path} cannot be read safely: {reason}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, UnicodeDecodeError) as error:
        reason = _describe(path) or f"it is damaged or cut ({str(error).splitlines()[0] if str(error) else 'empty'})"
        raise WeightsError(f"{path} cannot be read as a torch checkpoint: {reason}") from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for key in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict of named tensors")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors: its keys are {', '.join(map(str, list(content)[:5])) or 'none'}")
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _describe(path: Path) -> str:
    """What a file that is no checkpoint looks like from its first bytes; empty when nothing is recognised."""
    size = path.stat().st_size
    if size == 0:
        return "the file is empty"
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, not the weights: run `git lfs pull` or download the file itself"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page, not weights: the download was answered by a web page"
    if path.suffix == ".safetensors" and head[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        return "it is a pickled torch file under the name of a safetensors file"
    if path.suffix == ".safetensors" and size >= 8:
        header = int.from_bytes(head[:8], "little")
        if header + 8 > size:
            return f"the file is cut or no safetensors file ({size} bytes)"
    return ""
