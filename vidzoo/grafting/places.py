"""Where something can be grafted: the layers of a network with their shapes, its stages, and the blocks in them.

All of it is read from one run (:mod:`vidzoo.grafting.traced`). A stage is what puts out maps of one resolution; its
blocks are the smallest modules in a row that have two layers with weights or more, such as residual blocks. The run is
that of a copy with other weights: a fresh residual branch may put out zeros, a fresh CTM block gives what it got, and the
structure of a network must be found alike before and after training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from vidzoo.grafting.folded import Host2D, OverTime
from vidzoo.grafting.hosts3d import Host3D, Sampled
from vidzoo.grafting.plan import Where
from vidzoo.grafting.traced import Call, chain, is_map, record, same, turned, twin_of
from vidzoo.layers.ctm import CTMBlock
from vidzoo.layers.unit import SpatioTemporalUnit

__all__ = ["Around", "Host", "Place", "Places", "Stage", "find_places", "places_of"]

Kind = Literal["conv2d", "conv3d", "norm", "pool", "linear", "block"]
_WEIGHTED = (nn.Conv2d, nn.Conv3d, nn.Linear)
_POOLS = tuple(
    getattr(nn, f"{adaptive}{kind}Pool{axes}d")
    for adaptive in ("", "Adaptive")
    for kind in ("Avg", "Max")
    for axes in (2, 3)
)


Host = Host2D | Host3D
"""A network as :class:`~vidzoo.grafting.model.GraftedModel` runs it, over pictures or over clips."""


class Around(nn.Module):
    """A module of the network with something in front of it or behind it."""

    def __init__(self, module: nn.Module, *, before: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.before = before
        self.module = module
        self.after = after

    def forward(self, x: Any) -> Any:
        out = self.module(x if self.before is None else self.before(x))
        return out if self.after is None else self.after(out)


@dataclass(frozen=True)
class Place:
    """A layer or block that was called.

    ``name``: as in the network before anything was grafted. ``path``: where it is now. ``kernel``, ``stride``,
    ``padding`` and ``dilation`` are empty where there are none, ``padding`` may be a string. ``stem``: it sees the picture
    itself. ``in_shape`` and ``out_shape``: on the example, the batch left out.
    """

    name: str
    path: str
    kind: Kind
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    bias: bool
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    stage: int
    stem: bool


@dataclass(frozen=True)
class Stage:
    """What puts out maps of one resolution. ``module``: the last of it; ``blocks``: names of its blocks, in a row."""

    module: str
    channels: int
    reduction: int
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Places:
    """What was found.

    ``rows``: each of the host's stages by its name, in the smallest modules that follow each other. ``calls``: the first
    call of every module of the copy that was run, by its name in the host. ``clip``: what it was run on.
    """

    places: tuple[Place, ...]
    stages: tuple[Stage, ...]
    rows: dict[str, tuple[str, ...]]
    calls: dict[str, Call] = field(repr=False, compare=False)
    clip: Tensor = field(repr=False, compare=False)

    def __iter__(self) -> Iterator[Place]:
        return iter(self.places)

    def convolutions(self, where: Where) -> list[Place]:
        """The convolutions that are meant, in the order in which they are called."""
        convs = (place for place in self.places if place.kind in ("conv2d", "conv3d"))
        return [place for place in convs if where.holds(place, len(self.stages))]


def find_places(network: nn.Module, example: Any = None, *, source: str | None = None) -> Places:
    """What a network of any library offers; it is not changed.

    Args:
        example: what the network takes; None is a small one that is tried.
        source: the network's source, see :mod:`vidzoo.grafting.backbone`.

    Raises:
        ConfigError: the network cannot be followed.
    """
    from vidzoo.grafting.graft import adopt  # it needs this file

    host, clip = adopt(network, example, source=source)
    return places_of(host, clip)


def places_of(host: Host, clip: Tensor, done: Sequence[str] = ()) -> Places:
    """What a host offers, without what lies in ``done``: names of layers that were exchanged."""
    twin: Any = twin_of(host).float()
    whole = record(twin, clip.float())
    picture = clip.shape[-2:]
    calls = {call.name: call for call in reversed(list(whole))}  # the first call of each
    inputs = _inputs(calls, host.stage_names)
    numbers = _stage_numbers(whole, host, calls, picture)
    found: list[Place] = []
    first = True
    for path, call in sorted(calls.items(), key=lambda item: item[1].start):
        kind, name = _kind(call), _own_name(twin, path)
        if kind is None or name is None or _within(name, done):
            continue
        conv = kind in ("conv2d", "conv3d")
        stem = conv and (first or any(same(call.given, x) for x in inputs))
        first = first and not conv
        found.append(_place(call, kind, name, numbers[path], stem))
    rows = {stage: tuple(part.name for part in _row(calls[stage])) for stage in host.stage_names if stage in calls}
    stems = [place.path for place in found if place.stem]
    stages = _stages(host, twin, calls, rows, stems, picture)
    return Places(tuple(found), stages, rows, calls, clip)


def _kind(call: Call) -> Kind | None:
    module = call.module
    if isinstance(module, nn.Conv2d):
        return "conv2d"
    if isinstance(module, nn.Conv3d):
        return "conv3d"
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)):
        return "norm"
    if isinstance(module, _POOLS):
        return "pool"
    return "block" if _is_block(call) else None


def _is_block(call: Call) -> bool:
    """Two layers with weights or more, that give one map of another."""
    layers = sum(isinstance(part.module, _WEIGHTED) for part in call) if call.parts else 0
    return layers > 1 and is_map(call.gave) and isinstance(call.gave, Tensor)


def _own_name(host: nn.Module, path: str) -> str | None:
    """The name that ``path`` had in the network at first; None inside what was grafted, and outside the network."""
    module: nn.Module = host
    names: list[str] = []
    parts = path.split(".")
    if parts[0] != "network":
        return None
    for part in parts:
        if isinstance(module, (OverTime, SpatioTemporalUnit, CTMBlock)):
            return None
        if isinstance(module, (Around, Sampled)):
            if part != "module":
                return None
        else:
            names.append(part)
        module = module.get_submodule(part)
    return None if isinstance(module, (Around, Sampled, OverTime)) else ".".join(names[1:])


def _within(name: str, done: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{one}.") for one in done)


def _inputs(calls: dict[str, Call], stage_names: Sequence[str]) -> list[Tensor]:
    """What the network itself gets: pictures, a clip, or one for each pathway."""
    first = next((calls[name] for name in stage_names if name != "pack" and name in calls), None)
    given = first.given if first is not None else None
    return [given] if isinstance(given, Tensor) else list(given or ())


def _stage_numbers(whole: Call, host: Host, calls: dict[str, Call], picture: Sequence[int]) -> dict[str, int]:
    """For every call the stage that its output belongs to, by the resolution of the last map so far."""
    areas = [_area(calls[info.module].gave, picture) for info in host.feature_info]
    current = 0
    numbers: dict[str, int] = {}
    for call in sorted(whole, key=lambda call: call.end):
        if call.name.startswith("network.") and is_map(call.gave):
            current = min(sum(_area(call.gave, picture) < area for area in areas), len(areas) - 1)
        numbers.setdefault(call.name, current)
    return numbers


def _area(state: Any, picture: Sequence[int]) -> int:
    height, width = _size(state[-1] if isinstance(state, list) else state, picture)
    return height * width


def _size(x: Tensor, picture: Sequence[int]) -> tuple[int, int]:
    last = turned(x, picture)
    return (x.shape[-3], x.shape[-2]) if last else (x.shape[-2], x.shape[-1])


def _row(call: Call) -> list[Call]:
    """The smallest modules in a row that a call consists of: it is taken apart until they hold layers themselves."""
    layers = any(isinstance(part.module, _WEIGHTED) for part in call.parts)
    if not call.parts or layers or isinstance(call.module, (Around, Sampled)):
        return [call]
    steps = chain(call.parts, call.given, call.gave)
    if steps is None or any(step.glue for step in steps):
        return [call]
    return [small for part in call.parts for small in _row(part)]


def _stages(
    host: Host,
    twin: nn.Module,
    calls: dict[str, Call],
    rows: dict[str, tuple[str, ...]],
    stems: Sequence[str],
    picture: Sequence[int],
) -> tuple[Stage, ...]:
    blocks: dict[tuple[int, int], list[str]] = {}
    for path in (path for row in rows.values() for path in row):
        call = calls[path]
        inner = next(part for part in call if not isinstance(part.module, (Around, Sampled)))
        name = _own_name(twin, inner.name)
        if name is None or any(f"network.{stem}".startswith(f"{path}.") for stem in stems):
            continue
        if isinstance(inner.gave, Tensor) and _is_block(inner):
            blocks.setdefault(_size(inner.gave, picture), []).append(name)
    stages = []
    for info in host.feature_info:
        gave = calls[info.module].gave
        found = blocks.get(_size(gave, picture), []) if isinstance(gave, Tensor) else []
        name = info.module.removeprefix("network.")
        stages.append(Stage(name, info.num_chs, info.reduction, tuple(found)))
    return tuple(stages)


def _place(call: Call, kind: Kind, name: str, stage: int, stem: bool) -> Place:
    module: Any = call.module
    conv = kind in ("conv2d", "conv3d")
    return Place(
        name=name,
        path=call.name.removeprefix("network."),
        kind=kind,
        kernel=tuple(module.kernel_size) if conv else (),
        stride=tuple(module.stride) if conv else (),
        padding=(module.padding if isinstance(module.padding, str) else tuple(module.padding)) if conv else (),
        dilation=tuple(module.dilation) if conv else (),
        groups=module.groups if conv else 1,
        bias=getattr(module, "bias", None) is not None if kind != "block" else False,
        in_shape=_shape(call.given),
        out_shape=_shape(call.gave),
        stage=stage,
        stem=stem,
    )


def _shape(state: Any) -> tuple[int, ...]:
    return tuple(state.shape[1:]) if isinstance(state, Tensor) else ()
