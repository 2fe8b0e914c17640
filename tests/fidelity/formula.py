"""Weights from a formula: the same on every machine and with every version of torch, without a random generator."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["formula_state_dict", "formula_uniform"]

_MASK = 0xFFFFFFFF


def formula_uniform(key: str, shape: tuple[int, ...]) -> Tensor:
    """Float64 values in [-1, 1): element n is the 32-bit MurmurHash3 finaliser of ``n * 0x9E3779B1 + crc32(key)``."""
    count = torch.Size(shape).numel()
    h = (torch.arange(count, dtype=torch.int64) * 0x9E3779B1 + zlib.crc32(key.encode())) & _MASK
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _MASK
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _MASK
    h = h ^ (h >> 16)
    return (h.double() / 2**31 - 1).reshape(shape)


def formula_state_dict(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights of variance 2 / fan_in, biases and running means within 0.1 of 0, scales and variances within 0.5 of 1."""
    weights: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        value = formula_uniform(key, tuple(shape))
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.zeros((), dtype=torch.long)
        elif len(shape) > 1:
            fan_in = torch.Size(shape[1:]).numel()
            weights[key] = value * (6 / fan_in) ** 0.5
        elif key.endswith((".weight", ".running_var")):
            weights[key] = 1 + value / 2
        else:
            weights[key] = value / 10
    return weights
