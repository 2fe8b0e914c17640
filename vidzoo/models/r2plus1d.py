"""R(2+1)D on bottlenecks: 3x1x1, batch norm, ReLU, 1x3x3 in the place of every 3x3 convolution.

Paper: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018, in the form of
pytorchvideo's ``r2plus1d_r50``: the temporal convolution comes first and keeps its width (the paper has space first and
widens the middle), the stem is 1x7x7 without pooling, so that every stage halves height and width, and res4 and res5
halve the number of frames. pytorchvideo returns probabilities here, this network returns logits.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Unpack

from vidzoo.layers.p3d import P3DConv3d
from vidzoo.models.donors import IMAGENET_BOTTLENECK_26, imagenet
from vidzoo.models.fair import BOTTLENECK_18, BOTTLENECK_50, KINETICS_CFG, fair_resnet, pytorchvideo
from vidzoo.models.resnet import Layout, ResNetOptions, VideoResNet
from vidzoo.registry import register_model

__all__ = ["r2plus1d_r18", "r2plus1d_r50"]

_BASE = KINETICS_CFG.replace(
    num_frames=16,
    temporal_stride=4,
    paper="A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018",
    origin_url="https://github.com/facebookresearch/pytorchvideo",
    source="Tran et al., CVPR 2018",
)
_OVER_TIME = "convolutions over time start as the identity; strides differ from the 2D network's."
_CFGS_18 = {"": _BASE, **imagenet(_BASE, IMAGENET_BOTTLENECK_26, _OVER_TIME)}
_CFGS_50 = {
    "": _BASE,
    "k400": pytorchvideo(_BASE, "kinetics/R2PLUS1D_16x4_R50.pyth", 76.01, 92.23),
    **imagenet(_BASE, 50, _OVER_TIME),
}


def _r2plus1d(plan: Layout, options: ResNetOptions) -> VideoResNet:
    plan = replace(plan, stem_pool=False, strides=(2, 2, 2, 2), t_strides=(1, 1, 2, 2))
    return fair_resnet(plan, partial(P3DConv3d, norm=True, time_first=True), options)


@register_model(cfgs=_CFGS_18)
def r2plus1d_r18(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """R(2+1)D with two bottlenecks per stage; the network of basic blocks in the paper is another one."""
    return _r2plus1d(BOTTLENECK_18, options)


@register_model(cfgs=_CFGS_50)
def r2plus1d_r50(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """R(2+1)D on ResNet-50."""
    return _r2plus1d(BOTTLENECK_50, options)
