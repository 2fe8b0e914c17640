"""A network of a few kilobytes, so that a test of files and transfers does not wait for weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from vidzoo.models.base import FeatureInfo, VideoModel
from vidzoo.pretrained import VideoCfg

CLASSES = ("wave", "jump | run", 'Björn\'s "clap"', "skip: all")

CFG = VideoCfg(
    num_frames=2,
    crop_size=(8, 8),
    short_side=8,
    num_classes=4,
    class_names=CLASSES,
    dataset="Weizmann",
    license="Apache-2.0",
    source="this test",
    paper="A Paper, 2019",
    sampling="dense",
    temporal_stride=2,
    fps=12.5,
    metrics={"top1 of the paper": 71.5},
)


class Tiny(VideoModel):
    def __init__(self, *, num_classes: int, in_chans: int, width: int) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans)
        self.conv1 = nn.Conv3d(in_chans, width, (3, 3, 3), padding=1)
        self.num_features = width
        self.fc = self.make_head(num_classes)
        self.feature_info = [FeatureInfo(num_chs=width, reduction=1, t_reduction=1, module="conv1")]

    def _stages(self) -> Iterable[tuple[str, nn.Module]]:
        yield "conv1", self.conv1

    def _pool(self, features: Tensor) -> Tensor:
        return features.mean((2, 3, 4))


def hub_tiny(
    *,
    num_classes: int = 4,
    in_chans: int = 3,
    num_frames: int = 2,
    width: int = 16,
    order: tuple[int, ...] = (1, 2),
    norm: Literal["none"] = "none",
) -> Tiny:
    return Tiny(num_classes=num_classes, in_chans=in_chans, width=width)
