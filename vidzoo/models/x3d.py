"""X3D: a small image network grown step by step along time, resolution, depth and width.

Paper: Feichtenhofer, "X3D: Expanding Architectures for Efficient Video Recognition", CVPR 2020. Bottlenecks whose
3x3x3 convolution is depthwise, with squeeze and excitation in every other block; the time axis is kept whole, the
stem and all four stages halve the map. XS, S and M are one network fed with different clips; L is deeper, XL deeper
and wider. Parameters and outputs are those of pytorchvideo 0.1.5 (Apache-2.0), before its softmax. It publishes no XL;
the factors of ours give the size and cost that ATFR (CVPR 2021, Table 8) prints for X3D-XL.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.drop import DropPath
from vidzoo.layers.ragged import mean_over_clip
from vidzoo.layers.squeeze import SqueezeExcite
from vidzoo.models.base import CommonOptions, FeatureInfo, VideoModel, check_rates
from vidzoo.models.fair import KINETICS_CFG, pyslowfast, pytorchvideo
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = ["X3D", "X3DBlock", "X3DOptions", "X3DStem", "x3d_l", "x3d_m", "x3d_s", "x3d_xl", "x3d_xs"]

# Before any expansion: channels of the stem and the first stage (each later stage doubles them), blocks per stage.
WIDTH = 12
COUNTS = (1, 2, 5, 3)
BOTTLENECK_FACTOR = 2.25
SQUEEZE_FACTOR = 1 / 16


class X3DOptions(CommonOptions, total=False):
    """Options that every X3D takes; ``drop_path_rate``: stochastic depth, rising linearly to it at the last block."""

    drop_path_rate: float


class X3DStem(nn.Module):
    """1x3x3 over space with stride 2, then 5x1x1 over time for each channel by itself; one norm behind both."""

    def __init__(self, in_chans: int, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv3d(in_chans, width, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False)
        self.temporal = nn.Conv3d(width, width, (5, 1, 1), padding=(2, 0, 0), groups=width, bias=False)
        self.bn = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.temporal(self.spatial(x))  # (B, width, T, H/2, W/2)
        return self.relu(self.bn(x))


class X3DBlock(nn.Module):
    """1x1x1, depthwise 3x3x3, squeeze and excitation, swish, 1x1x1, and a shortcut.

    Args:
        inplanes: channels that come in.
        planes: channels that go out.
        stride: 1 or 2, over space only.
        squeeze: whether squeeze and excitation stands behind the norm of the 3x3x3 convolution.
        drop_path: probability of dropping the residual branch of a clip in training.
    """

    def __init__(self, inplanes: int, planes: int, *, stride: int, squeeze: bool, drop_path: float = 0.0) -> None:
        super().__init__()
        inner = _inner(planes)
        self.conv1 = nn.Conv3d(inplanes, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(inner)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv3d(inner, inner, 3, stride=(1, stride, stride), padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm3d(inner)
        self.se = SqueezeExcite(inner, _rounded(inner * SQUEEZE_FACTOR)) if squeeze else nn.Identity()
        self.swish = nn.SiLU(inplace=True)
        self.conv3 = nn.Conv3d(inner, planes, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(planes)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample = _shortcut(inplanes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.swish(self.se(self.bn2(self.conv2(x))))
        x = self.bn3(self.conv3(x))
        return self.relu(self.drop_path(x) + shortcut)


class X3D(VideoModel):
    """X3D over ``(B, in_chans, T, H, W)``, any T >= 1 and any H, W; logits ``(B, num_classes)``.

    ``forward_features`` gives the map of ``conv5``, which is what the head pools; ``layer4`` has its own entry in
    ``feature_info`` with the same reduction.

    Args:
        width_factor: gamma_w of the paper, multiplies all widths.
        depth_factor: gamma_d, multiplies the number of blocks of every stage, rounded up.
        num_frames: the length of clip that the model is meant for; the topology takes any.

    Raises:
        ConfigError: a factor that leaves nothing, or a rate outside [0, 1).
    """

    head_hidden_size = 2048

    def __init__(
        self,
        *,
        width_factor: float = 2.0,
        depth_factor: float = 2.2,
        num_classes: int = 400,
        in_chans: int = 3,
        num_frames: int = 16,
        drop_rate: float = 0.5,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans)
        check_rates(drop_rate, drop_path_rate)
        if min(width_factor, depth_factor) <= 0:
            raise ConfigError(f"width_factor and depth_factor are positive, got {width_factor} and {depth_factor}")
        self.num_frames = num_frames
        counts = [math.ceil(count * depth_factor) for count in COUNTS]
        inplanes = _rounded(WIDTH * width_factor)
        self.stem = X3DStem(in_chans, inplanes)
        self.feature_info = (FeatureInfo(num_chs=inplanes, reduction=2, t_reduction=1, module="stem"),)

        index, last = 0, max(sum(counts) - 1, 1)
        for stage, count in enumerate(counts):
            planes = _rounded(WIDTH * 2**stage * width_factor)
            blocks = []
            for position in range(count):
                rate = drop_path_rate * index / last
                stride = 1 if position else 2
                blocks.append(X3DBlock(inplanes, planes, stride=stride, squeeze=position % 2 == 0, drop_path=rate))
                inplanes, index = planes, index + 1
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.feature_info += (FeatureInfo(planes, 4 * 2**stage, 1, f"layer{stage + 1}"),)

        self.num_features = _inner(inplanes)
        self.conv5 = nn.Conv3d(inplanes, self.num_features, 1, bias=False)
        self.bn5 = nn.BatchNorm3d(self.num_features)
        self.relu5 = nn.ReLU(inplace=True)
        self.feature_info += (FeatureInfo(self.num_features, 32, 1, "relu5"),)
        # A 1x1x1 convolution of the pooled map, of which one position is left: a linear layer.
        self.conv6 = nn.Linear(self.num_features, self.head_hidden_size, bias=False)
        self.dropout = nn.Dropout(drop_rate)
        self._init_weights()
        self.fc = self.make_head(num_classes)

    def _init_weights(self) -> None:
        # As pytorchvideo: He's initialisation over the fan out, no biases, residual branches that start at zero.
        for module in self.modules():
            if isinstance(module, (nn.Conv3d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, X3DBlock):
                nn.init.zeros_(module.bn3.weight)

    def _stages(self) -> Iterable[tuple[str, nn.Module]]:
        for name in ("stem", "layer1", "layer2", "layer3", "layer4", "conv5", "bn5", "relu5"):
            yield name, self.get_submodule(name)

    def _pool(self, features: Tensor) -> Tensor:
        # The mean over the whole map, whatever its size. pytorchvideo pools windows of the size that a model was
        # trained at, which is the same there; on a larger crop it averages the scores of several windows.
        pooled = mean_over_clip(features)  # (B, C)
        return self.dropout(torch.relu(self.conv6(pooled)))  # (B, 2048)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """``stem``, one group per stage (``coarse``) or per block, ``conv5``, ``conv6``; the classifier comes last."""
        blocks = (r"^layer(\d+)", None) if coarse else (r"^layer(\d+)\.(\d+)", None)
        return {"stem": r"^stem", "blocks": [blocks, (r"^(?:conv|bn)(\d)", (0,))]}


def _rounded(width: float) -> int:
    """The multiple of 8 nearest to ``width``, at least 8; the next one where that would lose more than a tenth."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


