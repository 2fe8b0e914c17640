"""The networks that are compared, group by group: ours first, then what the ratios are about."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

import vidzoo
from bench.elsewhere import (
    i3d,
    per_frame,
    pytorchvideo_resnet,
    r2plus1d,
    slowfast,
    torchvision_s3d,
    torchvision_video,
    x3d,
)
from bench.options import CLASSES, make_clip

Build = Callable[[argparse.Namespace], nn.Module]


@dataclass(frozen=True)
class Contender:
    """A network and how it is run.

    ``note`` says in what its work differs from that of the group's first row. ``clip``: what it sees, see
    :func:`bench.options.make_clip`; it matters to adaptive networks alone.
    """

    name: str
    build: Build
    note: str = ""
    library: str = "vidzoo"
    channels_last: bool = False
    bf16: bool = False
    clip: str = "noise"


def _ours(name: str, **given: Any) -> Build:
    return lambda options: vidzoo.create_model(name, num_classes=CLASSES, drop_rate=0.0, **given)


def _ctm(blocks: int) -> Build:
    # Tables of kernels that fit the pictures: on another size they would be interpolated in every call.
    return lambda options: _ours("ctm_r50", blocks=blocks, img_size=options.size)(options)


def _adaptive(name: str) -> Build:
    """A network whose norms have seen one batch of fast clips.

    A fresh norm leaves the frames of a clip nearly alike, and in evaluation mode all of them would share a bin.
    """

    def build(options: argparse.Namespace) -> nn.Module:
        network = _ours(name)(options).train()
        norms = [module for module in network.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d))]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        network(make_clip("fast", options))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return network

    return build


def _fused(name: str) -> Build:
    return lambda options: vidzoo.fuse(_ours(name)(options))


def _grafted(backbone: str, plan: str) -> Build:
    """A network of timm, untrained, with a plan carried out on it."""
    return lambda options: vidzoo.create_model("graft", backbone=f"timm:{backbone}", plan=plan, num_classes=CLASSES)


def _with_fused(name: str) -> list[Contender]:
    note = "norms folded, kernels merged; its training mode means nothing"
    return [Contender(name, _ours(name)), Contender(f"fused {name}", _fused(name), note)]


def _same_work(name: str, theirs: Build, library: str, note: str = "same work") -> list[Contender]:
    return [Contender(name, _ours(name)), Contender(f"{library} {name}", theirs, note, library)]


def _sampled(host: str) -> list[Contender]:
    adaptive = f"{host}_atfr"
    return [
        Contender(host, _ours(host)),
        Contender(adaptive, _adaptive(adaptive), "goes on with few frames: a still clip", clip="still"),
        Contender(adaptive, _adaptive(adaptive), "each frame of another brightness", clip="fast"),
    ]


def groups() -> dict[str, list[Contender]]:
    """Every comparison by its name; ratios refer to the first contender."""
    table = {
        "frame by frame": [
            Contender("c2d_r50", _ours("c2d_r50")),
            Contender("torchvision resnet50", per_frame, "same work, on B*T images", "torchvision"),
            Contender(
                "pytorchvideo c2d_r50",
                pytorchvideo_resnet(1, (1, 1, 1, 1), 1),
                "same work (its pooling over time left out)",
                "pytorchvideo",
            ),
        ],
        "dense": [
            Contender("c3d_r50", _ours("c3d_r50")),
            Contender(
                "pytorchvideo c3d_r50",
                pytorchvideo_resnet(1, (1, 1, 1, 1), 3),
                "same work, 3x3x3 kernels",
                "pytorchvideo",
            ),
        ],
        "dense r18": [
            Contender("c3d_r18", _ours("c3d_r18")),
            Contender(
                "torchvision r3d_18",
                torchvision_video("r3d_18"),
                "stem 3x7x7 and no pooling after it, time halved in three stages: compare per MAC",
                "torchvision",
            ),
        ],
        "units": [
            Contender("gst_r50", _ours("gst_r50")),
            Contender("c2d_r50", _ours("c2d_r50"), "no time"),
            Contender("p3d_r50", _ours("p3d_r50"), "1x3x3, then 3x1x1"),
            Contender("gst_large_r50", _ours("gst_large_r50"), "both groups see all channels"),
            Contender("c3d_g2_r50", _ours("c3d_g2_r50"), "3x3x3 in two groups"),
            Contender("c3d_r50", _ours("c3d_r50"), "3x3x3"),
            Contender(
                "pytorchvideo slow_r50",
                pytorchvideo_resnet(1, (1, 1, 3, 3), 1),
                "3x1x1 before the 3x3 in two stages",
                "pytorchvideo",
            ),
        ],
        "x3d": _same_work("x3d_s", x3d, "pytorchvideo"),
        "slow": _same_work("slow_r50", pytorchvideo_resnet(1, (1, 1, 3, 3), 1), "pytorchvideo"),
        "slowfast": _same_work("slowfast_r50_8x8", slowfast, "pytorchvideo"),
        "i3d 3x1x1": _same_work("i3d_3x1x1_r50", i3d, "pytorchvideo"),
        "r2plus1d": _same_work("r2plus1d_r50", r2plus1d, "pytorchvideo"),
        "r3d": _same_work("r3d_18", torchvision_video("r3d_18"), "torchvision"),
        "mc3": _same_work("mc3_18", torchvision_video("mc3_18"), "torchvision"),
        "r2plus1d r18": _same_work("r2plus1d_18", torchvision_video("r2plus1d_18"), "torchvision"),
        "s3d": _same_work("s3d", torchvision_s3d, "torchvision", "same work (pooling windows cut to small maps)"),
        "stdcf": [
            Contender("stdcf_r50", _ours("stdcf_r50"), "composes the 3x3x3 kernels"),
            Contender("stdcf_r50", _ours("stdcf_r50", mode="factorised"), "convolves with the atoms, one by one"),
            Contender("c3d_r50", _ours("c3d_r50"), "free 3x3x3 kernels"),
        ],
        "reparam": [
            Contender("i3d_r18_11335", _ours("i3d_r18_11335")),
            Contender(
                "i3d_r18_reparam_11335",
                _ours("i3d_r18_reparam_11335"),
                "branches in training, their kernels added up in inference",
            ),
        ],
        "ctm": [
            Contender("c2d_r50", _ours("c2d_r50")),
            Contender("ctm_r50", _ctm(1), "one CTM block"),
            Contender("ctm_r50", _ctm(3), "three CTM blocks"),
        ],
        "graft": [
            Contender("gst_r50", _ours("gst_r50")),
            Contender(
                "graft of timm's resnet50", _grafted("resnet50", "gst"), "same work, frames folded into the batch"
            ),
        ],
        "graft of mobilenet": [
            Contender("graft of timm's mobilenetv2_100", _grafted("mobilenetv2_100", "frame"), "frame by frame"),
            Contender("gst_mobilenetv2_100", _ours("gst_mobilenetv2_100"), "3x3x3 in a quarter of the channels"),
            Contender("ctm_mobilenetv2_100", _ours("ctm_mobilenetv2_100"), "CTM blocks in one stage"),
        ],
        "fused gst": _with_fused("gst_r50"),
        "fused stdcf": _with_fused("stdcf_r18"),
        "fused reparam": _with_fused("i3d_r18_reparam_11335"),
        "fused x3d": _with_fused("x3d_s"),
        "atfr x3d": _sampled("x3d_s"),
        "atfr c2d": _sampled("c2d_pool_r18"),
    }
    for name in ("c2d_r50", "c3d_r50", "p3d_r50", "gst_r50"):
        table[f"memory and precision of {name}"] = [
            Contender(name, _ours(name), "contiguous, fp32"),
            Contender(name, _ours(name), "channels_last_3d, fp32", channels_last=True),
            Contender(name, _ours(name), "contiguous, bf16 autocast", bf16=True),
            Contender(name, _ours(name), "channels_last_3d, bf16 autocast", channels_last=True, bf16=True),
        ]
    return table
