"""ATFR: any network of this zoo, going on with as many frames as a clip has different ones.

Paper: Fayyaz et al., "3D CNNs with Adaptive Temporal Feature Resolutions", CVPR 2021. Similarity Guided Sampling stands
behind one stage of a host, res2 unless told otherwise (section 5.1; Table 6 compares the stem and res3); what follows
runs on B' <= B frames, norms and pools look at a clip's own frames only, and the head takes their mean. Costs are
``const + slope * B'``. The paper places the module behind the stage; the released code samples in front of the stage's
last ReLU, and so do these networks with ``released=True``.

The hosts are those of the paper. What it calls R(2+1)D costs what C2D with temporal pooling costs (``c2d_pool_*``); a
true R(2+1)D-50 is here beside it. Its "I3D" is the one of 3x1x1 kernels (``i3d_3x1x1_*``). SlowFast has two pathways
and its own file.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from torch import nn

from vidzoo.errors import ConfigError
from vidzoo.layers.attention import TemporalAttention
from vidzoo.layers.bins import Kernel, Similarity
from vidzoo.layers.ragged import honour_lengths
from vidzoo.layers.sgs import SimilarityGuidedSampling
from vidzoo.models.base import VideoModel
from vidzoo.models.c2d_pool import c2d_pool_r18, c2d_pool_r50
from vidzoo.models.donors import initialisation
from vidzoo.models.i3d_3x1x1 import i3d_3x1x1_r50
from vidzoo.models.r2plus1d import r2plus1d_r50
from vidzoo.models.resnet import BasicBlock, Bottleneck, ResNetOptions, VideoResNet
from vidzoo.models.resnet3d import resnet3d_18, resnet3d_50
from vidzoo.models.x3d import X3D, X3DOptions, x3d_l, x3d_m, x3d_s, x3d_xl
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import get_arch_pretrained_cfgs, get_pretrained_cfg, register_model

__all__ = [
    "SamplerChoices",
    "SamplerOptions",
    "SamplerSwitches",
    "before_last_relu",
    "c2d_pool_r18_atfr",
    "c2d_pool_r50_atfr",
    "i3d_r50_atfr",
    "make_sampler",
    "r2plus1d_r50_atfr",
    "resnet3d_18_atfr",
    "resnet3d_50_atfr",
    "sampled_cfgs",
    "x3d_l_atfr",
    "x3d_m_atfr",
    "x3d_s_atfr",
    "x3d_s_attention",
    "x3d_xl_atfr",
]

Host = TypeVar("Host", bound=VideoModel)
After = Literal["stem", "res2", "res3", "res4"]
PAPER = "3D CNNs with Adaptive Temporal Feature Resolutions, CVPR 2021"


class SamplerChoices(TypedDict, total=False):
    """Options of :class:`vidzoo.layers.sgs.SimilarityGuidedSampling` that samplers share wherever they stand."""

    embed_dim: int
    hidden: int
    activation: Literal["relu", "silu", "none"]
    kernel: Kernel
    similarity: Similarity
    order: Literal["magnitude", "time"]
    detach_range: bool
    straight_through: bool
    centre_largest: bool
    margin: float
    threshold: float
    static: Literal["keep", "literal"]


class SamplerSwitches(SamplerChoices, total=False):
    """What a network says of its samplers, bins and blocks apart.

    ``released``: the module of the authors' code rather than the paper's (hidden width C // 2, distance to the clip's
    mean, gradient through the range, a margin of 1e-7, in front of the stage's last ReLU). ``embed_norm``: batch norm on
    the embeddings, by default as in the authors' code; the paper does not mention it, but without it the frames of an
    untrained network are so much alike that nearly all of them share a bin.
    """

    released: bool
    embed_norm: bool


class SamplerOptions(SamplerSwitches, total=False):
    """Options of the sampler in a network; ``after``: the stage behind which it stands."""

    after: After
    bins: int | tuple[int, ...]
    block: int


class SampledX3DOptions(X3DOptions, SamplerOptions, total=False):
    """X3D's options and the sampler's."""


class SampledResNetOptions(ResNetOptions, SamplerOptions, total=False):
    """A ResNet's options and the sampler's."""


def make_sampler(
    channels: int,
    *,
    bins: int | tuple[int, ...] | None = None,
    block: int | None = None,
    released: bool = False,
    embed_norm: bool = True,
    **options: Unpack[SamplerChoices],
) -> SimilarityGuidedSampling:
    """The sampler over ``channels`` that :class:`SamplerOptions`, ``after`` apart, describe.

    Raises:
        ConfigError: an option outside its values.
    """
    if released:
        authors: SamplerChoices = {
            "similarity": "mean_distance",
            "hidden": max(channels // 2, 1),
            "detach_range": False,
            "margin": 1e-7,
            "threshold": 0.0,
        }
        options = {**authors, **options}
    return SimilarityGuidedSampling(channels, bins=bins, block=block, norm=embed_norm, **options)


def before_last_relu(stage: nn.Module, sampler: SimilarityGuidedSampling) -> None:
    """Let a stage's last ReLU wait for the sampler behind it, as in the authors' code; stages without one stay as they are."""
    last = next(reversed(list(stage.children())), None)
    if isinstance(last, (BasicBlock, Bottleneck)):
        last.last_relu, sampler.last_relu = False, True


def _place(model: Host, *, after: After = "res2", **options: Any) -> Host:
    module = _module(model, after)
    channels = next(info.num_chs for info in model.feature_info if info.module == module)
    sampler = make_sampler(channels, **options)
    if options.get("released"):
        before_last_relu(model.get_submodule(module), sampler)
    model.add_sampler(sampler, after="maxpool" if module == "relu" else module)
    honour_lengths(model)
    return model


def _sampled(host: Callable[..., Host], options: Mapping[str, Any]) -> Host:
    names = typing.get_type_hints(SamplerOptions)
    model = host(**{key: value for key, value in options.items() if key not in names})
    return _place(model, **{key: value for key, value in options.items() if key in names})


def _module(model: VideoModel, after: str) -> str:
    # The paper's stages by the names of ours; a ResNet's stem ends with its pooling, which keeps its channels.
    names = {"stem": model.feature_info[0].module, "res2": "layer1", "res3": "layer2", "res4": "layer3"}
    if after not in names:
        raise ConfigError(f"the sampler can stand after {', '.join(names)}, not {after!r}")
    return names[after]


def sampled_cfgs(host: str, *, what: str = "sampler", **changes: Any) -> dict[str, VideoCfg]:
    """How a host with a sampler is fed, and its weights with a fresh sampler: those of the host, by their tags."""
    base = get_pretrained_cfg(host).replace(paper=PAPER, source="Fayyaz et al., CVPR 2021", **changes)
    fresh = f"the {what} is random, from a fixed seed, and has to be trained."
    started = {
        tag: initialisation(cfg, base, f"{host}.{tag} of this zoo; {fresh}")
        for tag, cfg in get_arch_pretrained_cfgs(host).items()
        if cfg.donor
    }
    return {"": base, **started}


# Section 5.1: 32 frames, every second one.
_32X2: dict[str, Any] = {"num_frames": 32, "temporal_stride": 2}


@register_model(cfgs=sampled_cfgs("x3d_s"))
def x3d_s_atfr(**options: Unpack[SampledX3DOptions]) -> X3D:
    """X3D-S with adaptive temporal resolution."""
    return _sampled(x3d_s, options)


@register_model(cfgs=sampled_cfgs("x3d_m"))
def x3d_m_atfr(**options: Unpack[SampledX3DOptions]) -> X3D:
    """X3D-M with adaptive temporal resolution."""
    return _sampled(x3d_m, options)


@register_model(cfgs=sampled_cfgs("x3d_l"))
def x3d_l_atfr(**options: Unpack[SampledX3DOptions]) -> X3D:
    """X3D-L with adaptive temporal resolution."""
    return _sampled(x3d_l, options)


@register_model(cfgs=sampled_cfgs("x3d_xl"))
def x3d_xl_atfr(**options: Unpack[SampledX3DOptions]) -> X3D:
    """X3D-XL with adaptive temporal resolution."""
    return _sampled(x3d_xl, options)


@register_model(cfgs=sampled_cfgs("i3d_3x1x1_r50", **_32X2))
def i3d_r50_atfr(**options: Unpack[SampledResNetOptions]) -> VideoResNet:
    """I3D-50 of 3x1x1 kernels with adaptive temporal resolution, sampled before its temporal pooling."""
    return _sampled(i3d_3x1x1_r50, options)


@register_model(cfgs=sampled_cfgs("r2plus1d_r50", **_32X2))
def r2plus1d_r50_atfr(**options: Unpack[SampledResNetOptions]) -> VideoResNet:
    """R(2+1)D-50 with adaptive temporal resolution."""
    return _sampled(r2plus1d_r50, options)


@register_model(cfgs=sampled_cfgs("c2d_pool_r18", **_32X2))
def c2d_pool_r18_atfr(**options: Unpack[SampledResNetOptions]) -> VideoResNet:
    """C2D-18 with temporal pooling and adaptive temporal resolution: the cost of "R(2+1)D" in Table 4."""
    return _sampled(c2d_pool_r18, options)


@register_model(cfgs=sampled_cfgs("c2d_pool_r50", **_32X2))
def c2d_pool_r50_atfr(**options: Unpack[SampledResNetOptions]) -> VideoResNet:
    """C2D-50 with temporal pooling and adaptive temporal resolution: the cost of "R(2+1)D" in Table 7."""
    return _sampled(c2d_pool_r50, options)


@register_model(cfgs=sampled_cfgs("resnet3d_18"))
def resnet3d_18_atfr(**options: Unpack[SampledResNetOptions]) -> VideoResNet:
    """3DResNet-18 with adaptive temporal resolution."""
    return _sampled(resnet3d_18, options)


@register_model(cfgs=sampled_cfgs("resnet3d_50"))
def resnet3d_50_atfr(**options: Unpack[SampledResNetOptions]) -> VideoResNet:
    """3DResNet-50 with adaptive temporal resolution."""
    return _sampled(resnet3d_50, options)


@register_model(cfgs=sampled_cfgs("x3d_s", what="attention over time"))
def x3d_s_attention(**options: Unpack[X3DOptions]) -> X3D:
    """X3D-S with temporal attention in the place of the sampler, the comparison of Table A.6."""
    model = x3d_s(**options)
    model.add_sampler(TemporalAttention(model.feature_info[1].num_chs), after="layer1", adaptive=False)
    return model
