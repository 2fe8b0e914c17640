"""What a network costs: parameters, multiply-adds, activations, and the time that it takes here.

Convention: one multiply-add is one MAC. Convolutions, linear layers and matrix products count; normalisation,
activation functions, pooling and additions are free. A number of MACs says nothing without the size of the clip.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vidzoo.errors import ConfigError
from vidzoo.factory import create_model
from vidzoo.modes import evaluating

__all__ = ["Profile", "latency", "profile"]


@dataclass(frozen=True)
class Profile:
    """Costs of one clip.

    ``params``: numbers learnt, buffers not included. ``macs``: multiply-adds of convolutions, linear layers and matrix
    products. ``activations``: numbers that those operations put out. ``input_size``: ``(C, T, H, W)`` of the clip.
    ``measured``: it is the cost of one clip that was run: the one given, or, of a network whose cost depends on the
    clip, noise whose frames differ in brightness; otherwise it holds for every clip of this size.
    """

    params: int
    macs: int
    activations: int
    input_size: tuple[int, int, int, int]
    measured: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "input_size": list(self.input_size)}


def profile(
    model: str | nn.Module, input_size: tuple[int, int, int] | None = None, *, clip: Tensor | None = None
) -> Profile:
    """Count what one clip costs, without computing it: the network is run on tensors that have a shape but no values.

    The model itself is never run: its mode, device, hooks and statistics stay as they are. A copy of it is, on a clip
    that is given or where the cost depends on what a clip shows.

    Args:
        model: a name of the zoo or a ``local-dir:`` folder (built without weights), or a network that takes
            ``(B, C, T, H, W)``.
        input_size: ``(T, H, W)``; left out, the frames and the test crop of the model's own cfg.
        clip: ``(1, C, T, H, W)`` or ``(C, T, H, W)``, whose own cost is wanted; its size is the one that counts.

    Raises:
        UnknownModelError, UnknownTagError, HubError: a name that cannot be built.
        ConfigError: the size is not three positive numbers, none is given and the network has no cfg, or more than one
            clip is given.
    """
    if clip is not None:
        clip = clip[None] if clip.ndim == 4 else clip
        if clip.ndim != 5 or clip.shape[0] != 1 or input_size is not None:
            raise ConfigError(
                f"give one clip (1, C, T, H, W) and no input_size beside it, got {tuple(clip.shape)}, {input_size=}"
            )
        input_size = (clip.shape[2], clip.shape[3], clip.shape[4])
    if isinstance(model, str):
        with torch.device("meta"):
            shadow: nn.Module = create_model(model, pretrained=False)
    else:
        shadow = _without_values(model)
    size = clip_size(shadow, input_size)
    shadow.eval()
    params = sum(parameter.numel() for parameter in shadow.parameters())
    if clip is None:
        try:
            macs, activations = _count(shadow, torch.empty(1, *size, device="meta", dtype=_dtype(shadow)))
            return Profile(params, macs, activations, size)
        except (NotImplementedError, RuntimeError):
            # A network that decides by the values of a clip cannot run without them.
            generator = torch.Generator().manual_seed(0)
            brightness = torch.rand(1, 1, size[1], 1, 1, generator=generator)
            clip = (torch.rand(1, *size, generator=generator) * brightness).to(_dtype(shadow))
    real = create_model(model, pretrained=False) if isinstance(model, str) else _detached(copy.deepcopy(model)).cpu()
    macs, activations = _count(real.eval(), clip.cpu())
    return Profile(params, macs, activations, size, measured=True)


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def latency(
    model: nn.Module,
    input_size: tuple[int, int, int] | None = None,
    *,
    runs: int = 10,
    warmup: int = 3,
    batch_size: int = 1,
    threads: int | None = None,
    channels_last: bool = False,
) -> float:
    """Median seconds of one forward pass over a batch of noise, on the device where the model is.

    Args:
        input_size: ``(T, H, W)``; left out, that of the model's cfg.
        threads: CPU threads during the measurement; left out, as many as torch uses now.
        channels_last: lay out weights and clip with the channels last (in a copy of the model).

    Raises:
        ConfigError: ``runs``, ``batch_size`` or ``threads`` below 1, ``warmup`` below 0, or no input size.
    """
    if min(runs, batch_size, 1 if threads is None else threads) < 1 or warmup < 0:
        raise ConfigError(
            f"latency needs at least 1 run, 1 clip and 1 thread, got {runs=}, {warmup=}, {batch_size=}, {threads=}"
        )
    size = clip_size(model, input_size)
    like = next(model.parameters(), torch.empty(0))
    clip = torch.rand(batch_size, *size, generator=torch.Generator().manual_seed(0)).to(like)
    if channels_last:
        model = copy.deepcopy(model).to(memory_format=torch.channels_last_3d)
        clip = clip.to(memory_format=torch.channels_last_3d)
    seconds = []
    with evaluating(model), _threads(threads), torch.inference_mode():
        for run in range(warmup + runs):
            start = time.perf_counter()
            model(clip)
            if clip.is_cuda:
                torch.cuda.synchronize(clip.device)
            if run >= warmup:
                seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def clip_size(model: nn.Module, input_size: tuple[int, int, int] | None) -> tuple[int, int, int, int]:
    """``(C, T, H, W)`` of the clip that a model is measured with.

    Raises:
        ConfigError: see :func:`profile`.
    """
    cfg = getattr(model, "pretrained_cfg", None)
    if input_size is None:
        if cfg is None:
            raise ConfigError(f"{type(model).__name__} does not say its input: give input_size=(T, H, W)")
        input_size = (cfg.num_frames, *cfg.eval_crop_size)
    if len(input_size) != 3 or any(not isinstance(n, int) or n < 1 for n in input_size):
        raise ConfigError(f"input_size is (T, H, W) in frames and pixels, got {tuple(input_size)}")
    channels = getattr(model, "in_chans", None) or (cfg.in_chans if cfg is not None else 3)
    frames, height, width = input_size
    return channels, frames, height, width


def _count(model: nn.Module, clip: Tensor) -> tuple[int, int]:
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _OutputCounter() as outputs:
        model(clip)
    return flops.get_total_flops() // 2, outputs.total  # torch counts the product and the sum as two


class _OutputCounter(TorchDispatchMode):
    """Adds up the sizes of what convolutions and matrix products put out."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        aten = torch.ops.aten
        self.counted = {aten.convolution, aten.mm, aten.addmm, aten.bmm, aten.baddbmm}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "overloadpacket", None) in self.counted:
            self.total += result.numel()
        return result


def _without_values(model: nn.Module) -> nn.Module:
    """A copy on the meta device; the weights are never duplicated on the way."""
    shells: dict[int, Any] = {}
    for parameter in model.parameters():
        shells[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        shells[id(buffer)] = torch.empty_like(buffer, device="meta")
    return _detached(copy.deepcopy(model, shells))


def _detached(duplicate: nn.Module) -> nn.Module:
    # The copy of a hook is the same function: running it would report to its owner.
    for module in duplicate.modules():
        module._forward_hooks = OrderedDict()
        module._forward_pre_hooks = OrderedDict()
    return duplicate


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
