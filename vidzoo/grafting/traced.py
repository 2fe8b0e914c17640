"""What a network does with one example, call by call: which module got what, and gave what.

Structure is read from this record and never from attribute names: that one module follows another is seen from the
numbers that pass between them, with nothing or a little glue (:data:`GLUE`) in between.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from vidzoo.layers.ragged import mean_over_clip, mean_over_space
from vidzoo.modes import evaluating

__all__ = [
    "GLUE",
    "Call",
    "State",
    "Step",
    "chain",
    "fresh",
    "glue_between",
    "is_map",
    "record",
    "run",
    "said",
    "same",
    "turned",
    "twin_of",
]

_FEW = 4096

State = Tensor | list[Tensor]
"""What modules hand on: one tensor, or one for each pathway."""


def _mean(x: Tensor) -> Tensor:
    if x.ndim == 5:
        return mean_over_clip(x)[:, :, None, None, None]
    return x.mean(dim=(2, 3), keepdim=True)


def _mean_space(x: Tensor) -> Tensor:
    return mean_over_space(x)[..., None, None] if x.ndim == 5 else _mean(x)


GLUE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "mean": _mean,  # (B, C, T, H, W) -> (B, C, 1, 1, 1)
    "mean over space": _mean_space,  # (B, C, T, H, W) -> (B, C, T, 1, 1)
    "channels first": lambda x: x.movedim(-1, 1),
    "channels last": lambda x: x.movedim(1, -1),
    "flatten": lambda x: x.flatten(1),
    "mean over positions": lambda x: x.flatten(1, -2).mean(dim=1),  # (B, ..., C) -> (B, C)
    "softmax": lambda x: x.softmax(dim=1),
}
"""What may stand between two modules without being one, by name."""

# Shorter ones first: what needs no glue has none.
_GLUES = sorted(
    {
        tuple(name for name in names if name): None
        for names in product(
            ("", "relu"),
            ("", "mean", "mean over space", "channels first", "channels last", "mean over positions"),
            ("", "flatten", "channels last", "channels first"),
        )
    },
    key=len,
)
_GLUES.append(("softmax",))


@dataclass(frozen=True)
class Step:
    """A module by its name, or glue."""

    name: str
    glue: bool = False


@dataclass
class Call:
    """One call of a module: ``given`` and ``gave`` are copies, None where they are no tensors that can be followed.

    ``start`` and ``end`` count the beginnings and ends of all calls.
    """

    name: str
    module: nn.Module
    start: int
    given: State | None
    gave: State | None = None
    end: int = -1
    parts: list[Call] = field(default_factory=list)

    def __iter__(self) -> Iterator[Call]:
        """This call and all inside it, in the order in which they began."""
        yield self
        for part in self.parts:
            yield from part


@torch.no_grad()
def record(network: nn.Module, given: Any) -> Call:
    """Run ``network`` in evaluation mode; the call of the network itself, with those inside it as ``parts``.

    Args:
        given: a tensor, or a list of tensors, which the network gets a copy of.
    """
    counter = itertools.count()
    copies: deque[tuple[Tensor, int, Tensor]] = deque(maxlen=4)
    stack: list[Call] = []
    roots: list[Call] = []
    handles = []

    def enter(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
            whole = _copied(args[0], copies) if len(args) == 1 and not given else None
            call = Call(name, module, next(counter), whole)
            (stack[-1].parts if stack else roots).append(call)
            stack.append(call)

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        call = stack.pop()
        call.gave, call.end = _copied(output, copies), next(counter)

    try:
        for name, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
        with evaluating(network):
            network(fresh(given))
    finally:
        for handle in handles:
            handle.remove()
    return roots[0]


def fresh(given: Any) -> Any:
    """A copy of an input, as a network may work in place on what it gets, and on the list that holds it."""
    return [x.clone() for x in given] if isinstance(given, list) else given.clone()


def twin_of(network: nn.Module) -> nn.Module:
    """A copy with other weights, the same in every call: what is seen in its numbers owes nothing to what was learnt.

    A trained or a fresh network may hide its structure: a branch whose last norm starts at zero is no branch, a map that
    happens to have no negative number has had no ReLU.
    """
    twin = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in twin.modules():
            for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if not value.is_floating_point():
                    continue
                drawn = torch.empty(value.shape)
                if value.ndim > 1:
                    drawn.normal_(std=(2 / value[0].numel()) ** 0.5, generator=generator)  # He et al. 2015
                elif name in ("weight", "running_var"):
                    drawn.uniform_(0.5, 1.5, generator=generator)
                else:
                    drawn.uniform_(-0.2, 0.2, generator=generator)
                value.copy_(drawn)
    return twin


def _copied(value: Any, latest: deque[tuple[Tensor, int, Tensor]]) -> State | None:
    """A copy of tensors; ``latest`` has some that were just made, a module often gets or gives what its part does."""
    if isinstance(value, list) and value and all(isinstance(part, Tensor) for part in value):
        return [_copy(part, latest) for part in value]
    return _copy(value, latest) if isinstance(value, Tensor) else None


def _copy(x: Tensor, latest: deque[tuple[Tensor, int, Tensor]]) -> Tensor:
    if x.is_inference():  # which does not know whether it was changed since
        return x.clone()
    for original, version, copied in latest:
        if original is x and version == x._version:
            return copied
    copied = x.detach().clone()
    latest.append((x, x._version, copied))
    return copied


def same(a: State | None, b: State | None) -> bool:
    """Whether two states are the same numbers in the same shape, to rounding."""
    if a is b:
        return a is not None
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if b.numel() == 0:
            return True
        # Most of what is compared differs at once; the size of the numbers is that of all of them.
        largest = float(b.abs().amax())
        first = slice(0, _FEW)
        return all(
            torch.allclose(x, y, rtol=1e-4, atol=1e-6 * largest)
            for x, y in ((a.reshape(-1)[first], b.reshape(-1)[first]), (a, b))
        )
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return False


def is_map(state: State | None) -> bool:
    """Whether a state still has more than one position over height and width."""
    if isinstance(state, list):
        return all(is_map(part) for part in state)
    if not isinstance(state, Tensor) or state.ndim not in (4, 5):
        return False
    return min(state.shape[-2:]) > 1 or (min(state.shape[-3:-1]) > 1 and _channels_last(state))


def _channels_last(state: Tensor) -> bool:
    # (B, H, W, C) and (B, T, H, W, C): the last axis is the long one.
    return state.shape[-1] >= max(state.shape[1:-1])


def turned(state: Tensor, picture: Sequence[int]) -> bool | None:
    """Whether a map has its channels last, by where its sides have the proportions of the picture; None if either may be.

    Args:
        picture: height and width of what the network got.
    """
    wanted = math.log(picture[0] / picture[1])
    if state.ndim not in (4, 5) or min(state.shape) < 1:
        return None
    first, last = (
        abs(math.log(height / width) - wanted) for height, width in (state.shape[-2:], state.shape[-3:-1])
    )  # (..., H, W), (..., H, W, C)
    return None if first == last else last < first


def said(error: BaseException) -> str:
    """The first line of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def glue_between(a: State | None, b: State | None) -> tuple[Step, ...] | None:
    """The glue that makes ``b`` of ``a``, nothing of the same; None where none of it does."""
    if same(a, b):
        return ()
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.ndim < 2:
        return None
    for names in _possible(tuple(a.shape), tuple(b.shape)):
        if same(_applied(names, a), b):
            return tuple(Step(name, glue=True) for name in names)
    return None


