"""C2D: a ResNet that looks at every frame by itself and averages the logits.

The baseline of every paper here (GST, ICCV 2019, Tables 1 and 2): what is left when time is not modelled at all.
"""

from __future__ import annotations

from typing import Unpack

from vidzoo.layers.conv import FrameConv3d
from vidzoo.models.resnet import ResNetOptions, VideoResNet
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = ["c2d_r18", "c2d_r34", "c2d_r50", "c2d_r101"]

# Input of GST's experiments (section 4.2): TSN segments, short side 256, crop 224, one centre crop.
_CFGS = {
    "": VideoCfg(
        paper="Grouped Spatial-Temporal Aggregation for Efficient Action Recognition, ICCV 2019",
        source="baseline of GST, Table 2",
    )
}


@register_model(cfgs=_CFGS)
def c2d_r18(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C2D on ResNet-18."""
    return VideoResNet(18, FrameConv3d, **options)


@register_model(cfgs=_CFGS)
def c2d_r34(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C2D on ResNet-34."""
    return VideoResNet(34, FrameConv3d, **options)


@register_model(cfgs=_CFGS)
def c2d_r50(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C2D on ResNet-50."""
    return VideoResNet(50, FrameConv3d, **options)


@register_model(cfgs=_CFGS)
def c2d_r101(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C2D on ResNet-101."""
    return VideoResNet(101, FrameConv3d, **options)
