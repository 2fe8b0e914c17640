"""Similarity bins: which frames of a clip belong together, and with what weight each of them enters its bin.

Paper: Fayyaz et al., "3D CNNs with Adaptive Temporal Feature Resolutions", CVPR 2021: what is measured (Eq. 1; section
5.2.1 and appendix D for angles), bins between 0 and the largest value of a clip (Eqs. 2 and 3), the kernels (Eqs. 5
and 6) and their product over several coordinates (Eq. 9).

Everything is measured in half bins: Delta / gamma = 2 B Delta / Delta_max, so that bin b has its centre at 2b - 1.
The division comes first; x / x is 1 in every precision, and the largest frame sits on its edge without rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Kernel", "Similarity", "bin_weights", "coordinates", "spherical_coordinates"]

Similarity = Literal["norm", "mean_distance", "angular", "spherical"]
Kernel = Literal["linear", "kronecker"]


def coordinates(z: Tensor, similarity: Similarity) -> Tensor:
    """What two frames are compared by, never negative: embeddings ``(B, L, T) -> (B, K, T)``.

    Args:
        similarity: "norm": the length of the embedding (Eq. 1), K = 1. "mean_distance": its distance to the mean
            embedding of the clip, K = 1; the authors' released code. "angular": the K = L - 1 angles of
            :func:`spherical_coordinates`. "spherical": all K = L of them.
    """
    if similarity == "norm":
        return torch.linalg.vector_norm(z, dim=1, keepdim=True)  # Eq. 1
    if similarity == "mean_distance":
        # pairwise_distance adds 1e-6 to each difference. On a static clip this outweighs the rounding of the mean.
        return F.pairwise_distance(z.mean(dim=2, keepdim=True).mT, z.mT).unsqueeze(1)
    spherical = spherical_coordinates(z)
    return spherical if similarity == "spherical" else spherical[:, 1:]


def spherical_coordinates(z: Tensor) -> Tensor:
    """``(B, L, T) -> (B, L, T)``: the length, L - 2 angles in [0, pi] and a last one in [0, 2 pi)."""
    rest = [torch.linalg.vector_norm(z[:, k:], dim=1) for k in range(z.shape[1] - 1)]  # |(z_k, ..., z_L)|
    angles = [torch.atan2(rest[k + 1], z[:, k]) for k in range(z.shape[1] - 2)]
    turn = torch.atan2(z[:, -1], z[:, -2])  # (-pi, pi]; Eqs. 2 and 3 begin at 0
    return torch.stack([rest[0], *angles, torch.where(turn < 0, turn + 2 * torch.pi, turn)], dim=1)


def bin_weights(
    delta: Tensor,
    bins: Sequence[int],
    kernel: Kernel,
    *,
    detach_range: bool = True,
    straight_through: bool = True,
    centre_largest: bool = False,
    margin: float = 0.0,
) -> Tensor:
    """Weight of every frame in every bin: ``(B, K, T) -> (B, prod(bins), T)``, the last coordinate varying fastest.

    Args:
        bins: number of bins of each of the K coordinates.
        kernel, detach_range, straight_through, centre_largest, margin: see
            :class:`vidzoo.layers.sgs.SimilarityGuidedSampling`.
    """
    weights = delta.new_ones(delta.shape[0], 1, delta.shape[2])
    for value, count in zip(delta.unbind(dim=1), bins, strict=True):
        largest = value.amax(dim=1, keepdim=True)  # (B, 1)   Delta_max of Eq. 2
        if detach_range:
            largest = largest.detach()
        largest = largest.clamp(min=torch.finfo(value.dtype).tiny)  # a coordinate that is 0 throughout
        half_bins = 2 * count - 1 if centre_largest else 2 * count
        position = (value / largest * half_bins)[:, None]  # (B, 1, T)   Delta / gamma
        centres = torch.arange(1, 2 * count, 2, device=value.device, dtype=value.dtype)  # Eq. 3: beta / gamma
        away = (position - centres[:, None]).abs()  # (B, count, T)
        if kernel == "linear":
            share = (1 + margin - away).clamp(min=0)  # Eq. 6
        else:
            share = (away < 1 + margin).to(value.dtype)  # Eq. 5: floor(away) is 0 for these
            if straight_through:
                share = share + share * (position - position.detach())
        weights = (weights[:, :, None] * share[:, None]).flatten(1, 2)  # the product of Eq. 9
    if kernel == "kronecker":
        weights = weights / weights.detach().sum(dim=2, keepdim=True).clamp(min=1)  # Eq. 5: the mean of a bin
    return weights
