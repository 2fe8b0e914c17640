"""Videos and a network whose answers are known beforehand: pictures that get brighter or darker."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from vidzoo.data.listing import VideoItem, VideoList
from vidzoo.pretrained import VideoCfg

NAMES = ("brighter", "darker")


def write_ramp(folder: Path, name: str, *, start: int = 60, frames: int = 8, size: tuple[int, int] = (32, 40)) -> Path:
    """A folder of numbered images, each by 16 levels brighter (or darker) than the one before."""
    folder.mkdir(parents=True)
    for i in range(frames):
        level = start + 16 * (i if name == "brighter" else frames - 1 - i)
        Image.new("RGB", (size[1], size[0]), (level, level, level)).save(folder / f"{i + 1:03d}.png")
    return folder


def write_ramps(root: Path, count: int) -> VideoList:
    """``count`` videos in class folders, the two classes in turn."""
    items = []
    for i in range(count):
        path = write_ramp(root / NAMES[i % 2] / f"video{i:02d}", NAMES[i % 2], start=40 + i)
        items.append(VideoItem(str(path), i % 2))
    return VideoList(tuple(items), NAMES)


def ramp_cfg() -> VideoCfg:
    return VideoCfg(
        architecture="ramp",
        num_classes=2,
        class_names=NAMES,
        num_frames=4,
        crop_size=(16, 16),
        short_side=16,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


class Ramp(nn.Module):
    """Logits: how much brighter the last frame is than the first, and the reverse of it."""

    def __init__(self, sharpness: float = 10.0) -> None:
        super().__init__()
        self.pretrained_cfg = ramp_cfg()
        self.num_classes = 2
        self.sharpness = nn.Parameter(torch.tensor(sharpness))
        self.norm = nn.BatchNorm3d(3, affine=False, momentum=None)
        self.batches: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(tuple(x.shape))
        self.norm(x)  # in training mode this would move the running statistics
        rise = (x[:, :, -1] - x[:, :, 0]).mean((1, 2, 3)) * self.sharpness
        return torch.stack([rise, -rise], dim=1)
