"""Grafts: networks of other libraries with the papers' modules in them, ready to be called by name.

A MobileNetV2 or ConvNeXt of timm looks at each frame of a clip by itself; what is grafted looks over time. ``gst_*`` splits
every convolution over space into a spatial and a temporal group (GST, ICCV 2019): depthwise ones by whole groups, whose
trained filters all stay, so that the network starts from the answers that its backbone gives to the frames. ``ctm_*`` puts
CTM blocks (CTM, ICIP 2020), which start as the identity, into the last stage but one. ``stdcf_r3d_18`` makes every 3x3x3
convolution of torchvision's R3D-18 behind the stem one of spatial and temporal atoms (STDCF, NeurIPS 2021).

``vidzoo.graft`` does the same to any network. Similarity Guided Sampling in pytorchvideo's X3D-S gives ``x3d_s_atfr``, which
has a file of its own.
"""

from __future__ import annotations

from typing import Unpack

from vidzoo.grafting.graft import rebuild
from vidzoo.grafting.model import GraftedModel
from vidzoo.grafting.plan import InsertCTM, Operation, SwapConv
from vidzoo.labels import class_names
from vidzoo.models.base import CommonOptions
from vidzoo.models.donors import TORCHVISION, initialisation, k400
from vidzoo.models.tran import TORCHVISION_CFG
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = ["ctm_mobilenetv2_100", "gst_convnext_tiny", "gst_mobilenetv2_100", "stdcf_r3d_18"]

GST = "Grouped Spatial-Temporal Aggregation for Efficient Action Recognition, ICCV 2019"
CTM = "CTM: Collaborative Temporal Modeling for Action Recognition, ICIP 2020"
STDCF = "Spatiotemporal Joint Filter Decomposition in 3D Convolutional Neural Networks, NeurIPS 2021"


def _timm(name: str, stem: str, paper: str, over_time: str) -> dict[str, VideoCfg]:
    """The tag ``in1k``: weights of timm that were trained on ImageNet; 8 frames of the whole video, as TSN cuts them."""
    base = VideoCfg(
        interpolation="bicubic",
        source=f"timm's {name.partition('.')[0]}",
        origin_url="https://github.com/huggingface/pytorch-image-models",
        paper=paper,
        first_conv=(f"host.network.{stem}",),
    )
    cfg = base.replace(
        num_classes=1000,
        class_names=class_names("imagenet"),
        dataset="ImageNet-1k",
        is_classifier=False,
        donor=f"timm:{name}",
        donor_layout="backbone",
        source=f"timm's {name}",
        license="apache-2.0",
        origin_url=f"https://huggingface.co/timm/{name}",
        description=f"All weights of timm's {name}, trained on ImageNet; {over_time}",
    )
    return {"": base, "in1k": cfg}


def _torchvision() -> dict[str, VideoCfg]:
    donor = k400(TORCHVISION_CFG, f"{TORCHVISION}/r3d_18-b3b3357e.pth", "backbone", "torchvision's r3d_18")
    base = TORCHVISION_CFG.replace(paper=STDCF, source=donor.source, first_conv=("host.network.stem.0",))
    how = (
        "Weights of torchvision's r3d_18, trained on Kinetics-400; every 3x3x3 kernel behind the stem is the nearest sum of 6 "
        "spatial x 2 temporal atoms, so the network needs training before it answers as well."
    )
    return {"": base, "k400": initialisation(donor, base, how, license="bsd-3-clause")}


def _recipe(source: str, operation: Operation, options: CommonOptions) -> GraftedModel:
    return rebuild(
        source,
        operation,
        num_classes=options.get("num_classes", 400),
        in_chans=options.get("in_chans", 3),
        num_frames=options.get("num_frames", 8),
        drop_rate=options.get("drop_rate"),
    )


_GST_START = "those groups of its convolutions that look over time start with their filter at the middle frame."


@register_model(cfgs=_timm("mobilenetv2_100.ra_in1k", "conv_stem", GST, _GST_START))
def gst_mobilenetv2_100(*, alpha: float = 1 / 4, **options: Unpack[CommonOptions]) -> GraftedModel:
    """MobileNetV2 whose depthwise convolutions look over time in their last ``alpha`` of the channels."""
    return _recipe("timm:mobilenetv2_100", SwapConv("gst", options={"alpha": alpha}), options)


@register_model(cfgs=_timm("mobilenetv2_100.ra_in1k", "conv_stem", CTM, "its CTM blocks start as the identity."))
def ctm_mobilenetv2_100(
    *, reduction: int = 8, img_size: int | tuple[int, int] = 224, **options: Unpack[CommonOptions]
) -> GraftedModel:
    """MobileNetV2 with CTM blocks behind blocks of its last stage but one; ``img_size``: of the position-specific kernels."""
    return _recipe("timm:mobilenetv2_100", InsertCTM(reduction=reduction, img_size=img_size), options)


@register_model(cfgs=_timm("convnext_tiny.fb_in1k", "stem.0", GST, _GST_START))
def gst_convnext_tiny(*, alpha: float = 1 / 4, **options: Unpack[CommonOptions]) -> GraftedModel:
    """ConvNeXt-T whose depthwise 7x7 convolutions look over time in their last ``alpha`` of the channels."""
    return _recipe("timm:convnext_tiny", SwapConv("gst", options={"alpha": alpha}), options)


@register_model(cfgs=_torchvision())
def stdcf_r3d_18(*, spatial_atoms: int = 6, temporal_atoms: int = 2, **options: Unpack[CommonOptions]) -> GraftedModel:
    """torchvision's R3D-18 of spatial and temporal atoms, section 2 of the paper."""
    atoms = {"spatial_atoms": spatial_atoms, "temporal_atoms": temporal_atoms}
    return _recipe("torchvision:r3d_18", SwapConv("stdcf", options=atoms), {"num_frames": 16, **options})
