"""GST: the output channels split into a spatial and a temporal group.

Paper: Luo & Yuille, "Grouped Spatial-Temporal Aggregation for Efficient Action Recognition", ICCV 2019. Eq. 2: w_GST
= w_gs (+) w_gt, a 1xkxk kernel for (1 - alpha) C_out channels beside a txkxk kernel for the other alpha C_out. With
beta = 1/2 each group sees its own half of the input channels, with beta = 1 (GST-Large) both see all of them.
Parameters (Table 1): (1 - alpha + alpha t) k k C_in C_out beta.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError, ModelInputError
from vidzoo.layers.unit import Size3, SpatioTemporalUnit, conv_arguments, spatial_filter

__all__ = ["GSTConv3d"]


class GSTConv3d(SpatioTemporalUnit):
    """Drop-in for ``nn.Conv3d``: static cues in one group of channels, dynamic cues in the other.

    Input ``(B, C_in, T, H, W)``, output ``(B, C_out, T', H', W')``, spatial channels first, as in the authors' code.

    Args:
        alpha: share of the output channels that look over time; 1/2, 1/4 (the paper's default) or 1/8 in the paper.
        beta: share of the input channels that each group sees: 1/2, or 1 for GST-Large.

    Raises:
        ConfigError: alpha outside (0, 1) or leaving a group empty, beta not 1/2 or 1, an even temporal kernel, or a
            temporal padding that makes the two groups differ in length.
    """

    random_after_load = ("temporal.weight",)

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
        alpha: float = 1 / 4,
        beta: float = 1 / 2,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation)
        t, kh, kw = self.kernel_size
        (st, sh, sw), (pt, ph, pw), (dt, dh, dw) = self.stride, self.padding, self.dilation
        if beta not in (0.5, 1, 1.0):
            raise ConfigError(f"GST splits the input in halves (beta=0.5) or not at all (beta=1), got beta={beta!r}")
        if not 0 < alpha < 1:
            raise ConfigError(f"GST needs 0 < alpha < 1 (1/2, 1/4 or 1/8 in the paper), got alpha={alpha!r}")
        if t % 2 == 0 or pt != dt * (t // 2):
            raise ConfigError(
                f"GST needs an odd temporal kernel padded to keep the frames aligned (kernel {t}, dilation {dt}: padding "
                f"{dt * (t // 2)}), got padding {pt}: its spatial group has no other way to meet the temporal one"
            )
        self.alpha, self.beta = alpha, beta
        self.temporal_channels = int(out_channels * alpha)
        self.spatial_channels = out_channels - self.temporal_channels
        # The authors' code gives each group in_channels // 2 and loses the last of an odd number; here it goes to time.
        self.spatial_in = in_channels if beta == 1 else in_channels // 2
        self.temporal_in = in_channels if beta == 1 else in_channels - self.spatial_in
        if min(self.temporal_channels, self.spatial_channels, self.spatial_in) < 1:
            raise ConfigError(
                f"GST with alpha={alpha:g}, beta={beta:g} leaves a group of {in_channels} -> {out_channels} channels empty"
            )
        self.spatial = nn.Conv3d(
            self.spatial_in, self.spatial_channels, (1, kh, kw), (st, sh, sw), (0, ph, pw), (1, dh, dw), bias=bias
        )
        self.temporal = nn.Conv3d(
            self.temporal_in, self.temporal_channels, (t, kh, kw), (st, sh, sw), (pt, ph, pw), (dt, dh, dw), bias=bias
        )

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d | nn.Conv3d, *, alpha: float = 1 / 4, beta: float = 1 / 2, temporal_kernel: int = 3
    ) -> Self:
        """The unit in the place of ``conv``: the spatial group takes its slice of the filter, the temporal one is random.

        Source: ``resnet50()`` of the authors' GST.py. A 3D kernel gives its sum over time to the spatial group.
        """
        unit = cls(*conv_arguments(conv, temporal_kernel=temporal_kernel), alpha=alpha, beta=beta)
        return unit.to(conv.weight).load_conv_(conv.weight, conv.bias)

    @torch.no_grad()
    def load_conv_(self, weight: Tensor, bias: Tensor | None) -> Self:
        """Copy the slice ``[:(1 - alpha) C_out, :beta C_in]`` into the spatial group; the temporal group stays as it is."""
        self._check_trained(weight, bias, takes_bias=self.spatial.bias is not None)
        self.spatial.weight.copy_(spatial_filter(weight)[: self.spatial_channels, : self.spatial_in])
        if self.spatial.bias is not None and self.temporal.bias is not None:
            values = weight.new_zeros(self.out_channels) if bias is None else bias
            self.spatial.bias.copy_(values[: self.spatial_channels])
            self.temporal.bias.copy_(values[self.spatial_channels :])
        return self

    @torch.no_grad()
    def to_conv3d(self) -> nn.Conv3d:
        """The dense convolution with the same output: each group's kernel in its block, zeros elsewhere."""
        conv = self._dense_twin(bias=self.spatial.bias is not None, like=self.spatial.weight)
        middle = self.kernel_size[0] // 2
        conv.weight.zero_()  # (C_out, C_in, t, k, k)
        conv.weight[: self.spatial_channels, : self.spatial_in, middle] = self.spatial.weight[:, :, 0]
        conv.weight[self.spatial_channels :, -self.temporal_in :] = self.temporal.weight
        if conv.bias is not None and self.spatial.bias is not None and self.temporal.bias is not None:
            conv.bias.copy_(torch.cat([self.spatial.bias, self.temporal.bias]))
        return conv

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.in_channels:  # slices would drop the surplus without a word
            raise ModelInputError(f"this GST unit has {self.in_channels} input channels, got {tuple(x.shape)}")
        # One split, not two slices: its backward pass writes the gradient once, where each slice would fill a whole map
        # with zeros first.
        left, right = (x, x) if self.beta == 1 else x.split([self.spatial_in, self.temporal_in], dim=1)
        static = self.spatial(left)  # (B, (1 - alpha) C_out, T, H', W')   w_gs of Eq. 2
        dynamic = self.temporal(right)  # (B, alpha C_out, T, H', W')   w_gt of Eq. 2
        return torch.cat([static, dynamic], dim=1)  # (B, C_out, T, H', W')

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha:g}, beta={self.beta:g}"
