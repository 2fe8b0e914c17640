"""P3D: a 3D convolution factored into a spatial and a temporal one.

Paper: Qiu et al., "Learning Spatio-Temporal Representation with Pseudo-3D Residual Networks", ICCV 2017, in the form
that GST (ICCV 2019) takes as its baseline: Eq. 1, w = w_t x w_s. The widths are those of a residual block, so there
are kk C_in C_out + t C_out C_out parameters; GST's Table 1 prints (kk + t) C_in C_out, the same where a block keeps
its width. Eq. 1 has nothing between the two convolutions, P3D's own blocks have batch norm and ReLU there: ``norm``
says which. With it this is the unit of S3D too (Xie et al., "Rethinking Spatiotemporal Feature Learning", ECCV 2018);
Kobayashi & Ye (WACV 2024, section 6) put their regularised branches in the place of its temporal part.

``time_first`` turns the order round, w = w_s x w_t, with t C_in C_in + kk C_in C_out parameters: the (2+1)D
convolution of pytorchvideo's R(2+1)D-50. Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action
Recognition", CVPR 2018, have space first and another width in the middle.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.conv import FullConv3d
from vidzoo.layers.reparam import ReparamConv3d, identity_norm_
from vidzoo.layers.unit import Inflation, Size3, SpatioTemporalUnit, UnitFactory, conv_arguments, spatial_filter

__all__ = ["P3DConv3d"]


class P3DConv3d(SpatioTemporalUnit):
    """Drop-in for ``nn.Conv3d``: first over space, then over time, or the other way round.

    Input ``(B, C_in, T, H, W)``, output ``(B, C_out, T', H', W')``. Each convolution has the stride of its own axes,
    and the temporal one keeps its width in either order, so that the spatial one can start from any trained filter.

    Args:
        norm: batch norm and ReLU between the two, as in P3D's blocks; without it the unit is linear and equals one
            dense convolution.
        time_first: the temporal convolution comes first.
        temporal: what looks over time: :class:`FullConv3d` or :class:`ReparamConv3d`, or a partial of one.

    Raises:
        ConfigError: an even temporal kernel, which has no centre frame, or another temporal part.
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
        temporal: UnitFactory = FullConv3d,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation)
        t, kh, kw = self.kernel_size
        (st, sh, sw), (pt, ph, pw), (dt, dh, dw) = self.stride, self.padding, self.dilation
        if t % 2 == 0:
            raise ConfigError(f"P3D needs an odd temporal kernel, got {t}: an even one has no centre frame")
        self.time_first = time_first
        # A trained convolution's bias stands where it stood: in front of the norm, or else behind everything.
        biased = time_first or norm
        self.spatial = nn.Conv3d(
            in_channels, out_channels, (1, kh, kw), (1, sh, sw), (0, ph, pw), (1, dh, dw), bias=bias and biased
        )
        width = in_channels if time_first else out_channels
        self.norm = nn.Sequential(nn.BatchNorm3d(width), nn.ReLU(inplace=True)) if norm else nn.Identity()
        built = temporal(width, width, (t, 1, 1), (st, 1, 1), (pt, 0, 0), (dt, 1, 1), bias=bias and not biased)
        if not isinstance(built, (FullConv3d, ReparamConv3d)):
            raise ConfigError(f"the temporal part must be a FullConv3d or a ReparamConv3d, got {type(built).__name__}")
        self.temporal = built

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d | nn.Conv3d,
        *,
        temporal_kernel: int = 3,
        norm: bool = False,
        time_first: bool = False,
        temporal: UnitFactory = FullConv3d,
    ) -> Self:
        """The unit that starts where ``conv`` is: its spatial filter, and identity over time.

        A clip then gives, frame by frame, what ``conv`` gives on each frame, and a ReLU with ``norm`` (for a 3D kernel: on
        a static clip, away from its ends).
        """
        arguments = conv_arguments(conv, temporal_kernel=temporal_kernel)
        unit = cls(*arguments, norm=norm, time_first=time_first, temporal=temporal)
        return unit.to(conv.weight).load_conv_(conv.weight, conv.bias)

    @property
    def inflation(self) -> Inflation:
        """How the temporal filters start from the identity over channels."""
        return self.temporal.inflation

    @inflation.setter
    def inflation(self, mode: Inflation) -> None:
        self.temporal.inflation = mode

    @property
    def holds_norm(self) -> bool:
        """Whether the norm in the middle stands where the one behind a trained convolution belongs."""
        return isinstance(self.norm, nn.Sequential) and not self.time_first

    def last_norms(self) -> list[nn.BatchNorm3d]:
        """Those of the temporal part, where it comes last and has any."""
        if self.time_first or not isinstance(self.temporal, ReparamConv3d):
            return []
        return self.temporal.last_norms()

    @property
    def _bias(self) -> Tensor | None:
        return self.temporal.bias if self.spatial.bias is None else self.spatial.bias

    @torch.no_grad()
    def load_conv_(self, weight: Tensor, bias: Tensor | None) -> Self:
        """Spatial filter = the kernel summed over time, temporal filter = the identity; norms change nothing."""
        self._check_trained(weight, bias, takes_bias=self._bias is not None)
        self.spatial.weight.copy_(spatial_filter(weight))
        for module in self.norm.children():
            if isinstance(module, nn.BatchNorm3d):
                identity_norm_(module)
        same = torch.eye(self.temporal.in_channels, dtype=weight.dtype, device=weight.device)
        self.temporal.load_conv_(same[:, :, None, None], None)  # (C, C, 1, 1)
        if self._bias is not None:
            self._bias.zero_() if bias is None else self._bias.copy_(bias)
        return self

    @torch.no_grad()
    def load_norm_(self, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor) -> Self:
        """Take over the trained norm behind the convolution of :meth:`load_conv_`, in front of the unit's own ReLU.

        Where the 2D network has a ReLU there too (all of a bottleneck, the first half of a basic block) its output is kept.
        Without a ReLU of the unit's own it goes to the branches over time.

        Raises:
            ConfigError: the unit has no norm for it.
        """
        if not self.holds_norm:
            if not self.last_norms() or not isinstance(self.temporal, ReparamConv3d):
                raise ConfigError("this unit has no norm behind its spatial convolution for a trained one to go into")
            self.temporal.load_norm_(weight, bias, running_mean, running_var)
            return self
        values = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
        for name, value in values.items():
            self.norm.get_submodule("0").state_dict()[name].copy_(value)
        return self

    @torch.no_grad()
    def to_conv3d(self) -> nn.Conv3d:
        """The dense convolution with the same output.

        W[o, i, t] = sum over m of w_t[o, m, t] w_s[m, i], or of w_s[o, m] w_t[m, i, t] with ``time_first``.

        Raises:
            ConfigError: a norm in the middle, which no single convolution can stand for, or branches over time.
        """
        if not isinstance(self.norm, nn.Identity):
            raise ConfigError("a P3D unit with norm=True is not linear: no single convolution equals it")
        if not isinstance(self.temporal, FullConv3d):
            raise ConfigError("the branches of a P3D unit are merged first: put temporal.to_conv3d() in their place")
        conv = self._dense_twin(bias=self._bias is not None, like=self.spatial.weight)
        w_t, w_s = self.temporal.weight[..., 0, 0], self.spatial.weight[:, :, 0]  # (M, M, t), (C_out, C_in, k, k)
        if self.time_first:
            conv.weight.copy_(torch.einsum("omhw,mit->oithw", w_s, w_t))
        else:
            conv.weight.copy_(torch.einsum("omt,mihw->oithw", w_t, w_s))
        if conv.bias is not None and self._bias is not None:
            conv.bias.copy_(self._bias)
        return conv

    def forward(self, x: Tensor) -> Tensor:
        if self.time_first:
            x = self.norm(self.temporal(x))  # (B, C_in, T', H, W)
            return self.spatial(x)  # (B, C_out, T', H', W')
        x = self.norm(self.spatial(x))  # (B, C_out, T, H', W')   w_s of Eq. 1
        return self.temporal(x)  # (B, C_out, T', H', W')   w_t of Eq. 1
