"""Make a network of another library fit for clips of different length, which a sampler in it leaves.

Norms and pools get the forms of :mod:`vidzoo.layers.ragged`; a pool that needs several frames takes fewer. Three more
things are told by what they compute in a traced run, not by their names: squeeze and excitation that takes its mean
without a module, a swish of somebody's own, and the lateral connection of a two-pathway network. Parameters and their
keys stay what they are, and so do the outputs for clips of one length.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidzoo.grafting.traced import (
    GLUE,
    Call,
    State,
    Step,
    chain,
    fresh,
    glue_between,
    record,
    run,
    said,
    same,
    twin_of,
)
from vidzoo.layers.ragged import RaggedMaxPool3d, RaggedMeanPool3d, honour_lengths, lengths_of, plain, with_lengths
from vidzoo.models.slowfast import concat_ragged
from vidzoo.modes import evaluating

__all__ = [
    "FastToSlow",
    "PatientMaxPool3d",
    "Shortened",
    "SqueezeOverClip",
    "answer_to",
    "honour_clips",
    "open_pools",
    "replace_module",
    "takes",
]


class _Wrapped(nn.Module):
    """The children of another module under their own names, run in another way."""

    def __init__(self, module: nn.Module, steps: tuple[Step, ...]) -> None:
        super().__init__()
        for name, child in module.named_children():
            self.add_module(name, child)
        self.steps = steps
        self.train(module.training)

    def of(self, module: nn.Module) -> Self:
        """The same over the children of ``module``."""
        return type(self)(module, self.steps)


class SqueezeOverClip(_Wrapped):
    """``x * gate(mean of x)`` with the mean over each clip's own frames: ``(B, C, T, H, W)`` to the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x * run(self, self.steps, GLUE["mean"](x))


class FastToSlow(_Wrapped):
    """Two pathways, the slow one widened by what the fast one gives; a clip may have another length in each of them."""

    def forward(self, pair: list[Tensor]) -> list[Tensor]:
        slow, fast = pair
        return [concat_ragged(slow, run(self, self.steps, fast)), fast]


class PatientMaxPool3d(RaggedMaxPool3d):
    """A pool over several frames without padding, to which a clip shorter than its window is one window."""

    def forward(self, input: Tensor) -> Tensor:
        window, frames = _sizes(self.kernel_size, 3)[0], input.shape[2]
        lengths = lengths_of(input)
        own = torch.full((input.shape[0],), frames, device=input.device) if lengths is None else lengths
        if int(own.min()) >= window:
            return super().forward(input)
        longest = max(frames, window)
        real = (torch.arange(longest, device=input.device) < own[:, None])[:, None, :, None, None]
        padded = F.pad(plain(input), (0, 0, 0, 0, 0, longest - frames)).masked_fill(~real, float("-inf"))
        return super().forward(with_lengths(padded, own.clamp(min=window)))


