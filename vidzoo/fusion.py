"""``vidzoo.fuse``: a copy of a network for inference, with what training alone needs merged into its convolutions.

Branches become one convolution (Eq. 2 of the temporal filter analysis, footnote 1), atoms times coefficients a dense kernel
(STDCF, Eq. 2), and a batch norm right behind a convolution goes into that one's filters and bias. What stands behind what is
seen from a run, not from names, so that grafted networks of other libraries are fused like those of the zoo.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.grafting.adaptive import replace_module
from vidzoo.grafting.folded import OverTime
from vidzoo.grafting.grouped import GroupedGSTConv3d, GroupedP3DConv3d
from vidzoo.grafting.swap import refusal
from vidzoo.layers import GSTConv3d, P3DConv3d, ReparamConv3d, STDCFConv3d
from vidzoo.models.base import VideoModel

__all__ = ["fuse"]

_SIDE = 64
_FRAMES = 8
_BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True)
class _Pair:
    """A norm, and the module whose output it gets."""

    conv: str
    norm: str


@torch.no_grad()
def fuse(model: nn.Module, *, clip: Tensor | None = None) -> nn.Module:
    """An inference copy with the same outputs: branches merged, batch norms folded, atoms materialised.

    GST keeps its two groups and P3D its two convolutions, as one dense kernel would cost more. The norms of a network with a
    sampler stay, since they keep the padding of shorter clips zero. The copy is in evaluation mode and cannot be trained
    further or saved: save the model, and fuse what is loaded.

    Args:
        model: one of the zoo or a grafted one, or any network that takes ``(B, C, T, H, W)`` if a ``clip`` is given. It stays
            as it is.
        clip: ``(B, C, T, H, W)``, what to run it on; left out, noise of a size that it takes.

    Raises:
        ConfigError: another network without a clip, one on the meta device, or one that is not finite on the clip.
    """
    fused = copy.deepcopy(model).eval()
    if any(p.is_meta for p in fused.parameters()):
        raise ConfigError("a network on the meta device has no values that could be fused: load its weights first")
    if clip is None:
        clip = _clip(fused)
    expected = fused(clip)
    if not _finite(expected):
        raise ConfigError(
            f"{type(model).__name__} answers noise with NaN or infinite numbers: its weights cannot be fused"
        )
    _materialise(fused)
    return _folded(fused, _pairs(fused, clip), clip, expected)


def _clip(model: nn.Module) -> Tensor:
    if not isinstance(model, VideoModel):
        raise ConfigError(
            f"{type(model).__name__} is no model of the zoo: give clip=..., (B, C, T, H, W), as it takes it"
        )
    like = next(model.parameters())
    cfg = model.pretrained_cfg
    generator = torch.Generator().manual_seed(0)
    sizes = [(_FRAMES, _SIDE, _SIDE), (cfg.num_frames, *cfg.eval_crop_size)]
    for frames, height, width in sizes:
        clip = torch.randn(1, model.in_chans, frames, height, width, generator=generator).to(like)
        try:
            model(clip)
        except (RuntimeError, ValueError, AssertionError):  # a size that it was not made for
            continue
        return clip
    raise ConfigError(
        f"{type(model).__name__} takes no clip of {' or '.join(map(str, sizes))}: give clip=..., as it takes it"
    )


def _materialise(model: nn.Module) -> None:
    """One dense convolution for each unit that computes one from what it is trained in."""
    for name, unit in list(model.named_modules()):
        # A branch of a unit that is gone already may come along in this list.
        if isinstance(unit, (STDCFConv3d, ReparamConv3d)) and _is_there(model, name):
            replace_module(model, name, unit.to_conv3d().eval())


def _is_there(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _pairs(model: nn.Module, clip: Tensor) -> list[_Pair]:
    """Norms that got, once, exactly what one module gave, once."""
    gave: dict[int, tuple[str, Tensor, int]] = {}
    calls: dict[str, int] = {}
    found: list[_Pair] = []
    handles = []

    def leave(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(output, Tensor):
                gave[id(output)] = (name, output, output._version)

        return hook

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            conv, output, version = gave.get(id(args[0]), ("", None, 0))
            if output is args[0] and output._version == version:
                found.append(_Pair(conv, name))

        return hook

    for name, module in model.named_modules():
        if _is_norm(module):
            handles.append(module.register_forward_pre_hook(enter(name)))
        elif _outputs(module) is not None:
            handles.append(module.register_forward_hook(leave(name)))
    try:
        model(clip)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in found if calls[pair.conv] == calls[pair.norm] == 1]


def _is_norm(module: nn.Module) -> bool:
    """A batch norm with statistics and nothing before it; what it does behind the norm stands in its children."""
    if not isinstance(module, _BatchNorm) or module.running_mean is None or module.running_var is None:
        return False
    return type(module).forward is _BatchNorm.forward or _rest_of(module) is not None


def _rest_of(norm: nn.Module) -> nn.Module | None:
    """What a norm with an activation inside (timm has such) does behind the norm; None where its children do not tell."""
    if type(norm).forward is _BatchNorm.forward:
        return nn.Identity()
    rest = nn.Sequential(*(copy.deepcopy(child) for child in norm.children())).eval()
    if not len(rest):
        return None
    axes = 3 if isinstance(norm, nn.BatchNorm3d) else 2
    like: Tensor = norm.running_mean  # type: ignore[assignment]
    x = torch.linspace(-3, 3, 8 * len(like)).sin().mul(3).reshape(4, len(like), *(1,) * (axes - 1), 2).to(like)
    try:
        return rest if torch.allclose(norm(x), rest(_BatchNorm.forward(norm, x)), atol=1e-6) else None  # type: ignore[arg-type]
    except (RuntimeError, TypeError, ValueError):
        return None


def _outputs(module: nn.Module) -> list[nn.Conv2d | nn.Conv3d] | None:
    """The convolutions whose channels, one after the other, are the output of ``module``; None where it is none of these."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        return [module] if refusal(module, "full", name="") is None else None
    if isinstance(module, OverTime):
        return _outputs(module.layer)
    if isinstance(module, (GSTConv3d, GroupedGSTConv3d)):
        return [module.spatial, module.temporal]
    if isinstance(module, P3DConv3d):
        return [module.spatial] if module.time_first else _outputs(module.temporal)
    if isinstance(module, GroupedP3DConv3d):
        return _outputs(module.temporal)
    if isinstance(module, nn.Sequential) and len(module):
        return _outputs(module[-1])
    return None


