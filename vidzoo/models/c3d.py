"""C3D: a ResNet whose 3x3 convolutions are 3x3x3, dense or in two groups.

Baselines of GST (ICCV 2019, Tables 1, 2 and 5). The stem and the pooling look at single frames, as in GST's own
network; the paper leaves open how its baselines were inflated, ours start from the centre frame.
"""

from __future__ import annotations

from typing import Unpack

from vidzoo.layers.conv import FullConv3d, GroupedConv3d
from vidzoo.models.donors import imagenet
from vidzoo.models.resnet import ResNetOptions, VideoResNet
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = ["c3d_g2_r18", "c3d_g2_r34", "c3d_g2_r50", "c3d_g2_r101", "c3d_r18", "c3d_r34", "c3d_r50", "c3d_r101"]

# Input of GST's experiments (section 4.2): TSN segments, short side 256, crop 224, one centre crop.
_BASE = VideoCfg(
    paper="Grouped Spatial-Temporal Aggregation for Efficient Action Recognition, ICCV 2019",
    source="baseline of GST, Table 2",
)


def _cfgs(depth: int, *, groups: bool = False) -> dict[str, VideoCfg]:
    kernel = "each group's slice of the 2D one" if groups else "the 2D one"
    over_time = f"each 3x3x3 kernel holds {kernel} at its middle frame."
    return {"": _BASE, **imagenet(_BASE, depth, over_time)}


@register_model(cfgs=_cfgs(18))
def c3d_r18(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C3D on ResNet-18."""
    return VideoResNet(18, FullConv3d, **options)


@register_model(cfgs=_cfgs(34))
def c3d_r34(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C3D on ResNet-34."""
    return VideoResNet(34, FullConv3d, **options)


@register_model(cfgs=_cfgs(50))
def c3d_r50(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C3D on ResNet-50."""
    return VideoResNet(50, FullConv3d, **options)


@register_model(cfgs=_cfgs(101))
def c3d_r101(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C3D on ResNet-101."""
    return VideoResNet(101, FullConv3d, **options)


@register_model(cfgs=_cfgs(18, groups=True))
def c3d_g2_r18(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C3D with two groups on ResNet-18."""
    return VideoResNet(18, GroupedConv3d, **options)


@register_model(cfgs=_cfgs(34, groups=True))
def c3d_g2_r34(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C3D with two groups on ResNet-34."""
    return VideoResNet(34, GroupedConv3d, **options)


@register_model(cfgs=_cfgs(50, groups=True))
def c3d_g2_r50(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C3D with two groups on ResNet-50."""
    return VideoResNet(50, GroupedConv3d, **options)


@register_model(cfgs=_cfgs(101, groups=True))
def c3d_g2_r101(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C3D with two groups on ResNet-101."""
    return VideoResNet(101, GroupedConv3d, **options)