def _inner(planes: int) -> int:
    return int(planes * BOTTLENECK_FACTOR)


def _shortcut(inplanes: int, planes: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inplanes == planes:
        return None
    conv = nn.Conv3d(inplanes, planes, 1, stride=(1, stride, stride), bias=False)
    # pytorchvideo has a norm here only where the channels change, which leaves the first shortcut without one.
    return nn.Sequential(conv, nn.BatchNorm3d(planes)) if inplanes != planes else nn.Sequential(conv)


def _cfgs(
    frames: int, stride: int, crop: int, test_crop: int, size: str = "", printed: tuple[float, float, float] = (0, 0, 0)
) -> dict[str, VideoCfg]:
    """How X3D is fed in PySlowFast's configs: 10 clips of 3 crops, each as large as the shorter side of the frame."""
    base = KINETICS_CFG.replace(
        num_frames=frames,
        temporal_stride=stride,
        short_side=test_crop,
        crop_size=(crop, crop),
        test_crop_size=(test_crop, test_crop),
        paper="X3D: Expanding Architectures for Efficient Video Recognition, CVPR 2020",
        origin_url="https://github.com/facebookresearch/pytorchvideo",
        source="Feichtenhofer, CVPR 2020",
        first_conv=("stem.spatial",),
    )
    if not size:
        return {"": base}
    top1, top5, fair = printed
    return {
        "": base,
        "k400": pytorchvideo(base, f"kinetics/X3D_{size}.pyth", top1, top5),
        "k400_fair": pyslowfast(base, f"x3d_models/x3d_{size.lower()}.pyth", fair, "pyslowfast"),
    }


@register_model(cfgs=_cfgs(4, 12, 160, 182, "XS", (69.12, 88.63, 69.5)))
def x3d_xs(**options: Unpack[X3DOptions]) -> X3D:
    """X3D-XS: the network of X3D-S on 4 frames."""
    options.setdefault("num_frames", 4)
    return X3D(**options)


@register_model(cfgs=_cfgs(13, 6, 160, 182, "S", (73.33, 91.27, 73.5)))
def x3d_s(**options: Unpack[X3DOptions]) -> X3D:
    """X3D-S: 13 frames of 160 x 160."""
    options.setdefault("num_frames", 13)
    return X3D(**options)


@register_model(cfgs=_cfgs(16, 5, 224, 256, "M", (75.94, 92.72, 76.2)))
def x3d_m(**options: Unpack[X3DOptions]) -> X3D:
    """X3D-M: the network of X3D-S on 16 frames of 224 x 224."""
    return X3D(**options)


@register_model(cfgs=_cfgs(16, 5, 312, 356, "L", (77.44, 93.31, 77.5)))
def x3d_l(**options: Unpack[X3DOptions]) -> X3D:
    """X3D-L: 55 blocks instead of 26, on 16 frames of 312 x 312."""
    return X3D(depth_factor=5.0, **options)


# Nobody published weights of X3D-XL.
@register_model(cfgs=_cfgs(16, 5, 312, 356))
def x3d_xl(**options: Unpack[X3DOptions]) -> X3D:
    """X3D-XL: as deep as X3D-L and 1.45 times as wide."""
    return X3D(width_factor=2.9, depth_factor=5.0, **options)
