"""Regularised branches: filters of several temporal lengths that are trained side by side and deployed as one.

Paper: Kobayashi & Ye, "Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification", WACV 2024, section 3.
Eq. 2: gamma conv(X; W) + beta = sum over tau = 1, 3, .., t of gamma_tau conv(X; W^_tau) + beta_tau, each branch with a
batch norm of its own in the place of the one behind W. Eq. 6: W^_tau = [mu / eta, U_perp] W~_tau, where mu is the
constant vector of length one over tau frames and U_perp completes it to an orthonormal basis; what is trained is W~, so
that ordinary weight decay is eta^2 |A|^2 + |B|^2 on the mean part A and the rest B of W^ (Eq. 5).

W~ is stored in the coordinates of time, as V = [mu, U_perp] W~, in which Eq. 6 reads W^ = V - (1 - 1 / eta) mu mu^T V:
no basis is needed. The two differ by a rotation, so |V| = |W~| and every step of SGD, with momentum and weight decay, is
the same; with eta = 1 the parameter is an ordinary filter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.unit import Inflation, Size3, SpatioTemporalUnit, check_inflation, conv_arguments, inflate

__all__ = ["MeanScaledConv3d", "ReparamConv3d", "identity_norm_"]


class MeanScaledConv3d(nn.Conv3d):
    """One branch: a convolution with W^ of Eq. 6, whose parameter is W~ in the coordinates of time.

    Args:
        kept: 1 / eta, what is left of the mean over time of each filter; 0 is eta = inf.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int],
        stride: tuple[int, int, int],
        padding: tuple[int, int, int],
        dilation: tuple[int, int, int],
        *,
        kept: float,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)
        self.kept = kept

    def filters(self) -> Tensor:
        """W^ of Eq. 6, ``(C_out, C_in, tau, k, k)``."""
        if self.kept == 1:
            return self.weight
        return self.weight - (1 - self.kept) * self.weight.mean(dim=2, keepdim=True)

    @torch.no_grad()
    def store_(self, filters: Tensor) -> None:
        """Choose W~ so that W^ is ``filters``, or with eta = inf what is left of them without their mean."""
        mean = filters.mean(dim=2, keepdim=True)
        self.weight.copy_(filters + ((1 / self.kept if self.kept else 0) - 1) * mean)

    def forward(self, input: Tensor) -> Tensor:
        return F.conv3d(input, self.filters(), None, self.stride, self.padding, self.dilation)


