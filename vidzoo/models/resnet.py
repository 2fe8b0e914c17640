"""Residual networks over video: one backbone, any spatio-temporal unit in the place of its 3x3 convolutions.

Backbone: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with the stride on the 3x3
convolution. Over video as in GST (ICCV 2019, section 3.4) and its baselines: stem 1x7x7 and pooling 1x3x3 per frame,
the time axis kept whole from end to end, the prediction the mean of the frames' logits. Keys are those of
torchvision's ResNet, with a unit's own parameters below ``conv1`` / ``conv2``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypedDict

from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.drop import DropPath
from vidzoo.layers.unit import UnitFactory
from vidzoo.models.base import FeatureInfo, VideoModel

__all__ = ["DEPTHS", "BasicBlock", "Bottleneck", "Depth", "ResNetOptions", "VideoResNet"]

Depth = Literal[18, 34, 50, 101]
WIDTHS = (64, 128, 256, 512)


class ResNetOptions(TypedDict, total=False):
    """Options that every ResNet of the zoo takes.

    ``drop_rate``: dropout on each frame's features before the classifier. ``drop_path_rate``: stochastic depth, rising
    linearly to this value at the last block. ``zero_init_last``: residual branches start at zero.
    """

    num_classes: int
    in_chans: int
    num_frames: int
    drop_rate: float
    drop_path_rate: float
    zero_init_last: bool


class BasicBlock(nn.Module):
    """Two units and a shortcut (ResNet-18, -34)."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int, unit: UnitFactory, drop_path: float) -> None:
        super().__init__()
        self.conv1 = unit(inplanes, planes, 3, (1, stride, stride), 1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = unit(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample = _shortcut(inplanes, planes, stride)

    @property
    def last_norm(self) -> nn.BatchNorm3d:
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(self.drop_path(x) + shortcut)


class Bottleneck(nn.Module):
    """1x1x1, a unit, 1x1x1, and a shortcut (ResNet-50, -101)."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int, unit: UnitFactory, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = unit(planes, planes, 3, (1, stride, stride), 1, bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3 = nn.Conv3d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(planes * self.expansion)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample = _shortcut(inplanes, planes * self.expansion, stride)

    @property
    def last_norm(self) -> nn.BatchNorm3d:
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(self.drop_path(x) + shortcut)


DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


class VideoResNet(VideoModel):
    """ResNet over ``(B, in_chans, T, H, W)``, any T >= 1 and any H, W; logits ``(B, num_classes)``.

    Args:
        depth: 18, 34, 50 or 101.
        unit: what stands in the place of each 3x3 convolution, a class of :mod:`vidzoo.layers` or a partial of it.
        num_frames: the length of clip that the model is meant for; the topology takes any.
    """

    head_std = 0.001  # the classifier of GST's models.py

    def __init__(
        self,
        depth: int,
        unit: UnitFactory,
        *,
        num_classes: int = 400,
        in_chans: int = 3,
        num_frames: int = 8,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_last: bool = False,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans)
        if depth not in DEPTHS:
            raise ConfigError(f"there is no ResNet-{depth} here: the depths are {', '.join(map(str, DEPTHS))}")
        if not (0 <= drop_rate < 1 and 0 <= drop_path_rate < 1):
            raise ConfigError(f"drop_rate and drop_path_rate lie in [0, 1), got {drop_rate} and {drop_path_rate}")
        block, counts = DEPTHS[depth]
        self.depth = depth
        self.num_frames = num_frames
        self.num_features = WIDTHS[-1] * block.expansion

        self.conv1 = nn.Conv3d(in_chans, 64, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

        inplanes, index, total = 64, 0, sum(counts)
        for number, (planes, count) in enumerate(zip(WIDTHS, counts, strict=True), start=1):
            blocks = []
            for position in range(count):
                stride = 2 if position == 0 and number > 1 else 1
                rate = drop_path_rate * index / max(total - 1, 1)
                blocks.append(block(inplanes, planes, stride, unit, rate))
                inplanes, index = planes * block.expansion, index + 1
            setattr(self, f"layer{number}", nn.Sequential(*blocks))

        self.dropout = nn.Dropout(drop_rate)
        self._init_weights(zero_init_last)
        self.fc = self.make_head(num_classes)
        self.feature_info = (
            FeatureInfo(num_chs=64, reduction=2, t_reduction=1, module="relu"),
            *(
                FeatureInfo(num_chs=width * block.expansion, reduction=4 * 2**i, t_reduction=1, module=f"layer{i + 1}")
                for i, width in enumerate(WIDTHS)
            ),
        )

    def _init_weights(self, zero_init_last: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_last:
            for module in self.modules():
                if isinstance(module, (BasicBlock, Bottleneck)):
                    nn.init.zeros_(module.last_norm.weight)

    def _stages(self) -> Iterable[tuple[str, nn.Module]]:
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            yield name, self.get_submodule(name)

    def _pool(self, features: Tensor) -> Tensor:
        # Every frame has its own dropout and the classifier is linear, so the mean of the frames' logits (the paper's
        # consensus) is the logits of their mean: one small product instead of T.
        frames = features.mean(dim=(3, 4))  # (B, C, T)
        return self.dropout(frames).mean(dim=2)  # (B, C)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """``stem``, then one group per stage (``coarse``) or per block; the head comes last by itself."""
        return {"stem": r"^(?:conv1|bn1)", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def _shortcut(inplanes: int, outplanes: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inplanes == outplanes:
        return None
    return nn.Sequential(
        nn.Conv3d(inplanes, outplanes, 1, stride=(1, stride, stride), bias=False), nn.BatchNorm3d(outplanes)
    )
