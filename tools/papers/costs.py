"""Parameters and costs of a network in each of the conventions that the papers use, without computing the network.

Everything is counted on the meta device: shapes are exact, nothing is multiplied. A multiply-add is one MAC.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import vidzoo

Size = tuple[int, int, int]
Figure = Callable[[], float]


@dataclass(frozen=True)
class Cost:
    """One clip: parameters, multiply-adds, numbers that batch norms and that ReLUs put out."""

    params: int
    macs: int
    norm: int
    relu: int


@cache
def cost(name: str, size: Size, options: tuple[tuple[str, Any], ...]) -> Cost:
    """The cost of a network of the zoo for a clip of ``(T, H, W)``."""
    with torch.device("meta"):
        model = vidzoo.create_model(name, **dict(options)).eval()
        counts = {nn.BatchNorm3d: 0, nn.ReLU: 0}

        def count(module: nn.Module, _: Any, result: Tensor) -> None:
            for kind in counts:
                if isinstance(module, kind):
                    counts[kind] += result.numel()

        for module in model.modules():
            module.register_forward_hook(count)
        macs = _macs(model, torch.empty(1, model.in_chans, *size))
    params = sum(parameter.numel() for parameter in model.parameters())
    return Cost(params, macs, counts[nn.BatchNorm3d], counts[nn.ReLU])


def params(name: str, *, times: float = 1, **options: Any) -> Figure:
    """Millions of parameters."""
    return lambda: times * cost(name, (8, 64, 64), _hashable(options)).params / 1e6


def twice_cut(name: str) -> Figure:
    """Two networks, of whose millions of parameters one digit is printed and the rest cut off before they are added."""
    return lambda: 2 * math.floor(10 * params(name)()) / 10


def gmac(name: str, size: Size, *, times: float = 1, **options: Any) -> Figure:
    """Billions of MACs of convolutions, linear layers and matrix products: ATFR, and most baselines everywhere."""
    return lambda: times * cost(name, size, _hashable(options)).macs / 1e9


def fvcore_gibi(name: str, size: Size, **options: Any) -> Figure:
    """MACs and two per number that a batch norm puts out, in units of 2**30: what the filter analysis prints."""

    def figure() -> float:
        found = cost(name, size, _hashable(options))
        return (found.macs + 2 * found.norm) / 2**30

    return figure


def mmcv_giga(name: str, size: Size, **options: Any) -> Figure:
    """MACs, two per number of a batch norm and one per number of a ReLU, in billions: mmcv's counter."""

    def figure() -> float:
        found = cost(name, size, _hashable(options))
        return (found.macs + 2 * found.norm + found.relu) / 1e9

    return figure


@cache
def _saved(name: str, size: Size, options: tuple[tuple[str, Any], ...]) -> int:
    """Bytes that one more clip makes training keep; what the weights take does not grow with the batch."""
    totals = {1: 0, 2: 0}
    with torch.device("meta"):
        model = vidzoo.create_model(name, **dict(options)).train()
        for batch in totals:

            def pack(value: Tensor, batch: int = batch) -> Tensor:
                totals[batch] += value.numel() * value.element_size()
                return value

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
                model(torch.empty(batch, model.in_chans, *size))
    return totals[2] - totals[1]


def saved_ratio(name: str, size: Size, whole: Size, **options: Any) -> Figure:
    """Bytes that training keeps per clip for the backward pass, at one size of clip over those at another."""
    return lambda: _saved(name, size, _hashable(options)) / _saved(name, whole, _hashable(options))


@dataclass(frozen=True)
class Line:
    """The cost of a clip in billions of MACs when B' bins are active: ``const + slope * B'``."""

    const: float
    slope: float

    def bins(self, printed: float) -> float:
        """How many active bins a printed figure means."""
        return (printed - self.const) / self.slope


@cache
def line(name: str, size: Size, options: tuple[tuple[str, Any], ...] = ()) -> Line:
    """Cost against active bins of a network with one sampler; the sampler's own network and its sum over frames count."""
    with torch.device("meta"):
        model = vidzoo.create_model(name, **dict(options)).eval()
        model.sampler = fixed = _FixedBins(model.sampler)
        clip = torch.empty(1, model.in_chans, *size)
        totals = []
        for bins in (4, 8):
            fixed.bins = bins
            totals.append(_macs(model, clip) / 1e9)
    slope = (totals[1] - totals[0]) / 4
    return Line(totals[0] - 4 * slope, slope)


@cache
def pathways(name: str, size: Size, bins: tuple[int, int], options: tuple[tuple[str, Any], ...] = ()) -> float:
    """Billions of MACs of a SlowFast with so many active bins in its slow and its fast pathway."""
    with torch.device("meta"):
        model = vidzoo.create_model(name, **dict(options)).eval()
        samplers = [_FixedBins(model.sampler.slow), _FixedBins(model.sampler.fast)]
        for sampler, count in zip(samplers, bins, strict=True):
            sampler.bins = count
        model.sampler.slow, model.sampler.fast = samplers
        return _macs(model, torch.empty(1, model.in_chans, *size)) / 1e9


class _FixedBins(nn.Module):
    """A sampler that costs what its original costs and always keeps the same number of bins."""

    def __init__(self, sampler: nn.Module) -> None:
        super().__init__()
        self.sampler, self.bins = sampler, 1

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, frames, height, width = x.shape
        self.sampler.embedding(x.mean(dim=(3, 4)))
        torch.bmm(x.new_empty(batch, self.bins, frames), x.new_empty(batch, frames, channels * height * width))
        return x.new_empty(batch, channels, self.bins, height, width)


def _macs(model: nn.Module, clip: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(clip)
    return counter.get_total_flops() // 2  # torch counts the product and the sum as two


def _hashable(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(options.items()))
