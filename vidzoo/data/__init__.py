"""Videos in, clips out: decoding, sampling, transforms, data sets.

The names below are loaded when they are first used, so that importing this package costs neither PyAV nor torchvision.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidzoo.data.datasets import IGNORED, VideoDataset, loader
    from vidzoo.data.decode import VideoFile, VideoSource, open_video
    from vidzoo.data.frames import FrameFolder
    from vidzoo.data.listing import VideoItem, VideoList, scan, split
    from vidzoo.data.mix import mixup_cutmix
    from vidzoo.data.sample import ClipSampler, reorder
    from vidzoo.data.transform import Augment, eval_transform, normalise, train_transform

__all__ = [
    "IGNORED",
    "Augment",
    "ClipSampler",
    "FrameFolder",
    "VideoDataset",
    "VideoFile",
    "VideoItem",
    "VideoList",
    "VideoSource",
    "eval_transform",
    "loader",
    "mixup_cutmix",
    "normalise",
    "open_video",
    "reorder",
    "scan",
    "split",
    "train_transform",
]

_HOMES = {
    "datasets": ("IGNORED", "VideoDataset", "loader"),
    "decode": ("VideoFile", "VideoSource", "open_video"),
    "frames": ("FrameFolder",),
    "listing": ("VideoItem", "VideoList", "scan", "split"),
    "mix": ("mixup_cutmix",),
    "sample": ("ClipSampler", "reorder"),
    "transform": ("Augment", "eval_transform", "normalise", "train_transform"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"vidzoo.data.{module}"), name)
    raise AttributeError(f"module 'vidzoo.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
