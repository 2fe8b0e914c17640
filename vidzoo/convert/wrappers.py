"""What training programs put around a state dict: the containers of a checkpoint, the prefixes of wrapped networks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from vidzoo.errors import WeightsError

__all__ = ["unwrap"]

# Where projects put the weights inside a training checkpoint; averaged weights come first, Caffe2's arrays last.
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model_state_dict", "model", "blobs")
# What wrappers put before every key: DDP, torch.compile, Lightning's modules, and TSN's descendants, GST among them.
_PREFIXES = ("module.", "_orig_mod.", "model.", "base_model.")
# The classifier of the latter lies beside what they wrap.
_BESIDE = "new_fc."


def unwrap(content: object, where: str = "this checkpoint") -> dict[str, Tensor]:
    """The named tensors of what ``torch.load`` gave, containers and prefixes removed.

    Tensors are the same objects, arrays of numbers become tensors that share their memory.

    Args:
        where: what the content is called in messages.

    Raises:
        WeightsError: no mapping, or no tensors in it.
    """
    found = content
    while isinstance(found, Mapping):
        inner = next((found[key] for key in _CONTAINERS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, Mapping):
        raise WeightsError(f"{where} holds a {type(found).__name__}, not a state dict of named tensors")
    tensors = {str(key): tensor for key, value in found.items() if (tensor := _tensor(value)) is not None}
    if not tensors:
        raise WeightsError(f"{where} holds no tensors: its keys are {', '.join(map(str, list(found)[:5])) or 'none'}")
    while prefix := _common_prefix(tensors):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _tensor(value: object) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        return torch.from_numpy(value)
    return value if isinstance(value, Tensor) else None


def _common_prefix(tensors: Mapping[str, Tensor]) -> str:
    inside = [key for key in tensors if not key.startswith(_BESIDE)]
    for prefix in _PREFIXES:
        if inside and all(key.startswith(prefix) for key in (inside if prefix == "base_model." else tensors)):
            return prefix
    return ""
