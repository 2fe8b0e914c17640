"""Units for grouped and depthwise convolutions: the same equations over the channels that one group sees.

The papers write their units for filters that see all input channels. The equations of STDCF (Eq. 2), of P3D (Eq. 1) and
of the regularised branches (Eq. 2) are about single filters, so they hold for those of a grouped convolution as they
are: coefficients, factors and branches of shape ``(C_out, C_in / groups, ...)``. GST divides the channels into groups of
its own and has no such form.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers import FullConv3d, ReparamConv3d, STDCFConv3d
from vidzoo.layers.reparam import identity_norm_
from vidzoo.layers.unit import Inflation, Size3, spatial_filter

__all__ = ["GroupedP3DConv3d", "GroupedReparamConv3d", "GroupedSTDCFConv3d"]

Triple = tuple[int, int, int]


class GroupedSTDCFConv3d(STDCFConv3d):
    """STDCF in groups: all of them share ``psi`` and ``phi``, ``alpha`` is ``(C_out, C_in / groups, M N)``.

    It runs as one convolution with the dense kernel: where a filter sees few channels the three of Eq. 1 cost more.

    Args:
        in_channels: of all groups; the attribute of that name is the number that one group sees.
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
        *,
        groups: int,
        spatial_atoms: int = 6,
        temporal_atoms: int = 2,
        inflation: Inflation = "centre",
    ) -> None:
        super().__init__(
            in_channels // groups,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            bias,
            spatial_atoms=spatial_atoms,
            temporal_atoms=temporal_atoms,
            inflation=inflation,
        )
        self.groups = groups

    @torch.no_grad()
    def to_conv3d(self) -> nn.Conv3d:
        """The one grouped convolution that gives the same output."""
        return _in_groups(super().to_conv3d(), self.groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv3d(x, self.kernel(), self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


class GroupedReparamConv3d(ReparamConv3d):
    """Regularised branches in groups: every branch is a grouped convolution, norms and Eq. 2 stay what they are.

    Args:
        in_channels: of all groups; the attribute of that name is the number that one group sees.
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
        *,
        groups: int,
        eta: float | Literal["inf"] = 2.0,
        branches: Sequence[int] | None = None,
        norm: bool = True,
        eta_on_frame: bool = False,
        inflation: Inflation = "centre",
    ) -> None:
        super().__init__(
            in_channels // groups,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            bias,
            eta=eta,
            branches=branches,
            norm=norm,
            eta_on_frame=eta_on_frame,
            inflation=inflation,
        )
        self.groups = groups

    @torch.no_grad()
    def to_conv3d(self) -> nn.Conv3d:
        """The one grouped convolution with the same output as the unit in evaluation mode."""
        return _in_groups(super().to_conv3d(), self.groups)

    def forward(self, x: Tensor) -> Tensor:
        if not any(norm.training or norm.running_var is None for norm in self.last_norms()):
            weight, bias = self._merged()
            return F.conv3d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        terms = [
            norm(F.conv3d(x, branch.filters(), None, branch.stride, branch.padding, branch.dilation, self.groups))
            for branch, norm, _ in self._parts()
            if norm is not None
        ]
        out: Tensor = reduce(add, terms)  # the right side of Eq. 2
        return out if self.bias is None else out + self.bias[:, None, None, None]  # (B, C_out, T', H', W')

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"


class GroupedP3DConv3d(nn.Module):
    """P3D in groups: a grouped convolution over space, then one over time, each with the strides of its own axes.

    Args:
        in_channels: of all groups.
        groups: of both convolutions.
        norm: batch norm and ReLU between the two.

    Raises:
        ConfigError: an even temporal kernel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        stride: Triple,
        padding: Triple,
        dilation: Triple,
        bias: bool = True,
        *,
        groups: int,
        norm: bool = False,
    ) -> None:
        super().__init__()
        (t, kh, kw), (st, sh, sw), (pt, ph, pw), (dt, dh, dw) = kernel_size, stride, padding, dilation
        if t % 2 == 0:
            raise ConfigError(f"P3D needs an odd temporal kernel, got {t}: an even one has no centre frame")
        # A trained convolution's bias stands where it stood: in front of the norm, or else behind everything.
        space, over = (kh, kw), (ph, pw)
        self.spatial = FullConv3d(
            in_channels,
            out_channels,
            (1, *space),
            (1, sh, sw),
            (0, *over),
            (1, dh, dw),
            bias=bias and norm,
            groups=groups,
        )
        self.norm = nn.Sequential(nn.BatchNorm3d(out_channels), nn.ReLU(inplace=True)) if norm else nn.Identity()
        self.temporal = FullConv3d(
            out_channels,
            out_channels,
            (t, 1, 1),
            (st, 1, 1),
            (pt, 0, 0),
            (dt, 1, 1),
            bias=bias and not norm,
            groups=groups,
        )

    @torch.no_grad()
    def load_conv_(self, weight: Tensor, bias: Tensor | None) -> Self:
        """Spatial filters = the kernels ``(C_out, C_in / groups, [t,] k, k)`` summed over time; identity over time."""
        biased = self.spatial.bias is not None
        self.spatial.load_conv_(spatial_filter(weight), bias if biased else None)
        for module in self.norm.children():
            if isinstance(module, nn.BatchNorm3d):
                identity_norm_(module)
        width = self.temporal.out_channels // self.temporal.groups
        same = torch.eye(width, dtype=weight.dtype, device=weight.device).repeat(self.temporal.groups, 1)
        self.temporal.load_conv_(same[:, :, None, None], None if biased else bias)  # (C_out, C_out / groups, 1, 1)
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.spatial(x))  # (B, C_out, T, H', W')   w_s of Eq. 1
        return self.temporal(x)  # (B, C_out, T', H', W')   w_t of Eq. 1


def _in_groups(conv: nn.Conv3d, groups: int) -> nn.Conv3d:
    # Built over the channels of one group, its weight has the shape of the grouped one.
    conv.groups, conv.in_channels = groups, conv.in_channels * groups
    return conv
