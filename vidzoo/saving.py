"""Writing a safetensors file, the same bytes for the same tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

__all__ = ["save_tensors"]


def save_tensors(tensors: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str]) -> None:
    """Write contiguous tensors that share no memory, with notes that are texts.

    Raises:
        OSError: the file cannot be written, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), file, metadata=dict(metadata))
    except SafetensorError as error:  # it wraps the system's error in its own
        raise OSError(str(error)) from error
    _sort_metadata(file)


def _sort_metadata(file: Path) -> None:
    """Put the notes in order: the library writes them in a random one, and equal weights would be unequal files."""
    with open(file, "r+b") as content:
        size = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # padded with spaces, as the library does
            content.seek(8)
            content.write(text.ljust(size))
