"""GST: a ResNet whose 3x3 convolutions are split into a spatial and a temporal group of channels.

Paper: Luo & Yuille, "Grouped Spatial-Temporal Aggregation for Efficient Action Recognition", ICCV 2019; the authors'
code is chenxuluo/GST-video (MIT). ``gst_*`` has beta = 1/2 and alpha = 1/4, the paper's default; ``_alpha2`` and
``_alpha8`` are its other columns of Table 2; ``gst_large_*`` has beta = 1. The authors' code covers ResNet-50 only
(its ResNet-101 cannot be built), the other depths follow section 3.4: every 3x3 convolution is replaced, in basic
blocks both.
"""

from __future__ import annotations

from functools import partial
from typing import Unpack

from vidzoo.layers.gst import GSTConv3d
from vidzoo.models.donors import imagenet, ssv2
from vidzoo.models.resnet import ResNetOptions, VideoResNet
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = [
    "gst_large_r18",
    "gst_large_r34",
    "gst_large_r50",
    "gst_large_r101",
    "gst_r18",
    "gst_r18_alpha2",
    "gst_r18_alpha8",
    "gst_r34",
    "gst_r34_alpha2",
    "gst_r34_alpha8",
    "gst_r50",
    "gst_r50_alpha2",
    "gst_r50_alpha8",
    "gst_r101",
    "gst_r101_alpha2",
    "gst_r101_alpha8",
]

# Section 4.2: TSN segments, short side 256, crop 224, one centre crop.
_BASE = VideoCfg(
    paper="Grouped Spatial-Temporal Aggregation for Efficient Action Recognition, ICCV 2019",
    origin_url="https://github.com/chenxuluo/GST-video",
    source="Luo & Yuille, ICCV 2019",
)
# Trained by this project: tools/train_weizmann.py, model_cards/gst_r18.weizmann.md.
_WEIZMANN = VideoCfg(
    num_frames=12,
    sampling="dense",
    temporal_stride=2,
    fps=25.0,
    num_clips=5,
    short_side=72,
    crop_size=(72, 90),
    mean=(0.0, 0.0, 0.0),
    std=(0.1, 0.1, 0.1),
    subtract_clip_mean=True,
    num_classes=10,
    class_names=("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2"),
    dataset="Weizmann",
    file="gst_r18.weizmann.safetensors",
    sha256="2e38391ddb8a46ce2d4a6a4010a754d889b23ff2de6eba1940a159cedab076af",
    source="vidzoo",
    license="research (no formal licence of the training videos)",
    paper=_BASE.paper,
    description="A small network for a still camera and one person doing one of ten everyday actions; a worked example of "
    "training from scratch on little data rather than a general recogniser.",
    metrics={"top-1 %, one person left out, mean of six folds": 100.0},
)


def _authors(drive_id: str, top1: float, **changes: object) -> VideoCfg:
    # Google's page that asks for a confirmation before large files is what `confirm` answers.
    url = f"https://drive.usercontent.google.com/download?id={drive_id}&export=download&confirm=t"
    told = {"license": "mit", "metrics": {"top-1 %, Something-Something-v2, one centre view": top1}, **changes}
    return ssv2(_BASE, url, "gst", "the authors' code, chenxuluo/GST-video", **told)


def _cfgs(depth: int) -> dict[str, VideoCfg]:
    over_time = "the temporal group of every unit is random, as in the authors' code, from a fixed seed."
    return {"": _BASE, **imagenet(_BASE, depth, over_time)}


def _gst(depth: int, alpha: float, beta: float, options: ResNetOptions) -> VideoResNet:
    options.setdefault("drop_rate", 0.3)  # section 4.2
    return VideoResNet(depth, partial(GSTConv3d, alpha=alpha, beta=beta), **options)


