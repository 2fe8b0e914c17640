"""C2D with a pooled time axis: every convolution looks at one frame, and pairs of frames are pooled after res2.

Baseline of Wang et al., "Non-local Neural Networks", CVPR 2018 (Table 1), as in pytorchvideo's ``c2d_r50``. ATFR (CVPR
2021) prints its cost under the name "R(2+1)D": 101.8 GMAC for ResNet-50 at 32 x 256 x 256 (Table 7), 46.5 and 93.1 for
R18 at 32 and 64 x 224 x 224 (Table 4), while an R(2+1)D-50 takes 150.3 (``r2plus1d_r50``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from vidzoo.layers.conv import FrameConv3d
from vidzoo.models.donors import IMAGENET_BOTTLENECK_26, imagenet
from vidzoo.models.fair import BOTTLENECK_18, BOTTLENECK_50, KINETICS_CFG, fair_resnet, pytorchvideo
from vidzoo.models.resnet import ResNetOptions, VideoResNet
from vidzoo.registry import register_model

__all__ = ["c2d_pool_r18", "c2d_pool_r50"]

_BASE = KINETICS_CFG.replace(
    paper="Non-local Neural Networks, CVPR 2018",
    origin_url="https://github.com/facebookresearch/SlowFast",
    source="baseline of Wang et al., CVPR 2018",
)
_OVER_TIME = "every layer is that network's, frames are pooled in pairs."
_CFGS_18 = {"": _BASE, **imagenet(_BASE, IMAGENET_BOTTLENECK_26, _OVER_TIME)}
_CFGS_50 = {
    "": _BASE,
    "k400": pytorchvideo(_BASE, "kinetics/C2D_8x8_R50.pyth", 71.46, 89.68),
    **imagenet(_BASE, 50, _OVER_TIME),
}


@register_model(cfgs=_CFGS_18)
def c2d_pool_r18(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C2D with temporal pooling and two bottlenecks per stage, which is what PySlowFast calls R18."""
    return fair_resnet(replace(BOTTLENECK_18, temporal_pool=True), FrameConv3d, options)


@register_model(cfgs=_CFGS_50)
def c2d_pool_r50(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C2D with temporal pooling on ResNet-50."""
    return fair_resnet(replace(BOTTLENECK_50, temporal_pool=True), FrameConv3d, options)
