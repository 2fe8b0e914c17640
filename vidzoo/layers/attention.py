"""Temporal attention: frames gather what the whole clip shows, and each takes back the share that concerns it.

Block: Chen et al., "A^2-Nets: Double Attention Networks", NeurIPS 2018: Z = A softmax(B)^T softmax(V), the first
softmax over positions, the second over the gathered features. ATFR (CVPR 2021, Table A.6) puts it where its sampler
would stand, to compare weighting frames with merging them, and says only that it is temporal; here the positions are
the frames, described by their spatial mean, which costs next to nothing (the paper prints the host's own cost).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.ragged import mean_over_space, time_mask

__all__ = ["TemporalAttention"]


class TemporalAttention(nn.Module):
    """``(B, C, T, H, W) -> (B, C, T, H, W)``: ``x + W z_t``, the same for every position of frame t; starts as identity.

    Args:
        channels: C.
        reduction: C over the width of the gathered features and over their number.

    Raises:
        ConfigError: fewer than one channel left.
    """

    def __init__(self, channels: int, *, reduction: int = 4) -> None:
        super().__init__()
        width = channels // reduction
        if width < 1:
            raise ConfigError(f"temporal attention over {channels} channels cannot be reduced {reduction} times")
        self.feature = nn.Conv1d(channels, width, 1)  # A
        self.gather = nn.Conv1d(channels, width, 1)  # B
        self.distribute = nn.Conv1d(channels, width, 1)  # V
        self.project = nn.Conv1d(width, channels, 1)
        nn.init.zeros_(self.project.weight)
        if self.project.bias is not None:
            nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        mask = time_mask(x)
        frames = mean_over_space(x)  # (B, C, T)
        scores = self.gather(frames)  # (B, N, T)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, :, 0, 0], float("-inf"))
        gathered = torch.einsum("bmt,bnt->bmn", self.feature(frames), scores.softmax(dim=2))  # A softmax(B)^T
        spread = torch.einsum("bmn,bnt->bmt", gathered, self.distribute(frames).softmax(dim=1))  # (B, M, T)
        return x + self.project(spread)[..., None, None]
