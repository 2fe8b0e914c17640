"""Architectures: one file per family; importing this package registers them all."""

from vidzoo.models import c2d, c3d, gst, p3d
from vidzoo.models.base import FeatureExtractor, FeatureInfo, VideoModel
from vidzoo.models.inflation import init_from_2d
from vidzoo.models.resnet import VideoResNet

__all__ = ["FeatureExtractor", "FeatureInfo", "VideoModel", "VideoResNet", "c2d", "c3d", "gst", "init_from_2d", "p3d"]
