"""Residual networks over video: one backbone, any spatio-temporal unit in the place of its 3x3 convolutions.

Backbone: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with the stride on the 3x3
convolution. A :class:`Layout` says what sets one video ResNet apart from another: how long the kernels are over time
and where time is strided or pooled. Its defaults are those of GST (ICCV 2019, section 3.4) and its baselines: stem
1x7x7 and pooling 1x3x3 per frame, the time axis kept whole from end to end, the prediction the mean of the frames'
logits. Keys are those of torchvision's ResNet, with a unit's own parameters below ``conv1`` / ``conv2``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.conv import FullConv3d
from vidzoo.layers.drop import DropPath
from vidzoo.layers.ragged import lengths_of, mean_over_clip, mean_over_space, mean_over_time
from vidzoo.layers.unit import SpatioTemporalUnit, UnitFactory
from vidzoo.models.base import CommonOptions, FeatureInfo, VideoModel, check_rates

__all__ = ["BasicBlock", "Bottleneck", "Layout", "ResNetOptions", "VideoResNet", "layout"]


class ResNetOptions(CommonOptions, total=False):
    """Options that every ResNet of the zoo takes.

    ``drop_rate``: dropout on each frame's features before the classifier. ``drop_path_rate``: stochastic depth, rising
    linearly to this value at the last block. ``zero_init_last``: residual branches start at zero.
    """

    drop_path_rate: float
    zero_init_last: bool


class BasicBlock(nn.Module):
    """Two units and a shortcut (ResNet-18, -34).

    Args:
        length: temporal kernel asked of both units.
        stride: ``(time, height, width)`` of the first unit.
        conv1_length: must be 1, there is no 1x1 convolution here.
    """

    expansion = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        unit: UnitFactory,
        *,
        length: int = 3,
        stride: tuple[int, int, int] = (1, 1, 1),
        conv1_length: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if conv1_length != 1:
            raise ConfigError(f"a basic block has no 1x1 convolution to lengthen over time, got {conv1_length=}")
        kernel, padding = (length, 3, 3), (length // 2, 1, 1)
        self.conv1 = unit(inplanes, planes, kernel, stride, padding, bias=False)
        self.bn1 = _norm(self.conv1, planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = unit(planes, planes, kernel, 1, padding, bias=False)
        self.bn2 = _norm(self.conv2, planes)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample = _shortcut(inplanes, planes, stride)
        self.last_relu = True  # False where a sampler does it

    def last_norms(self) -> list[nn.BatchNorm3d]:
        """The norms that the residual branch ends with."""
        return _last_norms(self.conv2) or [norm for norm in [self.bn2] if isinstance(norm, nn.BatchNorm3d)]

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x = self.drop_path(x) + shortcut
        return self.relu(x) if self.last_relu else x


class Bottleneck(nn.Module):
    """1x1x1 (or ``conv1_length`` x1x1), a unit, 1x1x1, and a shortcut (ResNet-50, -101).

    Args:
        length: temporal kernel asked of the unit.
        stride: ``(time, height, width)`` of the unit.
        conv1_length: temporal kernel of the first convolution.
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        unit: UnitFactory,
        *,
        length: int = 3,
        stride: tuple[int, int, int] = (1, 1, 1),
        conv1_length: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        outplanes = planes * self.expansion
        self.conv1 = FullConv3d(inplanes, planes, (conv1_length, 1, 1), 1, (conv1_length // 2, 0, 0), bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = unit(planes, planes, (length, 3, 3), stride, (length // 2, 1, 1), bias=False)
        self.bn2 = _norm(self.conv2, planes)
        self.conv3 = nn.Conv3d(planes, outplanes, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(outplanes)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample = _shortcut(inplanes, outplanes, stride)
        self.last_relu = True  # False where a sampler does it

    def last_norms(self) -> list[nn.BatchNorm3d]:
        """The norms that the residual branch ends with."""
        return [self.bn3]

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x = self.drop_path(x) + shortcut
        return self.relu(x) if self.last_relu else x


@dataclass(frozen=True)
class Layout:
    """Everything that tells one video ResNet from another, the unit apart; sequences have one entry per stage.

    ``counts``: blocks. ``widths``: channels inside a block. ``lengths``: temporal kernel asked of the unit.
    ``conv1_lengths``: temporal kernels of the bottlenecks' first convolution, repeated over the blocks of the stage.
    ``strides`` and ``t_strides``: stride of a stage's first block over space and over time. ``stem_length``: temporal
    kernel of the stem. ``stem_pool``: maximum over 3x3 positions behind the stem, with stride 2. ``temporal_pool``:
    maximum over pairs of frames after the first stage; the last of an odd number stays alone. ``frame_head``: dropout
    acts on each frame's features, otherwise on their mean.
    ``head_std``: spread of the classifier's first weights.
    """

    counts: tuple[int, int, int, int]
    block: type[BasicBlock] | type[Bottleneck]
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    lengths: tuple[int, int, int, int] = (3, 3, 3, 3)
    conv1_lengths: tuple[tuple[int, ...], ...] = ((1,), (1,), (1,), (1,))
    strides: tuple[int, int, int, int] = (1, 2, 2, 2)
    t_strides: tuple[int, int, int, int] = (1, 1, 1, 1)
    stem_width: int = 64
    stem_length: int = 1
    stem_pool: bool = True
    temporal_pool: bool = False
    frame_head: bool = True
    head_std: float = 0.001  # the classifier of GST's models.py


_LAYOUTS = {
    18: Layout((2, 2, 2, 2), BasicBlock),
    34: Layout((3, 4, 6, 3), BasicBlock),
    50: Layout((3, 4, 6, 3), Bottleneck),
    101: Layout((3, 4, 23, 3), Bottleneck),
}


def layout(depth: int) -> Layout:
    """The plain layout of ResNet-18, -34, -50 or -101; ``dataclasses.replace`` makes another of it.

    Raises:
        ConfigError: no such depth.
    """
    if depth not in _LAYOUTS:
        raise ConfigError(f"there is no ResNet-{depth} here: the depths are {', '.join(map(str, _LAYOUTS))}")
    return _LAYOUTS[depth]


class VideoResNet(VideoModel):
    """ResNet over ``(B, in_chans, T, H, W)``, any T >= 1 and any H, W; logits ``(B, num_classes)``.

    Args:
        plan: the layout, or a depth for the plain one of 18, 34, 50 or 101.
        unit: what stands in the place of each 3x3 convolution, a class of :mod:`vidzoo.layers` or a partial of it; or
            four of them, one per stage.
        stem: what makes the stem's convolution.
        num_frames: the length of clip that the model is meant for; the topology takes any.
    """

    def __init__(
        self,
        plan: Layout | int,
        unit: UnitFactory | Sequence[UnitFactory],
        *,
        stem: UnitFactory = FullConv3d,
        num_classes: int = 400,
        in_chans: int = 3,
        num_frames: int = 8,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_last: bool = False,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans)
        check_rates(drop_rate, drop_path_rate)
        plan = plan if isinstance(plan, Layout) else layout(plan)
        lengths = (plan.stem_length, *plan.lengths, *(length for stage in plan.conv1_lengths for length in stage))
        if any(length % 2 == 0 or length < 1 for length in lengths):
            raise ConfigError(f"temporal kernels must be odd to keep the frames, got {lengths} (stem, stages, conv1)")
        units = list(unit) if isinstance(unit, Sequence) else [unit] * 4
        if len(units) != 4:
            raise ConfigError(f"give one unit, or four of them (one per stage), not {len(units)}")
        self.plan = plan
        self.num_frames = num_frames
        self.num_features = plan.widths[-1] * plan.block.expansion
        self.head_std = plan.head_std

        t = plan.stem_length
        self.conv1 = stem(in_chans, plan.stem_width, (t, 7, 7), (1, 2, 2), (t // 2, 3, 3), bias=False)
        self.bn1 = _norm(self.conv1, plan.stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)) if plan.stem_pool else nn.Identity()
        self.temporal_pool = nn.MaxPool3d((2, 1, 1), ceil_mode=True) if plan.temporal_pool else nn.Identity()

        self.feature_info = (FeatureInfo(num_chs=plan.stem_width, reduction=2, t_reduction=1, module="relu"),)
        inplanes, index, last = plan.stem_width, 0, max(sum(plan.counts) - 1, 1)
        reduction, t_reduction = 4 if plan.stem_pool else 2, 1
        for stage in range(4):
            space = plan.strides[stage]
            blocks = []
            for position in range(plan.counts[stage]):
                first = position == 0
                conv1_lengths = plan.conv1_lengths[stage]
                blocks.append(
                    plan.block(
                        inplanes,
                        plan.widths[stage],
                        units[stage],
                        length=plan.lengths[stage],
                        stride=(plan.t_strides[stage], space, space) if first else (1, 1, 1),
                        conv1_length=conv1_lengths[position % len(conv1_lengths)],
                        drop_path=drop_path_rate * index / last,
                    )
                )
                inplanes, index = plan.widths[stage] * plan.block.expansion, index + 1
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            reduction *= space
            t_reduction *= plan.t_strides[stage] * (2 if plan.temporal_pool and stage == 1 else 1)
            self.feature_info += (FeatureInfo(inplanes, reduction, t_reduction, f"layer{stage + 1}"),)

        self.dropout = nn.Dropout(drop_rate)
        self._init_weights(zero_init_last)
        self.fc = self.make_head(num_classes)

    @property
    def depth(self) -> int:
        """Convolutions in a row, the classifier included, as ResNets are named."""
        return sum(self.plan.counts) * (3 if self.plan.block is Bottleneck else 2) + 2

    def _init_weights(self, zero_init_last: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_last:
            for module in self.modules():
                if isinstance(module, (BasicBlock, Bottleneck)):
                    for norm in module.last_norms():
                        nn.init.zeros_(norm.weight)

    def _stages(self) -> Iterable[tuple[str, nn.Module]]:
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "temporal_pool", "layer2", "layer3", "layer4"):
            yield name, self.get_submodule(name)

    def _pool(self, features: Tensor) -> Tensor:
        if not self.plan.frame_head:
            return self.dropout(mean_over_clip(features))  # (B, C)
        # Every frame has its own dropout and the classifier is linear, so the mean of the frames' logits (the consensus
        # of GST) is the logits of their mean: one small product instead of T.
        frames = mean_over_space(features)  # (B, C, T)
        return mean_over_time(self.dropout(frames), lengths_of(features))  # (B, C)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """``stem``, then one group per stage (``coarse``) or per block; the head comes last by itself."""
        return {"stem": r"^(?:conv1|bn1)", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def _last_norms(unit: nn.Module) -> list[nn.BatchNorm3d]:
    return unit.last_norms() if isinstance(unit, SpatioTemporalUnit) else []


def _norm(unit: nn.Module, planes: int) -> nn.Module:
    return nn.Identity() if _last_norms(unit) else nn.BatchNorm3d(planes)


def _shortcut(inplanes: int, outplanes: int, stride: tuple[int, int, int]) -> nn.Sequential | None:
    if stride == (1, 1, 1) and inplanes == outplanes:
        return None
    return nn.Sequential(nn.Conv3d(inplanes, outplanes, 1, stride=stride, bias=False), nn.BatchNorm3d(outplanes))
