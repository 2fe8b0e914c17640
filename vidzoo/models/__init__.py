"""Architectures: one file per family; importing this package registers them all."""

from vidzoo.models import (
    atfr,
    c2d,
    c2d_pool,
    c3d,
    ctm,
    gst,
    i3d,
    i3d_3x1x1,
    kth,
    p3d,
    r2plus1d,
    resnet3d,
    s3d,
    s3d_resnet,
    slow,
    slowfast,
    slowfast_atfr,
    stdcf,
    tran,
    x3d,
)
from vidzoo.models.base import FeatureExtractor, FeatureInfo, VideoModel
from vidzoo.models.inflation import init_from_2d
from vidzoo.models.resnet import VideoResNet
from vidzoo.models.start import StartReport, start_from

__all__ = [
    "FeatureExtractor",
    "FeatureInfo",
    "StartReport",
    "VideoModel",
    "VideoResNet",
    "atfr",
    "c2d",
    "c2d_pool",
    "c3d",
    "ctm",
    "gst",
    "i3d",
    "i3d_3x1x1",
    "init_from_2d",
    "kth",
    "p3d",
    "r2plus1d",
    "resnet3d",
    "s3d",
    "s3d_resnet",
    "slow",
    "slowfast",
    "slowfast_atfr",
    "start_from",
    "stdcf",
    "tran",
    "x3d",
]
