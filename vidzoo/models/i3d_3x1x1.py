"""I3D 3x1x1: a ResNet inflated along its pointwise convolutions, one block in two.

Paper: Wang et al., "Non-local Neural Networks", CVPR 2018, section 4, which tells it from I3D 3x3x3 (``i3d_r50`` in this
zoo). The first convolution of a bottleneck is 3x1x1 in every block of res2, in every second block of res3 and res4
from the first on and of res5 from the second on; the stem is 5x7x7, and pairs of frames are pooled after res2. That
is pytorchvideo's ``i3d_r50``, which ATFR (CVPR 2021, Table 7) counts as "I3D ResNet50": 148.4 GMAC for 32 x 256 x 256.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from vidzoo.layers.conv import FrameConv3d
from vidzoo.models.donors import IMAGENET_BOTTLENECK_26, imagenet
from vidzoo.models.fair import BOTTLENECK_18, BOTTLENECK_50, KINETICS_CFG, fair_resnet, pyslowfast, pytorchvideo
from vidzoo.models.resnet import Layout, ResNetOptions, VideoResNet
from vidzoo.registry import register_model

__all__ = ["i3d_3x1x1_r18", "i3d_3x1x1_r50"]

_BASE = KINETICS_CFG.replace(
    paper="Non-local Neural Networks, CVPR 2018",
    origin_url="https://github.com/facebookresearch/SlowFast",
    source="Wang et al., CVPR 2018",
)
_OVER_TIME = "kernels over time hold the 2D ones at their middle frame."
_CFGS_18 = {"": _BASE, **imagenet(_BASE, IMAGENET_BOTTLENECK_26, _OVER_TIME)}
_CFGS_50 = {
    "": _BASE,
    "k400": pytorchvideo(_BASE, "kinetics/I3D_8x8_R50.pyth", 73.27, 90.70),
    "k400_fair": pyslowfast(_BASE, "model_zoo/kinetics400/I3D_8x8_R50.pkl", 73.5),
    **imagenet(_BASE, 50, _OVER_TIME),
}


def _i3d_3x1x1(plan: Layout, options: ResNetOptions) -> VideoResNet:
    plan = replace(plan, stem_length=5, temporal_pool=True, conv1_lengths=((3,), (3, 1), (3, 1), (1, 3)))
    return fair_resnet(plan, FrameConv3d, options)


@register_model(cfgs=_CFGS_18)
def i3d_3x1x1_r18(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """I3D 3x1x1 with two bottlenecks per stage, which is what PySlowFast calls R18."""
    return _i3d_3x1x1(BOTTLENECK_18, options)


@register_model(cfgs=_CFGS_50)
def i3d_3x1x1_r50(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """I3D 3x1x1 on ResNet-50."""
    return _i3d_3x1x1(BOTTLENECK_50, options)
