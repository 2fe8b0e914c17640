"""What the tiny test videos show, and how a phone would turn them."""

from __future__ import annotations

import struct
from pathlib import Path

import torch
from torch import Tensor


def numbered_frames(count: int, height: int = 48, width: int = 64) -> Tensor:
    """uint8 (T, H, W, 3): brightness says which frame it is, a bright corner which way is up."""
    frames = torch.zeros(count, height, width, 3, dtype=torch.uint8)
    frames += (torch.arange(count) * 200 // max(count, 1)).to(torch.uint8).view(-1, 1, 1, 1)
    frames[:, : height // 4, : width // 4] = torch.tensor([255, 40, 40], dtype=torch.uint8)
    return frames


def rotate_mp4(path: Path, degrees: int) -> None:
    """Write a rotation into the display matrix of an mp4's video track, as a phone does."""
    data = bytearray(path.read_bytes())
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = {
        90: (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30),
        180: (-(1 << 16), 0, 0, 0, -(1 << 16), 0, 0, 0, 1 << 30),
        270: (0, -(1 << 16), 0, 1 << 16, 0, 0, 0, 0, 1 << 30),
    }[degrees]
    track = data.index(identity, data.index(b"tkhd"))
    data[track : track + len(identity)] = struct.pack(">9i", *turned)
    path.write_bytes(bytes(data))
