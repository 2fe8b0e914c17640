"""STDCF: a ResNet whose 3x3x3 convolutions are atoms times coefficients, and what its two-stage learning needs.

Paper: Miao et al., "Spatiotemporal Joint Filter Decomposition in 3D Convolutional Neural Networks", NeurIPS 2021; no
code was published. Section 3.2.1: every 3x3 of a ResNet-50 is inflated to 3x3x3 and replaced, M = 6, N = 2. Its Table C
is not at hand: stem 1x7x7, pooling per frame and a whole time axis are those of the 2D network. Table 3 prints 18.5M
parameters, which cannot be had: by section 2.4 a layer with M N = 12 is larger than a 3x3 one, so the network must exceed
the 24.3M of a 2D ResNet-50 (it has 28.1M). The other depths are this project's.

Iterative two-stage learning (Algorithm 1) halves the size of the clips in space (stage t: :func:`freeze_atoms` "spatial",
temporal dilation 2), then in time (stage s: "temporal", spatial dilation 2); full-size clips are tested with both
dilations 2, see :func:`set_dilation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypedDict, Unpack

from torch import nn

from vidzoo.errors import ConfigError
from vidzoo.layers.stdcf import Mode, Order, STDCFConv3d
from vidzoo.layers.unit import UnitFactory
from vidzoo.models.base import VideoModel
from vidzoo.models.donors import imagenet
from vidzoo.models.i3d import from_ibm
from vidzoo.models.resnet import ResNetOptions, VideoResNet, layout
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import is_model, model_options, register_model

__all__ = [
    "AtomOptions",
    "STDCFOptions",
    "atom_unit",
    "freeze_atoms",
    "set_dilation",
    "stdcf_r18",
    "stdcf_r34",
    "stdcf_r50",
    "stdcf_r101",
]

# Section 3.2.1: 8 frames, every 8th of 64; short side 256, crop 224; tested on 10 clips of 3 crops at 256 pixels.
_BASE = VideoCfg(
    num_frames=8,
    sampling="dense",
    temporal_stride=8,
    num_clips=10,
    short_side=256,
    crop_size=(224, 224),
    test_crop_size=(256, 256),
    num_crops=3,
    paper="Spatiotemporal Joint Filter Decomposition in 3D Convolutional Neural Networks, NeurIPS 2021",
    source="Miao et al., NeurIPS 2021",
)


def _cfgs(depth: int) -> dict[str, VideoCfg]:
    decomposed = "decomposed into atoms, nearest in the sense of least squares."
    cfgs = {"": _BASE, **imagenet(_BASE, depth, f"kernels are inflated at their middle frame and {decomposed}")}
    return {**cfgs, **from_ibm(_BASE, depth, f"kernels are {decomposed}")} if depth in (50, 101) else cfgs


class AtomOptions(TypedDict, total=False):
    """Options of every network of STDCF units, as those of :class:`~vidzoo.layers.stdcf.STDCFConv3d`."""

    spatial_atoms: int
    temporal_atoms: int
    mode: Mode
    order: Order
    spatial_dilation: int
    temporal_dilation: int


class STDCFOptions(ResNetOptions, AtomOptions, total=False):
    """Options of the STDCF ResNets: those of every ResNet and those of the atoms.

    The paper leaves dropout open: none by default.
    """


def set_dilation(model: nn.Module, *, spatial: int | None = None, temporal: int | None = None) -> None:
    """Swap the atoms of every STDCF unit below ``model`` for dilated ones, in place (section 2.3); sizes stay.

    State dicts do not hold dilations. Those of a named network go to its ``model_args``, so that a saved one comes back
    with them.

    Args:
        spatial: factor for the spatial atoms, 2 for clips twice as large; None leaves them.
        temporal: factor for the temporal atoms, 2 for clips with twice as many frames; None leaves them.

    Raises:
        ConfigError: no STDCF unit there, or a dilation that its kernel cannot have.
    """
    units = list(_units(model))
    for unit in units:
        unit.set_dilation(spatial=spatial, temporal=temporal)
    if not isinstance(model, VideoModel):
        return
    name = model.pretrained_cfg.architecture
    known = model_options(name) if is_model(name) else {}
    given = {"spatial_dilation": spatial, "temporal_dilation": temporal}
    model.model_args.update({key: value for key, value in given.items() if value is not None and key in known})


def freeze_atoms(model: nn.Module, atoms: Literal["spatial", "temporal"] | None) -> None:
    """Take one kind of atoms of every STDCF unit below ``model`` out of training, and the other kind back into it.

    Args:
        atoms: ``spatial`` for stage t, which learns phi and alpha; ``temporal`` for stage s, which learns psi and alpha;
            None trains both. Nothing else in the model is touched: the paper leaves open whether norms and classifier
            learn in both stages.

    Raises:
        ConfigError: no STDCF unit there, or atoms that do not exist.
    """
    if atoms not in ("spatial", "temporal", None):
        raise ConfigError(f"atoms are 'spatial' or 'temporal', None freezes neither, got {atoms!r}")
    for unit in _units(model):
        for parameter, frozen in ((unit.psi, atoms == "spatial"), (unit.phi, atoms == "temporal")):
            parameter.requires_grad_(not frozen)
            if frozen:
                parameter.grad = None  # an optimiser would still apply what is left of the stage before


def _units(model: nn.Module) -> Iterator[STDCFConv3d]:
    units = [module for module in model.modules() if isinstance(module, STDCFConv3d)]
    if not units:
        raise ConfigError(f"{type(model).__name__} has no STDCF unit, so there are no atoms to change")
    return iter(units)


def atom_unit(options: Mapping[str, Any]) -> UnitFactory:
    """STDCF units with the atoms that ``options`` ask for; other options are passed over."""
    return partial(STDCFConv3d, **{key: value for key, value in options.items() if key in AtomOptions.__annotations__})


def without_atoms(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not those of the atoms."""
    return {key: value for key, value in options.items() if key not in AtomOptions.__annotations__}


def _stdcf(depth: int, options: STDCFOptions) -> VideoResNet:
    # The head is that of SlowFast (ICCV 2019), whose settings the paper follows: dropout on the mean of the clip.
    plan = replace(layout(depth), frame_head=False, head_std=0.01)
    return VideoResNet(plan, atom_unit(options), **without_atoms(options))


@register_model(cfgs=_cfgs(18))
def stdcf_r18(**options: Unpack[STDCFOptions]) -> VideoResNet:
    """STDCF on ResNet-18: both 3x3 convolutions of every block."""
    return _stdcf(18, options)


@register_model(cfgs=_cfgs(34))
def stdcf_r34(**options: Unpack[STDCFOptions]) -> VideoResNet:
    """STDCF on ResNet-34: both 3x3 convolutions of every block."""
    return _stdcf(34, options)


@register_model(cfgs=_cfgs(50))
def stdcf_r50(**options: Unpack[STDCFOptions]) -> VideoResNet:
    """STDCF on ResNet-50, the network of the paper's Kinetics and Something-Something experiments."""
    return _stdcf(50, options)


@register_model(cfgs=_cfgs(101))
def stdcf_r101(**options: Unpack[STDCFOptions]) -> VideoResNet:
    """STDCF on ResNet-101."""
    return _stdcf(101, options)