class ReparamConv3d(SpatioTemporalUnit):
    """Drop-in for ``nn.Conv3d`` and the batch norm behind it: the sum over branches of Eq. 2.

    Input ``(B, C_in, T, H, W)``, output ``(B, C_out, T', H', W')``. While its norms use their running statistics the
    unit is linear and runs as one convolution, :meth:`to_conv3d`; in training each branch needs its own statistics.

    Args:
        eta: weight >= 1 of the decay on the mean over time; the paper has 1 (no regularisation), 2 (its default), 4 and
            infinity, which takes the mean away (``"inf"`` is accepted for files that cannot hold the number).
        branches: temporal lengths; None is 1, 3, .., t, and ``(t,)`` the paper's single filter.
        norm: a batch norm behind each branch. Without it the branches are summed as they are and the block's norm
            stays: for the single filter the same network.
        eta_on_frame: the branch of one frame, which is nothing but its mean, is divided by eta as well. The paper leaves
            it open; a norm undoes any finite factor, and with eta = inf the branch would be dead, whereas Table 3 then
            has 67.8 % for branches against 54.8 % for a single filter without its mean. So it is exempt.
        inflation: how a branch starts from a 2D filter, see :func:`vidzoo.layers.unit.inflate`. The paper refers to I3D
            ("mean"); "centre" is the default because it keeps the output of the 2D network at the ends of a clip too.

    Raises:
        ConfigError: an even temporal kernel or branch, branches that do not end with the kernel's own length, a
            temporal padding too small to align them, eta < 1, or eta = inf with something that it leaves empty.
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
        eta: float | Literal["inf"] = 2.0,
        branches: Sequence[int] | None = None,
        norm: bool = True,
        eta_on_frame: bool = False,
        inflation: Inflation = "centre",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation)
        t, kh, kw = self.kernel_size
        pt, ph, pw = self.padding
        dt = self.dilation[0]
        self.eta = _weight(eta)
        self.lengths = _lengths(branches, t)
        spare = [pt - dt * (t - length) // 2 for length in self.lengths]
        if min(spare) < 0:
            raise ConfigError(
                f"branches of {self.lengths} frames cannot be aligned with a temporal padding of {pt}: a kernel of {t} with "
                f"dilation {dt} needs at least {pt - min(spare)}"
            )
        if eta_on_frame and math.isinf(self.eta) and 1 in self.lengths:
            raise ConfigError("eta=inf leaves nothing of a branch of one frame: eta_on_frame must be False then")
        self.eta_on_frame = eta_on_frame
        self.inflation = inflation
        self.branches = nn.ModuleList(
            MeanScaledConv3d(
                in_channels,
                out_channels,
                (length, kh, kw),
                self.stride,
                (padding_t, ph, pw),
                self.dilation,
                kept=1.0 if length == 1 and not eta_on_frame else 1 / self.eta,
            )
            for length, padding_t in zip(self.lengths, spare, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm3d(out_channels) for _ in self.lengths if norm)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d | nn.Conv3d,
        *,
        temporal_kernel: int = 3,
        eta: float | Literal["inf"] = 2.0,
        branches: Sequence[int] | None = None,
        norm: bool = True,
        eta_on_frame: bool = False,
        inflation: Inflation = "centre",
    ) -> Self:
        """The unit in the place of ``conv``, with its output as long as the norms use their running statistics."""
        unit = cls(
            *conv_arguments(conv, temporal_kernel=temporal_kernel),
            eta=eta,
            branches=branches,
            norm=norm,
            eta_on_frame=eta_on_frame,
            inflation=inflation,
        )
        return unit.to(conv.weight).load_conv_(conv.weight, conv.bias)

    @property
    def inflation(self) -> Inflation:
        """How a branch starts from a 2D filter."""
        return self._inflation

    @inflation.setter
    def inflation(self, mode: Inflation) -> None:
        if check_inflation(mode) != "centre" and math.isinf(self.eta) and self.lengths[-1] > 1:
            raise ConfigError(f"inflation={mode!r} gives filters that are all mean, eta=inf leaves nothing of them")
        self._inflation = mode

    def last_norms(self) -> list[nn.BatchNorm3d]:
        """The norms of the branches: Eq. 2 has no other behind their sum."""
        return cast("list[nn.BatchNorm3d]", list(self.norms))  # also what a conversion (SyncBatchNorm) put there

    def _parts(self) -> list[tuple[MeanScaledConv3d, nn.BatchNorm3d | None, float]]:
        """Branch, norm, and its share of a trained filter.

        Shares are equal. With eta = inf only the branch of one frame can hold what a static clip shows: it takes all,
        and the scales of the others start at zero.
        """
        branches = [branch for branch in self.branches if isinstance(branch, MeanScaledConv3d)]
        able = [branch.kept > 0 for branch in branches]
        able = able if any(able) else [True] * len(able)
        norms: list[nn.BatchNorm3d] | list[None] = self.last_norms() or [None] * len(branches)
        shares = [1 / sum(able) if holds else 0.0 for holds in able]
        return list(zip(branches, norms, shares, strict=True))

    @torch.no_grad()
    def load_conv_(self, weight: Tensor, bias: Tensor | None) -> Self:
        """Every branch takes the whole 2D filter, inflated to its length, and its scale is its share of the output.

        A filter over time gives each shorter branch its middle frames; the longest takes what is missing to the sum.
        Norms are set to change nothing else, until :meth:`load_norm_`. A single filter with eta = inf starts without
        its mean, so it cannot keep the output.

        Raises:
            ConfigError: the kernel does not belong here, or is one over time that eta = inf cannot hold.
        """
        self._check_trained(weight, bias, takes_bias=self.bias is not None)
        t = self.kernel_size[0]
        if weight.ndim == 5 and weight.shape[2] != t:
            raise ConfigError(
                f"this unit is {t} frames long, the trained kernel {weight.shape[2]}: {tuple(weight.shape)}"
            )
        if weight.ndim == 5 and t > 1 and math.isinf(self.eta):
            raise ConfigError("a filter over time has a mean that eta=inf cannot hold: start from a 2D kernel")
        missing = weight.clone() if weight.ndim == 5 else None  # (C_out, C_in, t, k, k)
        for branch, norm, share in self._parts():
            length = branch.kernel_size[0]
            if missing is None:
                filters = inflate(weight, length, mode=self.inflation)
            elif length < t:
                filters = _middle(weight, length)
                _middle(missing, length).sub_(share * filters)
            else:
                filters = missing / share
            branch.store_(filters if norm is not None else share * filters)
            if norm is not None:
                identity_norm_(norm)
                norm.weight.fill_(share)
        if self.bias is not None:
            self.bias.zero_() if bias is None else self.bias.copy_(bias)
        return self

    @torch.no_grad()
    def load_norm_(self, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor) -> Self:
        """Take over the trained norm behind the convolution of :meth:`load_conv_`: its statistics, and shares of the rest.

        Each branch answers a static clip as the trained filter did, so the statistics hold for each of them, in
        training too.
        """
        for _, norm, share in self._parts():
            if norm is not None and share:
                norm.weight.copy_(share * weight)
                norm.bias.copy_(share * bias)
                if norm.running_mean is not None and norm.running_var is not None:
                    norm.running_mean.copy_(running_mean)
                    norm.running_var.copy_(running_var)
        return self

    def _merged(self) -> tuple[Tensor, Tensor | None]:
        """W and the bias of the one convolution that the sum is (footnote 1): shorter filters are padded in time."""
        total: Tensor | None = None
        bias: Tensor | None = self.bias
        for branch, norm, _ in reversed(self._parts()):
            filters = branch.filters()
            if norm is not None:
                scale, shift = _affine(norm)
                filters = filters * scale[:, None, None, None, None]
                bias = shift if bias is None else bias + shift
            if total is None:
                total = filters.clone() if filters is branch.weight else filters
            else:
                _middle(total, branch.kernel_size[0]).add_(filters)
        if total is None:
            raise ConfigError(f"{type(self).__name__} has lost its branches")
        return total, bias

    @torch.no_grad()
    def to_conv3d(self) -> nn.Conv3d:
        """The dense convolution with the same output as the unit in evaluation mode."""
        weight, bias = self._merged()
        conv = self._dense_twin(bias=bias is not None, like=weight)
        conv.weight.copy_(weight)
        if conv.bias is not None and bias is not None:
            conv.bias.copy_(bias)
        return conv

    def fuse(self) -> nn.Conv3d:
        """The unit as it is deployed: :meth:`to_conv3d`, whose bias stands for the norms."""
        return self.to_conv3d()

    def forward(self, x: Tensor) -> Tensor:
        if not any(norm.training or norm.running_var is None for norm in self.last_norms()):
            weight, bias = self._merged()
            return F.conv3d(x, weight, bias, self.stride, self.padding, self.dilation)  # (B, C_out, T', H', W')
        terms = (norm(branch(x)) for branch, norm in zip(self.branches, self.norms, strict=True))
        out: Tensor = reduce(add, terms)  # the right side of Eq. 2
        return out if self.bias is None else out + self.bias[:, None, None, None]  # (B, C_out, T', H', W')

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, eta={self.eta:g}, lengths={self.lengths}"


@torch.no_grad()
def identity_norm_(norm: nn.BatchNorm3d) -> None:
    """Let a batch norm change nothing as long as it uses its running statistics."""
    norm.reset_parameters()
    if norm.running_var is not None:
        norm.running_var.fill_(1 - norm.eps)


def _affine(norm: nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    if norm.running_mean is None or norm.running_var is None:
        raise ConfigError("a batch norm without running statistics is no part of a convolution: it cannot be fused")
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _middle(weight: Tensor, length: int) -> Tensor:
    return weight.narrow(2, (weight.shape[2] - length) // 2, length)


def _weight(eta: float | str) -> float:
    try:
        value = float(eta)
    except (TypeError, ValueError):
        value = math.nan
    if not value >= 1:
        raise ConfigError(f"eta weighs the decay of the mean over time, a number >= 1 or 'inf', got {eta!r}")
    return value


def _lengths(branches: Sequence[int] | None, kernel: int) -> tuple[int, ...]:
    if kernel % 2 == 0:
        raise ConfigError(f"branches share their centre frame, a temporal kernel of {kernel} has none: give an odd one")
    lengths = tuple(range(1, kernel + 1, 2)) if branches is None else tuple(branches)
    whole = all(isinstance(length, int) and length > 0 and length % 2 for length in lengths)
    if not whole or not lengths or list(lengths) != sorted(set(lengths)) or lengths[-1] != kernel:
        raise ConfigError(
            f"branches must be rising odd lengths that end with the kernel's own, {kernel}, got {branches!r}"
        )
    return lengths
