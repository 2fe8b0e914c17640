"""STDCF: a 3D kernel written as a few spatial atoms times a few temporal ones, mixed by joint coefficients.

Paper: Miao et al., "Spatiotemporal Joint Filter Decomposition in 3D Convolutional Neural Networks", NeurIPS 2021. Eq. 2:
W[o, i, t, u] = sum over m <= M, n <= N of alpha[o, i, m, n] psi_m[u] phi_n[t]. The atoms psi (k x k) and phi (t) belong to
the layer, all its channels share them. One convolution becomes three (Eq. 1): psi, phi, then 1x1x1 with alpha, nothing
between them. Section 2.4: N t + M k^2 + C_in C_out M N parameters, 2 C_in M T W^2 (k^2 + N t + N C_out) FLOPs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.atoms import fit_atoms
from vidzoo.layers.unit import Inflation, Size3, SpatioTemporalUnit, check_inflation, conv_arguments, inflate, triple

__all__ = ["STDCFConv3d"]

Mode = Literal["dense", "factorised"]
Order = Literal["space_first", "time_first"]


class STDCFConv3d(SpatioTemporalUnit):
    """Drop-in for ``nn.Conv3d`` whose kernel is atoms times coefficients.

    Input ``(B, C_in, T, H, W)``, output ``(B, C_out, T', H', W')``. State dict: ``psi`` ``(M, k, k)``, ``phi`` ``(N, t)``,
    ``alpha`` ``(C_out, C_in, M N)``, the pair (m, n) at ``m N + n``, and ``bias`` ``(C_out,)`` if there is one. The paper's
    four axes of alpha are three here because ``Module.to(memory_format=torch.channels_last_3d)`` refuses four.

    The paper leaves the start open. Atoms start as random orthonormal sets, coefficients as normal noise of variance
    ``2 / (C_out |psi|^2 |phi|^2)``, which gives the kernel the mean variance of He et al. (2015) over its fan out.

    Args:
        spatial_atoms: M, 6 in the paper's ResNet.
        temporal_atoms: N, 2 in the paper's ResNet.
        mode: ``dense`` makes the kernel and runs one convolution: the memory of a plain layer in training.
            ``factorised`` runs the three of Eq. 1: fewer multiply-adds, and maps of M N C_in channels between them. Both
            give the same numbers; the attribute may be changed at any time.
        order: which atoms come first when factorised; Eq. 1 has space first, the abstract time.
        spatial_dilation: see :meth:`set_dilation`.
        temporal_dilation: see :meth:`set_dilation`.
        inflation: how a 2D kernel gets its time axis before it is decomposed, see :func:`~vidzoo.layers.unit.inflate`. The
            paper trains from scratch; ``centre``, because one temporal atom then holds it and every frame's output stays.

    Raises:
        ConfigError: no atoms, or an option that does not exist.
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
        spatial_atoms: int = 6,
        temporal_atoms: int = 2,
        mode: Mode = "dense",
        order: Order = "space_first",
        spatial_dilation: int = 1,
        temporal_dilation: int = 1,
        inflation: Inflation = "centre",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation)
        for name, count in (("spatial_atoms", spatial_atoms), ("temporal_atoms", temporal_atoms)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ConfigError(f"STDCF needs one atom or more of each kind, got {name}={count!r}")
        if order not in ("space_first", "time_first"):
            raise ConfigError(f"order must be 'space_first' or 'time_first', got {order!r}")
        t, kh, kw = self.kernel_size
        self.mode = mode
        self.order: Order = order
        self.inflation = check_inflation(inflation)
        self.projection_error: float | None = None
        """Relative Frobenius error of the kernel last loaded by :meth:`load_conv_`; None before."""
        self.spatial_dilation, self.temporal_dilation = 1, 1
        self._built = self.padding, self.dilation
        self.set_dilation(spatial=spatial_dilation, temporal=temporal_dilation)
        self.psi = nn.Parameter(torch.empty(spatial_atoms, kh, kw))
        self.phi = nn.Parameter(torch.empty(temporal_atoms, t))
        self.alpha = nn.Parameter(torch.empty(out_channels, in_channels, spatial_atoms * temporal_atoms))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.reset_parameters()

    @property
    def mode(self) -> Mode:
        """``dense`` or ``factorised``; may be changed at any time."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode not in ("dense", "factorised"):
            raise ConfigError(f"mode must be 'dense' or 'factorised', got {mode!r}")
        self._mode: Mode = mode

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw atoms and coefficients anew."""
        for atoms in (self.psi, self.phi):  # no half precision can be orthogonalised
            atoms.copy_(
                nn.init.orthogonal_(torch.empty_like(atoms, dtype=torch.promote_types(atoms.dtype, torch.float32)))
            )
        # An orthonormal set of M atoms over a taps has the squared norm min(M, a).
        energy = min(self.psi.shape[0], self.psi[0].numel()) * min(self.phi.shape)
        nn.init.normal_(self.alpha, std=(2 / (self.out_channels * energy)) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @classmethod
    def from_conv(
        cls,
        conv: nn.Conv2d | nn.Conv3d,
        *,
        spatial_atoms: int = 6,
        temporal_atoms: int = 2,
        mode: Mode = "dense",
        order: Order = "space_first",
        temporal_kernel: int = 3,
        inflation: Inflation = "centre",
    ) -> Self:
        """The unit in the place of ``conv``, its kernel projected onto so many atoms; see ``projection_error``."""
        unit = cls(
            *conv_arguments(conv, temporal_kernel=temporal_kernel),
            spatial_atoms=spatial_atoms,
            temporal_atoms=temporal_atoms,
            mode=mode,
            order=order,
            inflation=inflation,
        )
        return unit.to(conv.weight).load_conv_(conv.weight, conv.bias)

    @torch.no_grad()
    def load_conv_(self, weight: Tensor, bias: Tensor | None) -> Self:
        """Start from the nearest decomposition of a trained kernel; its error goes to ``projection_error``.

        Exact with M = k k and N = t, and with N = 1 for a kernel inflated from 2D. Atoms beyond these numbers stay as they
        are and get coefficients of zero.

        Raises:
            ConfigError: the kernel does not belong to a convolution with this unit's arguments.
            WeightsError: the kernel holds NaN or infinity.
        """
        self._check_trained(weight, bias, takes_bias=self.bias is not None)
        t = self.kernel_size[0]
        if weight.ndim == 5 and weight.shape[2] != t:
            raise ConfigError(
                f"this {type(self).__name__} has {t} taps over time, the trained convolution {weight.shape[2]}"
            )
        kernel = weight if weight.ndim == 5 else inflate(weight, t, mode=self.inflation)
        fit = fit_atoms(kernel, self.psi.shape[0], self.phi.shape[0])
        m, n = fit.psi.shape[0], fit.phi.shape[0]
        self.psi[:m] = fit.psi.to(self.psi)
        self.phi[:n] = fit.phi.to(self.phi)
        alpha = torch.zeros_like(self.alpha).unflatten(2, (self.psi.shape[0], self.phi.shape[0]))
        alpha[:, :, :m, :n] = fit.alpha.to(alpha)
        self.alpha.copy_(alpha.flatten(2))
        if self.bias is not None:
            self.bias.zero_() if bias is None else self.bias.copy_(bias)
        self.projection_error = fit.error
        return self

    def set_dilation(self, *, spatial: int | None = None, temporal: int | None = None) -> Self:
        """Swap the atoms for dilated ones (section 2.1.2), in place; psi, phi and alpha stay what they are.

        Both are factors on the dilation that the unit was built with, so that 1 brings the original back, in any order of
        calls. The padding grows with them, by half of what the kernel grows: the output keeps its size. A unit built
        with ``dilation=1, padding=k // 2`` has ``padding = dilation * (k // 2)`` then. State dicts do not hold them.

        Args:
            spatial: factor for psi; None leaves it as it is.
            temporal: factor for phi; None leaves it as it is.

        Raises:
            ConfigError: not a whole number >= 1, or an even kernel that would grow by an odd number of taps.
        """
        spatial = self.spatial_dilation if spatial is None else spatial
        temporal = self.temporal_dilation if temporal is None else temporal
        factors = triple((temporal, spatial, spatial), "the dilation of the atoms")
        padding, dilation = self._built
        growth = [(f - 1) * d * (k - 1) for f, d, k in zip(factors, dilation, self.kernel_size, strict=True)]
        if any(taps % 2 for taps in growth):
            raise ConfigError(
                f"atoms of an even size cannot be dilated by {factors} (time, height, width) and keep the output's size: "
                f"the kernel is {self.kernel_size}"
            )
        self.spatial_dilation, self.temporal_dilation = spatial, temporal
        dt, dh, dw = (f * d for f, d in zip(factors, dilation, strict=True))
        pt, ph, pw = (p + taps // 2 for p, taps in zip(padding, growth, strict=True))
        self.dilation, self.padding = (dt, dh, dw), (pt, ph, pw)
        return self

    def kernel(self) -> Tensor:
        """The dense kernel ``(C_out, C_in, t, k, k)``, undilated."""
        # Under autocast too it is rounded once, by the convolution, as that of a plain layer: not factors, then product.
        with _without_autocast(self.alpha.device.type):
            atoms = torch.einsum("mhw,nt->mnthw", self.psi, self.phi).flatten(0, 1)  # (M N, t, k, k)
            return (self.alpha @ atoms.flatten(1)).unflatten(2, self.kernel_size)  # Eq. 2

    @torch.no_grad()
    def to_conv3d(self) -> nn.Conv3d:
        """The dense convolution with the same output, its dilation that of the atoms now."""
        conv = self._dense_twin(bias=self.bias is not None, like=self.alpha)
        conv.weight.copy_(self.kernel())
        if conv.bias is not None and self.bias is not None:
            conv.bias.copy_(self.bias)
        return conv

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "factorised":
            return self._three_convolutions(x)
        return F.conv3d(x, self.kernel(), self.bias, self.stride, self.padding, self.dilation)

    def _three_convolutions(self, x: Tensor) -> Tensor:
        """Eq. 1. The strides are those of the atoms, each over its own axes: what they skip is never computed."""
        m, n = self.psi.shape[0], self.phi.shape[0]
        if self.order == "space_first":
            x = self._temporal_atoms(self._spatial_atoms(x))  # (B, C_in M, T, H', W'), (B, C_in M N, T', H', W')
            alpha = self.alpha
        else:
            x = self._spatial_atoms(self._temporal_atoms(x))  # (B, C_in N, T', H, W), (B, C_in N M, T', H', W')
            alpha = self.alpha.unflatten(2, (m, n)).transpose(2, 3)
        return F.conv3d(x, alpha.reshape(self.out_channels, -1, 1, 1, 1), self.bias)  # (B, C_out, T', H', W')

    def _spatial_atoms(self, x: Tensor) -> Tensor:
        (_, sh, sw), (_, ph, pw), (_, dh, dw) = self.stride, self.padding, self.dilation
        # A map and its atoms are a group: faster than maps folded into the batch, and the memory layout stays.
        psi = self.psi.repeat(x.shape[1], 1, 1)[:, None, None]  # (C M, 1, 1, k, k)
        return F.conv3d(x, psi, None, (1, sh, sw), (0, ph, pw), (1, dh, dw), groups=x.shape[1])

    def _temporal_atoms(self, x: Tensor) -> Tensor:
        st, pt, dt = self.stride[0], self.padding[0], self.dilation[0]
        phi = self.phi.repeat(x.shape[1], 1)[:, None, :, None, None]  # (C N, 1, t, 1, 1)
        return F.conv3d(x, phi, None, (st, 1, 1), (pt, 0, 0), (dt, 1, 1), groups=x.shape[1])

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, dilation={self.dilation}, spatial_atoms={self.psi.shape[0]}, "
            f"temporal_atoms={self.phi.shape[0]}, mode={self.mode}, order={self.order}"
        )


def _without_autocast(device: str) -> AbstractContextManager[object]:
    # The meta device has no autocast to switch off.
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