@lru_cache(maxsize=1024)
def _possible(given: tuple[int, ...], wanted: tuple[int, ...]) -> list[tuple[str, ...]]:
    """The glue that makes one shape of another."""
    outcomes = ((names, _applied(names, torch.empty(given, device="meta"))) for names in _GLUES)
    return [names for names, outcome in outcomes if outcome is not None and tuple(outcome.shape) == wanted]


def _applied(names: Sequence[str], x: Tensor) -> Tensor | None:
    for name in names:
        if x.ndim < 3 and name not in ("relu", "softmax"):
            return None
        if name in ("mean", "mean over space") and x.ndim not in (4, 5):
            return None
        x = GLUE[name](x)
    return x


def chain(calls: Sequence[Call], given: State | None, wanted: State | None) -> tuple[Step, ...] | None:
    """The calls as steps that follow each other from ``given`` to ``wanted``; None where they do not."""
    steps: list[Step] = []
    for call in calls:
        glue = glue_between(given, call.given)
        if glue is None or call.gave is None:
            return None
        steps += [*glue, Step(call.name)]
        given = call.gave
    glue = glue_between(given, wanted)
    return None if glue is None else (*steps, *glue)


def run(network: nn.Module, steps: Sequence[Step], state: Any) -> Any:
    """Run the steps one after the other."""
    for step in steps:
        state = GLUE[step.name](state) if step.glue else network.get_submodule(step.name)(state)
    return state
