"""MixUp and CutMix for batches of clips.

MixUp: Zhang et al., ICLR 2018. CutMix: Yun et al., ICCV 2019, here as one box over height and width that runs through
the whole clip, so that the share of swapped pixels and the share of the swapped label are the same number.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vidzoo.errors import ConfigError

__all__ = ["mixup_cutmix"]


def mixup_cutmix(
    clips: Tensor,
    labels: Tensor,
    num_classes: int,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    generator: torch.Generator | None = None,
    *,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Blend every clip of a batch with another one, and its target by the same fraction.

    With both alphas positive, each call takes one of the two methods with equal chance; with both zero the clips come
    back untouched. The input is not changed in place.

    Args:
        clips: floating ``(B, C, T, H, W)``.
        labels: int64 ``(B,)``.
        mixup_alpha, cutmix_alpha: of the Beta distribution that the fraction is drawn from; 0 turns a method off.
        generator: on the CPU, wherever the clips are.
        smoothing: label smoothing, applied before the targets are blended.

    Returns:
        clips of the same shape and dtype, and float32 targets ``(B, num_classes)`` whose rows sum to 1.

    Raises:
        ConfigError: wrong shapes or types, a label outside the classes, a negative alpha.
    """
    if clips.ndim != 5 or not clips.is_floating_point():
        raise ConfigError(f"mixup_cutmix needs floating (B, C, T, H, W) clips, got {clips.dtype} {tuple(clips.shape)}")
    if labels.shape != clips.shape[:1] or labels.dtype != torch.int64:
        raise ConfigError(f"mixup_cutmix needs int64 labels ({len(clips)},), got {labels.dtype} {tuple(labels.shape)}")
    if min(mixup_alpha, cutmix_alpha) < 0 or not 0 <= smoothing < 1:
        raise ConfigError(
            f"alphas must be >= 0 and smoothing in [0, 1), got {mixup_alpha}, {cutmix_alpha}, {smoothing}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ConfigError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but there are {num_classes} classes"
        )
    targets = (
        functional.one_hot(labels, num_classes).float() * (1 - smoothing) + smoothing / num_classes
    )  # (B, classes)
    if len(clips) < 2 or max(mixup_alpha, cutmix_alpha) == 0:
        return clips, targets
    cut = cutmix_alpha > 0 and (mixup_alpha == 0 or float(torch.rand((), generator=generator)) < 0.5)
    keep = _beta(cutmix_alpha if cut else mixup_alpha, generator)
    # A cyclic shift through a random order: nobody is ever blended with itself.
    order = torch.randperm(len(clips), generator=generator)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    partner = partner.to(clips.device)
    if cut:
        height, width = clips.shape[-2:]
        top, bottom = _interval(height, (1 - keep) ** 0.5, generator)
        left, right = _interval(width, (1 - keep) ** 0.5, generator)
        mixed = clips.clone()
        mixed[..., top:bottom, left:right] = clips[partner][..., top:bottom, left:right]
        keep = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        mixed = torch.lerp(clips[partner], clips, keep)
    return mixed, torch.lerp(targets[partner], targets, keep)


def _beta(alpha: float, generator: torch.Generator | None) -> float:
    """One draw of Beta(alpha, alpha)."""
    shape = torch.full((2,), alpha, dtype=torch.float64)
    first, second = torch._standard_gamma(shape, generator=generator).tolist()
    return 0.5 if first + second == 0 else float(first / (first + second))


def _interval(length: int, share: float, generator: torch.Generator | None) -> tuple[int, int]:
    """A stretch of about ``share * length`` around a random centre, clipped to the frame."""
    half = share * length / 2
    centre = float(torch.rand((), generator=generator)) * length
    return max(0, round(centre - half)), min(length, round(centre + half))
