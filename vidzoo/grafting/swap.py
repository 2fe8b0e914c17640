"""A trained convolution becomes a unit of :mod:`vidzoo.layers`, with whatever of its function the unit can keep.

A 2D kernel, and a 3D one of a single frame, gets a time axis of ``t_length`` frames; another 3D one keeps its own. What a
unit cannot stand for is refused in a sentence that names the module: R(2+1)D mixes all channels over time, so it takes no
grouped convolution; what splits a kernel into space and time takes none that looks over one of them only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vidzoo.errors import ConfigError, nearest
from vidzoo.grafting.grouped import GroupedGSTConv3d, GroupedP3DConv3d, GroupedReparamConv3d, GroupedSTDCFConv3d
from vidzoo.layers import FrameConv3d, FullConv3d, GSTConv3d, P3DConv3d, ReparamConv3d, STDCFConv3d

__all__ = ["UNITS", "SamePad", "Swap", "is_plain_norm", "refusal", "relative_change", "takes_norm", "unit_for"]

Conv = nn.Conv2d | nn.Conv3d
Triple = tuple[int, int, int]


class Swap(Protocol):
    """What to put in: a name of :data:`UNITS`, the frames of a kernel that has one or none, options of the unit."""

    @property
    def unit(self) -> str: ...

    @property
    def t_length(self) -> int: ...

    @property
    def options(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class _Unit:
    """``build``: ungrouped, by keywords; ``grouped``: the same in groups, None where there is none."""

    build: Callable[..., nn.Module]
    grouped: Callable[..., nn.Module] | None
    needs_space: bool
    fixed: Mapping[str, Any]


UNITS: Mapping[str, _Unit] = {
    "gst": _Unit(GSTConv3d, GroupedGSTConv3d, True, {}),
    "stdcf": _Unit(STDCFConv3d, GroupedSTDCFConv3d, True, {}),
    "reparam": _Unit(ReparamConv3d, GroupedReparamConv3d, False, {}),
    "p3d": _Unit(P3DConv3d, GroupedP3DConv3d, True, {}),
    "r2plus1d": _Unit(P3DConv3d, None, True, {"norm": True, "time_first": True}),
    "full": _Unit(FullConv3d, FullConv3d, False, {}),
    "frame": _Unit(FrameConv3d, FullConv3d, False, {}),
}
"""The units that a convolution can become, by the names of a plan."""


class SamePad(nn.Module):
    """Zeros around height and width as TensorFlow's "SAME" has them: ``ceil(size / stride)`` positions, the odd one last.

    How many depends on the size of the map: ``(..., H, W)``.
    """

    def __init__(self, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation = kernel, stride, dilation

    def forward(self, x: Tensor) -> Tensor:
        height, width = (
            max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            for size, k, s, d in zip(x.shape[-2:], self.kernel, self.stride, self.dilation, strict=True)
        )
        if not height and not width:
            return x
        return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}, dilation={self.dilation}"


def unit_for(conv: Conv, op: Swap, *, name: str, norm: nn.Module | None = None) -> nn.Module:
    """The unit in the place of ``conv``: ``(B, C_in, T, H, W) -> (B, C_out, T', H', W')``, started from its weights.

    Args:
        op: the unit and its options; :class:`vidzoo.grafting.plan.SwapConv` is one.
        name: the module's name in its network, for messages.
        norm: the batch norm right behind ``conv``, for units that take it over (:func:`takes_norm`): put ``nn.Identity``
            in its place then. Without it such a unit is built without norms, and the network's own stays.

    Raises:
        ConfigError: the unit cannot stand for this convolution, or an option that it does not have.
    """
    why = refusal(conv, op.unit, name=name)
    if why is not None:
        raise ConfigError(why)
    kind = UNITS[op.unit]
    options = _options(op.unit, dict(op.options), grouped=conv.groups > 1, norm=norm is not None)
    kernel, stride, padding, dilation, pad = _arguments(conv, op.t_length, name)
    biased = conv.bias is not None and norm is None  # in front of a norm a bias only moves its mean
    arguments = (conv.in_channels, conv.out_channels, kernel, stride, padding, dilation, biased)
    try:
        if conv.groups == 1:
            unit = kind.build(*arguments, **options)
        elif op.unit == "frame":
            if 2 * padding[0] != dilation[0] * (kernel[0] - 1):
                raise ConfigError("a frame-wise convolution needs a temporal padding that keeps the frames aligned")
            flat = (conv.in_channels, conv.out_channels, (1, *kernel[1:]), stride, (0, *padding[1:]), dilation)
            unit = FullConv3d(*flat, bias=biased, groups=conv.groups)
        else:
            unit = _grouped(kind)(*arguments, groups=conv.groups, **options)
        unit = unit.to(conv.weight)
        _load(unit, conv, op.unit, biased=biased)
        if norm is not None:
            _take_over(unit, norm, conv.bias)
    except ConfigError as error:
        raise ConfigError(f"{name} cannot become a {op.unit} unit: {error}") from error
    unit.train(conv.training)
    return unit if pad is None else nn.Sequential(pad, unit)


def refusal(conv: Conv, unit: str, *, name: str) -> str | None:
    """Why ``conv`` cannot become such a unit, in one sentence that names it; None where it can.

    Raises:
        ConfigError: no such unit.
    """
    if unit not in UNITS:
        raise ConfigError(f"there is no unit {unit!r}: {nearest(unit, UNITS)}")
    kind = UNITS[unit]
    if not isinstance(conv, (nn.Conv2d, nn.Conv3d)):
        return f"{name} is a {type(conv).__name__}: only convolutions over pictures or clips become units"
    if parametrize.is_parametrized(conv) or conv._forward_pre_hooks or conv._forward_hooks:
        return f"{name} computes its weight or output through a parametrisation or a hook, which a unit would drop"
    if conv.padding_mode != "zeros":
        return f"{name} is padded by padding_mode={conv.padding_mode!r}: units pad with zeros, leave it out with exclude=..."
    if _padding_of(conv) == "unknown":
        return (
            f"{name} is a {type(conv).__name__}, which is more than a convolution with its own weight: leave it out with "
            "exclude=..."
        )
    shape = "x".join(str(size) for size in conv.kernel_size)
    if conv.groups > 1 and kind.grouped is None:
        form = "depthwise" if conv.groups == conv.in_channels else "grouped"
        return (
            f"{name} is a {form} convolution (groups={conv.groups}) and the {unit} unit mixes all channels over time: leave it "
            "out with exclude=..., or take unit='p3d', 'full', 'reparam', 'gst' or 'stdcf'"
        )
    if kind.needs_space and max(conv.kernel_size[-2:]) == 1:
        return (
            f"{name} has a kernel of {shape}, which does not look over space, and the {unit} unit splits space from time: "
            "leave it out with exclude=..., or take unit='full' or 'reparam'"
        )
    return None


def takes_norm(op: Swap) -> bool:
    """Whether the unit has norms in the place of the one behind the convolution (Eq. 2 of the regularised branches)."""
    return op.unit == "reparam" and bool(op.options.get("norm", True))


def is_plain_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a batch norm and nothing else, whose statistics and scales a unit can take over."""
    return (
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        and type(module).forward is nn.modules.batchnorm._BatchNorm.forward
        and module.affine
        and module.running_mean is not None
    )


@torch.no_grad()
def relative_change(old: nn.Module, new: nn.Module, x: Tensor) -> float:
    """How far the outputs of ``new`` are from those of ``old``: norm of the difference over the norm of the old outputs.

    Args:
        old: 2D or 3D.
        new: 5-D.
        x: what ``old`` takes; the first axis of a 4-D one is time, the frames of one clip.
    """
    modes = old.training, new.training
    old.eval(), new.eval()
    try:
        before = old(x)
        after = new(x) if x.ndim == 5 else new(x.transpose(0, 1)[None])[0].transpose(0, 1)
    finally:
        old.train(modes[0]), new.train(modes[1])
    if before.shape != after.shape:
        raise ConfigError(
            f"the unit gives {tuple(after.shape)}, the convolution in whose place it is {tuple(before.shape)}"
        )
    whole = before.double().norm()
    return float((after.double() - before.double()).norm() / whole) if whole else float(after.double().norm())


def _options(unit: str, options: dict[str, Any], *, grouped: bool, norm: bool) -> dict[str, Any]:
    kind = UNITS[unit]
    build = _grouped(kind) if grouped else kind.build
    known = [
        key
        for key, parameter in inspect.signature(build).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and key not in (*kind.fixed, "groups")
    ]
    if unit == "frame":
        known = []
    for key in options:
        if key not in known:
            hint = "the length of the kernel is t_length" if key == "temporal_kernel" else nearest(key, known)
            raise ConfigError(f"the {unit} unit{' in groups' if grouped else ''} has no option {key!r}: {hint}")
    given = {**kind.fixed, **options}
    # Without a norm to take over, norms of its own come only to those who ask for them.
    return {**given, "norm": norm or options.get("norm", False)} if unit == "reparam" else given


def _grouped(kind: _Unit) -> Callable[..., nn.Module]:
    if kind.grouped is None:
        raise ConfigError("this unit has no form in groups")
    return kind.grouped


def _load(unit: Any, conv: Conv, name: str, *, biased: bool) -> None:
    weight = conv.weight.detach()
    if weight.ndim == 5 and weight.shape[2] == 1 and name != "frame":
        weight = weight.squeeze(2)  # a kernel of one frame is a 2D one, to be inflated
    if weight.ndim == 5 and name == "frame" and conv.groups > 1:
        weight = weight.sum(dim=2)
    unit.load_conv_(weight, conv.bias.detach() if biased and conv.bias is not None else None)


def _take_over(unit: nn.Module, norm: nn.Module, bias: Tensor | None) -> None:
    if not isinstance(unit, ReparamConv3d) or not is_plain_norm(norm):
        raise ConfigError("only the regularised branches take over a norm, and only a plain batch norm with statistics")
    trained: Any = norm
    for own in unit.last_norms():
        own.eps, own.momentum = trained.eps, trained.momentum
    mean = trained.running_mean if bias is None else trained.running_mean - bias.detach()
    unit.load_norm_(trained.weight.detach(), trained.bias.detach(), mean, trained.running_var)


def _arguments(conv: Conv, t_length: int, name: str) -> tuple[Triple, Triple, Triple, Triple, nn.Module | None]:
    """Kernel, stride, padding and dilation over (time, height, width), and what pads in front where numbers cannot."""
    kind = _padding_of(conv)
    space = (conv.kernel_size[-2:], conv.stride[-2:], conv.dilation[-2:])
    pad: nn.Module | None = None
    over: tuple[int, ...]
    if kind == "same":
        over = tuple(d * (k - 1) // 2 for k, _, d in zip(*space, strict=True))
        if any(s != 1 or d * (k - 1) % 2 for k, s, d in zip(*space, strict=True)):
            over, pad = (0, 0), SamePad(*(tuple(sizes) for sizes in space))  # type: ignore[arg-type]
    elif isinstance(conv.padding, str):
        over = (0, 0)
    else:
        over = tuple(conv.padding[-2:])
    if isinstance(conv, nn.Conv3d):
        t, st, dt = conv.kernel_size[0], conv.stride[0], conv.dilation[0]
        pt = conv.padding[0] if not isinstance(conv.padding, str) else (dt * (t - 1) // 2 if kind == "same" else 0)
        if kind == "same" and dt * (t - 1) % 2:
            raise ConfigError(f"{name} has an even temporal kernel ({t}) padded to the same length, which no unit is")
    else:
        t, st, dt, pt = 1, 1, 1, 0
    if t == 1:
        if t_length < 1 or t_length % 2 == 0:
            raise ConfigError(f"a kernel over time has an odd number of frames, got t_length={t_length!r} for {name}")
        t, dt, pt = t_length, 1, pt + t_length // 2
    (kh, kw), (sh, sw), (dh, dw) = space
    return (t, kh, kw), (st, sh, sw), (pt, *over), (dt, dh, dw), pad  # type: ignore[return-value]


def _padding_of(conv: Conv) -> str:
    """ "number", "same", "valid", or "unknown" for a subclass that computes something else than a convolution.

    A subclass with a forward pass of its own is told by what it computes on two maps of odd and even size.
    """
    base = nn.Conv2d if isinstance(conv, nn.Conv2d) else nn.Conv3d
    if type(conv).forward is base.forward and type(conv)._conv_forward is base._conv_forward:
        return conv.padding if isinstance(conv.padding, str) else "number"
    if isinstance(conv, nn.Conv3d) or conv.weight.is_meta:
        return "unknown"
    with torch.no_grad():
        pad = SamePad(conv.kernel_size, conv.stride, conv.dilation)  # type: ignore[arg-type]
        least = max(d * (k - 1) + 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True))
        found = {"number", "same"} if not isinstance(conv.padding, str) else {"same"}
        for size in (least + 3, least + 4):
            x = torch.linspace(-1, 1, conv.in_channels * size * size).sin().reshape(1, -1, size, size).to(conv.weight)
            out = conv(x)
            rest = (conv.weight, conv.bias, conv.stride)
            plain = F.conv2d(x, *rest, conv.padding, conv.dilation, conv.groups) if "number" in found else None
            same = F.conv2d(pad(x), *rest, 0, conv.dilation, conv.groups)
            found -= {"number"} if plain is not None and not _close(out, plain) else set()
            found -= {"same"} if not _close(out, same) else set()
    return "number" if "number" in found else "same" if "same" in found else "unknown"


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
