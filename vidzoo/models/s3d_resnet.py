"""S3D on ResNets: each temporal convolution of I3D becomes one over space and one over time, but the stem's.

Paper: Kobayashi & Ye, WACV 2024, Table 5, after IBM's action-recognition-pytorch (Chen et al., CVPR 2021). A stage of
length 1 has no temporal convolution at all, which is what the printed 140 GFLOPs of 1-1-3-3-5 count. Regularised
branches take the place of the temporal part alone (section 6). The S3D of Xie et al. (ECCV 2018) is an Inception network.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Unpack

from vidzoo.layers.p3d import P3DConv3d
from vidzoo.layers.unit import UnitFactory
from vidzoo.models.donors import imagenet
from vidzoo.models.i3d import ETA, FILTER_CFG, PROGRESSIVE, THREE, Eta, inflated_resnet
from vidzoo.models.resnet import ResNetOptions, VideoResNet
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = ["s3d_r18", "s3d_r18_reparam_11335", "s3d_r50", "s3d_r50_11335", "s3d_r50_reparam_11335"]


def _cfgs(depth: int) -> dict[str, VideoCfg]:
    return {"": FILTER_CFG, **imagenet(FILTER_CFG, depth, "convolutions over time start as the identity.")}


def _s3d(depth: int, t_lengths: Sequence[int], options: ResNetOptions, eta: Eta, single: bool) -> VideoResNet:
    return inflated_resnet(depth, t_lengths, options, eta=eta, single=single, whole=_separable)


def _separable(temporal: UnitFactory) -> UnitFactory:
    return partial(P3DConv3d, norm=True, temporal=temporal)


@register_model(cfgs=_cfgs(18))
def s3d_r18(
    *, t_lengths: Sequence[int] = THREE, eta: Eta = None, single: bool = False, **options: Unpack[ResNetOptions]
) -> VideoResNet:
    """S3D on ResNet-18; with ``eta`` its temporal filters are regularised branches, or one filter if ``single``."""
    return _s3d(18, t_lengths, options, eta, single)


@register_model(cfgs=_cfgs(50))
def s3d_r50(
    *, t_lengths: Sequence[int] = THREE, eta: Eta = None, single: bool = False, **options: Unpack[ResNetOptions]
) -> VideoResNet:
    """S3D on ResNet-50; with ``eta`` its temporal filters are regularised branches, or one filter if ``single``."""
    return _s3d(50, t_lengths, options, eta, single)


@register_model(cfgs=_cfgs(50))
def s3d_r50_11335(**options: Unpack[ResNetOptions]) -> VideoResNet:
    """S3D 1-1-3-3-5 on ResNet-50."""
    return _s3d(50, PROGRESSIVE, options, None, False)


@register_model(cfgs=_cfgs(18))
def s3d_r18_reparam_11335(*, eta: Eta = ETA, single: bool = False, **options: Unpack[ResNetOptions]) -> VideoResNet:
    """S3D 1-1-3-3-5 on ResNet-18, regularised branches over time."""
    return _s3d(18, PROGRESSIVE, options, eta, single)


@register_model(cfgs=_cfgs(50))
def s3d_r50_reparam_11335(*, eta: Eta = ETA, single: bool = False, **options: Unpack[ResNetOptions]) -> VideoResNet:
    """S3D 1-1-3-3-5 on ResNet-50, regularised branches over time."""
    return _s3d(50, PROGRESSIVE, options, eta, single)
