"""ATFR on SlowFast: each pathway goes on with as many frames as a clip has different ones.

Paper: Fayyaz et al., "3D CNNs with Adaptive Temporal Feature Resolutions", CVPR 2021, section 5.1 and appendix A. A
sampler stands in each pathway behind res2 and before the lateral connection; where the pathways then differ in
length, the shorter is padded with zeros. For Something-Something V2 the paper samples 64 frames in blocks,
``slow_block=2, fast_block=8``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from vidzoo.layers.ragged import honour_lengths
from vidzoo.models.atfr import SamplerSwitches, before_last_relu, make_sampler, sampled_cfgs
from vidzoo.models.resnet import Bottleneck, ResNetOptions
from vidzoo.models.slowfast import (
    BETA,
    WIDTHS,
    PathwaySamplers,
    SlowFast,
    slowfast_r18_8x8,
    slowfast_r50_4x16,
    slowfast_r50_8x8,
)
from vidzoo.registry import register_model

__all__ = ["SampledSlowFastOptions", "slowfast_r18_8x8_atfr", "slowfast_r50_4x16_atfr", "slowfast_r50_8x8_atfr"]


class SampledSlowFastOptions(ResNetOptions, SamplerSwitches, total=False):
    """A SlowFast's options and those of its samplers; bins and blocks are set for each pathway."""

    slow_bins: int | tuple[int, ...]
    fast_bins: int | tuple[int, ...]
    slow_block: int
    fast_block: int


def _sampled(host: Callable[..., SlowFast], options: Mapping[str, Any]) -> SlowFast:
    both = {key: value for key, value in options.items() if key in SamplerSwitches.__annotations__}
    one = {key: value for key, value in options.items() if key.startswith(("slow_", "fast_"))}
    model = host(**{key: value for key, value in options.items() if key not in both and key not in one})
    slow = WIDTHS[0] * Bottleneck.expansion
    samplers = []
    for pathway, channels in (("slow_", slow), ("fast_", slow // BETA)):
        own = {key.removeprefix(pathway): value for key, value in one.items() if key.startswith(pathway)}
        sampler = make_sampler(channels, **both, **own)
        if both.get("released"):
            before_last_relu(model.get_submodule(f"{pathway.removesuffix('_')}.layer1"), sampler)
        samplers.append(sampler)
    model.add_sampler(PathwaySamplers(*samplers), after="fast.layer1")
    honour_lengths(model)
    return model


@register_model(cfgs=sampled_cfgs("slowfast_r18_8x8"))
def slowfast_r18_8x8_atfr(**options: Unpack[SampledSlowFastOptions]) -> SlowFast:
    """SlowFast 8x8 with two bottlenecks per stage and adaptive temporal resolution."""
    return _sampled(slowfast_r18_8x8, options)


@register_model(cfgs=sampled_cfgs("slowfast_r50_4x16"))
def slowfast_r50_4x16_atfr(**options: Unpack[SampledSlowFastOptions]) -> SlowFast:
    """SlowFast 4x16 on ResNet-50 with adaptive temporal resolution."""
    return _sampled(slowfast_r50_4x16, options)


@register_model(cfgs=sampled_cfgs("slowfast_r50_8x8"))
def slowfast_r50_8x8_atfr(**options: Unpack[SampledSlowFastOptions]) -> SlowFast:
    """SlowFast 8x8 on ResNet-50 with adaptive temporal resolution."""
    return _sampled(slowfast_r50_8x8, options)
