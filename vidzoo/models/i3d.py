"""I3D: a ResNet whose 3x3 convolutions and stem are inflated to txkxk, and what temporal-filter analysis made of it.

Paper: Kobayashi & Ye, "Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification", WACV 2024. Table 1
is the topology: no stride over time, temporal lengths t1 (stem) to t5 (last stage). ``i3d_r50`` has 3-3-3-3-3, the
network of IBM's action-recognition-pytorch (Chen et al., CVPR 2021); the digits behind a name are the other rows of
Table 2, of which 1-1-3-3-5 is the paper's choice. ``_reparam_11335`` trains it with regularised branches (section 3).
Table 2 counts 2^30 operations, with two per output of a batch norm; 3-3-1-1-1 is printed as 151 where that gives 150.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, Unpack

from vidzoo.errors import ConfigError
from vidzoo.layers.conv import FullConv3d
from vidzoo.layers.reparam import ReparamConv3d
from vidzoo.layers.unit import UnitFactory
from vidzoo.models.donors import IBM, imagenet, initialisation, k400, ssv2
from vidzoo.models.resnet import ResNetOptions, VideoResNet, layout
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = [
    "ETA",
    "FILTER_CFG",
    "PROGRESSIVE",
    "THREE",
    "Eta",
    "from_ibm",
    "i3d_r18",
    "i3d_r18_11335",
    "i3d_r18_reparam_11335",
    "i3d_r34",
    "i3d_r50",
    "i3d_r50_11335",
    "i3d_r50_reparam_11335",
    "i3d_r101",
    "inflated_resnet",
]

Eta = float | Literal["inf"] | None
ETA = 2.0  # Table 3
THREE = (3, 3, 3, 3, 3)
PROGRESSIVE = (1, 1, 3, 3, 5)

# Section 2.2: 32 frames, every second one, crop 224. How many views a test takes is left to an absent supplement.
FILTER_CFG = VideoCfg(
    num_frames=32,
    sampling="dense",
    temporal_stride=2,
    paper="Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification, WACV 2024",
    source="Kobayashi & Ye, WACV 2024",
)
_MIDDLE = "each kernel over time holds the 2D one at its middle frame."
_BRANCHES = "every branch of a kernel over time holds its share of the 2D one at its middle frame."


def ibm(depth: int) -> dict[str, VideoCfg]:
    """The I3D 3-3-3-3-3 that IBM published, by its data: the network whose filters the paper analyses."""
    told: dict[str, object] = {
        "license": "apache-2.0",
        "origin_url": "https://github.com/IBM/action-recognition-pytorch",
        "num_crops": 3,
    }
    source = "IBM's action-recognition-pytorch (Chen et al., CVPR 2021)"
    stem = f"-I3D-ResNet-{depth}-f32.pth.tar"
    printed = {50: (76.61, 62.84), 101: (77.80, 64.29)}[depth]
    kinetics = k400(
        FILTER_CFG,
        f"{IBM}/K400{stem}",
        "ibm",
        source,
        num_clips=10,
        test_crop_size=(256, 256),
        metrics={"top-1 %, Kinetics-400, 10 x 3 views": printed[0]},
        **told,
    )
    something = ssv2(
        FILTER_CFG,
        f"{IBM}/SSV2{stem}",
        "ibm",
        source,
        sampling="segments",
        temporal_stride=1,
        num_clips=2,
        metrics={"top-1 %, Something-Something-v2, 2 x 3 views": printed[1]},
        **told,
    )
    return {"k400": kinetics, "ssv2": something}


def from_ibm(base: VideoCfg, depth: int, how: str) -> dict[str, VideoCfg]:
    """Initialisations of another network from IBM's, by their data; ``how`` says what becomes of the kernels."""
    return {tag: initialisation(cfg, base, f"IBM's I3D of {cfg.dataset}: {how}") for tag, cfg in ibm(depth).items()}


def _cfgs(depth: int, *, eta: bool = False, t_lengths: Sequence[int] = ()) -> dict[str, VideoCfg]:
    cfgs = {"": FILTER_CFG, **imagenet(FILTER_CFG, depth, _BRANCHES if eta else _MIDDLE)}
    if depth not in (50, 101):
        return cfgs
    if not eta and not t_lengths:
        return {"": FILTER_CFG, **ibm(depth), **cfgs}
    how = "longer kernels get zeros at their ends, shorter ones the sum of the frames that they lack."
    return {**cfgs, **from_ibm(FILTER_CFG, depth, how)}


