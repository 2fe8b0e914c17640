"""Slow: the slow pathway of SlowFast by itself, a ResNet that looks over time in its last two stages only.

Paper: Feichtenhofer et al., "SlowFast Networks for Video Recognition", ICCV 2019, Table 1 (slow pathway). The
first convolution of every bottleneck in res4 and res5 is 3x1x1, all others look at one frame; the time axis keeps its
length. Same network as pytorchvideo's ``slow_r50``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from vidzoo.layers.conv import FrameConv3d
from vidzoo.models.fair import BOTTLENECK_18, BOTTLENECK_50, KINETICS_CFG, fair_resnet
from vidzoo.models.resnet import Layout, ResNetOptions, VideoResNet
from vidzoo.registry import register_model

__all__ = ["slow_r18", "slow_r50"]

_CFGS = {
    "": KINETICS_CFG.replace(
        paper="SlowFast Networks for Video Recognition, ICCV 2019",
        origin_url="https://github.com/facebookresearch/SlowFast",
        source="Feichtenhofer et al., ICCV 2019",
    )
}


def _slow(plan: Layout, options: ResNetOptions) -> VideoResNet:
    plan = replace(plan, conv1_lengths=((1,), (1,), (3,), (3,)))
    return fair_resnet(plan, FrameConv3d, options)


@register_model(cfgs=_CFGS)
def slow_r18(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """Slow with two bottlenecks per stage, which is what PySlowFast calls R18."""
    return _slow(BOTTLENECK_18, options)


@register_model(cfgs=_CFGS)
def slow_r50(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """Slow on ResNet-50."""
    return _slow(BOTTLENECK_50, options)
