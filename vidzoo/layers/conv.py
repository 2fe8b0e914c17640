"""Three plain answers to what a kxk convolution becomes when time is added: nothing, everything, all in groups.

They are GST's baselines (ICCV 2019, Table 1): C2D with kk C_in C_out parameters, C3D with t kk C_in C_out, and C3D
with g groups with t kk C_in C_out / g. Each is one ``nn.Conv3d``, so their state dicts have its plain ``weight`` and
``bias``.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.unit import Inflation, Size3, check_inflation, conv_arguments, inflate, spatial_filter, triple

__all__ = ["FrameConv3d", "FullConv3d", "GroupedConv3d"]


class FullConv3d(nn.Conv3d):
    """C3D: a dense txkxk kernel, ``(B, C_in, T, H, W) -> (B, C_out, T', H', W')``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Size3 = 0,
        dilation: Size3 = 1,
        bias: bool = True,
        *,
        groups: int = 1,
        inflation: Inflation = "centre",
    ) -> None:
        if min(in_channels, out_channels) < 1:
            raise ConfigError(
                f"{type(self).__name__} needs at least one channel on each side, got {in_channels} -> {out_channels}"
            )
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ConfigError(f"{in_channels} -> {out_channels} channels cannot be cut into {groups} equal groups")
        super().__init__(
            in_channels,
            out_channels,
            triple(kernel_size, "kernel_size"),
            stride=triple(stride, "stride"),
            padding=triple(padding, "padding", least=0),
            dilation=triple(dilation, "dilation"),
            groups=groups,
            bias=bias,
        )
        self.inflation: Inflation = check_inflation(inflation)

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d | nn.Conv3d,
        *,
        temporal_kernel: int = 3,
        inflation: Inflation = "centre",
    ) -> Self:
        """The unit in the place of ``conv``: a 3D kernel as it is, a 2D one inflated; ``centre`` keeps every frame's output.

        GST leaves open how its C3D baseline was inflated.
        """
        unit = cls(*conv_arguments(conv, temporal_kernel=temporal_kernel), inflation=inflation)
        return unit.to(conv.weight).load_conv_(conv.weight, conv.bias)

    @torch.no_grad()
    def load_conv_(self, weight: Tensor, bias: Tensor | None) -> Self:
        """Start from ``(C_out, C_in, k, k)`` or ``(C_out, C_in, t, k, k)``; groups take their own slices.

        Raises:
            ConfigError: the kernel does not belong to a convolution with this unit's arguments.
        """
        if weight.ndim not in (4, 5):
            raise ConfigError(f"{type(self).__name__} takes a kernel with four or five axes, got {tuple(weight.shape)}")
        if bias is not None and self.bias is None:
            raise ConfigError(
                f"this {type(self).__name__} was built with bias=False, the trained convolution has a bias"
            )
        kernel = weight if weight.ndim == 5 else inflate(weight, self.kernel_size[0], mode=self.inflation)
        if self.groups > 1 and kernel.shape[:2] == (self.out_channels, self.in_channels):
            slices = zip(kernel.chunk(self.groups, dim=0), range(self.groups), strict=True)
            width = self.in_channels // self.groups
            kernel = torch.cat([block[:, g * width : (g + 1) * width] for block, g in slices])
        if kernel.shape != self.weight.shape:
            raise ConfigError(
                f"{type(self).__name__} has a kernel {tuple(self.weight.shape)}, got {tuple(weight.shape)}"
            )
        self.weight.copy_(kernel)
        if self.bias is not None:
            self.bias.zero_() if bias is None else self.bias.copy_(bias)
        return self

    @torch.no_grad()
    def to_conv3d(self) -> nn.Conv3d:
        """A plain ungrouped ``nn.Conv3d`` with the same output."""
        conv = nn.Conv3d(
            self.in_channels,
            self.out_channels,
            triple(self.kernel_size, "kernel_size"),
            stride=triple(self.stride, "stride"),
            padding=triple(self.padding, "padding", least=0),
            dilation=triple(self.dilation, "dilation"),
            bias=self.bias is not None,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        conv.weight.zero_()
        rows, columns = self.out_channels // self.groups, self.in_channels // self.groups
        for g in range(self.groups):
            block = slice(g * rows, (g + 1) * rows)
            conv.weight[block, g * columns : (g + 1) * columns] = self.weight[block]
        if conv.bias is not None and self.bias is not None:
            conv.bias.copy_(self.bias)
        return conv


class GroupedConv3d(FullConv3d):
    """C3D in symmetric channel groups (two by default), GST's baseline "C3D groups=2"."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Size3 = 0,
        dilation: Size3 = 1,
        bias: bool = True,
        *,
        groups: int = 2,
        inflation: Inflation = "centre",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            bias,
            groups=groups,
            inflation=inflation,
        )

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d | nn.Conv3d,
        *,
        temporal_kernel: int = 3,
        inflation: Inflation = "centre",
        groups: int = 2,
    ) -> Self:
        """The unit in the place of ``conv``: each group starts from its own slice of the kernel, inflated if it is 2D.

        GST leaves open how its grouped baseline was inflated.

        Raises:
            ConfigError: the channels cannot be cut into that many groups.
        """
        arguments = conv_arguments(conv, temporal_kernel=temporal_kernel)
        unit = cls(*arguments, groups=groups, inflation=inflation)
        return unit.to(conv.weight).load_conv_(conv.weight, conv.bias)


class FrameConv3d(FullConv3d):
    """C2D: the kernel looks at one frame, whatever temporal size it is asked for.

    Raises:
        ConfigError: a temporal padding that does not keep the frames aligned: the convolution in whose place it
            stands would give another number of frames.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Size3 = 0,
        dilation: Size3 = 1,
        bias: bool = True,
    ) -> None:
        (t, kh, kw), (pt, ph, pw) = triple(kernel_size, "kernel_size"), triple(padding, "padding", least=0)
        dt = triple(dilation, "dilation")[0]
        if 2 * pt != dt * (t - 1):
            raise ConfigError(
                f"a frame-wise convolution needs a temporal padding that keeps the frames aligned, half of {dt * (t - 1)} for "
                f"kernel {t} and dilation {dt}, got padding {pt}"
            )
        super().__init__(in_channels, out_channels, (1, kh, kw), stride, (0, ph, pw), dilation, bias)

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d | nn.Conv3d,
        *,
        temporal_kernel: int = 1,
        inflation: Inflation = "centre",
    ) -> Self:
        """The unit in the place of ``conv``: its filter, summed over time if it has any."""
        unit = cls(*conv_arguments(conv, temporal_kernel=temporal_kernel))
        return unit.to(conv.weight).load_conv_(conv.weight, conv.bias)

    @torch.no_grad()
    def load_conv_(self, weight: Tensor, bias: Tensor | None) -> Self:
        """Start from a 2D kernel, or from what a static clip sees of a 3D one."""
        return super().load_conv_(spatial_filter(weight), bias)
