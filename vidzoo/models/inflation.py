"""ImageNet initialisation: a video ResNet that starts from a trained 2D one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError, WeightsError
from vidzoo.layers.conv import FullConv3d
from vidzoo.layers.ctm import CTMBlock
from vidzoo.layers.p3d import P3DConv3d
from vidzoo.layers.reparam import ReparamConv3d, identity_norm_
from vidzoo.layers.stdcf import STDCFConv3d
from vidzoo.layers.unit import Inflation, SpatioTemporalUnit, check_inflation
from vidzoo.loading import adapt_input_conv
from vidzoo.models.resnet import VideoResNet

__all__ = ["init_from_2d"]

_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@torch.no_grad()
def init_from_2d(model: VideoResNet, state_dict: Mapping[str, Tensor], *, mode: Inflation | None = None) -> list[str]:
    """Start ``model`` from a 2D ResNet of the same depth (torchvision's or timm's state dict), in place.

    1x1 convolutions, shortcuts and all batch norms are copied; a unit takes from the 2D kernel what its paper takes
    (GST: a slice for the spatial group, while the temporal one stays random), and the norm behind it where it holds
    that norm itself; the stem adapts to the model's input channels. The classifier is left alone. Source:
    ``resnet50()`` in the GST authors' GST.py.

    Args:
        mode: how kernels that take the whole filter are inflated, see :func:`vidzoo.layers.unit.inflate`; None leaves it
            to each of them. With ``centre`` the frames of a clip get what the 2D network gives them, with ``mean`` (I3D)
            those of a static clip away from its ends; ``repeat`` (IBM's code) needs training to mend its norms. Two only
            come near it: basic blocks of S3D and P3D, with a ReLU before the shortcut, and STDCF of fewer atoms than taps.

    Returns:
        The parameters that keep their random values, the classifier apart.

    Raises:
        WeightsError: keys are missing or left over, or shapes differ (a deep stem, another depth). Nothing is changed
            then.
        ConfigError: a mode that does not exist, or that a unit cannot take. No weight is changed then.
    """
    given = {
        key: value
        for key, value in state_dict.items()
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked")
    }
    convs = {name: m for name, m in _outermost(model) if isinstance(m, (nn.Conv3d, SpatioTemporalUnit))}
    norms = {name: m for name, m in _outermost(model) if isinstance(m, nn.BatchNorm3d)}
    holders = _norm_holders(convs)
    expected = {f"{name}.weight": _shape_2d(conv, name, model) for name, conv in convs.items()}
    widths = {name: norm.num_features for name, norm in norms.items()}
    widths.update({name: unit.out_channels for name, unit in holders.items()})
    for name, width in widths.items():
        expected.update({f"{name}.{part}": (width,) for part in _NORM_PARTS})

    stem = given.get("conv1.weight")
    if stem is not None and stem.ndim == 4 and stem.shape[1] != model.in_chans:
        given["conv1.weight"] = adapt_input_conv(stem, model.in_chans)
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    wrong = [
        f"{key} is {tuple(given[key].shape)}, expected {shape}"
        for key, shape in expected.items()
        if key in given and tuple(given[key].shape) != shape
    ]
    faults = [
        f"{len(keys)} {what}: {', '.join(keys[:10])}{' ...' if len(keys) > 10 else ''}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if keys
    ]
    if faults:
        raise WeightsError(f"this is not the state dict of a 2D ResNet-{model.depth}: {'; '.join(faults)}")

    if mode is not None:
        _set_inflation(convs, mode)
    added = [(name, m) for name, m in _outermost(model) if isinstance(m, CTMBlock)]
    random = [f"{name}.{part}" for name, block in added for part, _ in block.named_parameters()]
    for name, conv in convs.items():
        weight = given[f"{name}.weight"]
        if isinstance(conv, (SpatioTemporalUnit, FullConv3d)):
            conv.load_conv_(weight, None)
        else:
            conv.weight.copy_(weight.unsqueeze(2))
        if isinstance(conv, SpatioTemporalUnit):
            random += [f"{name}.{part}" for part in conv.random_after_load]
    for name, norm in norms.items():
        if name in holders:  # the trained norm goes into the unit, in front of this one
            identity_norm_(norm)
            continue
        for part in _NORM_PARTS:
            getattr(norm, part).copy_(given[f"{name}.{part}"])
    for name, unit in holders.items():
        unit.load_norm_(*(given[f"{name}.{part}"] for part in _NORM_PARTS))
    return random


def _outermost(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """Named modules without what lies inside a unit or an added block: no 2D network has either."""
    found = []
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        found.append((path, child))
        if not isinstance(child, (SpatioTemporalUnit, CTMBlock)):
            found += _outermost(child, f"{path}.")
    return found


def _norm_holders(convs: Mapping[str, nn.Module]) -> dict[str, ReparamConv3d | P3DConv3d]:
    """Units that hold the norm behind the trained convolution, by that norm's name in the 2D network."""
    found: dict[str, ReparamConv3d | P3DConv3d] = {}
    for name, conv in convs.items():
        inside = isinstance(conv, P3DConv3d) and conv.holds_norm
        if isinstance(conv, (P3DConv3d, ReparamConv3d)) and (inside or conv.last_norms()):
            found[name.replace("conv", "bn")] = conv
    return found


def _set_inflation(convs: Mapping[str, nn.Module], mode: Inflation) -> None:
    check_inflation(mode)
    units = [m for m in convs.values() if isinstance(m, (FullConv3d, ReparamConv3d, P3DConv3d, STDCFConv3d))]
    before = [unit.inflation for unit in units]
    try:
        for unit in units:
            unit.inflation = mode
    except ConfigError:
        for unit, old in zip(units, before, strict=True):
            unit.inflation = old
        raise


def _shape_2d(conv: nn.Conv3d | SpatioTemporalUnit, name: str, model: VideoResNet) -> tuple[int, ...]:
    in_channels = model.in_chans if name == "conv1" else conv.in_channels
    return (conv.out_channels, in_channels, *conv.kernel_size[-2:])
