"""R3D, MC3 and R(2+1)D: ResNets whose groups of layers convolve over space and time, over space, or over one, then the other.

Paper: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018. A (2+1)D
convolution is 1xdxd into M channels, batch norm, ReLU, tx1x1, with (section 3.5) M = floor(t d d N_in N_out /
(d d N_in + t N_out)), so that it has as many parameters as the 3D one. The stem strides over space alone and nothing is
pooled before the head; each later stage halves the map, and the number of frames where it looks over time.

Parameters, keys and outputs are those of torchvision's ``r3d_18``, ``mc3_18`` and ``r2plus1d_18`` (BSD-3-Clause): its files
load as they are. ``r2plus1d_34`` has the 63.7M parameters that STDCF (NeurIPS 2021) and ATFR (CVPR 2021) print.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, Unpack, get_args

from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.drop import DropPath
from vidzoo.layers.ragged import mean_over_clip
from vidzoo.models.base import FeatureInfo, VideoModel, check_rates
from vidzoo.models.donors import IG65M, TORCHVISION, k400
from vidzoo.models.resnet import ResNetOptions
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = ["TORCHVISION_CFG", "MixedBlock", "MixedResNet", "mc3_18", "r2plus1d_18", "r2plus1d_34", "r3d_18"]

Kind = Literal["2d", "3d", "2+1d"]
"""How a group of layers convolves: 1x3x3, 3x3x3, or 1x3x3 and then 3x1x1."""

WIDTHS = (64, 128, 256, 512)
COUNTS = (2, 2, 2, 2)  # blocks per stage
STEM_MIDDLE = 45  # of the authors' code (facebookresearch/VMZ, r3d_model.py); the formula gives 83


class MixedBlock(nn.Module):
    """Two convolutions of one kind and a shortcut.

    Args:
        stride: ``(time, height, width)`` of the first convolution.
        exact_middle: as for :class:`MixedResNet`.
        drop_path: probability of dropping the residual branch of a clip in training.
    """

    def __init__(
        self,
        kind: Kind,
        inplanes: int,
        planes: int,
        *,
        stride: tuple[int, int, int] = (1, 1, 1),
        exact_middle: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        middle = _middle(inplanes, planes)
        self.conv1 = nn.Sequential(
            _conv(kind, inplanes, planes, middle=middle, stride=stride), nn.BatchNorm3d(planes), nn.ReLU(inplace=True)
        )
        middle = _middle(planes, planes) if exact_middle else middle
        self.conv2 = nn.Sequential(_conv(kind, planes, planes, middle=middle), nn.BatchNorm3d(planes))
        self.relu = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample = (
            nn.Sequential(nn.Conv3d(inplanes, planes, 1, stride=stride, bias=False), nn.BatchNorm3d(planes))
            if inplanes != planes
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv2(self.conv1(x))
        return self.relu(self.drop_path(x) + shortcut)


class MixedResNet(VideoModel):
    """ResNet of two-layer blocks over ``(B, in_chans, T, H, W)``, any T >= 1 and any H, W; logits ``(B, num_classes)``.

    Args:
        kinds: how the stem and the four stages convolve, the paper's conv1 to conv5_x. MCx and rMCx of its section 3 are
            ``3d`` before group x and ``2d`` from there on, and the other way round.
        counts: blocks of each stage.
        stem_middle: width between space and time in a (2+1)D stem.
        stem_pool: a maximum over 3x3 positions with stride 2 behind the stem, which the paper does not have.
        exact_middle: give each (2+1)D convolution the middle width of its own channels, as the paper and its authors'
            code do. torchvision takes the width of a block's first convolution for both, which is less where the block
            widens; its weights need False.
        num_frames: the length of clip that the model is meant for; the topology takes any.
        zero_init_last: residual branches start at zero.

    Raises:
        ConfigError: not five kinds that exist, or a rate outside [0, 1).
    """

    num_features = WIDTHS[-1]

    def __init__(
        self,
        kinds: Sequence[Kind],
        *,
        counts: tuple[int, int, int, int] = COUNTS,
        stem_middle: int = STEM_MIDDLE,
        stem_pool: bool = False,
        exact_middle: bool = False,
        num_classes: int = 400,
        in_chans: int = 3,
        num_frames: int = 16,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_last: bool = False,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans)
        check_rates(drop_rate, drop_path_rate)
        if len(kinds) != 5 or any(kind not in get_args(Kind) for kind in kinds):
            raise ConfigError(f"give five of {', '.join(get_args(Kind))} (stem, four stages), not {kinds!r}")
        self.num_frames = num_frames
        stem = _conv(kinds[0], in_chans, WIDTHS[0], middle=stem_middle, size=7, stride=(1, 2, 2))
        self.stem = nn.Sequential(
            *(stem if isinstance(stem, nn.Sequential) else [stem]), nn.BatchNorm3d(WIDTHS[0]), nn.ReLU(inplace=True)
        )
        self.maxpool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)) if stem_pool else nn.Identity()
        self.feature_info = (FeatureInfo(WIDTHS[0], 2, 1, f"stem.{len(self.stem) - 1}"),)

        inplanes, index, last, t_reduction = WIDTHS[0], 0, max(sum(counts) - 1, 1), 1
        for stage, (kind, planes) in enumerate(zip(kinds[1:], WIDTHS, strict=True)):
            space = 2 if stage else 1
            time = 1 if kind == "2d" else space
            blocks = []
            for position in range(counts[stage]):
                blocks.append(
                    MixedBlock(
                        kind,
                        inplanes,
                        planes,
                        stride=(1, 1, 1) if position else (time, space, space),
                        exact_middle=exact_middle,
                        drop_path=drop_path_rate * index / last,
                    )
                )
                inplanes, index = planes, index + 1
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            t_reduction *= time
            reduction = (4 if stem_pool else 2) * 2**stage
            self.feature_info += (FeatureInfo(planes, reduction, t_reduction, f"layer{stage + 1}"),)

        self.dropout = nn.Dropout(drop_rate)
        self._init_weights(zero_init_last)
        self.fc = self.make_head(num_classes)

    def _init_weights(self, zero_init_last: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, MixedBlock) and zero_init_last:
                nn.init.zeros_(module.conv2.get_parameter("1.weight"))

    def _stages(self) -> Iterable[tuple[str, nn.Module]]:
        # The stem layer by layer: it is no chain of blocks to run twice under checkpointing.
        stem = (f"stem.{i}" for i in range(len(self.stem)))
        for name in (*stem, "maxpool", "layer1", "layer2", "layer3", "layer4"):
            yield name, self.get_submodule(name)

    def _pool(self, features: Tensor) -> Tensor:
        return self.dropout(mean_over_clip(features))  # (B, 512)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """``stem``, then one group per stage (``coarse``) or per block; the head comes last by itself."""
        return {"stem": r"^stem", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}


def _middle(inplanes: int, planes: int) -> int:
    """M of section 3.5 for a 3x3x3 kernel."""
    return 3 * 3 * 3 * inplanes * planes // (3 * 3 * inplanes + 3 * planes)


def _conv(
    kind: Kind, inplanes: int, planes: int, *, middle: int, size: int = 3, stride: tuple[int, int, int] = (1, 1, 1)
) -> nn.Conv3d | nn.Sequential:
    pad = size // 2
    if kind != "2+1d":
        length = 3 if kind == "3d" else 1
        return nn.Conv3d(inplanes, planes, (length, size, size), stride, (length // 2, pad, pad), bias=False)
    return nn.Sequential(
        nn.Conv3d(inplanes, middle, (1, size, size), (1, *stride[1:]), (0, pad, pad), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, planes, (3, 1, 1), (stride[0], 1, 1), (1, 0, 0), bias=False),
    )


# How torchvision feeds and tests its video networks: 15 frames per second, 5 clips of 16 frames. It squeezes each
# frame to 128 x 171, which is the same as a short side of 128 where the frame is 4:3.
TORCHVISION_CFG = VideoCfg(
    num_frames=16,
    sampling="dense",
    fps=15.0,
    num_clips=5,
    short_side=128,
    crop_size=(112, 112),
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
    origin_url="https://github.com/pytorch/vision",
    first_conv=("stem.0",),
)
_BASE = TORCHVISION_CFG.replace(
    paper="A Closer Look at Spatiotemporal Convolutions for Action Recognition, CVPR 2018",
    source="Tran et al., CVPR 2018",
)


def _cfgs(file: str, top1: float, top5: float) -> dict[str, VideoCfg]:
    return {"": _BASE, "k400": torchvision(_BASE, file, top1, top5)}


def torchvision(base: VideoCfg, file: str, top1: float, top5: float, *, of: str = "5 clips") -> VideoCfg:
    """One of torchvision's own video networks, and what it prints of it: percent right of ``of`` each video."""
    return k400(
        base,
        f"{TORCHVISION}/{file}",
        "torchvision",
        "torchvision",
        license="bsd-3-clause",
        metrics={f"top-1 %, Kinetics-400, {of}": top1, f"top-5 %, Kinetics-400, {of}": top5},
    )


