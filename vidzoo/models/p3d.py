"""P3D: a ResNet whose 3x3 convolutions become 1x3x3 followed by 3x1x1.

Baseline of GST (ICCV 2019, Tables 1, 2, 5 and 7), after Qiu et al., "Learning Spatio-Temporal Representation with
Pseudo-3D Residual Networks", ICCV 2017. GST prints 29.4M parameters for ResNet-50 with 174 classes; its own formula
gives 27.6M, as here.
"""

from __future__ import annotations

from functools import partial
from typing import Unpack

from vidzoo.layers.p3d import P3DConv3d
from vidzoo.models.donors import imagenet
from vidzoo.models.resnet import ResNetOptions, VideoResNet
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = ["p3d_r18", "p3d_r34", "p3d_r50", "p3d_r101"]

# Input of GST's experiments (section 4.2): TSN segments, short side 256, crop 224, one centre crop.
_BASE = VideoCfg(
    paper="Grouped Spatial-Temporal Aggregation for Efficient Action Recognition, ICCV 2019",
    source="baseline of GST, Table 2",
)


def _cfgs(depth: int) -> dict[str, VideoCfg]:
    over_time = "temporal convolutions start as the identity."
    return {"": _BASE, **imagenet(_BASE, depth, over_time)}


_unit = partial(P3DConv3d, norm=True)


@register_model(cfgs=_cfgs(18))
def p3d_r18(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """P3D on ResNet-18."""
    return VideoResNet(18, _unit, **options)


@register_model(cfgs=_cfgs(34))
def p3d_r34(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """P3D on ResNet-34."""
    return VideoResNet(34, _unit, **options)


@register_model(cfgs=_cfgs(50))
def p3d_r50(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """P3D on ResNet-50."""
    return VideoResNet(50, _unit, **options)


@register_model(cfgs=_cfgs(101))
def p3d_r101(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """P3D on ResNet-101."""
    return VideoResNet(101, _unit, **options)