def _folded(model: nn.Module, pairs: Sequence[_Pair], clip: Tensor, expected: Any) -> nn.Module:
    """Every pair folded; where the outputs tell that a convolution's output is also used elsewhere, those that can be."""
    whole = copy.deepcopy(model)
    for pair in pairs:
        _fold(whole, pair)
    if _same(whole(clip), expected):
        return whole
    for pair in pairs:
        trial = copy.deepcopy(model)
        _fold(trial, pair)
        if _same(trial(clip), expected):
            model = trial
    return model


def _fold(model: nn.Module, pair: _Pair) -> None:
    norm: Any = model.get_submodule(pair.norm)
    convs, rest = _outputs(model.get_submodule(pair.conv)), _rest_of(norm)
    if convs is None or rest is None or sum(conv.out_channels for conv in convs) != norm.num_features:
        return
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean.double() * scale
    shift = shift if norm.bias is None else shift + norm.bias
    start = 0
    for conv in convs:
        own = slice(start, start + conv.out_channels)
        start += conv.out_channels
        bias = shift[own] if conv.bias is None else shift[own] + conv.bias * scale[own]
        wide = conv.weight.double() * scale[own].reshape(-1, *(1,) * (conv.weight.ndim - 1))
        conv.weight = nn.Parameter(wide.to(conv.weight))
        conv.bias = nn.Parameter(bias.to(conv.weight))
    replace_module(model, pair.norm, rest)


def _finite(answer: Any) -> bool:
    return not isinstance(answer, Tensor) or bool(answer.isfinite().all())


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        rounding = torch.finfo(b.dtype).eps ** 0.5  # 3e-4 in single precision
        return a.shape == b.shape and bool((a - b).norm() <= rounding * b.norm())
    return all(_same(x, y) for x, y in zip(a, b, strict=True))
