"""C2D: a ResNet that looks at every frame by itself and averages the logits.

The baseline of every paper here (GST, ICCV 2019, Tables 1 and 2): what is left when time is not modelled at all.
"""

from __future__ import annotations

from typing import Unpack

from vidzoo.layers.conv import FrameConv3d
from vidzoo.models.donors import imagenet, openmmlab
from vidzoo.models.fair import KINETICS_CFG, pyslowfast
from vidzoo.models.resnet import ResNetOptions, VideoResNet
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = ["c2d_r18", "c2d_r34", "c2d_r50", "c2d_r101"]

# Input of GST's experiments (section 4.2): TSN segments, short side 256, crop 224, one centre crop.
_BASE = VideoCfg(
    paper="Grouped Spatial-Temporal Aggregation for Efficient Action Recognition, ICCV 2019",
    source="baseline of GST, Table 2",
)


def _cfgs(depth: int) -> dict[str, VideoCfg]:
    over_time = "every layer is that network's, so each frame gets its answer."
    return {"": _BASE, **imagenet(_BASE, depth, over_time)}


def _tsn(depth: int, date: str, top1: float, top5: float) -> VideoCfg:
    # The network of TSN with eight segments; its test takes 25 segments and ten crops, here it is eight and five.
    name = f"tsn_imagenet-pretrained-r{depth}_8xb32-1x1x8-100e_kinetics400-rgb"
    views = "25 x 10"
    return openmmlab(_BASE, f"tsn/{name}", f"{name}_{date}.pth", top1, top5, views=views, num_crops=5)


# PySlowFast's C2D without pooling: the same network, fed with every eighth frame.
_DENSE = KINETICS_CFG.replace(paper=_BASE.paper, origin_url=_BASE.origin_url)
_SEGMENTS_50 = {
    "": _BASE,
    "k400": _tsn(50, "20220906-2692d16c", 74.12, 91.34),
    "k400_fair": pyslowfast(_DENSE, "model_zoo/kinetics400/C2D_NOPOOL_8x8_R50.pkl", 67.2),
    **_cfgs(50),
}
_SEGMENTS_101 = {"": _BASE, "k400": _tsn(101, "20220906-23cff032", 75.89, 92.07), **_cfgs(101)}


@register_model(cfgs=_cfgs(18))
def c2d_r18(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C2D on ResNet-18."""
    return VideoResNet(18, FrameConv3d, **options)


@register_model(cfgs=_cfgs(34))
def c2d_r34(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C2D on ResNet-34."""
    return VideoResNet(34, FrameConv3d, **options)


@register_model(cfgs=_SEGMENTS_50)
def c2d_r50(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C2D on ResNet-50."""
    return VideoResNet(50, FrameConv3d, **options)


@register_model(cfgs=_SEGMENTS_101)
def c2d_r101(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """C2D on ResNet-101."""
    return VideoResNet(101, FrameConv3d, **options)
