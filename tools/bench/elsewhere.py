"""Networks of torchvision and pytorchvideo, fitted to a clip's size so that they do what ours do.

pytorchvideo pools windows of a fixed size in its heads and ends some networks with a softmax; here the window is the whole
map and the output are logits. Libraries are imported only when a network is built.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.options import CLASSES

Build = Callable[[argparse.Namespace], nn.Module]


class PerFrame(nn.Module):
    """A 2D network over the frames of a clip, the logits averaged: ``(B, C, T, H, W) -> (B, num_classes)``."""

    def __init__(self, image: nn.Module) -> None:
        super().__init__()
        self.image = image

    def forward(self, x: Tensor) -> Tensor:
        logits = self.image(x.transpose(1, 2).flatten(0, 1))  # (B * T, num_classes)
        return logits.unflatten(0, (x.shape[0], x.shape[2])).mean(dim=1)


class OneClip(nn.Module):
    """pytorchvideo's SlowFast for one tensor of all frames: it takes a list of two, and writes into that list.

    Args:
        alpha: frames of the fast pathway for one of the slow.
    """

    def __init__(self, network: nn.Module, alpha: int) -> None:
        super().__init__()
        self.network = network
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[2]
        slow = torch.linspace(0, frames - 1, -(-frames // self.alpha), device=x.device).long()
        return self.network([x.index_select(2, slow), x])


def per_frame(options: argparse.Namespace) -> nn.Module:
    """torchvision's ResNet-50 over single frames."""
    from torchvision.models import resnet50

    return PerFrame(resnet50(num_classes=CLASSES))


def torchvision_video(name: str) -> Build:
    """The network of this name in ``torchvision.models.video``."""

    def build(options: argparse.Namespace) -> nn.Module:
        from torchvision.models import video

        return getattr(video, name)(num_classes=CLASSES)

    return build


def torchvision_s3d(options: argparse.Namespace) -> nn.Module:
    """torchvision's S3D, whose last two pooling windows are cut to the maps of a clip below 14 x 224 x 224."""
    from torchvision.models.video import s3d

    network = s3d(num_classes=CLASSES, dropout=0.0)
    frames, side = -(-options.frames // 4), -(-options.size // 16)  # of the map that is pooled last but one
    window = (min(2, frames), min(2, side), min(2, side))
    last = max(i for i, part in enumerate(network.features) if isinstance(part, nn.MaxPool3d))
    network.features[last] = nn.MaxPool3d(window, window)
    frames, side = frames // window[0], side // window[1]
    network.avgpool = nn.AvgPool3d((min(2, frames), min(7, side), min(7, side)), stride=1)
    return network


def pytorchvideo_resnet(stem: int, reduce: tuple[int, int, int, int], spatial: int) -> Build:
    """A ResNet-50 of pytorchvideo with these temporal kernels: stem, 1x1 convolution per stage, 3x3 convolution."""

    def build(options: argparse.Namespace) -> nn.Module:
        from pytorchvideo.models.resnet import create_resnet

        return create_resnet(
            model_num_class=CLASSES,
            dropout_rate=0.0,
            stem_conv_kernel_size=(stem, 7, 7),
            stage_conv_a_kernel_size=tuple((length, 1, 1) for length in reduce),
            stage_conv_b_kernel_size=((spatial, 3, 3),) * 4,
            head_pool_kernel_size=_map(options, options.frames),
        )

    return build


def i3d(options: argparse.Namespace) -> nn.Module:
    """pytorchvideo's ``i3d_r50``, which pools pairs of frames after its first stage and leaves an odd last one out."""
    from pytorchvideo.models.hub import i3d_r50

    return i3d_r50(model_num_class=CLASSES, dropout_rate=0.0, head_pool_kernel_size=_map(options, options.frames // 2))


def r2plus1d(options: argparse.Namespace) -> nn.Module:
    """pytorchvideo's ``r2plus1d_r50`` without its softmax; it halves the number of frames in two stages."""
    from pytorchvideo.models.r2plus1d import create_r2plus1d

    return create_r2plus1d(
        model_num_class=CLASSES, head_pool_kernel_size=_map(options, -(-options.frames // 4)), head_activation=None
    )


def slowfast(options: argparse.Namespace) -> nn.Module:
    """pytorchvideo's ``slowfast_r50``, of which the slow pathway sees every fourth frame."""
    from pytorchvideo.models.hub import slowfast_r50

    lengths = (-(-options.frames // 4), options.frames)
    windows = tuple(_map(options, length) for length in lengths)
    network = slowfast_r50(model_num_class=CLASSES, dropout_rate=0.0, head_pool_kernel_sizes=windows)
    return OneClip(network, alpha=4)


def x3d(options: argparse.Namespace) -> nn.Module:
    """pytorchvideo's X3D-S without its softmax."""
    from pytorchvideo.models.x3d import create_x3d

    return create_x3d(
        input_clip_length=options.frames,
        input_crop_size=options.size,
        model_num_class=CLASSES,
        dropout_rate=0.0,
        head_activation=None,
    )


def _map(options: argparse.Namespace, frames: int) -> tuple[int, int, int]:
    """The size of the last map of a network that halves height and width five times."""
    side = -(-options.size // 32)
    return frames, side, side