@register_model(cfgs={"": _BASE, "weizmann": _WEIZMANN, **_cfgs(18)})
def gst_r18(*, alpha: float = 1 / 4, beta: float = 1 / 2, **options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST on ResNet-18: ``alpha`` of the output channels look over time, each group sees ``beta`` of the input."""
    return _gst(18, alpha, beta, options)


@register_model(cfgs=_cfgs(34))
def gst_r34(*, alpha: float = 1 / 4, beta: float = 1 / 2, **options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST on ResNet-34: ``alpha`` of the output channels look over time, each group sees ``beta`` of the input."""
    return _gst(34, alpha, beta, options)


@register_model(
    cfgs={
        **_cfgs(50),
        "ssv2": _authors("18xiD9C2GS0YcdrAzTUbW7ylv6XbrWkdS", 61.6),
        "ssv2_f16": _authors("1llsMnRFEaKLPcCNG4uk2ls9K8iuLVGFi", 62.6, num_frames=16),
    }
)
def gst_r50(*, alpha: float = 1 / 4, beta: float = 1 / 2, **options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST on ResNet-50: ``alpha`` of the output channels look over time, each group sees ``beta`` of the input."""
    return _gst(50, alpha, beta, options)


@register_model(cfgs=_cfgs(101))
def gst_r101(*, alpha: float = 1 / 4, beta: float = 1 / 2, **options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST on ResNet-101: ``alpha`` of the output channels look over time, each group sees ``beta`` of the input."""
    return _gst(101, alpha, beta, options)


@register_model(cfgs=_cfgs(18))
def gst_r18_alpha2(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST on ResNet-18 with alpha = 1/2."""
    return _gst(18, 1 / 2, 1 / 2, options)


@register_model(cfgs=_cfgs(34))
def gst_r34_alpha2(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST on ResNet-34 with alpha = 1/2."""
    return _gst(34, 1 / 2, 1 / 2, options)


@register_model(cfgs=_cfgs(50))
def gst_r50_alpha2(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST on ResNet-50 with alpha = 1/2."""
    return _gst(50, 1 / 2, 1 / 2, options)


@register_model(cfgs=_cfgs(101))
def gst_r101_alpha2(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST on ResNet-101 with alpha = 1/2."""
    return _gst(101, 1 / 2, 1 / 2, options)


@register_model(cfgs=_cfgs(18))
def gst_r18_alpha8(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST on ResNet-18 with alpha = 1/8."""
    return _gst(18, 1 / 8, 1 / 2, options)


@register_model(cfgs=_cfgs(34))
def gst_r34_alpha8(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST on ResNet-34 with alpha = 1/8."""
    return _gst(34, 1 / 8, 1 / 2, options)


@register_model(cfgs=_cfgs(50))
def gst_r50_alpha8(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST on ResNet-50 with alpha = 1/8."""
    return _gst(50, 1 / 8, 1 / 2, options)


@register_model(cfgs=_cfgs(101))
def gst_r101_alpha8(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST on ResNet-101 with alpha = 1/8."""
    return _gst(101, 1 / 8, 1 / 2, options)


@register_model(cfgs=_cfgs(18))
def gst_large_r18(*, alpha: float = 1 / 4, **options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST-Large on ResNet-18: both groups see all input channels."""
    return _gst(18, alpha, 1, options)


@register_model(cfgs=_cfgs(34))
def gst_large_r34(*, alpha: float = 1 / 4, **options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST-Large on ResNet-34: both groups see all input channels."""
    return _gst(34, alpha, 1, options)


@register_model(cfgs={**_cfgs(50), "ssv2": _authors("1Ymc_NK5WK47Z4qAoVEJI3wBGlbuwaFdw", 62.0)})
def gst_large_r50(*, alpha: float = 1 / 4, **options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST-Large on ResNet-50: both groups see all input channels."""
    return _gst(50, alpha, 1, options)


@register_model(cfgs=_cfgs(101))
def gst_large_r101(*, alpha: float = 1 / 4, **options: Unpack[ResNetOptions]) -> VideoResNet:
    """GST-Large on ResNet-101: both groups see all input channels."""
    return _gst(101, alpha, 1, options)
