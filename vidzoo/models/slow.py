"""Slow: the slow pathway of SlowFast by itself, a ResNet that looks over time in its last two stages only.

Paper: Feichtenhofer et al., "SlowFast Networks for Video Recognition", ICCV 2019, Table 1 (slow pathway). The
first convolution of every bottleneck in res4 and res5 is 3x1x1, all others look at one frame; the time axis keeps its
length. Same network as pytorchvideo's ``slow_r50``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from vidzoo.layers.conv import FrameConv3d
from vidzoo.models.donors import IMAGENET_BOTTLENECK_26, imagenet, openmmlab
from vidzoo.models.fair import (
    BOTTLENECK_18,
    BOTTLENECK_50,
    KINETICS_CFG,
    fair_resnet,
    pyslowfast,
    pytorchvideo,
    something,
)
from vidzoo.models.resnet import Layout, ResNetOptions, VideoResNet
from vidzoo.registry import register_model

__all__ = ["slow_r18", "slow_r50"]

_BASE = KINETICS_CFG.replace(
    paper="SlowFast Networks for Video Recognition, ICCV 2019",
    origin_url="https://github.com/facebookresearch/SlowFast",
    source="Feichtenhofer et al., ICCV 2019",
)
_OVER_TIME = "kernels over time hold the 2D ones at their middle frame."
_MM = "slowonly_imagenet-pretrained-r50_8xb16-8x8x1-steplr-150e_kinetics400-rgb"
_CFGS_18 = {"": _BASE, **imagenet(_BASE, IMAGENET_BOTTLENECK_26, _OVER_TIME)}
_CFGS_50 = {
    "": _BASE,
    "k400": pytorchvideo(_BASE, "kinetics/SLOW_8x8_R50.pyth", 74.58, 91.63),
    "k400_4x16": pytorchvideo(
        _BASE.replace(num_frames=4, temporal_stride=16), "kinetics/SLOW_4x16_R50.pyth", 72.40, 90.18
    ),
    "k400_mm": openmmlab(
        _BASE,
        f"slowonly/{_MM}",
        f"{_MM}_20220901-df42dc84.pth",
        76.45,
        92.55,
        views="10 x 3",
        fps=None,
    ),
    "k400_fair": pyslowfast(_BASE, "model_zoo/kinetics400/SLOWONLY_8x8_R50.pkl", 74.8),
    "ssv2": something(_BASE, "SLOW_8x8_R50.pyth", 60.04, 85.19),
    **imagenet(_BASE, 50, _OVER_TIME),
}


def _slow(plan: Layout, options: ResNetOptions) -> VideoResNet:
    plan = replace(plan, conv1_lengths=((1,), (1,), (3,), (3,)))
    return fair_resnet(plan, FrameConv3d, options)


@register_model(cfgs=_CFGS_18)
def slow_r18(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """Slow with two bottlenecks per stage, which is what PySlowFast calls R18."""
    return _slow(BOTTLENECK_18, options)


@register_model(cfgs=_CFGS_50)
def slow_r50(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """Slow on ResNet-50."""
    return _slow(BOTTLENECK_50, options)
