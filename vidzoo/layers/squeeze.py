"""Squeeze and excitation: each channel of a clip is scaled by what the whole clip says of it.

Paper: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018: z = mean of u over its positions (Eq. 2),
s = sigmoid(W_2 relu(W_1 z)) (Eq. 3), x = s u (Eq. 4). Over video the positions are those of all frames, as in X3D
(CVPR 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidzoo.layers.ragged import mean_over_clip

__all__ = ["SqueezeExcite"]


class SqueezeExcite(nn.Module):
    """``(B, C, T, H, W)`` to the same shape; clips of different length are squeezed over their own frames.

    Args:
        channels: C.
        hidden: width between the two linear layers.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = mean_over_clip(x)  # (B, C)   z of Eq. 2
        scale = torch.sigmoid(self.expand(torch.relu(self.reduce(squeezed))))  # (B, C)   s of Eq. 3
        return x * scale[:, :, None, None, None]  # Eq. 4
