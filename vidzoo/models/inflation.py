"""A network of units that starts from a trained plain one: a 2D ResNet, or a 3D one of dense kernels of any length.

A plain network has one kernel where ours has a unit: each unit takes from it what its paper takes. Between two lengths
over time a kernel is lengthened by zeros, which changes nothing, or shortened by folding its outer frames into the
outermost ones that are kept, which changes nothing for a static clip away from its ends (:func:`fit_length`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidzoo.errors import ConfigError, WeightsError
from vidzoo.layers.conv import FullConv3d
from vidzoo.layers.ctm import CTMBlock
from vidzoo.layers.gst import GSTConv3d
from vidzoo.layers.p3d import P3DConv3d
from vidzoo.layers.reparam import MeanScaledConv3d, ReparamConv3d, identity_norm_
from vidzoo.layers.stdcf import STDCFConv3d
from vidzoo.layers.unit import Inflation, SpatioTemporalUnit, check_inflation, inflate, triple
from vidzoo.loading import adapt_input_conv
from vidzoo.models.base import VideoModel
from vidzoo.models.resnet import BasicBlock, VideoResNet

__all__ = ["PlainTwin", "StartReport", "fit_length", "init_from_2d", "list_faults"]

_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")
_ROUNDING = 1e-5
"""A kernel whose relative error is below this counts as kept."""


@dataclass(frozen=True)
class StartReport:
    """What a start from trained weights did.

    ``loaded``: how many of the trained tensors were taken. ``fresh``: keys of the model that kept the values that they had.
    ``approximated``: convolutions whose output is not the trained one's, each with the relative Frobenius error of its
    kernel, what is fresh in it counting as zero; 0 where the kernel is kept and a ReLU stands where there was none.
    """

    loaded: int
    fresh: tuple[str, ...] = ()
    approximated: tuple[tuple[str, float], ...] = ()


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
    twin = PlainTwin(model)
    given = twin.adapted({key: value for key, value in state_dict.items() if not key.startswith("fc.")})
    faults = twin.faults(given, flat=True)
    if faults:
        raise WeightsError(f"this is not the state dict of a 2D ResNet-{model.depth}: {'; '.join(faults)}")
    parameters = dict(model.named_parameters())
    return [key for key in twin.take_(given, mode=mode).fresh if key in parameters]


def fit_length(kernel: Tensor, length: int) -> Tensor:
    """``(O, I, t, k, k) -> (O, I, length, k, k)``: zeros on both sides, or outer frames added to the last that are kept.

    Longer is the same function on every clip. Shorter gives the same to a static clip, away from its ends.

    Raises:
        ConfigError: one length is odd and the other even, so that they have no common middle.
    """
    taps = kernel.shape[2]
    if (taps - length) % 2:
        raise ConfigError(f"a kernel of {taps} frames and one of {length} have no common middle")
    if taps <= length:
        side = (length - taps) // 2
        return F.pad(kernel, (0, 0, 0, 0, side, side)) if side else kernel
    side = (taps - length) // 2
    shorter = kernel.narrow(2, side, length).clone()
    shorter[:, :, 0] += kernel[:, :, :side].sum(dim=2)
    shorter[:, :, -1] += kernel[:, :, -side:].sum(dim=2)
    return shorter


def list_faults(missing: Sequence[str], unexpected: Sequence[str], wrong: Sequence[str]) -> list[str]:
    """How many there are of each, and which are the first."""
    return [
        f"{len(found)} {what}: {', '.join(found[:4])}{' ...' if len(found) > 4 else ''}"
        for what, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if found
    ]


class PlainTwin:
    """The network that ``model`` would be with one dense convolution in the place of each unit, by its keys.

    The classifier, a sampler and CTM blocks are not part of it.
    """

    def __init__(self, model: VideoModel) -> None:
        outer = _outermost(model)
        self.model = model
        self.convs = {name: m for name, m in outer.items() if isinstance(m, (nn.Conv3d, SpatioTemporalUnit))}
        self.norms = {name: m for name, m in outer.items() if isinstance(m, nn.BatchNorm3d)}
        self.holders = _norm_holders(self.convs)
        self.added = [name for name, m in outer.items() if _is_added(name, m)]

        self.expected = {f"{name}.weight": _flat_shape(conv) for name, conv in self.convs.items()}
        widths = {name: norm.num_features for name, norm in self.norms.items()}
        widths.update({name: unit.out_channels for name, unit in self.holders.items()})
        for name, width in widths.items():
            self.expected.update({f"{name}.{part}": (width,) for part in _NORM_PARTS})
        whole = [name for name, conv in self.convs.items() if isinstance(conv, SpatioTemporalUnit)]
        whole += [*self.norms, *self.added, model.head_name]
        for key, value in model.state_dict().items():
            if not key.startswith(tuple(f"{name}." for name in whole)):
                self.expected.setdefault(key, tuple(value.shape))

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``weights`` without counters of batches, the first convolution brought to the model's input channels."""
        given = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
        for name in self.model.pretrained_cfg.first_conv:
            key = next((f"{conv}.weight" for conv in self.convs if f"{name}.".startswith(f"{conv}.")), "")
            if key in given and given[key].ndim in (4, 5) and given[key].shape[1] != self.expected[key][1]:
                given[key] = adapt_input_conv(given[key], self.expected[key][1])
        return given

    def faults(self, given: Mapping[str, Tensor], *, flat: bool = False, partial: bool = False) -> list[str]:
        """What keeps ``given`` from starting the model, in words; nothing if it can.

        Args:
            flat: kernels must be 2D.
            partial: tensors may be missing.
        """
        missing = [key for key in self.expected if key not in given and not partial]
        unexpected = [key for key in given if key not in self.expected]
        wrong = [
            fault for key in self.expected if key in given for fault in [self._misfit(key, given[key], flat)] if fault
        ]
        return list_faults(missing, unexpected, wrong)

    def _misfit(self, key: str, value: Tensor, flat: bool) -> str:
        conv = self.convs.get(key.removesuffix(".weight"))
        shape = tuple(value.shape)
        over_time = conv is not None and not flat and value.ndim == 5
        if (*shape[:2], *shape[3:]) != self.expected[key] if over_time else shape != self.expected[key]:
            return f"{key} is {shape}, expected {self.expected[key]}"
        if not value.is_floating_point():
            return f"{key} holds {value.dtype}"
        if conv is None or not over_time or shape[2] == 1:
            return ""
        length = _length(conv)
        if (shape[2] - length) % 2:
            return f"{key} is {shape}, which has no middle frame in common with a kernel of {length}"
        if isinstance(conv, ReparamConv3d) and math.isinf(conv.eta) and length > 1:
            return f"{key} is {shape}, and a filter over time has a mean that eta=inf cannot hold"
        return ""

    @torch.no_grad()
    def take_(self, given: Mapping[str, Tensor], *, mode: Inflation | None = None) -> StartReport:
        """Put weights without :meth:`faults` into the model.

        Raises:
            ConfigError: as :func:`init_from_2d`; no weight is changed then.
        """
        if mode is not None:
            _set_inflation(self.convs.values(), mode)
        fresh = [key for name in self.added for key in self._keys(name)]
        approximated = []
        for name, conv in self.convs.items():
            weight = given.get(f"{name}.weight")
            if weight is None:
                fresh += self._keys(name) if isinstance(conv, SpatioTemporalUnit) else [f"{name}.weight"]
                continue
            weight = weight.to(next(conv.parameters()))
            _take_kernel_(conv, weight)
            if isinstance(conv, SpatioTemporalUnit):
                fresh += [f"{name}.{part}" for part in conv.random_after_load]
            error = _relative_error(_kept_kernel(conv), weight)
            if error > _ROUNDING or self._adds_relu(name, conv):
                approximated.append((name, error if error > _ROUNDING else 0.0))
        for name, norm in self.norms.items():
            if name in self.holders:  # the trained norm goes into the unit, in front of this one
                identity_norm_(norm)
        for name, unit in self.holders.items():
            parts = [given.get(f"{name}.{part}") for part in _NORM_PARTS]
            found = [part.to(next(unit.parameters())) for part in parts if part is not None]
            if len(found) == len(parts):
                unit.load_norm_(*found)
        own = self.model.state_dict()
        for key in self.expected:
            if key not in own or key.removesuffix(".weight") in self.convs or key.rpartition(".")[0] in self.holders:
                continue
            if key in given:
                own[key].copy_(given[key])
            else:
                fresh.append(key)
        return StartReport(sum(key in self.expected for key in given), tuple(fresh), tuple(approximated))

    def _keys(self, name: str) -> list[str]:
        inside = self.model.get_submodule(name).state_dict()
        return [f"{name}.{part}" for part in inside if not part.endswith("num_batches_tracked")]

    def _adds_relu(self, name: str, conv: nn.Module) -> bool:
        """Whether the unit has a ReLU behind the second convolution of a basic block, where a plain one has none."""
        if not isinstance(conv, P3DConv3d) or not conv.holds_norm:
            return False
        block, _, position = name.rpartition(".")
        return position == "conv2" and isinstance(self.model.get_submodule(block), BasicBlock)


