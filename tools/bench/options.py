"""What every network of a comparison shares: the number of classes, and the clips."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

CLASSES = 400


def make_clip(kind: str, options: argparse.Namespace) -> Tensor:
    """A batch ``(B, 3, T, H, W)`` in [0, 1), on the CPU.

    ``kind``: "noise"; "still": noise whose frames are all the first; "fast": noise, each frame of another
    brightness, evenly spread from 1 / T to 1 and in no order.
    """
    noise = torch.rand(options.batch, 3, options.frames, options.size, options.size)
    if kind == "still":
        return noise[:, :, :1].expand_as(noise).contiguous()
    if kind == "fast":
        brightness = (torch.rand(options.batch, options.frames).argsort(dim=1) + 1) / options.frames
        return noise * brightness[:, None, :, None, None]
    if kind == "noise":
        return noise
    raise ValueError(f"clips are noise, still or fast, not {kind!r}")