class Shortened(nn.Module):
    """The last clip of a batch keeps only its first ``frames``: a sampler whose choice is known beforehand."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return x[:, :, : self.frames]
        last = torch.arange(x.shape[0], device=x.device) == x.shape[0] - 1
        return with_lengths(x, torch.where(last, min(self.frames, x.shape[2]), x.shape[2]))


class _Lenient(nn.Module):
    """A pool whose window may be larger than the map: it then takes the mean, and says so."""

    def __init__(self, pool: nn.AvgPool2d | nn.AvgPool3d, kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.pool: Any = pool
        self.kernel = kernel
        self.large = min(kernel[-2:]) >= _HEAD_WINDOW
        self.slides = max(_sizes(pool.stride, len(kernel))) == 1
        self.exceeded = False

    def forward(self, x: Tensor) -> Tensor:
        # A large window belongs to the head however long the clip is; a small one only if it takes in everything.
        axes = slice(-2, None) if self.large else slice(-len(self.kernel), None)
        self.exceeded = self.exceeded or all(k >= s for k, s in zip(self.kernel[axes], x.shape[axes], strict=True))
        return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True) if self.exceeded else self.pool(x)


_HEAD_WINDOW = 4  # positions; a window this large is one over what is left of the picture, not a step of the network


def open_pools(network: nn.Module, example: State) -> list[str]:
    """Let pools over a window as large as the last map take the mean of whatever map there is, in place.

    Such a window belongs to one size of clip; smaller ones it refuses, of larger ones it gives several means.

    Returns:
        A sentence for each pool that was changed.
    """
    with _lenient_pools(network) as pools, evaluating(network), torch.no_grad():
        if pools:
            network(fresh(example))
    notes: list[str] = []
    for name, wrapper in pools.items():
        if wrapper.exceeded or (wrapper.large and wrapper.slides):
            replace_module(network, name, RaggedMeanPool3d() if len(wrapper.kernel) == 3 else nn.AdaptiveAvgPool2d(1))
            notes.append(
                f"{name}: its window of {'x'.join(map(str, wrapper.kernel))} became the mean over the whole map, which is the "
                "same where the map has that size; on a larger map the original gives several means"
            )
    return notes


def answer_to(network: nn.Module, example: State) -> Any:
    """What ``network`` says of the example in evaluation mode; a window of its head larger than the map takes the mean."""
    with _lenient_pools(network), evaluating(network), torch.no_grad():
        return network(fresh(example))


def takes(network: nn.Module, example: State) -> str | None:
    """None if ``network`` takes the example, windows of its head that are larger than the map aside; else what it says."""
    try:
        answer_to(network, example)
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, IndexError) as error:
        return said(error)
    return None


@contextmanager
def _lenient_pools(network: nn.Module) -> Iterator[dict[str, _Lenient]]:
    found: dict[str, _Lenient] = {}
    for name, module in list(network.named_modules()):
        if type(module) not in (nn.AvgPool2d, nn.AvgPool3d):
            continue
        pool = cast("nn.AvgPool2d | nn.AvgPool3d", module)
        axes = 2 if isinstance(pool, nn.AvgPool2d) else 3
        wrapper = _Lenient(pool, _sizes(pool.kernel_size, axes))
        over_all = axes == 3 and wrapper.slides and min(wrapper.kernel) > 1
        if (wrapper.large or over_all) and max(_sizes(pool.padding, axes)) == 0:
            found[name] = wrapper
    try:
        for name, wrapper in found.items():
            replace_module(network, name, wrapper)
        yield found
    finally:
        for name, wrapper in found.items():
            replace_module(network, name, wrapper.pool)


def honour_clips(network: nn.Module, example: State) -> None:
    """Let everything below ``network`` look at the frames that a clip really has, in place.

    Args:
        example: what the network takes, all clips of one length.
    """
    twins = [
        (call.name, twin)
        for call in record(twin_of(network).float(), _single(example))
        if (twin := _gate(call) or _fusion(call) or _swish(call)) is not None
    ]
    for name, module in list(network.named_modules()):
        if type(module) is nn.MaxPool3d and _sizes(module.kernel_size, 3)[0] > 1 and _sizes(module.padding, 3)[0] == 0:
            arguments = (module.kernel_size, module.stride, module.padding, module.dilation)
            replace_module(network, name, PatientMaxPool3d(*arguments, ceil_mode=module.ceil_mode))
    honour_lengths(network)
    for name, twin in twins:
        replace_module(network, name, twin.of(network.get_submodule(name)) if isinstance(twin, _Wrapped) else twin)


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` where ``name`` was, and wherever else the network has the very module of that name."""
    old = network.get_submodule(name)
    for other in [path for path, found in network.named_modules(remove_duplicate=False) if found is old]:
        parent, _, child = other.rpartition(".")
        setattr(network.get_submodule(parent), child, module)


def _single(example: State) -> State:
    return [x.float() for x in example] if isinstance(example, list) else example.float()


def _gate(call: Call) -> nn.Module | None:
    given, gave = call.given, call.gave
    if not call.parts or not isinstance(given, Tensor) or not isinstance(gave, Tensor) or given.ndim != 5:
        return None
    factor = call.parts[-1].gave
    if given.shape != gave.shape or not isinstance(factor, Tensor) or factor.shape != (*given.shape[:2], 1, 1, 1):
        return None
    mean = GLUE["mean"](given)
    # A pool of its own is one that knows of lengths already.
    if not same(call.parts[0].given, mean) or not same(given * factor, gave):
        return None
    steps = chain(call.parts, mean, factor)
    return None if steps is None else SqueezeOverClip(call.module, _local(steps, call.name))


def _fusion(call: Call) -> nn.Module | None:
    given, gave = call.given, call.gave
    if not (call.parts and isinstance(given, list) and isinstance(gave, list) and len(given) == len(gave) == 2):
        return None
    slow, fast = given
    width = slow.shape[1]
    if not same(fast, gave[1]) or gave[0].shape[1] <= width or not same(slow, gave[0][:, :width]):
        return None
    steps = chain(call.parts, fast, gave[0][:, width:])
    return None if steps is None else FastToSlow(call.module, _local(steps, call.name))


def _swish(call: Call) -> nn.Module | None:
    module = call.module
    if call.parts or type(module).__module__.startswith("torch.") or any(True for _ in module.parameters()):
        return None
    if not isinstance(call.given, Tensor) or glue_between(call.given, call.gave) is not None:
        return None
    return nn.SiLU() if same(F.silu(call.given), call.gave) else None


def _local(steps: tuple[Step, ...], parent: str) -> tuple[Step, ...]:
    return tuple(step if step.glue else Step(step.name[len(parent) + 1 :]) for step in steps)


def _sizes(value: Any, axes: int) -> tuple[int, ...]:
    return tuple(int(size) for size in value) if isinstance(value, (tuple, list)) else (int(value),) * axes
