"""What the comparisons with other projects' networks share: weights that make every path count, and multiply-adds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def lively(net: nn.Module) -> nn.Module:
    """Norms and classifiers with values of their own; in particular no residual branch stays at zero."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net


@torch.no_grad()
def count_macs(net: nn.Module, clip: Any) -> int:
    """Multiply-adds of one forward pass in evaluation mode."""
    with FlopCounterMode(display=False) as counter:
        net.eval()(clip)
    return counter.get_total_flops() // 2
