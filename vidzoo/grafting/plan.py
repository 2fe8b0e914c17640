"""What is to be grafted: an ordered list of operations, each of which survives ``config.json`` exactly.

A plan is a name of :data:`PLANS`, one operation, or a sequence of operations and of the dicts that they make of
themselves (:func:`read_plan`). :class:`Where` says at which places an operation works.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from vidzoo.errors import ConfigError, nearest
from vidzoo.grafting.values import (
    choice,
    fields_of,
    kernel_size,
    matches,
    odd_length,
    options_of,
    plain,
    sequence,
    share,
    side_lengths,
    whole,
)
from vidzoo.layers.unit import Inflation, check_inflation

if TYPE_CHECKING:
    from vidzoo.grafting.places import Place

__all__ = [
    "PLANS",
    "SPACE",
    "Inflate",
    "InsertCTM",
    "InsertSGS",
    "InsertShift",
    "Operation",
    "ReplaceHead",
    "SwapConv",
    "Where",
    "read_plan",
    "write_plan",
]

SPACE = (3, 5, 7)
"""Kernels that look over space around a centre."""


@dataclass(frozen=True)
class Where:
    """Which convolutions; all conditions that are given must hold.

    Args:
        stages: numbers of stages, counted from 0 in the order of falling resolution; negative ones from the end.
        kernels: sizes over height and width, a number for a square one.
        names: fnmatch patterns for module names (``layer3.*.conv2``), one of which must match.
        exclude: patterns of which none may.
        predicate: a function of the place; such a plan cannot be written to a file.
        stem: the convolution that sees the picture itself may be chosen too. With ``names`` it always may.
    """

    stages: tuple[int, ...] | None = None
    kernels: tuple[int | tuple[int, int], ...] | None = None
    names: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    predicate: Callable[[Any], bool] | None = None
    stem: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("stages", int), ("names", str), ("exclude", str)):
            value = getattr(self, name)
            if name == "exclude" and value in ((), []):
                object.__setattr__(self, name, None)
            elif value is not None:
                object.__setattr__(self, name, sequence(f"Where.{name}", value, kind))
        if self.kernels is not None:
            kernels = self.kernels if isinstance(self.kernels, (tuple, list)) else (self.kernels,)
            object.__setattr__(self, "kernels", tuple(kernel_size(kernel) for kernel in kernels))
        if self.predicate is not None and not callable(self.predicate):
            raise ConfigError(f"Where.predicate is a function of the place, got {self.predicate!r}")
        if not isinstance(self.stem, bool):
            raise ConfigError(f"Where.stem is True or False, got {self.stem!r}")

    def holds(self, place: Place, stages: int) -> bool:
        """Whether ``place`` is meant, in a network of so many stages."""
        if self.names is not None:
            if not matches(place.name, self.names):
                return False
        elif place.stem and not self.stem:
            return False
        if self.exclude is not None and matches(place.name, self.exclude):
            return False
        if self.stages is not None and place.stage not in {s + stages if s < 0 else s for s in self.stages}:
            return False
        size = place.kernel[-2:]
        if self.kernels is not None and size not in {(k, k) if isinstance(k, int) else k for k in self.kernels}:
            return False
        return self.predicate is None or bool(self.predicate(place))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; what is not asked for is left out.

        Raises:
            ConfigError: a predicate, which no file can hold.
        """
        if self.predicate is not None:
            raise ConfigError(
                "a plan with a predicate cannot be written to a file: choose the same places by Where(names=...), the report "
                "lists them"
            )
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {key: plain(value) for key, value in values.items() if value is not None and value is not False}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ConfigError: not a mapping, or a condition that does not exist.
        """
        known = [f.name for f in dataclasses.fields(cls) if f.name != "predicate"]
        return cls(**fields_of("Where", values, known))


@dataclass(frozen=True)
class Operation:
    """Base of the operations. ``to_dict`` has the name of the operation under ``op`` and every field beside it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: ``read_plan([op.to_dict()]) == (op,)``.

        Raises:
            ConfigError: a predicate in it, or an option that JSON cannot hold.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"op": type(self).__name__, **{key: plain(value) for key, value in values.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote; fields that are missing take their defaults.

        Raises:
            ConfigError: a field that this operation does not have, or a value that it cannot have.
        """
        fields = dataclasses.fields(cls)
        unset = dataclasses.MISSING
        needed = [f.name for f in fields if f.default is unset and f.default_factory is unset]
        given = fields_of(cls.__name__, values, [f.name for f in fields], needed=needed)
        if isinstance(given.get("where"), Mapping):
            given["where"] = Where.from_dict(given["where"])
        return cls(**given)


@dataclass(frozen=True)
class Inflate(Operation):
    """Convolutions become 3D ones that look over several frames; the others stay as they are, frame by frame.

    Args:
        mode: see :func:`vidzoo.layers.unit.inflate`. ``centre`` keeps the 2D network's answer to every frame, ``mean`` (I3D)
            that to a clip of one still picture, away from its ends.
        t_lengths: frames of the kernels, odd: one number, or one for each stage. 1 leaves the convolution 2D.
        where: which convolutions; all of them by default, the stem too.
        squeeze: ``joint`` lets squeeze-and-excitation take its mean over all frames of the clip, ``frame`` over each.
        time_padding: what lies in front of the first frame and behind the last. With ``replicate`` a still clip gets the same
            answer at its ends.
    """

    mode: Inflation = "centre"
    t_lengths: int | tuple[int, ...] = 1
    where: Where = field(default_factory=lambda: Where(stem=True))
    squeeze: Literal["frame", "joint"] = "frame"
    time_padding: Literal["zeros", "replicate"] = "zeros"

    def __post_init__(self) -> None:
        check_inflation(self.mode)
        _check_where("Inflate", self.where)
        lengths = self.t_lengths if isinstance(self.t_lengths, (tuple, list)) else (self.t_lengths,)
        for length in lengths:
            odd_length("Inflate.t_lengths", length)
        if not isinstance(self.t_lengths, int):
            object.__setattr__(self, "t_lengths", sequence("Inflate.t_lengths", lengths, int))
        choice("Inflate.squeeze", self.squeeze, ("frame", "joint"))
        choice("Inflate.time_padding", self.time_padding, ("zeros", "replicate"))


@dataclass(frozen=True)
class SwapConv(Operation):
    """Convolutions become a unit of a paper, started from their weights.

    Args:
        unit: gst, stdcf, reparam, p3d, r2plus1d, full or frame, see :data:`vidzoo.grafting.swap.UNITS`.
        where: by default every odd kernel over space but that of the stem: in ResNets the 3x3 ones.
        t_length: frames of the unit's kernel; a 3D kernel of several frames keeps its own.
        options: the unit's own, such as ``{"alpha": 0.5}``.
    """

    unit: str
    where: Where = field(default_factory=lambda: Where(kernels=SPACE))
    t_length: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.unit, str):
            raise ConfigError(f"SwapConv.unit is the name of a unit, got {self.unit!r}")
        _check_where("SwapConv", self.where)
        odd_length("SwapConv.t_length", self.t_length)
        object.__setattr__(self, "options", options_of("SwapConv.options", self.options))


@dataclass(frozen=True)
class InsertCTM(Operation):
    """CTM blocks behind blocks of the network, the identity at first.

    Args:
        after: names or patterns of the modules behind which they stand; None is ``blocks`` of them in one stage.
        stage: that stage; by default the last but one, res4 of a ResNet.
        blocks: how many, spread as :func:`vidzoo.models.ctm.ctm_places` spreads them. None is half as many as the stage has
            blocks, at most 3 (section 4.4 of the paper): 3 in ResNet-50, 1 in ResNet-18.
        reduction: see :class:`vidzoo.layers.ctm.CTMBlock`.
        paths: both paths of the block or one of them.
        img_size: side or (height, width) of the pictures that the kernels of the positions are made for; None is what the
            network was made for, or 224.
    """

    after: tuple[str, ...] | None = None
    stage: int = -2
    blocks: int | None = None
    reduction: int = 8
    paths: Literal["both", "tccm", "shared"] = "both"
    img_size: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.after is not None:
            object.__setattr__(self, "after", sequence("InsertCTM.after", self.after, str))
        whole("InsertCTM.stage", self.stage)
        if self.blocks is not None:
            whole("InsertCTM.blocks", self.blocks, least=1)
        whole("InsertCTM.reduction", self.reduction, least=1)
        if isinstance(self.img_size, (tuple, list)):
            height, width = side_lengths("InsertCTM.img_size", self.img_size)
            object.__setattr__(self, "img_size", (height, width))
        elif self.img_size is not None:
            whole("InsertCTM.img_size", self.img_size, least=1)
        choice("InsertCTM.paths", self.paths, ("both", "tccm", "shared"))


@dataclass(frozen=True)
class InsertSGS(Operation):
    """Similarity Guided Sampling behind a stage of a network that takes clips (ATFR).

    Args:
        after: number of the stage or name of a module; None is the paper's res2, see
            :meth:`vidzoo.grafting.hosts3d.Host3D.sample`.
        options: those of :func:`vidzoo.models.atfr.make_sampler`.
    """

    after: int | str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.after is not None and not isinstance(self.after, str):
            whole("InsertSGS.after, where it is no name of a module,", self.after)
        object.__setattr__(self, "options", options_of("InsertSGS.options", self.options))


@dataclass(frozen=True)
class InsertShift(Operation):
    """The temporal shift of TSM in front of convolutions; see :class:`vidzoo.grafting.insert.TemporalShift`.

    Args:
        where: which convolutions; None is the first of every block, the paper's residual shift.
        fold: 1 / fold of the channels move each way.
    """

    where: Where | None = None
    fold: int = 8

    def __post_init__(self) -> None:
        if self.where is not None:
            _check_where("InsertShift", self.where)
        whole("InsertShift.fold", self.fold, least=2)


@dataclass(frozen=True)
class ReplaceHead(Operation):
    """Another classifier, and how the frames of a folded network agree.

    Args:
        num_classes: None keeps the classifier that there is, 0 removes it.
        consensus: ``logits`` is the mean of what the head says of each frame, ``features`` what it says of the mean map.
        drop_rate: dropout in front of the classifier, in the place of the network's own: on each frame with ``logits``, on the
            clip with ``features``.
    """

    num_classes: int | None = None
    consensus: Literal["logits", "features"] = "logits"
    drop_rate: float = 0.0

    def __post_init__(self) -> None:
        choice("ReplaceHead.consensus", self.consensus, ("logits", "features"))
        if self.num_classes is not None:
            whole("ReplaceHead.num_classes", self.num_classes, least=0)
        share("ReplaceHead.drop_rate", self.drop_rate)


_OPERATIONS: Mapping[str, type[Operation]] = {
    kind.__name__: kind for kind in (Inflate, SwapConv, InsertCTM, InsertSGS, InsertShift, ReplaceHead)
}

Plan = str | Operation | Mapping[str, Any] | Sequence[Operation | Mapping[str, Any]]


def read_plan(plan: Plan) -> tuple[Operation, ...]:
    """The operations of a plan, however it is written.

    Raises:
        ConfigError: a name, operation or field that does not exist, with the nearest that does.
    """
    if isinstance(plan, str):
        if plan not in PLANS:
            raise ConfigError(f"there is no plan {plan!r}: {nearest(plan, PLANS)}")
        return PLANS[plan]
    items = [plan] if isinstance(plan, (Operation, Mapping)) else plan
    if not isinstance(items, Sequence):
        raise ConfigError(f"a plan is a name, an operation or a sequence of operations, got {plan!r}")
    return tuple(item if isinstance(item, Operation) else _read(item) for item in items)


def write_plan(operations: Sequence[Operation]) -> tuple[dict[str, Any], ...]:
    """The operations as plain JSON types.

    Raises:
        ConfigError: a predicate in one of them.
    """
    return tuple(operation.to_dict() for operation in operations)


def _check_where(operation: str, value: object) -> None:
    if not isinstance(value, Where):
        raise ConfigError(f"{operation}.where is a Where(...), in a file an object of its conditions, got {value!r}")


def _read(values: object) -> Operation:
    if not isinstance(values, Mapping) or "op" not in values:
        raise ConfigError(f'an operation is written {{"op": "SwapConv", ...}}, got {values!r}')
    name = values["op"]
    if not isinstance(name, str) or name not in _OPERATIONS:
        raise ConfigError(f"there is no operation {name!r}: {nearest(str(name), _OPERATIONS)}")
    return _OPERATIONS[name].from_dict({key: value for key, value in values.items() if key != "op"})


PLANS: Mapping[str, tuple[Operation, ...]] = {
    "frame": (Inflate(),),
    "inflate": (Inflate(t_lengths=3, where=Where(kernels=SPACE)),),
    "gst": (SwapConv("gst"),),
    "stdcf": (SwapConv("stdcf"),),
    "reparam": (SwapConv("reparam"),),
    "p3d": (SwapConv("p3d"),),
    "r2plus1d": (SwapConv("r2plus1d"),),
    "ctm": (InsertCTM(),),
    "sgs": (InsertSGS(),),
    "shift": (InsertShift(),),
}
"""Plans by name. ``frame`` grafts nothing: the frames' mean answer."""