def _outermost(model: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Modules by name, without what lies inside a unit, an added block or a sampler: no plain network has those."""
    found: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        found[path] = child
        if not isinstance(child, SpatioTemporalUnit) and not _is_added(path, child):
            found |= _outermost(child, f"{path}.")
    return found


def _is_added(name: str, module: nn.Module) -> bool:
    return name == "sampler" or isinstance(module, CTMBlock)


def _norm_holders(convs: Mapping[str, nn.Module]) -> dict[str, ReparamConv3d | P3DConv3d]:
    """Units that hold the norm behind the trained convolution, by that norm's name in the plain network."""
    found: dict[str, ReparamConv3d | P3DConv3d] = {}
    for name, conv in convs.items():
        inside = isinstance(conv, P3DConv3d) and conv.holds_norm
        if isinstance(conv, (P3DConv3d, ReparamConv3d)) and (inside or conv.last_norms()):
            found[name.replace("conv", "bn")] = conv
    return found


def _set_inflation(convs: Iterable[nn.Module], mode: Inflation) -> None:
    check_inflation(mode)
    units = [m for m in convs if isinstance(m, (FullConv3d, ReparamConv3d, P3DConv3d, STDCFConv3d))]
    before = [unit.inflation for unit in units]
    try:
        for unit in units:
            unit.inflation = mode
    except ConfigError:
        for unit, old in zip(units, before, strict=True):
            unit.inflation = old
        raise


def _flat_shape(conv: nn.Conv3d | SpatioTemporalUnit) -> tuple[int, ...]:
    inputs = conv.in_channels
    if isinstance(conv, nn.Conv3d) and not isinstance(conv, FullConv3d):
        inputs //= conv.groups  # a unit of groups takes its slices of a dense kernel; a plain grouped one is what it is
    _, height, width = triple(conv.kernel_size, "kernel_size")
    return conv.out_channels, inputs, height, width


def _length(conv: nn.Conv3d | SpatioTemporalUnit) -> int:
    return conv.kernel_size[0]


def _take_kernel_(conv: nn.Conv3d | SpatioTemporalUnit, weight: Tensor) -> None:
    length = _length(conv)
    if weight.ndim == 5 and weight.shape[2] == 1:
        weight = weight.squeeze(2)  # looks at one frame, as a 2D one does
    kernel = weight if weight.ndim == 4 else fit_length(weight, length)
    if isinstance(conv, (SpatioTemporalUnit, FullConv3d)):
        conv.load_conv_(kernel, None)
    else:
        conv.weight.copy_(kernel if kernel.ndim == 5 else inflate(kernel, length))


def _kept_kernel(conv: nn.Conv3d | SpatioTemporalUnit) -> Tensor:
    """The kernel that a unit has just taken, ``(C_out, C_in, t, k, k)``, with zeros for what is random in it."""
    if isinstance(conv, P3DConv3d):
        # The identity over channels looks over time alike in each of them.
        return conv.spatial.weight * _kept_kernel(conv.temporal)[0, 0]  # (C_out, C_in, 1, k, k) * (t, 1, 1)
    if isinstance(conv, STDCFConv3d):
        return conv.kernel()
    if isinstance(conv, ReparamConv3d):
        filters = [branch.filters() for branch in conv.branches if isinstance(branch, MeanScaledConv3d)]
        for index, norm in enumerate(conv.last_norms()):
            filters[index] = filters[index] * norm.weight[:, None, None, None, None]
        length = conv.kernel_size[0]
        kernel = filters[0].new_zeros(conv.out_channels, conv.in_channels, *conv.kernel_size)
        for one in filters:  # (C_out, C_in, tau, k, k), about the same middle frame
            kernel.narrow(2, (length - one.shape[2]) // 2, one.shape[2]).add_(one)
        return kernel
    if isinstance(conv, GSTConv3d):
        kernel = conv.spatial.weight.new_zeros(_flat_shape(conv)).unsqueeze(2)
        kernel[: conv.spatial_channels, : conv.spatial_in] = conv.spatial.weight
        return kernel
    if not isinstance(conv, nn.Conv3d):
        raise ConfigError(f"it is not known what a {type(conv).__name__} keeps of a trained kernel")
    if not isinstance(conv, FullConv3d) or conv.groups == 1:
        return conv.weight
    blocks = conv.weight.chunk(conv.groups)
    columns = conv.in_channels // conv.groups
    sides = [(g * columns, conv.in_channels - (g + 1) * columns) for g in range(conv.groups)]
    return torch.cat([F.pad(block, (*[0] * 6, *side)) for block, side in zip(blocks, sides, strict=True)])


def _relative_error(kept: Tensor, trained: Tensor) -> float:
    trained = trained.unsqueeze(2) if trained.ndim == 4 else trained
    length = max(kept.shape[2], trained.shape[2])
    lost = (fit_length(kept, length) - fit_length(trained, length)).norm()
    whole = trained.norm()
    return float(lost / whole) if whole > 0 else 0.0
