"""What the single-pathway networks of PySlowFast and pytorchvideo have in common: how they start and how they are fed.

Source: facebookresearch/SlowFast and pytorchvideo 0.1.5 (both Apache-2.0). The classifier sees the mean over the whole
clip, after a dropout of 1/2; residual branches start at zero. pytorchvideo averages over windows of the size that it
trained with, which is the same mean at that size and weighs the borders less at larger ones.
"""

from __future__ import annotations

from dataclasses import replace

from vidzoo.layers.unit import UnitFactory
from vidzoo.models.donors import PYSLOWFAST, PYTORCHVIDEO, k400, ssv2
from vidzoo.models.resnet import Layout, ResNetOptions, VideoResNet, layout
from vidzoo.pretrained import VideoCfg

__all__ = ["BOTTLENECK_18", "BOTTLENECK_50", "KINETICS_CFG", "fair_resnet", "pyslowfast", "pytorchvideo", "something"]

# Kinetics test of PySlowFast's configs: 8 frames, every 8th at 30 per second, 10 clips of 3 crops at 256 pixels.
KINETICS_CFG = VideoCfg(
    num_frames=8,
    sampling="dense",
    temporal_stride=8,
    fps=30.0,
    num_clips=10,
    short_side=256,
    crop_size=(224, 224),
    test_crop_size=(256, 256),
    num_crops=3,
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
)

BOTTLENECK_50 = replace(layout(50), frame_head=False, head_std=0.01)
# "R18" in PySlowFast is two bottlenecks per stage, 26 convolutions deep, and not the ResNet-18 of basic blocks.
BOTTLENECK_18 = replace(BOTTLENECK_50, counts=(2, 2, 2, 2))


def pytorchvideo(base: VideoCfg, file: str, top1: float, top5: float) -> VideoCfg:
    """One of pytorchvideo's networks for Kinetics-400, and what its model zoo prints of it: percent right over 30 views."""
    return k400(
        base,
        f"{PYTORCHVIDEO}/{file}",
        "pytorchvideo",
        "pytorchvideo's model zoo",
        license="apache-2.0",
        origin_url="https://github.com/facebookresearch/pytorchvideo",
        metrics={"top-1 %, Kinetics-400, 30 views": top1, "top-5 %, Kinetics-400, 30 views": top5},
    )


def pyslowfast(base: VideoCfg, file: str, top1: float, layout: str = "caffe2") -> VideoCfg:
    """One of PySlowFast's networks for Kinetics-400, and what its model zoo prints of it: percent right over 30 views."""
    return k400(
        base,
        f"{PYSLOWFAST}/{file}",
        layout,
        "PySlowFast's model zoo",
        license="apache-2.0",
        origin_url="https://github.com/facebookresearch/SlowFast",
        metrics={"top-1 %, Kinetics-400, 30 views": top1},
    )


def something(base: VideoCfg, file: str, top1: float, top5: float) -> VideoCfg:
    """One of pytorchvideo's networks for Something-Something-v2: frames from equal parts of the video, three crops."""
    return ssv2(
        base,
        f"{PYTORCHVIDEO}/ssv2/{file}",
        "pytorchvideo",
        "pytorchvideo's model zoo",
        sampling="segments",
        temporal_stride=1,
        num_clips=1,
        license="apache-2.0",
        origin_url="https://github.com/facebookresearch/pytorchvideo",
        metrics={
            "top-1 %, Something-Something-v2, 3 views": top1,
            "top-5 %, Something-Something-v2, 3 views": top5,
        },
    )


def fair_resnet(plan: Layout, unit: UnitFactory, options: ResNetOptions) -> VideoResNet:
    """The network of ``plan``, with the defaults of PySlowFast's configs for what ``options`` leave out."""
    options.setdefault("drop_rate", 0.5)
    options.setdefault("zero_init_last", True)
    return VideoResNet(plan, unit, **options)
