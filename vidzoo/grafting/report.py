"""What a graft changed: every layer that was replaced, kept or added, what it costs, and how far its outputs moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidzoo.errors import ConfigError
from vidzoo.grafting.hosts3d import Pathways
from vidzoo.grafting.swap import relative_change
from vidzoo.grafting.traced import State
from vidzoo.profiling import profile

__all__ = ["GraftReport", "Row", "added", "kept", "measure", "replaced"]


@dataclass(frozen=True)
class Row:
    """One layer.

    ``before`` and ``after``: what it is, "" for nothing. ``macs``: multiply-adds over the clip of the report. ``change``:
    norm of what its outputs moved by over their norm, on the inputs that it really gets; None where nothing was replaced.
    ``note``: why it was kept, or what to know of it.
    """

    name: str
    what: Literal["replaced", "kept", "added"]
    before: str
    after: str
    params_before: int = 0
    params_after: int = 0
    macs_before: int = 0
    macs_after: int = 0
    change: float | None = None
    note: str = ""


@dataclass(frozen=True)
class GraftReport:
    """The whole graft; ``str()`` of it is a table.

    ``params`` and ``macs`` are of the whole network with its head, as :func:`vidzoo.profile` counts them on a clip of
    ``input_size`` ``(T, H, W)``, before and after. ``change``: as of a row, of the network's outputs.
    """

    rows: tuple[Row, ...]
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    input_size: tuple[int, int, int]
    warnings: tuple[str, ...] = ()
    change: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **asdict(self),
            "rows": [asdict(row) for row in self.rows],
            "input_size": list(self.input_size),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        head = ("layer", "was", "is", "params", "", "MACs", "", "moved by", "")
        body = [
            (
                row.name,
                row.before or "-",
                row.after if row.what != "kept" else "kept",
                f"{row.params_before:,}",
                f"{row.params_after:,}",
                _mega(row.macs_before),
                _mega(row.macs_after),
                _moved(row.change),
                row.note,
            )
            for row in self.rows
        ]
        whole = ("in all", "", "")
        costs = (
            f"{self.params_before:,}",
            f"{self.params_after:,}",
            _mega(self.macs_before),
            _mega(self.macs_after),
            _moved(self.change),
            "",
        )
        size = "x".join(str(n) for n in self.input_size)
        lines = _table([head, *body, (*whole, *costs)])
        lines.append(f"Parameters and millions of multiply-adds before and after, for a clip of {size}.")
        lines += [f"Note: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def replaced(name: str, old: nn.Module, new: nn.Module, x: Tensor, *, note: str = "") -> Row:
    """The row of a layer in whose place another one stands.

    Args:
        x: what ``old`` gets, ``(N, C, H, W)``, the frames of one clip, or ``(1, C, T, H, W)``; ``new`` gets it with five axes.
    """
    five = x if x.ndim == 5 else x.transpose(0, 1)[None]
    return Row(
        name,
        "replaced",
        describe(old),
        describe(new),
        _params(old),
        _params(new),
        _macs(old, x),
        _macs(new, five),
        relative_change(old, new, x),
        note,
    )


def added(name: str, new: nn.Module, x: Tensor | None = None, *, note: str = "") -> Row:
    """The row of a layer that was put in, for ``x`` ``(1, C, T, H, W)``; without it nothing is known of its costs."""
    return Row(
        name,
        "added",
        "",
        describe(new),
        params_after=_params(new),
        macs_after=0 if x is None else _macs(new, x),
        note=note,
    )


def kept(name: str, old: nn.Module, x: Tensor | None = None, *, note: str = "") -> Row:
    """The row of a layer that a plan asked for and that stays what it is; ``note`` says why."""
    params, macs = _params(old), 0 if x is None else _macs(old, x)
    return Row(name, "kept", describe(old), describe(old), params, params, macs, macs, note=note)


def measure(network: nn.Module, example: State) -> tuple[int, int]:
    """Parameters, and multiply-adds of one clip as :func:`vidzoo.profile` counts them.

    Args:
        example: what the network takes: the frames of one clip ``(T, C, H, W)``, the clip ``(1, C, T, H, W)``, or one for
            each of two pathways. Only its shape counts.

    Raises:
        ConfigError: not one clip.
    """
    fed = _Fed(network, example)
    costs = profile(fed, fed.input_size)
    return costs.params, costs.macs


def describe(module: nn.Module) -> str:
    """A layer in a few words."""
    convs = [part for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Conv3d))]
    name = type(module).__name__ if not isinstance(module, nn.Sequential) else type(list(module)[-1]).__name__
    size = getattr(module, "kernel_size", None)
    if size is None and isinstance(module, nn.Sequential):
        size = getattr(list(module)[-1], "kernel_size", None)
    groups = convs[0].groups if isinstance(module, (nn.Conv2d, nn.Conv3d)) else getattr(module, "groups", 1)
    words = [name]
    if isinstance(size, tuple):
        words.append("x".join(str(n) for n in size))
    if groups > 1:
        words.append(f"groups {groups}")
    return " ".join(words)


class _Fed(nn.Module):
    """A network fed with a clip ``(1, C, T, H, W)``, whatever it takes itself."""

    def __init__(self, network: nn.Module, example: State) -> None:
        super().__init__()
        self.network = network
        clip = example[-1] if isinstance(example, list) else example
        self.folded = clip.ndim == 4
        frames, channels = clip.shape[:2] if self.folded else (clip.shape[2], clip.shape[1])
        if clip.ndim not in (4, 5) or (not self.folded and clip.shape[0] != 1):
            raise ConfigError(
                f"costs are those of one clip, (1, C, T, H, W) or its frames (T, C, H, W), got {tuple(clip.shape)}"
            )
        self.in_chans = channels
        self.input_size = (frames, clip.shape[-2], clip.shape[-1])
        self.pathways = Pathways(frames // example[0].shape[2]) if isinstance(example, list) else nn.Identity()

    def forward(self, x: Tensor) -> Any:
        return self.network(x.transpose(1, 2).flatten(0, 1) if self.folded else self.pathways(x))


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _macs(module: nn.Module, x: Tensor) -> int:
    fed = FlopCounterMode(display=False)
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), fed:
            module(x)
    finally:
        module.train(training)
    return fed.get_total_flops() // 2  # torch counts the product and the sum as two


def _mega(macs: int) -> str:
    return f"{macs / 1e6:,.2f}"


def _moved(change: float | None) -> str:
    return "" if change is None else f"{change:.1e}"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = range(3, 8)
    return [
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
