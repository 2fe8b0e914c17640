"""A dense kernel as atoms times coefficients: the nearest one, by higher-order orthogonal iteration.

Paper of the decomposition: Miao et al., "Spatiotemporal Joint Filter Decomposition in 3D Convolutional Neural
Networks", NeurIPS 2021, Eq. 2. It trains its networks from scratch; to start from a trained kernel is a Tucker
decomposition over time and space, solved here as in De Lathauwer et al., "On the best rank-1 and rank-(R1, R2, ..., RN)
approximation of higher-order tensors", SIAM J. Matrix Anal. Appl. 21(4), 2000.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vidzoo.errors import ConfigError, WeightsError

__all__ = ["AtomFit", "fit_atoms"]

_SWEEPS = 200
_GAIN = 1e-12  # share of the kernel's energy below which a sweep brings nothing


class AtomFit(NamedTuple):
    """Orthonormal atoms and their coefficients, in double precision on the CPU.

    ``psi``: ``(M, k, k)``. ``phi``: ``(N, t)``. ``alpha``: ``(C_out, C_in, M, N)``. ``error``: Frobenius norm of what is
    lost over that of the kernel, from 0 (nothing) to 1.
    """

    psi: Tensor
    phi: Tensor
    alpha: Tensor
    error: float


def fit_atoms(kernel: Tensor, spatial_atoms: int, temporal_atoms: int) -> AtomFit:
    """The M spatial and N temporal atoms that keep most of ``kernel``, ``(C_out, C_in, t, k, k)``.

    With ``M = k k`` and ``N = t`` nothing is lost; there are never more atoms than that. The iteration never gets worse,
    but what it ends in need not be the best of all.

    Raises:
        ConfigError: not five axes, or no atoms.
        WeightsError: the kernel holds NaN or infinity.
    """
    if kernel.ndim != 5 or min(spatial_atoms, temporal_atoms) < 1:
        raise ConfigError(
            f"atoms are fitted to a kernel (C_out, C_in, t, k, k), one or more of each kind, got {tuple(kernel.shape)}, "
            f"{spatial_atoms=}, {temporal_atoms=}"
        )
    kernel = kernel.detach().to("cpu", torch.float64)
    if not kernel.isfinite().all():
        raise WeightsError("the kernel holds NaN or infinity: no atoms fit it")
    c_out, c_in, t, kh, kw = kernel.shape
    filters = kernel.reshape(c_out * c_in, t, kh * kw)
    m, n = min(spatial_atoms, kh * kw), min(temporal_atoms, t)
    # All that the atoms depend on is how taps go together over the channels: a matrix of t k k, however wide the layer.
    flat = filters.flatten(1)
    gram = (flat.t() @ flat).reshape(t, kh * kw, t, kh * kw)

    phi, kept = torch.eye(t, dtype=torch.float64), -1.0
    for _ in range(_SWEEPS):
        psi, _ = _leading(torch.einsum("nt,nu,tsuv->sv", phi, phi, gram), m)  # (M, k k)
        phi, energy = _leading(torch.einsum("ms,mv,tsuv->tu", psi, psi, gram), n)  # (N, t)
        if energy - kept <= _GAIN * energy:
            break
        kept = energy

    alpha = torch.einsum("cts,ms,nt->cmn", filters, psi, phi)
    lost = (filters - torch.einsum("cmn,ms,nt->cts", alpha, psi, phi)).norm()  # Eq. 2
    whole = filters.norm()
    error = float(lost / whole) if whole > 0 else 0.0
    return AtomFit(psi.reshape(m, kh, kw), phi, alpha.reshape(c_out, c_in, m, n), error)


def _leading(matrix: Tensor, count: int) -> tuple[Tensor, float]:
    """Rows: the eigenvectors of the ``count`` largest eigenvalues, largest first; and the sum of those."""
    values, vectors = torch.linalg.eigh(matrix)  # ascending
    return vectors[:, -count:].flip(1).t().contiguous(), float(values[-count:].sum())
