"""Reading a checkpoint file into a plain state dict, without ever executing what is in it."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vidzoo.convert.wrappers import unwrap
from vidzoo.errors import WeightsError
from vidzoo.unpickle import RefusedGlobal, load_inert, numbers

__all__ = ["read_state_dict", "sha256_of"]


def read_state_dict(path: str | Path, *, sha256: str = "") -> dict[str, Tensor]:
    """The tensors of a file, containers and wrapper prefixes removed.

    A file is ``.safetensors``, a torch checkpoint of either format, or a pickle of numpy arrays as Caffe2's. Pickles are
    read with ``weights_only=True``; those with other objects beside the tensors are read by :mod:`vidzoo.unpickle`, to
    which the objects of known projects mean nothing. A file that would execute code is refused, never run.

    Raises:
        WeightsError: missing, cut, wrong hash, not a checkpoint at all (it says what it looks like), no tensors in it,
            or it asks for code.
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
    return unwrap(_read_torch(path), str(path))


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
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch does not read is read or told below
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            if _describe(path):
                raise
            return _read_inert(path)
    except RefusedGlobal as error:
        raise WeightsError(
            f"{path} cannot be read safely: it asks for {error}, and loading that could execute code, which vidzoo never does; "
            "re-save its state_dict with the program that wrote it"
        ) from error
    except Exception as error:  # a damaged or hostile pickle fails in any way that Python knows
        reason = _describe(path) or f"it is damaged or cut ({str(error).splitlines()[0] if str(error) else 'empty'})"
        raise WeightsError(f"{path} cannot be read as a torch checkpoint: {reason}") from error


def _read_inert(path: Path) -> Any:
    """A torch checkpoint of either format, or one pickle alone, without anything of torch's own reader."""
    with open(path, "rb") as file:
        if file.peek(4)[:4] == b"PK\x03\x04":
            return _read_zip(file)
        first = load_inert(file)
        if isinstance(first, int):  # the number that torch's older format begins with
            return _read_legacy(file, path.stat().st_size)
    return first


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        (name,) = (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        root = name.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine")
        known: dict[tuple[torch.dtype, str], Tensor] = {}

        def storage(dtype: torch.dtype, key: str, *rest: object) -> Tensor:
            if (dtype, key) not in known:
                known[dtype, key] = numbers(archive.read(f"{root}data/{key}"), dtype)
            return known[dtype, key]

        return load_inert(io.BytesIO(archive.read(name)), storage)


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """What follows the first number: two pickles about the machine, the content, and the numbers of its tensors."""
    known: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, device: object, count: int, view: Any = None) -> Tensor:
        if key not in known:
            if count * dtype.itemsize + sum(values.nbytes for values in known.values()) > size:
                raise ValueError("its tensors are larger than the file")
            known[key] = torch.zeros(count, dtype=dtype)
        return known[key] if view is None else known[key].narrow(0, view[1], view[2])

    load_inert(file), load_inert(file)
    content = load_inert(file, storage)
    for key in load_inert(file):
        values = known[key]
        file.read(8)  # their number once more
        values.copy_(numbers(file.read(values.nbytes), values.dtype).reshape(values.shape))
    return content


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
    if any(name.endswith("/constants.pkl") for name in _names_in_zip(path)):
        return "it is a TorchScript program with weights inside: save the network's state_dict instead"
    return ""


def _names_in_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except Exception:  # none, or a damaged one: zipfile promises no kind of error
        return []
