"""SlowFast: one network for what is in the picture, at few frames, and a thin one for what moves, at many.

Paper: Feichtenhofer et al., "SlowFast Networks for Video Recognition", ICCV 2019, Table 1. Both pathways are ResNets of
bottlenecks. The slow one sees every alpha-th frame and looks over time in res4 and res5 only; the fast one sees all frames
with beta = 1/8 of the channels and looks over time in every block. After the stem and each stage but the last, a lateral
convolution with stride alpha brings the fast features to the slow rate (section 3.4). ``TxR`` in a name: the slow pathway
sees T frames, every R-th of the video. Same networks as pytorchvideo 0.1.5 (Apache-2.0); temporal kernels that the paper
does not print are those of PySlowFast's configs.

A sampler in each pathway (ATFR, CVPR 2021, appendix A) lets the pathways differ in length, from clip to clip too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidzoo.errors import ConfigError
from vidzoo.layers.conv import FrameConv3d, FullConv3d
from vidzoo.layers.ragged import lengths_of, mean_over_clip, plain, with_lengths
from vidzoo.models.base import FeatureInfo, VideoModel, check_rates
from vidzoo.models.fair import KINETICS_CFG, pyslowfast, pytorchvideo, something
from vidzoo.models.resnet import Bottleneck, ResNetOptions
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = [
    "FastToSlow",
    "PathwaySamplers",
    "SlowFast",
    "concat_ragged",
    "merge_pathways",
    "slowfast_r18_4x16",
    "slowfast_r18_8x8",
    "slowfast_r18_16x8",
    "slowfast_r50_4x16",
    "slowfast_r50_8x8",
    "slowfast_r50_16x8",
    "slowfast_r101_4x16",
    "slowfast_r101_8x8",
    "slowfast_r101_16x8",
]

Pair = tuple[Tensor, Tensor]
"""Features of the slow and of the fast pathway."""
Counts = tuple[int, int, int, int]
Lengths = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]

WIDTHS = (64, 128, 256, 512)  # inside a slow bottleneck; the stem has the first
BETA = 8  # the slow pathway has so many times the channels of the fast one
STEM_LENGTHS = (1, 5)
SLOW_LENGTHS: Lengths = ((1,), (1,), (3,), (3,))
FAST_LENGTHS: Lengths = ((3,), (3,), (3,), (3,))


class SlowFrames(nn.Module):
    """``(B, C, T, H, W)`` -> the slow pathway's ceil(T / alpha) frames from the first to the last, and all frames.

    Frame i of n is ``floor(i (T - 1) / (n - 1))``, as pytorchvideo's examples pick them.
    """

    def __init__(self, alpha: int) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Pair:
        frames = x.shape[2]
        count = -(-frames // self.alpha)
        index = torch.arange(count, device=x.device) * (frames - 1) // max(count - 1, 1)
        return x.index_select(2, index), x

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class FastToSlow(nn.Module):
    """Lateral connection: a convolution over time with stride alpha, whose 2C outputs join the slow channels.

    Section 3.4, "time-strided convolution"; PySlowFast adds the norm and the ReLU.

    Args:
        channels: C, of the fast pathway.
        length: odd temporal kernel.
        alpha: temporal stride; T frames give ceil(T / alpha).
    """

    def __init__(self, channels: int, *, length: int, alpha: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 2 * channels, (length, 1, 1), (alpha, 1, 1), (length // 2, 0, 0), bias=False)
        self.bn = nn.BatchNorm3d(2 * channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, pair: Pair) -> Pair:
        slow, fast = pair
        return concat_ragged(slow, self.relu(self.bn(self.conv(fast)))), fast


class PathwaySamplers(nn.Module):
    """A sampler for each pathway; each shortens its clips as it sees fit."""

    def __init__(self, slow: nn.Module, fast: nn.Module) -> None:
        super().__init__()
        self.slow = slow
        self.fast = fast

    def forward(self, pair: Pair) -> Pair:
        slow, fast = pair
        return self.slow(slow), self.fast(fast)


class SlowFast(VideoModel):
    """SlowFast over ``(B, in_chans, T, H, W)``, the frames of the fast pathway, any T >= 1 and any H, W.

    Stages hand on a pair (slow, fast). The maps of ``forward_features`` and ``forward_intermediates`` hold both, see
    :func:`merge_pathways`; the entries of ``feature_info`` name the fast half, which runs last.

    Args:
        counts: bottlenecks in each stage of either pathway.
        alpha: frames of the fast pathway for one of the slow.
        fusion_length: temporal kernel of the lateral convolutions. The paper has 5, PySlowFast 5 or 7.
        slow_lengths: temporal kernels of the bottlenecks' first convolution, one sequence per stage, repeated over its
            blocks.
        fast_lengths: the same for the fast pathway.
        num_frames: the length of clip that the model is meant for; the topology takes any.

    Raises:
        ConfigError: a rate outside [0, 1), an even temporal kernel, or alpha < 1.
    """

    def __init__(
        self,
        counts: Counts,
        *,
        alpha: int = 4,
        fusion_length: int = 5,
        slow_lengths: Lengths = SLOW_LENGTHS,
        fast_lengths: Lengths = FAST_LENGTHS,
        num_classes: int = 400,
        in_chans: int = 3,
        num_frames: int = 32,
        drop_rate: float = 0.5,
        drop_path_rate: float = 0.0,
        zero_init_last: bool = True,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans)
        check_rates(drop_rate, drop_path_rate)
        kernels = [fusion_length, *(n for stage in (*slow_lengths, *fast_lengths) for n in stage)]
        if alpha < 1 or any(length < 1 or length % 2 == 0 for length in kernels):
            raise ConfigError(
                f"SlowFast needs alpha >= 1 and odd temporal kernels, which keep the pathways aligned, got {alpha=}, "
                f"{fusion_length=}, {slow_lengths=}, {fast_lengths=}"
            )
        self.alpha = alpha
        self.num_frames = num_frames
        widths = (WIDTHS[0], *(width * Bottleneck.expansion for width in WIDTHS))  # that leave the stem and each stage
        thin = tuple(width // BETA for width in widths)
        self.num_features = widths[-1] + thin[-1]

        last = max(sum(counts) - 1, 1)
        rates = [drop_path_rate * index / last for index in range(sum(counts))]
        fused = [width + 2 * extra for width, extra in zip(widths, thin, strict=True)]
        self.pack = SlowFrames(alpha)
        self.slow = _pathway(in_chans, STEM_LENGTHS[0], WIDTHS, fused[:4], counts, slow_lengths, rates)
        inner = [width // BETA for width in WIDTHS]
        self.fast = _pathway(in_chans, STEM_LENGTHS[1], inner, thin[:4], counts, fast_lengths, rates)
        for stage in range(4):
            setattr(self, f"fuse{stage + 1}", FastToSlow(thin[stage], length=fusion_length, alpha=alpha))
        names = ("relu", "layer1", "layer2", "layer3", "layer4")
        self.feature_info = tuple(
            FeatureInfo(widths[i] + thin[i], reduction=2 ** (i + 1), t_reduction=alpha, module=f"fast.{name}")
            for i, name in enumerate(names)
        )
        self.dropout = nn.Dropout(drop_rate)
        self._init_weights(zero_init_last)
        self.fc = self.make_head(num_classes)

    def _init_weights(self, zero_init_last: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck) and zero_init_last:
                for norm in module.last_norms():
                    nn.init.zeros_(norm.weight)

    def _stages(self) -> Iterable[tuple[str, nn.Module]]:
        both = ("slow", "fast")
        names = ["pack", *(f"{path}.{part}" for part in ("conv1", "bn1", "relu", "maxpool") for path in both)]
        for number in (1, 2, 3, 4):
            names += [f"fuse{number}", *(f"{path}.layer{number}" for path in both)]
        for name in names:
            yield name, self.get_submodule(name)

    def _run(self, stage: nn.Module, x: Any) -> Any:
        if stage in self.slow.values():
            return super()._run(stage, x[0]), x[1]
        if stage in self.fast.values():
            return x[0], super()._run(stage, x[1])
        return super()._run(stage, x)

    def add_sampler(self, sampler: nn.Module, *, after: str, adaptive: bool = True) -> None:
        """As for every model, with a sampler for each pathway; in ATFR they stand after ``fast.layer1``.

        Where the pathways then differ in length, the shorter is padded with zeros at its end. ATFR leaves the side open;
        at the end, a clip's frames lie where they lie without batch mates. Norms that look at real frames only come from
        :func:`vidzoo.layers.ragged.honour_lengths`.

        Raises:
            ConfigError: not a :class:`PathwaySamplers`, no such stage, or the last.
        """
        if not isinstance(sampler, PathwaySamplers):
            raise ConfigError(
                f"SlowFast samples each pathway by itself: give PathwaySamplers(slow, fast), not {type(sampler).__name__}"
            )
        super().add_sampler(sampler, after=after, adaptive=adaptive)

    def _as_map(self, state: Pair) -> Tensor:
        return merge_pathways(*state)

    def _pool(self, features: Tensor) -> Tensor:
        return self.dropout(mean_over_clip(features))  # (B, 2304)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """``stem``, then one group per stage (``coarse``) or per block of both pathways, with what is fused into it."""
        blocks = (r"^(?:slow|fast)\.layer(\d+)" if coarse else r"^(?:slow|fast)\.layer(\d+)\.(\d+)", None)
        fusions = (r"^fuse(\d+)", None if coarse else (0,))
        return {"stem": r"^(?:slow|fast)\.(?:conv1|bn1)", "blocks": [blocks, fusions]}


def concat_ragged(slow: Tensor, lateral: Tensor) -> Tensor:
    """``(B, C, S, H, W)`` and ``(B, D, S', H, W)`` -> ``(B, C + D, max(S, S'), H, W)``.

    Where a clip is longer in one of the two, the other is zero from its own end on, and the clip has the greater length.
    """
    frames = max(slow.shape[2], lateral.shape[2])
    parts = [plain(x) for x in (slow, lateral)]
    fused = torch.cat([F.pad(x, (0, 0, 0, 0, 0, frames - x.shape[2])) if x.shape[2] < frames else x for x in parts], 1)
    if lengths_of(slow) is None and lengths_of(lateral) is None:
        return fused
    return with_lengths(fused, torch.maximum(_frames(slow), _frames(lateral)))


def merge_pathways(slow: Tensor, fast: Tensor) -> Tensor:
    """``(B, C, S, H, W)`` and ``(B, D, T, H, W)`` as one map ``(B, C + D, S, H, W)`` at the slow rate.

    A clip's fast frames are cut into as many equal parts as it has slow ones, and each part is averaged; a frame on a cut
    counts in both parts, for as much of it as lies there. So the mean of the map over a clip is each pathway's own mean,
    which is what SlowFast's head takes, whatever the two lengths are. T = alpha S: groups of alpha frames.
    """
    lengths = lengths_of(slow)
    steps, frames = slow.shape[2], fast.shape[2]
    if lengths is None and lengths_of(fast) is None and frames % steps == 0:
        parts = fast.unflatten(2, (steps, frames // steps)).mean(dim=3)
        return torch.cat([slow, parts], dim=1)
    dtype = torch.promote_types(fast.dtype, torch.float32)
    own, other = (_frames(x).to(dtype).clamp(min=1)[:, None, None] for x in (slow, fast))  # (B, 1, 1)
    cuts = torch.arange(steps + 1, device=fast.device)[:, None] * other / own  # (B, S + 1, 1), in fast frames
    frame = torch.arange(frames, device=fast.device)  # (T,)
    shared = (torch.minimum(cuts[:, 1:], frame + 1) - torch.maximum(cuts[:, :-1], frame)).clamp(min=0)  # (B, S, T)
    parts = torch.einsum("bst,bcthw->bcshw", (shared * own / other).to(fast.dtype), plain(fast))
    merged = torch.cat([plain(slow), parts], dim=1)
    return merged if lengths is None else with_lengths(merged, lengths)


def _frames(x: Tensor) -> Tensor:
    lengths = lengths_of(x)
    return torch.full((x.shape[0],), x.shape[2], device=x.device) if lengths is None else lengths


def _pathway(
    in_chans: int,
    stem_length: int,
    widths: Sequence[int],
    inputs: Sequence[int],
    counts: Counts,
    lengths: Lengths,
    rates: Sequence[float],
) -> nn.ModuleDict:
    """Stem and stages by torchvision's names; ``inputs``: channels that enter each stage; ``rates``: drop path per block."""
    t, width, rate = stem_length, widths[0], iter(rates)
    path = nn.ModuleDict(
        {
            "conv1": FullConv3d(in_chans, width, (t, 7, 7), (1, 2, 2), (t // 2, 3, 3), bias=False),
            "bn1": nn.BatchNorm3d(width),
            "relu": nn.ReLU(inplace=True),
            "maxpool": nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        }
    )
    for stage, (inplanes, planes) in enumerate(zip(inputs, widths, strict=True)):
        blocks = nn.Sequential()
        for position in range(counts[stage]):
            first = position == 0
            space = 2 if first and stage else 1
            blocks.append(
                Bottleneck(
                    inplanes if first else planes * Bottleneck.expansion,
                    planes,
                    FrameConv3d,
                    stride=(1, space, space),
                    conv1_length=lengths[stage][position % len(lengths[stage])],
                    drop_path=next(rate),
                )
            )
        path[f"layer{stage + 1}"] = blocks
    return path


def _cfgs(num_frames: int, file: str = "", top1: float = 0, top5: float = 0, fair: float = 0) -> dict[str, VideoCfg]:
    cfg = KINETICS_CFG.replace(
        num_frames=num_frames,
        temporal_stride=2,
        first_conv=("slow.conv1", "fast.conv1"),
        paper="SlowFast Networks for Video Recognition, ICCV 2019",
        origin_url="https://github.com/facebookresearch/SlowFast",
        source="Feichtenhofer et al., ICCV 2019",
    )
    if not file:
        return {"": cfg}
    cfgs = {"": cfg, "k400": pytorchvideo(cfg, f"kinetics/{file}.pyth", top1, top5)}
    if fair:
        cfgs["k400_fair"] = pyslowfast(cfg, f"model_zoo/kinetics400/{file}.pkl", fair)
    return cfgs


CFGS_8X8 = _cfgs(32, "SLOWFAST_8x8_R50", 76.94, 92.69, 77.0)
CFGS_8X8["ssv2"] = something(CFGS_8X8[""], "SLOWFAST_8x8_R50.pyth", 61.68, 86.92)
R18: Counts = (2, 2, 2, 2)  # of bottlenecks, which is what PySlowFast calls R18
R50: Counts = (3, 4, 6, 3)
R101: Counts = (3, 4, 23, 3)


@register_model(cfgs=_cfgs(32))
def slowfast_r18_4x16(**options: Unpack[ResNetOptions]) -> SlowFast:
    """SlowFast 4x16 with two bottlenecks per stage: 4 and 32 frames."""
    return SlowFast(R18, alpha=8, fusion_length=5, **options)


@register_model(cfgs=_cfgs(32))
def slowfast_r18_8x8(**options: Unpack[ResNetOptions]) -> SlowFast:
    """SlowFast 8x8 with two bottlenecks per stage: 8 and 32 frames."""
    return SlowFast(R18, alpha=4, fusion_length=7, **options)


@register_model(cfgs=_cfgs(64))
def slowfast_r18_16x8(**options: Unpack[ResNetOptions]) -> SlowFast:
    """SlowFast 16x8 with two bottlenecks per stage: the network of 8x8 on 16 and 64 frames (ATFR, Table 4)."""
    options.setdefault("num_frames", 64)
    return SlowFast(R18, alpha=4, fusion_length=7, **options)


@register_model(cfgs=_cfgs(32, "SLOWFAST_4x16_R50", 75.34, 91.89, 75.6))
def slowfast_r50_4x16(**options: Unpack[ResNetOptions]) -> SlowFast:
    """SlowFast 4x16 on ResNet-50: 4 and 32 frames, the network of the paper's Table 1."""
    return SlowFast(R50, alpha=8, fusion_length=5, **options)


@register_model(cfgs=CFGS_8X8)
def slowfast_r50_8x8(**options: Unpack[ResNetOptions]) -> SlowFast:
    """SlowFast 8x8 on ResNet-50: 8 and 32 frames; pytorchvideo's ``slowfast_r50``."""
    return SlowFast(R50, alpha=4, fusion_length=7, **options)


@register_model(cfgs=_cfgs(64))
def slowfast_r50_16x8(**options: Unpack[ResNetOptions]) -> SlowFast:
    """SlowFast 16x8 on ResNet-50: the network of 8x8 on 16 and 64 frames."""
    options.setdefault("num_frames", 64)
    return SlowFast(R50, alpha=4, fusion_length=7, **options)


@register_model(cfgs=_cfgs(32))
def slowfast_r101_4x16(**options: Unpack[ResNetOptions]) -> SlowFast:
    """SlowFast 4x16 on ResNet-101: 4 and 32 frames; no paper has it, it is 4x16 on ResNet-50 but deeper."""
    return SlowFast(R101, alpha=8, fusion_length=5, **options)


@register_model(cfgs=_cfgs(32, "SLOWFAST_8x8_R101", 77.90, 93.27))
def slowfast_r101_8x8(**options: Unpack[ResNetOptions]) -> SlowFast:
    """SlowFast 8x8 on ResNet-101: 8 and 32 frames; pytorchvideo's ``slowfast_r101``."""
    return SlowFast(R101, alpha=4, fusion_length=5, **options)


@register_model(cfgs=_cfgs(64, "SLOWFAST_16x8_R101_50_50", 78.70, 93.61))
def slowfast_r101_16x8(**options: Unpack[ResNetOptions]) -> SlowFast:
    """SlowFast 16x8 on ResNet-101: 16 and 64 frames; pytorchvideo's ``slowfast_16x8_r101_50_50``.

    Only the first six blocks of res4, as many as ResNet-50 has, look over time.
    """
    options.setdefault("num_frames", 64)
    res4 = (3,) * 6 + (1,) * 17
    slow: Lengths = (*SLOW_LENGTHS[:2], res4, SLOW_LENGTHS[3])
    fast: Lengths = (*FAST_LENGTHS[:2], res4, FAST_LENGTHS[3])
    return SlowFast(R101, alpha=4, fusion_length=5, slow_lengths=slow, fast_lengths=fast, **options)
