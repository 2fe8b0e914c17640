"""Where a network's features end and its head begins, found by running it, for networks that do not say it themselves.

The map is the last output that has more than one position over height and width. What is behind it must be modules one
after the other with no more than a little glue between them (:data:`vidzoo.grafting.traced.GLUE`), of which the last one
with weights is the classifier; what only turns its logits into probabilities is left out. What is in front of the map is
followed in the same way where it can be, so that the features need no more than their own part of the network.

``Tail`` holds names only, so it stays true of a copy of the network and of one whose modules were exchanged by name; its
methods take the network as their first argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.grafting.traced import (
    Call,
    State,
    Step,
    chain,
    fresh,
    glue_between,
    is_map,
    record,
    run,
    said,
    same,
    turned,
)
from vidzoo.models.slowfast import merge_pathways
from vidzoo.modes import evaluating

__all__ = ["Tail", "split"]

_PROBABILITIES = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid)
_MEAN = Step("mean", glue=True)


@dataclass(frozen=True)
class Tail:
    """The two halves of a network.

    ``map_module``: the module that puts out the last map. ``front``: from the input to the map; None where the modules
    do not simply follow each other, the map is then caught as it passes. ``behind``: glue that belongs to the map (a ReLU
    without a module; channels to the front). ``head``: from the map to what the classifier sees. ``classifier``: the last
    module with weights, or the ``nn.Identity`` in the place of one that was removed. ``num_features``: channels of the
    map. ``hidden``: numbers that the classifier sees. ``left_out``: modules behind it that make probabilities.
    ``pathways``: the network hands on a list of two maps, which become one. ``idle``: modules with parameters that have no
    part in the answer, such as heads that only training uses.
    """

    map_module: str
    front: tuple[Step, ...] | None
    behind: tuple[Step, ...]
    head: tuple[Step, ...]
    classifier: str
    num_features: int
    hidden: int
    left_out: tuple[str, ...] = ()
    pathways: bool = False
    idle: tuple[str, ...] = ()

    def features(self, network: nn.Module, x: Any) -> Tensor:
        """What the network takes -> its last map, ``(B, num_features, [T,] H, W)``."""
        if self.front is not None:
            return self.as_map(network, run(network, self.front, x))
        return self.as_map(network, _caught(network, self.map_module, x))

    def as_map(self, network: nn.Module, state: Any) -> Tensor:
        """What :attr:`map_module` puts out, as one map with the channels second."""
        if self.pathways:
            slow, fast = state
            return merge_pathways(slow, fast)
        return run(network, self.behind, state)

    def run_head(self, network: nn.Module, features: Tensor, pre_logits: bool = False) -> Tensor:
        """``(B, num_features, [T,] H, W) -> (B, classes)``, or ``(B, hidden)`` with ``pre_logits``."""
        hidden = run(network, self.head, features)
        if pre_logits:
            return hidden.flatten(1)
        classifier = network.get_submodule(self.classifier)
        if isinstance(classifier, (nn.Conv2d, nn.Conv3d)):
            return classifier(hidden).flatten(1)
        return classifier(hidden.flatten(1))


def split(network: nn.Module, example: State, *, name: str = "this network") -> Tail:
    """Find the halves of ``network``.

    Args:
        example: what the network takes; large enough that its last map has two positions each way, two frames for clips.
        name: what to call the network in messages.

    Raises:
        ConfigError: there is no map, or what follows it is more than modules with a little glue.
    """
    try:
        whole = record(network, example)
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, IndexError) as error:
        raise ConfigError(
            f"{name} does not take an example of shape {_shape(example)} ({said(error)}): give example=..., as it takes it"
        ) from error
    maps = [call for call in whole if is_map(call.gave)]
    if not maps:
        raise ConfigError(
            f"{name} puts out no map with height and width on an example of shape {_shape(example)}: it has none, or the "
            "example is too small (give a larger one as example=...)"
        )
    last = max(maps, key=lambda call: call.end)
    if last is whole:
        raise ConfigError(f"{name} ends with a map of shape {_shape(last.gave)}: it has no head that could be followed")
    behind, head, state = _head(whole, last, name)
    classifier = _classifier(network, head)
    if classifier is None:
        names = ", ".join(step.name for step in head if not step.glue) or "no module"
        raise ConfigError(
            f"the head of {name} does not end with a linear layer or a convolution behind its last map ({last.name}), nor with "
            f"an nn.Identity in the place of one: found {names}"
        )
    at = max(i for i, step in enumerate(head) if step == Step(classifier))
    left_out = tuple(step.name for step in head[at + 1 :] if _makes_probabilities(network, step))
    tail = Tail(
        map_module=last.name,
        front=_front(whole, last),
        behind=behind,
        head=head[:at],
        classifier=classifier,
        num_features=state.shape[1],
        hidden=_width(whole, classifier, name),
        left_out=left_out,
        pathways=isinstance(last.gave, list),
    )
    _verify(network, tail, example, name)
    return replace(tail, idle=_idle(network, tail, whole))


def roots(whole: Call, last: Call, *, before: bool) -> list[Call]:
    """The largest calls that end before the map does, or begin after it."""

    def walk(call: Call) -> Iterator[Call]:
        for part in call.parts:
            if (part.end <= last.end) if before else (part.start > last.end):
                yield part
            elif part.start < last.end < part.end:
                yield from walk(part)

    return list(walk(whole))


def _head(whole: Call, last: Call, name: str) -> tuple[tuple[Step, ...], tuple[Step, ...], Tensor]:
    """Glue that belongs to the map, the steps behind it, and the map itself."""
    calls = roots(whole, last, before=False)
    state = last.gave
    if isinstance(state, list):
        if len(state) != 2 or not calls or not _means_of(calls[0], state):
            raise ConfigError(
                f"{name} hands on {len(state)} maps behind {last.name}, and what follows does not put their means one behind "
                "the other: its head cannot be followed"
            )
        after = _leaves(calls[1:], calls[0].gave, whole.gave)
        steps = None if after is None else (_MEAN, *after)
        return (), _found(steps, last, calls, name), merge_pathways(state[0], state[1])
    found = _found(_leaves(calls, state, whole.gave), last, calls, name)
    moved: list[Step] = []
    rest = list(found)
    if rest and rest[0] == Step("relu", glue=True):
        moved.append(rest.pop(0))
    if rest and rest[0] == Step("channels first", glue=True):
        moved.append(rest.pop(0))
    elif rest and rest[0] == Step("mean over positions", glue=True):
        moved.append(Step("channels first", glue=True))
        rest[:1] = [_MEAN, Step("flatten", glue=True)]
    if not isinstance(state, Tensor):
        raise ConfigError(f"{last.name} of {name} puts out more than one tensor: its head cannot be followed")
    picture = whole.given[-1] if isinstance(whole.given, list) else whole.given
    if not moved and isinstance(picture, Tensor) and turned(state, picture.shape[-2:]):
        # What pools it takes the channels last itself.
        moved.append(Step("channels first", glue=True))
        rest.insert(0, Step("channels last", glue=True))
    return tuple(moved), tuple(rest), run(nn.Identity(), moved, state)


def _classifier(network: nn.Module, head: Sequence[Step]) -> str | None:
    """The last module with weights, if it is linear, or an identity behind everything else that changes something."""
    removed = None
    for step in reversed(head):
        module = nn.Flatten() if step.glue else network.get_submodule(step.name)
        if isinstance(module, nn.Identity):
            removed = removed or step.name
        elif isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            return step.name
        elif removed is not None and not isinstance(module, (*_PROBABILITIES, nn.Dropout)):
            return removed
        elif any(True for _ in module.parameters()):
            return None
    return removed


def _found(steps: tuple[Step, ...] | None, last: Call, calls: Sequence[Call], name: str) -> tuple[Step, ...]:
    if steps is not None:
        return steps
    tokens = next((call.gave for call in calls if isinstance(call.gave, Tensor) and call.gave.ndim == 3), None)
    if tokens is not None:
        raise ConfigError(
            f"{name} goes on with tokens, {_shape(tokens)}, behind its last map ({last.name}, {_shape(last.gave)}): only a "
            "network that keeps height and width up to the pooling at its end can be grafted onto"
        )
    raise ConfigError(
        f"the head of {name} cannot be followed: what comes behind its last map ({last.name}, {_shape(last.gave)}) is more "
        "than modules one after the other with pooling, flattening, permuting or a ReLU between them, or gives more than one "
        "tensor; wrap it into a module that goes from the map to the logits in such steps"
    )


def _leaves(calls: Sequence[Call], given: State | None, wanted: State | None) -> tuple[Step, ...] | None:
    """As :func:`chain`, in the smallest modules that follow each other."""
    steps: list[Step] = []
    for call in calls:
        glue = glue_between(given, call.given)
        if glue is None or call.gave is None:
            return None
        inner = _leaves(call.parts, call.given, call.gave) if call.parts else None
        steps += [*glue, *(inner if inner is not None else (Step(call.name),))]
        given = call.gave
    glue = glue_between(given, wanted)
    return None if glue is None else (*steps, *glue)


def _means_of(call: Call, maps: list[Tensor]) -> bool:
    means = torch.cat([x.mean(dim=(2, 3, 4), keepdim=True) for x in maps], dim=1)
    return same(call.given, maps) and same(call.gave, means)


def _front(whole: Call, last: Call) -> tuple[Step, ...] | None:
    steps: list[Step] = []
    given = whole.given
    for call in roots(whole, last, before=True):
        glue = glue_between(given, call.given)
        if glue is None or call.gave is None:
            return None
        steps += [*glue, *(_parts(call) or (Step(call.name),))]
        given = call.gave
    return tuple(steps) if same(given, last.gave) else None


def _parts(call: Call) -> tuple[Step, ...] | None:
    """The parts of a call that covers several resolutions, where they follow each other."""
    sizes = {tuple(part.gave.shape[-2:]) for part in call.parts if isinstance(part.gave, Tensor) and is_map(part.gave)}
    if len(sizes) < 2 or chain(call.parts, call.given, call.gave) is None:
        return None
    steps: list[Step] = []
    given = call.given
    for part in call.parts:
        steps += [*(glue_between(given, part.given) or ()), *(_parts(part) or (Step(part.name),))]
        given = part.gave
    return (*steps, *(glue_between(given, call.gave) or ()))


def _width(whole: Call, classifier: str, name: str) -> int:
    call = next(call for call in whole if call.name == classifier)
    width = call.given[0].numel() if isinstance(call.given, Tensor) else 0
    module: Any = call.module
    if isinstance(module, nn.Identity):
        wanted = width
    else:
        wanted = module.in_features if isinstance(module, nn.Linear) else module.in_channels
    if width != wanted:
        raise ConfigError(
            f"{classifier} of {name} sees {_shape(call.given)}, more than one position: pool the map in front of it"
        )
    return width


def _makes_probabilities(network: nn.Module, step: Step) -> bool:
    return step.name == "softmax" if step.glue else isinstance(network.get_submodule(step.name), _PROBABILITIES)


def _verify(network: nn.Module, tail: Tail, example: State, name: str) -> None:
    """The halves give what the whole does, on another clip, of another size where the network takes it."""
    with evaluating(network), torch.no_grad():
        for other in (_noise(example, larger=True), _noise(example, larger=False)):
            try:
                expected = network(fresh(other))
            except (RuntimeError, ValueError, AssertionError):
                continue
            try:
                logits = tail.run_head(network, tail.features(network, fresh(other)))
                for step in tail.left_out:
                    logits = F.softmax(logits, dim=1) if step == "softmax" else network.get_submodule(step)(logits)
            except RuntimeError:  # a layer that fits the example's size only
                logits = None
            if not same(logits, expected.flatten(1)):
                raise ConfigError(
                    f"the head of {name} cannot be followed: what its modules give one after the other is not what the "
                    f"network gives on an input of shape {_shape(other)}"
                )
            return


def _idle(network: nn.Module, tail: Tail, whole: Call) -> tuple[str, ...]:
    called = {call.module for call in whole}
    if torch.is_inference_mode_enabled() or all(
        module in called for module in network.modules() if next(module.parameters(recurse=False), None) is not None
    ):
        return ()
    # Not being called does not say it: a function may use the parameters of a module.
    parameters = dict(network.named_parameters())
    learnt = {name: parameter.requires_grad for name, parameter in parameters.items()}
    try:
        with evaluating(network), torch.enable_grad():
            network.requires_grad_()
            answer = tail.run_head(network, tail.features(network, fresh(whole.given)))
            grads = torch.autograd.grad(answer.sum(), list(parameters.values()), allow_unused=True)
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(learnt[name])
    used = [name for name, grad in zip(parameters, grads, strict=True) if grad is not None]
    idle: list[str] = []
    for name, module in network.named_modules():
        empty = next(module.parameters(), None) is None
        if empty or any(f"{name}.".startswith(f"{one}.") for one in idle):
            continue
        if not any(one.startswith(f"{name}.") for one in used) and name:
            idle.append(name)
    return tuple(idle)


def _noise(example: State, *, larger: bool) -> State:
    if isinstance(example, list):
        return [_noise_like(x, larger) for x in example]
    return _noise_like(example, larger)


def _noise_like(x: Tensor, larger: bool) -> Tensor:
    size = list(x.shape)
    if larger:  # by half over time and height; the width stays
        size[2:-1] = [n + n // 2 for n in size[2:-1]]
    return torch.randn(size, generator=torch.Generator().manual_seed(1)).to(x)


def _shape(state: State | None) -> str:
    if isinstance(state, list):
        return " and ".join(_shape(part) for part in state)
    return str(tuple(state.shape)) if isinstance(state, Tensor) else "?"


class _Reached(Exception):
    def __init__(self, state: Any) -> None:
        super().__init__("the map was reached")
        self.state = state


def _caught(network: nn.Module, module: str, x: Any) -> Any:
    """What ``module`` puts out; the rest of the network does not run."""

    def stop(_: nn.Module, args: Any, output: Any) -> None:
        raise _Reached(output)

    handle = network.get_submodule(module).register_forward_hook(stop)
    try:
        network(x)
    except _Reached as reached:
        return reached.state
    finally:
        handle.remove()
    raise ConfigError(f"{module} was not called: the network takes another path than on its example")
