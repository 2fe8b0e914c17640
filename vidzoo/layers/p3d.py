"""P3D: a 3D convolution factored into a spatial and a temporal one.

Paper: Qiu et al., "Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks", ICCV 2017, in the form
that GST (ICCV 2019) takes as its baseline: Eq. 1, w = w_t x w_s. The widths are those of a residual block, so there
are kk C_in C_out + t C_out C_out parameters; GST's Table 1 prints (kk + t) C_in C_out, the same where a block keeps
its width. Eq. 1 has nothing between the two convolutions, P3D's own blocks have batch norm and ReLU there: ``norm``
says which.

``time_first`` turns the order round, w = w_s x w_t, with t C_in C_in + kk C_in C_out parameters: the (2+1)D
convolution of pytorchvideo's R(2+1)D-50. Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action
Recognition", CVPR 2018, have space first and another width in the middle.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.unit import Size3, SpatioTemporalUnit, conv_arguments, spatial_filter

__all__ = ["P3DConv3d"]


class P3DConv3d(SpatioTemporalUnit):
    """Drop-in for ``nn.Conv3d``: first over space, then over time, or the other way round.

    Input ``(B, C_in, T, H, W)``, output ``(B, C_out, T', H', W')``. Each convolution has the stride of its own axes,
    and the temporal one keeps its width in either order, so that the spatial one can start from any trained filter.

    Args:
        norm: batch norm and ReLU between the two, as in P3D's blocks; without it the unit is linear and equals one
            dense convolution.
        time_first: the temporal convolution comes first.

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
        norm: bool = False,
        time_first: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation)
        t, kh, kw = self.kernel_size
        (st, sh, sw), (pt, ph, pw), (dt, dh, dw) = self.stride, self.padding, self.dilation
        if t % 2 == 0:
            raise ConfigError(f"P3D needs an odd temporal kernel, got {t}: an even one has no centre frame")
        middle = in_channels if time_first else out_channels
        self.time_first = time_first
        self.spatial = nn.Conv3d(
            in_channels,
            out_channels,
            (1, kh, kw),
            (1, sh, sw),
            (0, ph, pw),
            (1, dh, dw),
            bias=bias and time_first,
        )
        self.norm = nn.Sequential(nn.BatchNorm3d(middle), nn.ReLU(inplace=True)) if norm else nn.Identity()
        self.temporal = nn.Conv3d(
            middle, middle, (t, 1, 1), (st, 1, 1), (pt, 0, 0), (dt, 1, 1), bias=bias and not time_first
        )

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d | nn.Conv3d,
        *,
        temporal_kernel: int = 3,
        norm: bool = False,
        time_first: bool = False,
    ) -> Self:
        """The unit that starts where ``conv`` is: its spatial filter, and identity over time.

        Without ``norm`` a clip then gives, frame by frame, what ``conv`` gives on each frame (for a 3D kernel: on a
        static clip, away from its ends).
        """
        unit = cls(*conv_arguments(conv, temporal_kernel=temporal_kernel), norm=norm, time_first=time_first)
        return unit.to(conv.weight).load_conv_(conv.weight, conv.bias)

    @property
    def _last(self) -> nn.Conv3d:
        # The bias of the whole unit sits here.
        return self.spatial if self.time_first else self.temporal

    @torch.no_grad()
    def load_conv_(self, weight: Tensor, bias: Tensor | None) -> Self:
        """Spatial filter = the kernel summed over time, temporal filter = 1 at the centre frame."""
        self._check_trained(weight, bias, takes_bias=self._last.bias is not None)
        self.spatial.weight.copy_(spatial_filter(weight))
        nn.init.dirac_(self.temporal.weight)  # (M, M, t, 1, 1), M = C_out, or C_in with time_first
        if self._last.bias is not None:
            self._last.bias.zero_() if bias is None else self._last.bias.copy_(bias)
        return self

    @torch.no_grad()
    def to_conv3d(self) -> nn.Conv3d:
        """The dense convolution with the same output.

        W[o, i, t] = sum over m of w_t[o, m, t] w_s[m, i], or of w_s[o, m] w_t[m, i, t] with ``time_first``.

        Raises:
            ConfigError: the unit has a norm in its middle, which no single convolution can stand for.
        """
        if not isinstance(self.norm, nn.Identity):
            raise ConfigError("a P3D unit with norm=True is not linear: no single convolution equals it")
        conv = self._dense_twin(bias=self._last.bias is not None, like=self.spatial.weight)
        w_t, w_s = self.temporal.weight[..., 0, 0], self.spatial.weight[:, :, 0]  # (M, M, t), (C_out, C_in, k, k)
        if self.time_first:
            conv.weight.copy_(torch.einsum("omhw,mit->oithw", w_s, w_t))
        else:
            conv.weight.copy_(torch.einsum("omt,mihw->oithw", w_t, w_s))
        if conv.bias is not None and self._last.bias is not None:
            conv.bias.copy_(self._last.bias)
        return conv

    def forward(self, x: Tensor) -> Tensor:
        if self.time_first:
            x = self.norm(self.temporal(x))  # (B, C_in, T', H, W)
            return self.spatial(x)  # (B, C_out, T', H', W')
        x = self.norm(self.spatial(x))  # (B, C_out, T, H', W')   w_s of Eq. 1
        return self.temporal(x)  # (B, C_out, T', H', W')   w_t of Eq. 1
