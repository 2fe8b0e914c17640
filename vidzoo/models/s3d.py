"""S3D: an Inception network over video whose kxkxk convolutions look over space first and over time after it.

Paper: Xie et al., "Rethinking Spatiotemporal Feature Learning: Speed-Accuracy Trade-offs in Video Classification",
ECCV 2018: I3D on Inception-v1 with every convolution separated, but the 1x1x1 ones. Parameters and outputs are those of
torchvision's ``s3d`` (BSD-3-Clause), which needs 14 frames of 224 x 224; here smaller clips have smaller windows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidzoo.layers.p3d import P3DConv3d
from vidzoo.models.base import CommonOptions, FeatureInfo, VideoModel, check_rates
from vidzoo.models.tran import TORCHVISION_CFG, torchvision
from vidzoo.registry import register_model

__all__ = ["S3D", "ConvNorm", "HalvingPool", "InceptionBlock", "s3d"]

# Channels of each block: 1x1x1; 1x1x1 and 3x3x3; 1x1x1 and 3x3x3; pooling and 1x1x1.
_STAGES = {
    "mixed3": [(64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)],
    "mixed4": [
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ],
    "mixed5": [(256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)],
}
HEAD_WINDOW = (2, 7, 7)
NORM_EPS = NORM_MOMENTUM = 1e-3


class ConvNorm(nn.Module):
    """A convolution, batch norm over its ``planes`` output channels, ReLU."""

    def __init__(self, conv: nn.Module, planes: int) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm3d(planes)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class InceptionBlock(nn.Module):
    """Four looks at one map side by side: ``(B, inplanes, T, H, W) -> (B, planes, T, H, W)``.

    Args:
        widths: output channels of the 1x1x1 branch; those inside and at the end of the two separable branches; those of
            the branch that pools.
    """

    def __init__(self, inplanes: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        point, inside1, outside1, inside2, outside2, pooled = widths
        self.planes = point + outside1 + outside2 + pooled
        self.branch0 = _point(inplanes, point)
        self.branch1 = nn.Sequential(_point(inplanes, inside1), _separable(inside1, outside1, 3))
        self.branch2 = nn.Sequential(_point(inplanes, inside2), _separable(inside2, outside2, 3))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, stride=1, padding=1), _point(inplanes, pooled))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], dim=1)


class HalvingPool(nn.Module):
    """The maximum over 2x2x2 positions: the last of an odd number is left out, an only one stays."""

    def forward(self, x: Tensor) -> Tensor:
        window = [min(2, size) for size in x.shape[2:]]
        return F.max_pool3d(x, window, window)


class S3D(VideoModel):
    """S3D over ``(B, in_chans, T, H, W)``, any T >= 1 and any H, W; logits ``(B, num_classes)``.

    The head averages windows of 2x7x7 and then their means, so that on a map larger than one window inner positions
    weigh more than outer ones; on a smaller map the window is the map.

    Args:
        num_frames: the length of clip that the model is meant for; the topology takes any.
        drop_rate: dropout on each window's mean.

    Raises:
        ConfigError: a rate outside [0, 1).
    """

    num_features = 1024

    def __init__(
        self, *, num_classes: int = 400, in_chans: int = 3, num_frames: int = 64, drop_rate: float = 0.2
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans)
        check_rates(drop_rate)
        self.num_frames = num_frames
        self.conv1 = _separable(in_chans, 64, 7, stride=2)
        self.pool1 = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.conv2b = _point(64, 64)
        self.conv2c = _separable(64, 192, 3)
        self.pool2 = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.pool3 = nn.MaxPool3d(3, stride=2, padding=1)
        self.pool4 = HalvingPool()
        self.feature_info = (FeatureInfo(64, 2, 2, "conv1"), FeatureInfo(192, 4, 2, "conv2c"))
        inplanes = 192
        for stage, (name, blocks) in enumerate(_STAGES.items()):
            chain = nn.Sequential()
            for widths in blocks:
                block = InceptionBlock(inplanes, widths)
                chain.append(block)
                inplanes = block.planes
            setattr(self, name, chain)
            self.feature_info += (FeatureInfo(inplanes, 8 * 2**stage, 2 * 2**stage, name),)
        for module in self.modules():  # the convolutions start as torch starts them, which is what torchvision does
            if isinstance(module, nn.BatchNorm3d):
                module.eps, module.momentum = NORM_EPS, NORM_MOMENTUM
        self.dropout = nn.Dropout(drop_rate)
        self.fc = self.make_head(num_classes)

    def _stages(self) -> Iterable[tuple[str, nn.Module]]:
        order = ("conv1", "pool1", "conv2b", "conv2c", "pool2", "mixed3", "pool3", "mixed4", "pool4", "mixed5")
        for name in order:
            yield name, self.get_submodule(name)

    def _pool(self, features: Tensor) -> Tensor:
        means = features
        for axis, most in enumerate(HEAD_WINDOW, start=2):  # avg_pool3d knows no bfloat16 on a CPU
            means = means.unfold(axis, min(most, features.shape[axis]), 1).mean(dim=-1)  # (B, 1024, T'-1, H'-6, W'-6)
        # torchvision classifies each window and averages the logits: the classifier is linear, so this is the same.
        return self.dropout(means).mean(dim=(2, 3, 4))  # (B, 1024)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """The three first convolutions, then one group per stage (``coarse``) or per block; the head comes last."""
        return {"stem": r"^conv", "blocks": r"^mixed(\d+)" if coarse else r"^mixed(\d+)\.(\d+)"}


def _point(inplanes: int, planes: int) -> ConvNorm:
    return ConvNorm(nn.Conv3d(inplanes, planes, 1, bias=False), planes)


def _separable(inplanes: int, planes: int, size: int, *, stride: int = 1) -> ConvNorm:
    return ConvNorm(P3DConv3d(inplanes, planes, size, stride, size // 2, bias=False, norm=True), planes)


# Section 3.2: clips of 64 frames, 256 x 256 to a crop of 224. The paper tests on all frames of a video, torchvision on
# one clip of 128 at 15 frames per second.
_BASE = TORCHVISION_CFG.replace(
    num_frames=64,
    num_clips=1,
    short_side=256,
    crop_size=(224, 224),
    paper="Rethinking Spatiotemporal Feature Learning: Speed-Accuracy Trade-offs in Video Classification, ECCV 2018",
    source="Xie et al., ECCV 2018",
    first_conv=("conv1.conv.spatial",),
)
_CFGS = {"": _BASE, "k400": torchvision(_BASE, "s3d-d76dad2f.pth", 68.368, 88.05, of="one clip of 128 frames")}


@register_model(cfgs=_CFGS)
def s3d(**options: Unpack[CommonOptions]) -> S3D:
    """S3D on Inception-v1."""
    return S3D(**options)
