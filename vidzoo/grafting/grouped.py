"""Units for grouped and depthwise convolutions: the same equations over the channels that one group sees.

The papers write their units for filters that see all input channels. The equations of STDCF (Eq. 2), of P3D (Eq. 1) and
of the regularised branches (Eq. 2) are about single filters, so they hold for those of a grouped convolution as they
are: coefficients, factors and branches of shape ``(C_out, C_in / groups, ...)``. GST divides the channels itself: of a
grouped convolution it takes whole groups, see :class:`GroupedGSTConv3d`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidzoo.errors import ConfigError, ModelInputError
from vidzoo.layers import FullConv3d, ReparamConv3d, STDCFConv3d
from vidzoo.layers.reparam import identity_norm_
from vidzoo.layers.unit import Inflation, Size3, check_inflation, spatial_filter

__all__ = ["GroupedGSTConv3d", "GroupedP3DConv3d", "GroupedReparamConv3d", "GroupedSTDCFConv3d"]

Triple = tuple[int, int, int]


class GroupedGSTConv3d(nn.Module):
    """GST in groups: whole groups of the convolution look over time, the last ``int(alpha * groups)``, the others do not.

    Eq. 2 with the groups for channels. What beta divides, the input, is divided already: a group sees its own channels.
    Because every filter keeps all that it saw, those over time start from the trained ones too, where GST between
    ungrouped channels has to start them at random; with ``centre`` the unit starts as the convolution that it replaces.

    Args:
        in_channels: of all groups.
        alpha: share of the groups that look over time.
        inflation: how their filters start, see :func:`vidzoo.layers.unit.inflate`.

    Raises:
        ConfigError: alpha outside (0, 1) or leaving no group to one side, an even temporal kernel, or a temporal padding that
            makes the two sides differ in length.
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
        alpha: float = 1 / 4,
        inflation: Inflation = "centre",
    ) -> None:
        super().__init__()
        (t, kh, kw), (st, sh, sw), (pt, ph, pw), (dt, dh, dw) = kernel_size, stride, padding, dilation
        if not 0 < alpha < 1:
            raise ConfigError(f"GST needs 0 < alpha < 1 (1/2, 1/4 or 1/8 in the paper), got alpha={alpha!r}")
        if t % 2 == 0 or pt != dt * (t // 2):
            raise ConfigError(
                f"GST needs an odd temporal kernel padded to keep the frames aligned (kernel {t}, dilation {dt}: padding "
                f"{dt * (t // 2)}), got padding {pt}"
            )
        temporal = int(groups * alpha)
        if not temporal:
            raise ConfigError(
                f"alpha={alpha:g} of {groups} groups is less than one that could look over time: take alpha={1 / groups:g} "
                "or more"
            )
        self.alpha, self.inflation = alpha, check_inflation(inflation)
        self.temporal_channels = temporal * out_channels // groups
        self.spatial_channels = out_channels - self.temporal_channels
        self.temporal_in = temporal * in_channels // groups
        self.spatial_in = in_channels - self.temporal_in
        self.spatial = FullConv3d(
            self.spatial_in,
            self.spatial_channels,
            (1, kh, kw),
            (st, sh, sw),
            (0, ph, pw),
            (1, dh, dw),
            bias=bias,
            groups=groups - temporal,
        )
        self.temporal = FullConv3d(
            self.temporal_in,
            self.temporal_channels,
            (t, kh, kw),
            (st, sh, sw),
            (pt, ph, pw),
            (dt, dh, dw),
            bias=bias,
            groups=temporal,
            inflation=self.inflation,
        )

    @torch.no_grad()
    def load_conv_(self, weight: Tensor, bias: Tensor | None) -> Self:
        """Each side takes the filters ``(C_out, C_in / groups, [t,] k, k)`` of its groups, the spatial one summed over time."""
        cut = self.spatial_channels
        static, dynamic = (None, None) if bias is None else (bias[:cut], bias[cut:])
        self.spatial.load_conv_(spatial_filter(weight[:cut]), static)
        self.temporal.load_conv_(weight[cut:], dynamic)
        return self

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.spatial_in + self.temporal_in:
            raise ModelInputError(
                f"this GST unit has {self.spatial_in + self.temporal_in} input channels, got {tuple(x.shape)}"
            )
        left, right = x.split([self.spatial_in, self.temporal_in], dim=1)
        static = self.spatial(left)  # (B, C_out - C_t, T, H', W')   w_gs of Eq. 2
        dynamic = self.temporal(right)  # (B, C_t, T, H', W')   w_gt of Eq. 2
        return torch.cat([static, dynamic], dim=1)  # (B, C_out, T, H', W')

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, inflation={self.inflation!r}"


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