def inflated_resnet(
    depth: int,
    t_lengths: Sequence[int],
    options: ResNetOptions,
    *,
    eta: Eta = None,
    single: bool = False,
    whole: Callable[[UnitFactory], UnitFactory] | None = None,
) -> VideoResNet:
    """The network of Table 1.

    Args:
        t_lengths: temporal lengths of the stem and the four stages.
        eta: None for ordinary filters; otherwise filters longer than a frame are branches, regularised by eta.
        single: one filter of the full length in the place of the branches, with the same regularisation.
        whole: what a stage that looks over time takes as its unit, given what makes its filters over time.

    Raises:
        ConfigError: not five odd lengths, or ``single`` without eta.
    """
    if len(t_lengths) != 5:
        raise ConfigError(f"t_lengths are five: the stem's and the four stages', got {tuple(t_lengths)}")
    if single and eta is None:
        raise ConfigError("a single regularised filter needs its eta (1 is no regularisation)")
    options.setdefault("drop_rate", 0.5)  # of IBM's code; the paper's is in its supplement
    options.setdefault("num_frames", 32)
    stem, *lengths = t_lengths

    def over_time(length: int) -> UnitFactory:
        if eta is None:
            return FullConv3d
        return partial(ReparamConv3d, eta=eta, branches=(length,) if single else None)

    units = [FullConv3d if t == 1 else (whole or _same)(over_time(t)) for t in lengths]
    first, second, third, fourth = lengths
    plan = replace(layout(depth), stem_length=stem, lengths=(first, second, third, fourth))
    return VideoResNet(plan, units, stem=FullConv3d if stem == 1 else over_time(stem), **options)


def _same(unit: UnitFactory) -> UnitFactory:
    return unit


@register_model(cfgs=_cfgs(18))
def i3d_r18(
    *, t_lengths: Sequence[int] = THREE, eta: Eta = None, single: bool = False, **options: Unpack[ResNetOptions]
) -> VideoResNet:
    """I3D on ResNet-18; with ``eta`` its temporal filters are regularised branches, or one filter if ``single``."""
    return inflated_resnet(18, t_lengths, options, eta=eta, single=single)


@register_model(cfgs=_cfgs(34))
def i3d_r34(
    *, t_lengths: Sequence[int] = THREE, eta: Eta = None, single: bool = False, **options: Unpack[ResNetOptions]
) -> VideoResNet:
    """I3D on ResNet-34; with ``eta`` its temporal filters are regularised branches, or one filter if ``single``."""
    return inflated_resnet(34, t_lengths, options, eta=eta, single=single)


@register_model(cfgs=_cfgs(50))
def i3d_r50(
    *, t_lengths: Sequence[int] = THREE, eta: Eta = None, single: bool = False, **options: Unpack[ResNetOptions]
) -> VideoResNet:
    """I3D on ResNet-50; with ``eta`` its temporal filters are regularised branches, or one filter if ``single``."""
    return inflated_resnet(50, t_lengths, options, eta=eta, single=single)


@register_model(cfgs=_cfgs(101))
def i3d_r101(
    *, t_lengths: Sequence[int] = THREE, eta: Eta = None, single: bool = False, **options: Unpack[ResNetOptions]
) -> VideoResNet:
    """I3D on ResNet-101; with ``eta`` its temporal filters are regularised branches, or one filter if ``single``."""
    return inflated_resnet(101, t_lengths, options, eta=eta, single=single)


@register_model(cfgs=_cfgs(18, eta=True))
def i3d_r18_reparam_11335(*, eta: Eta = ETA, single: bool = False, **options: Unpack[ResNetOptions]) -> VideoResNet:
    """I3D 1-1-3-3-5 on ResNet-18, regularised branches."""
    return inflated_resnet(18, PROGRESSIVE, options, eta=eta, single=single)


@register_model(cfgs=_cfgs(50, eta=True))
def i3d_r50_reparam_11335(*, eta: Eta = ETA, single: bool = False, **options: Unpack[ResNetOptions]) -> VideoResNet:
    """I3D 1-1-3-3-5 on ResNet-50, regularised branches."""
    return inflated_resnet(50, PROGRESSIVE, options, eta=eta, single=single)


def _row(depth: int, digits: str) -> Callable[..., VideoResNet]:
    """Register I3D with the temporal lengths of one row of Table 2."""
    lengths = tuple(int(digit) for digit in digits)

    def build(**options: Unpack[ResNetOptions]) -> VideoResNet:
        return inflated_resnet(depth, lengths, options)

    build.__name__ = build.__qualname__ = f"i3d_r{depth}_{digits}"
    build.__doc__ = f"I3D {'-'.join(digits)} on ResNet-{depth}."
    return register_model(cfgs=_cfgs(depth, t_lengths=lengths))(build)


i3d_r18_11335 = _row(18, "11335")
i3d_r50_11335 = _row(50, "11335")
for _digits in ("13333", "11333", "11133", "11113", "11111", "31111", "33111", "33311", "33331"):
    _row(50, _digits)  # Table 2, a to h: shorter filters
for _digits in ("11355", "11555", "11135", "11155"):
    _row(50, _digits)  # Table 2, b2, b3, c1 and c2: longer filters