@register_model(cfgs=_cfgs("r3d_18-b3b3357e.pth", 63.2, 83.479))
def r3d_18(**options: Unpack[ResNetOptions]) -> MixedResNet:
    """R3D-18: 3x3x3 from end to end."""
    return MixedResNet(("3d", "3d", "3d", "3d", "3d"), **options)


@register_model(cfgs=_cfgs("mc3_18-a90a0ba3.pth", 63.96, 84.13))
def mc3_18(**options: Unpack[ResNetOptions]) -> MixedResNet:
    """MC3-18: 3x3x3 in the stem and the first stage, 1x3x3 after it; all frames are kept."""
    return MixedResNet(("3d", "3d", "2d", "2d", "2d"), **options)


@register_model(cfgs=_cfgs("r2plus1d_18-91a641e6.pth", 67.463, 86.175))
def r2plus1d_18(*, exact_middle: bool = False, **options: Unpack[ResNetOptions]) -> MixedResNet:
    """R(2+1)D-18; ``exact_middle`` takes the paper's middle widths everywhere, torchvision's weights need False."""
    return MixedResNet(("2+1d", "2+1d", "2+1d", "2+1d", "2+1d"), exact_middle=exact_middle, **options)


def _ig65m(frames: int, digest: str, top1: float, top5: float) -> VideoCfg:
    # VMZ, whose weights these are, does not say which class is which output.
    return k400(
        _BASE,
        f"{IG65M}/r2plus1d_34_clip{frames}_ft_kinetics_from_ig65m-{digest}.pth",
        "ig65m",
        "ig65m-pytorch, from facebookresearch/VMZ",
        num_frames=frames,
        fps=30.0,
        num_clips=10,
        class_names=(),
        license="mit",
        origin_url="https://github.com/moabitcoin/ig65m-pytorch",
        description="Trained on 65 million videos by their hashtags (Ghadiyaram et al., CVPR 2019), then on Kinetics-400.",
        metrics={"top-1 %, Kinetics-400, 10 clips": top1, "top-5 %, Kinetics-400, 10 clips": top5},
    )


@register_model(
    cfgs={
        "": _BASE.replace(num_frames=32),
        "k400": _ig65m(32, "ade133f1", 80.0, 94.2),
        "k400_clip8": _ig65m(8, "0aa0550b", 74.9, 91.8),
    }
)
def r2plus1d_34(
    *, stem_middle: int = STEM_MIDDLE, stem_pool: bool = False, **options: Unpack[ResNetOptions]
) -> MixedResNet:
    """R(2+1)D-34 of the paper; ``stem_middle=83, stem_pool=True`` costs what STDCF's Table 3 prints."""
    kinds: tuple[Kind, ...] = ("2+1d",) * 5
    options.setdefault("num_frames", 32)
    return MixedResNet(
        kinds, counts=(3, 4, 6, 3), stem_middle=stem_middle, stem_pool=stem_pool, exact_middle=True, **options
    )
