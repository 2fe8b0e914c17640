"""3DResNet: ATFR's own small network, the host in which its sampler is studied.

Paper: Fayyaz et al., "3D CNNs with Adaptive Temporal Feature Resolutions", CVPR 2021, Table A.1; the authors' code is
SimilarityGuidedSampling/Similarity-Guided-Sampling (Apache-2.0). Narrow before the sampler and wide after it: 8
channels in stem and res2, then 64, 128 and 256 inside the bottlenecks. Stem 5x7x7, 3x1x1 in res2 and res5, the time axis
whole from end to end. The table's input of 32 x 244 x 224 is a misprint of 224 x 224, as its other rows show.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from vidzoo.layers.conv import FrameConv3d
from vidzoo.models.donors import initialisation
from vidzoo.models.fair import BOTTLENECK_18, BOTTLENECK_50, KINETICS_CFG, fair_resnet
from vidzoo.models.resnet import Layout, ResNetOptions, VideoResNet
from vidzoo.models.slowfast import CFGS_8X8
from vidzoo.registry import register_model

__all__ = ["resnet3d_18", "resnet3d_50"]

# Section 5.1: 32 frames with a stride of 2, 10 clips of 3 crops at 256 pixels.
_BASE = KINETICS_CFG.replace(
    num_frames=32,
    temporal_stride=2,
    paper="3D CNNs with Adaptive Temporal Feature Resolutions, CVPR 2021",
    origin_url="https://github.com/SimilarityGuidedSampling/Similarity-Guided-Sampling",
    source="Fayyaz et al., CVPR 2021",
)
# Nobody published these weights, but stem and res2 are, to the channel, those of SlowFast's fast pathway.
_CFGS = {
    "": _BASE,
    "k400": initialisation(
        CFGS_8X8["k400"],
        _BASE,
        "stem and res2 are those of the fast pathway of pytorchvideo's SlowFast 8x8; the rest is random, from a fixed seed.",
        donor_layout="fast-pathway",
        class_names=(),
    ),
}


def _resnet3d(plan: Layout, options: ResNetOptions) -> VideoResNet:
    plan = replace(
        plan,
        stem_width=8,
        stem_length=5,
        widths=(8, 64, 128, 256),
        conv1_lengths=((3,), (1,), (1,), (3,)),
    )
    return fair_resnet(plan, FrameConv3d, options)


@register_model(cfgs=_CFGS)
def resnet3d_18(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """3DResNet-18: two bottlenecks per stage (Table A.1)."""
    return _resnet3d(BOTTLENECK_18, options)


@register_model(cfgs=_CFGS)
def resnet3d_50(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """3DResNet-50: the stages of Table A.1 with 3, 4, 6 and 3 bottlenecks."""
    return _resnet3d(BOTTLENECK_50, options)
