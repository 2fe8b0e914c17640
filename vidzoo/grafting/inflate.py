"""Inflation of a network over pictures, and the exchange of its convolutions for the papers' units.

Inflation: Carreira & Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017: a 2D filter repeated over time and divided
by its new length gives a clip of one still picture the answer to that picture. Everything that is not inflated goes on
looking at each frame by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.grafting.folded import ClipMean
from vidzoo.grafting.places import Place
from vidzoo.grafting.plan import Inflate, SwapConv, Where
from vidzoo.grafting.surgery import Surgery
from vidzoo.grafting.swap import takes_norm, unit_for
from vidzoo.grafting.traced import Call, same
from vidzoo.layers import FullConv3d
from vidzoo.layers.ragged import lengths_of, plain, with_lengths
from vidzoo.layers.unit import triple

__all__ = ["PadTime", "inflate", "swap"]

_LAYERS = (nn.Conv2d, nn.Linear)


class PadTime(nn.Module):
    """Each clip's first and last frame repeated ``frames`` times: ``(B, C, T, H, W) -> (B, C, T + 2 frames, H, W)``."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        lengths = lengths_of(x)
        if lengths is None:
            return F.pad(x, (0, 0, 0, 0, self.frames, self.frames), mode="replicate")
        times = torch.arange(-self.frames, x.shape[2] + self.frames, device=x.device)
        own = torch.minimum(times.clamp(min=0), (lengths[:, None] - 1).clamp(min=0))  # (B, T + 2 frames)
        index = own[:, None, :, None, None].expand(-1, x.shape[1], -1, *x.shape[3:])
        return with_lengths(plain(x).gather(2, index), lengths + 2 * self.frames)

    def extra_repr(self) -> str:
        return f"frames={self.frames}"


def swap(surgery: Surgery, op: SwapConv) -> SwapConv:
    """Exchange the convolutions that ``op`` means for its unit.

    Raises:
        ConfigError: none of them can be exchanged, or one that was chosen by its name cannot.
    """

    def build(place: Place) -> None:
        conv = surgery.layer(place.path)
        norm = surgery.norm_behind(place) if takes_norm(op) else None
        held = None if norm is None else surgery.layer(norm.path)
        unit = unit_for(conv, op, name=place.name, norm=held)  # type: ignore[arg-type]
        note = "" if norm is None else f"{norm.name} is part of it"
        surgery.exchange(place, unit, norm=norm, note=note)

    _each(surgery, surgery.convolutions(op.where), build, op.where, f"a {op.unit} unit")
    return op


def inflate(surgery: Surgery, op: Inflate) -> Inflate:
    """Give the convolutions that ``op`` means a temporal kernel, and let squeezes take their mean over the clip.

    Raises:
        ConfigError: as :func:`swap`; another number of lengths than stages; ``joint`` in a network over clips, or in one
            without squeeze-and-excitation.
    """
    stages = surgery.places.stages
    lengths = op.t_lengths if isinstance(op.t_lengths, tuple) else (op.t_lengths,) * len(stages)
    if len(lengths) != len(stages):
        raise ConfigError(
            f"{surgery.host.name} has {len(stages)} stages ({', '.join(stage.module for stage in stages)}), t_lengths has "
            f"{len(lengths)} numbers: give one for each, or one for all"
        )
    meant = [place for place in surgery.convolutions(op.where) if lengths[place.stage] > 1]

    def build(place: Place) -> None:
        full = SwapConv("full", t_length=lengths[place.stage], options={"inflation": op.mode})
        unit = unit_for(surgery.layer(place.path), full, name=place.name)  # type: ignore[arg-type]
        surgery.exchange(place, _replicating(unit) if op.time_padding == "replicate" else unit)

    if max(lengths) > 1:
        _each(surgery, meant, build, op.where, "a 3D convolution")
    if op.squeeze == "joint":
        _join_squeezes(surgery)
    return op


def _each(surgery: Surgery, places: Sequence[Place], build: Callable[[Place], None], where: Where, unit: str) -> None:
    refused: list[str] = []
    for place in places:
        try:
            build(place)
        except ConfigError as error:
            if where.names is not None:
                raise
            refused.append(str(error))
            surgery.keep(place, str(error))
    if len(refused) < len(places):
        if refused:
            surgery.warnings.append(f"{len(refused)} of {len(places)} convolutions stay what they are: see their notes")
        return
    if refused:
        more = f" ({len(refused) - 1} more are refused)" if len(refused) > 1 else ""
        raise ConfigError(f"nothing of {surgery.host.name} can become {unit}: {refused[0]}{more}")
    convs = Counter("x".join(map(str, p.kernel)) for p in surgery.places if p.kind in ("conv2d", "conv3d"))
    there = ", ".join(f"{number} of {kernel}" for kernel, number in convs.items()) or "none"
    before = f", and {len(surgery.done)} layers that this plan exchanged before" if surgery.done else ""
    raise ConfigError(
        f"no convolution of {surgery.host.name} is meant by {where}: it has {there}{before}; choose others by "
        "Where(kernels=..., names=..., stages=...)"
    )


def _replicating(unit: nn.Module) -> nn.Module:
    conv = next(module for module in unit.modules() if isinstance(module, FullConv3d))
    time, height, width = triple(conv.padding, "padding", least=0)
    conv.padding = (0, height, width)
    return nn.Sequential(PadTime(time), *(unit if isinstance(unit, nn.Sequential) else [unit]))


def _join_squeezes(surgery: Surgery) -> None:
    if surgery.count is None:
        raise ConfigError(f"squeeze='joint' is for networks over pictures: {surgery.host.name} takes clips as they are")
    squeezed = [first for call in surgery.places.calls.values() for first in [_squeezed(call)] if first is not None]
    if not squeezed:
        raise ConfigError(
            f"{surgery.host.name} has no squeeze-and-excitation that could be joined: leave squeeze='frame'"
        )
    for call in squeezed:
        path = call.name.removeprefix("network.")
        note = "the mean over space becomes one over the clip"
        surgery.add(f"{path} (in front)", path, ClipMean(surgery.count), behind=False, over_time=False, note=note)


def _squeezed(call: Call) -> Call | None:
    """The first layer of squeeze-and-excitation: it gets the mean of the map that the others then scale."""
    x, y = call.given, call.gave
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.shape != y.shape or x.ndim != 4 or not call.parts:
        return None
    layers = [part for part in call if isinstance(part.module, _LAYERS)]
    if len(layers) < 2 or any(not isinstance(p.given, Tensor) or p.given[0].numel() > x.shape[1] for p in layers):
        return None
    mean = x.mean(dim=(2, 3), keepdim=True)
    given = layers[0].given
    if not isinstance(given, Tensor) or not same(
        given.reshape(mean.shape) if given.numel() == mean.numel() else given, mean
    ):
        return None
    gate = (x * y).sum(dim=(2, 3), keepdim=True) / x.square().sum(dim=(2, 3), keepdim=True).clamp(min=1e-12)
    return layers[0] if same(x * gate, y) else None
