"""What all spatio-temporal units have in common: ``nn.Conv3d``'s arguments, a start from trained weights, a dense twin."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol, Self, get_args

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError

__all__ = [
    "Inflation",
    "Size3",
    "SpatioTemporalUnit",
    "UnitFactory",
    "check_inflation",
    "conv_arguments",
    "inflate",
    "spatial_filter",
    "triple",
]

Size3 = int | tuple[int, int, int]
Inflation = Literal["centre", "mean", "repeat"]
"""How a 2D kernel becomes one over time, see :func:`inflate`."""


class UnitFactory(Protocol):
    """Builds a unit from the arguments of ``nn.Conv3d``; a unit class is one, so is ``functools.partial`` of it."""

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Size3 = 0,
        dilation: Size3 = 1,
        bias: bool = True,
    ) -> nn.Module: ...


class SpatioTemporalUnit(nn.Module):
    """Base of the units: ``(B, C_in, T, H, W) -> (B, C_out, T', H', W')`` as the convolution that it replaces.

    Raises:
        ConfigError: an argument that no such convolution can have.
    """

    random_after_load: ClassVar[tuple[str, ...]] = ()
    """Parameters that :meth:`load_conv_` leaves as they are, because the paper starts them at random."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Size3 = 0,
        dilation: Size3 = 1,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = triple(kernel_size, "kernel_size")
        self.stride = triple(stride, "stride")
        self.padding = triple(padding, "padding", least=0)
        self.dilation = triple(dilation, "dilation")
        if min(in_channels, out_channels) < 1:
            raise ConfigError(
                f"{type(self).__name__} needs at least one channel on each side, got {in_channels} -> {out_channels}"
            )

    def load_conv_(self, weight: Tensor, bias: Tensor | None) -> Self:
        """Start from a trained convolution, in place: weight ``(C_out, C_in, k, k)`` or ``(C_out, C_in, t, k, k)``.

        Raises:
            ConfigError: the shapes do not belong to a convolution with this unit's arguments.
        """
        raise TypeError(f"{type(self).__name__} does not say how it starts from a trained convolution")

    def to_conv3d(self) -> nn.Conv3d:
        """The one dense convolution that gives the same output."""
        raise TypeError(f"{type(self).__name__} equals no single dense convolution")

    def last_norms(self) -> list[nn.BatchNorm3d]:
        """Batch norms of the unit's own that its output comes from; where there are any, the block adds none."""
        return []

    def _dense_twin(self, *, bias: bool, like: Tensor) -> nn.Conv3d:
        return nn.Conv3d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            bias=bias,
            device=like.device,
            dtype=like.dtype,
        )

    def _check_trained(self, weight: Tensor, bias: Tensor | None, *, takes_bias: bool) -> None:
        if bias is not None and not takes_bias:
            raise ConfigError(
                f"this {type(self).__name__} was built with bias=False, the trained convolution has a bias"
            )
        expected = (self.out_channels, self.in_channels, *self.kernel_size[-2:])
        found = (*weight.shape[:2], *weight.shape[-2:])
        if weight.ndim not in (4, 5) or found != expected:
            raise ConfigError(
                f"{type(self).__name__} takes a kernel of shape {expected} (with a time axis before the last two or none), "
                f"got {tuple(weight.shape)}"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}"
        )


def triple(value: int | tuple[int, ...] | str, name: str, *, least: int = 1) -> tuple[int, int, int]:
    """An int or a 3-tuple as ``(time, height, width)``."""
    sizes: tuple[object, ...] = tuple(value) if isinstance(value, (tuple, list)) else (value,) * 3
    whole = [size for size in sizes if isinstance(size, int) and not isinstance(size, bool) and size >= least]
    if len(sizes) != 3 or len(whole) != 3:
        raise ConfigError(
            f"{name} must be a whole number >= {least} or three of them (time, height, width), got {value!r}"
        )
    time, height, width = whole
    return time, height, width


def conv_arguments(
    conv: nn.Conv2d | nn.Conv3d, *, temporal_kernel: int, same_time: bool = True
) -> tuple[int, int, tuple[int, int, int], tuple[int, int, int], tuple[int, int, int], tuple[int, int, int], bool]:
    """The unit arguments of a trained convolution, in ``nn.Conv3d``'s order; a 2D one gets a temporal kernel of that length.

    Raises:
        ConfigError: grouped or string-padded convolutions, or a padding other than zeros: no unit here can stand for
            them; an even ``temporal_kernel``, which would change the number of frames.
    """
    if conv.groups != 1:
        raise ConfigError(f"a unit replaces ungrouped convolutions, this one has groups={conv.groups}")
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        raise ConfigError(
            f"a unit replaces convolutions padded with a number of zeros, this one has padding={conv.padding!r}, "
            f"padding_mode={conv.padding_mode!r}"
        )
    has_bias = conv.bias is not None
    if isinstance(conv, nn.Conv3d):
        return (
            conv.in_channels,
            conv.out_channels,
            triple(conv.kernel_size, "kernel_size"),
            triple(conv.stride, "stride"),
            triple(conv.padding, "padding", least=0),
            triple(conv.dilation, "dilation"),
            has_bias,
        )
    if temporal_kernel % 2 == 0:
        raise ConfigError(
            f"an even temporal kernel has no centre frame: give an odd temporal_kernel, not {temporal_kernel}"
        )
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    pad = temporal_kernel // 2 if same_time else 0
    return (
        conv.in_channels,
        conv.out_channels,
        (temporal_kernel, kh, kw),
        (1, sh, sw),
        (pad, ph, pw),
        (1, dh, dw),
        has_bias,
    )


def spatial_filter(weight: Tensor) -> Tensor:
    """``(O, I, k, k)`` or ``(O, I, t, k, k)`` -> ``(O, I, 1, k, k)``: what a static clip sees, the sum over time."""
    return weight.unsqueeze(2) if weight.ndim == 4 else weight.sum(dim=2, keepdim=True)


def check_inflation(mode: Inflation) -> Inflation:
    """The mode itself.

    Raises:
        ConfigError: no such mode.
    """
    if mode not in get_args(Inflation):
        raise ConfigError(f"inflation must be 'centre', 'mean' or 'repeat', got {mode!r}")
    return mode


def inflate(weight: Tensor, length: int, *, mode: Inflation = "centre") -> Tensor:
    """``(O, I, k, k) -> (O, I, length, k, k)``.

    ``centre``: the filter at the middle frame and zeros beside it, exact for every clip frame by frame. ``mean``: the
    filter over ``length`` at each frame (I3D), exact for a static clip away from its ends. ``repeat``: without the
    division.
    """
    if mode == "centre":
        inflated = weight.new_zeros(*weight.shape[:2], length, *weight.shape[2:])
        inflated[:, :, length // 2] = weight
        return inflated
    repeated = weight.unsqueeze(2).expand(-1, -1, length, -1, -1)
    return (repeated / length if mode == "mean" else repeated).clone(memory_format=torch.contiguous_format)
