"""S3D: space, norm and ReLU, then time.

Paper: Xie et al., "Rethinking Spatiotemporal Feature Learning: Speed-Accuracy Trade-offs in Video Classification",
ECCV 2018, in the form that Kobayashi & Ye (WACV 2024, section 6) build on, which is that of IBM's
action-recognition-pytorch (Apache-2.0): txkxk becomes 1xkxk, batch norm, ReLU, tx1x1 from C_out to C_out. The temporal
part may be a unit itself: their regularised branches apply to it alone.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.conv import FullConv3d
from vidzoo.layers.reparam import ReparamConv3d, identity_norm_
from vidzoo.layers.unit import Inflation, Size3, SpatioTemporalUnit, UnitFactory, conv_arguments, spatial_filter

__all__ = ["SeparableConv3d"]


class SeparableConv3d(SpatioTemporalUnit):
    """Drop-in for ``nn.Conv3d``: ``(B, C_in, T, H, W) -> (B, C_out, T', H', W')``, each axis with its own stride.

    P3D's unit has the same layers. This one starts as the authors' code does, with the trained batch norm behind the
    spatial convolution, where its statistics belong.

    Args:
        temporal: what looks over time: :class:`FullConv3d` or :class:`ReparamConv3d`, or a partial of one.

    Raises:
        ConfigError: an even temporal kernel, which has no centre frame.
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
        temporal: UnitFactory = FullConv3d,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation)
        t, kh, kw = self.kernel_size
        (st, sh, sw), (pt, ph, pw), (dt, dh, dw) = self.stride, self.padding, self.dilation
        if t % 2 == 0:
            raise ConfigError(f"S3D needs an odd temporal kernel, got {t}: an even one has no centre frame")
        self.spatial = nn.Conv3d(
            in_channels, out_channels, (1, kh, kw), (1, sh, sw), (0, ph, pw), (1, dh, dw), bias=bias
        )
        self.norm = nn.BatchNorm3d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        built = temporal(out_channels, out_channels, (t, 1, 1), (st, 1, 1), (pt, 0, 0), (dt, 1, 1), bias=False)
        if not isinstance(built, (FullConv3d, ReparamConv3d)):
            raise ConfigError(f"the temporal part must be a FullConv3d or a ReparamConv3d, got {type(built).__name__}")
        self.temporal = built

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d | nn.Conv3d, *, temporal_kernel: int = 3, temporal: UnitFactory = FullConv3d
    ) -> Self:
        """The unit that gives what ``conv`` and a ReLU give on each frame (for a 3D kernel: its sum over time)."""
        unit = cls(*conv_arguments(conv, temporal_kernel=temporal_kernel), temporal=temporal)
        return unit.to(conv.weight).load_conv_(conv.weight, conv.bias)

    @property
    def inflation(self) -> Inflation:
        """How the temporal filters start from the identity over channels."""
        return self.temporal.inflation

    @inflation.setter
    def inflation(self, mode: Inflation) -> None:
        self.temporal.inflation = mode

    def last_norms(self) -> list[nn.BatchNorm3d]:
        """Those of the temporal part, where it has any."""
        return self.temporal.last_norms() if isinstance(self.temporal, ReparamConv3d) else []

    @torch.no_grad()
    def load_conv_(self, weight: Tensor, bias: Tensor | None) -> Self:
        """Spatial filter = the kernel summed over time, temporal filter = the identity; norms change nothing."""
        self._check_trained(weight, bias, takes_bias=self.spatial.bias is not None)
        self.spatial.weight.copy_(spatial_filter(weight))
        if self.spatial.bias is not None:
            self.spatial.bias.zero_() if bias is None else self.spatial.bias.copy_(bias)
        identity_norm_(self.norm)
        same = torch.eye(self.out_channels, dtype=weight.dtype, device=weight.device)
        self.temporal.load_conv_(same[:, :, None, None], None)  # (C_out, C_out, 1, 1)
        return self

    @torch.no_grad()
    def load_norm_(self, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor) -> Self:
        """Take over the trained norm behind the convolution of :meth:`load_conv_`, in front of the unit's own ReLU.

        Where the 2D network has a ReLU there too (all of a bottleneck, the first half of a basic block) its output is kept.
        """
        self.norm.weight.copy_(weight)
        self.norm.bias.copy_(bias)
        if self.norm.running_mean is not None and self.norm.running_var is not None:
            self.norm.running_mean.copy_(running_mean)
            self.norm.running_var.copy_(running_var)
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.spatial(x)))  # (B, C_out, T, H', W')
        return self.temporal(x)  # (B, C_out, T', H', W')
