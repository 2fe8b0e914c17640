"""STDCF's section 2.4, counted on the layer itself."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from papers.costs import Figure
from vidzoo.layers.stdcf import STDCFConv3d

M, N, T, K = 3, 2, 3, 3  # atoms, temporal and spatial kernel of the paper's example
FRAMES, SIDE = 8, 28


def _layer(channels: int) -> STDCFConv3d:
    return STDCFConv3d(
        channels,
        channels,
        (T, K, K),
        padding=(T // 2, K // 2, K // 2),
        bias=False,
        spatial_atoms=M,
        temporal_atoms=N,
        mode="factorised",
    )


def stdcf_parameter_ratio(length: int, channels: int = 256) -> Figure:
    """Parameters of the layer over those of a convolution of ``length x 3 x 3``, the atoms included."""

    def figure() -> float:
        with torch.device("meta"):
            layer, conv = _layer(channels), nn.Conv3d(channels, channels, (length, K, K), bias=False)
        return sum(p.numel() for p in layer.parameters()) / sum(p.numel() for p in conv.parameters())

    return figure


def full_conv_macs(channels: int = 64) -> Figure:
    """Billions of FLOPs of one layer as torch counts them, a product and a sum being two."""

    def figure() -> float:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            _layer(channels)(torch.empty(1, channels, FRAMES, SIDE, SIDE))
        return counter.get_total_flops() / 1e9

    return figure


def stdcf_macs(channels: int = 64) -> float:
    """Billions of FLOPs by the formula of section 2.4: 2 C_in M T W^2 (k^2 + N t + N C_out)."""
    return 2 * channels * M * FRAMES * SIDE**2 * (K * K + N * T + N * channels) / 1e9
