"""The layouts of other projects' state dicts: how each is recognised by its keys, and who converts it.

Every conversion is a pure function of its own file; it is imported when its layout is met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from vidzoo.errors import WeightsError

__all__ = ["LAYOUTS", "Layout", "detect", "has_fast_pathway"]

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """A project's way to name its tensors.

    ``license``: of the project's code. ``recognise``: whether bare tensors, wrappers removed, are in this layout.
    ``convert``: those tensors and the name of the network that is wanted to our keys. ``families``: patterns of our names
    that such weights can be those of. ``partial``: the weights are those of a part of our network. ``mean`` and ``std``: what
    RGB in [0, 1] was normalised with, where that need not be what our network of the same topology expects. ``hint``: what
    to look at first when they do not fit.
    """

    name: str
    project: str
    license: str
    recognise: Callable[[Weights], bool]
    convert: Callable[[Weights, str], dict[str, Tensor]]
    families: tuple[str, ...] = ()
    partial: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    hint: str = ""


def detect(state_dict: Weights) -> str:
    """The name of the layout that bare tensors are in, the first of :data:`LAYOUTS` that recognises them.

    An I3D of 3x3x3 kernels and an R3D, MC3 or R(2+1)D have the same keys here as in the project that published them, and
    count as that project's.

    Raises:
        WeightsError: none does.
    """
    for name, layout in LAYOUTS.items():
        if layout.recognise(state_dict):
            return name
    first = ", ".join(list(state_dict)[:5])
    raise WeightsError(
        f"no known layout has these keys ({len(state_dict)} tensors, the first are {first}): known are "
        f"{', '.join(LAYOUTS)}; give one as source if you know better"
    )


def has_fast_pathway(state_dict: Weights) -> bool:
    """Whether these are the weights of a SlowFast, in any layout that is known here."""
    return _any(r"fast\.conv1\.|s1\.pathway1_|blocks\.0\.multipathway_|backbone\.fast_path\.|t_conv1_w$")(state_dict)


def _any(pattern: str) -> Callable[[Weights], bool]:
    """Recognises a layout by one key of a certain form."""
    expression = re.compile(pattern)
    return lambda tensors: any(expression.match(key) for key in tensors)


def _axes(tensors: Weights, key: str) -> int:
    return tensors[key].ndim if key in tensors else 0


def _never(tensors: Weights) -> bool:
    return False  # its keys are those of the layouts that have the whole network: what is wanted decides


def _as_it_is(tensors: Weights, name: str) -> dict[str, Tensor]:
    return dict(tensors)


def _is_resnet_2d(tensors: Weights) -> bool:
    # The stem's name is left open: deep stems are told what is wrong with them, not that nobody knows them.
    return _axes(tensors, "layer1.0.conv1.weight") == 4 and any(key.startswith("conv1.") for key in tensors)


def _resnet_2d(tensors: Weights, name: str) -> dict[str, Tensor]:
    return {
        f"fc{key.removeprefix('new_fc')}" if key.startswith("new_fc.") else key: value for key, value in tensors.items()
    }


def _is_mixed(tensors: Weights) -> bool:
    return _axes(tensors, "stem.0.weight") == 5 and any(key.startswith("layer1.0.conv1.0.") for key in tensors)


def _is_ig65m(tensors: Weights) -> bool:
    if not _is_mixed(tensors) or not _is_34(tensors):
        return False
    # Our own r2plus1d_34 has these keys too, but not the other eps. Theirs was converted from Caffe2, which counts no
    # batches; one that was trained here has counted some.
    counters = (value for key, value in tensors.items() if key.endswith("num_batches_tracked") and not value.is_meta)
    return not any(bool(value) for value in counters)


def _is_34(tensors: Weights) -> bool:
    # torchvision has only networks of two blocks per stage.
    return any(key.startswith("layer1.2.") for key in tensors)


def _is_torchvision(tensors: Weights) -> bool:
    return (_is_mixed(tensors) and not _is_34(tensors)) or "features.0.0.0.weight" in tensors


def _torchvision(tensors: Weights, name: str) -> dict[str, Tensor]:
    from vidzoo.convert.torchvision import from_s3d

    return dict(tensors) if _is_mixed(tensors) else from_s3d(tensors)


def _is_ibm(tensors: Weights) -> bool:
    if _axes(tensors, "conv1.weight") != 5 or tensors["conv1.weight"].shape[2] != 3:
        return False
    named = {key: value for key, value in tensors.items() if re.fullmatch(r"layer\d\.\d+\.conv\d(_t)?\.weight", key)}
    if any("_t." in key for key in named):
        return True
    wide = [value for value in named.values() if value.ndim == 5 and value.shape[-1] == 3]
    return bool(wide) and all(value.shape[2] == 3 for value in wide)


def _ibm(tensors: Weights, name: str) -> dict[str, Tensor]:
    from vidzoo.convert.ibm import from_ibm

    return from_ibm(tensors)


def _gst(tensors: Weights, name: str) -> dict[str, Tensor]:
    from vidzoo.convert.gst import from_gst

    return from_gst(tensors)


def _pytorchvideo(tensors: Weights, name: str) -> dict[str, Tensor]:
    if any(".multipathway_" in key for key in tensors):
        from vidzoo.convert.pytorchvideo.slowfast import from_slowfast

        return from_slowfast(tensors)
    if "blocks.0.conv.conv_t.weight" in tensors:
        from vidzoo.convert.pytorchvideo.x3d import from_x3d

        return from_x3d(tensors)
    from vidzoo.convert.pytorchvideo.resnet import from_resnet

    return from_resnet(tensors)


def _pyslowfast(tensors: Weights, name: str) -> dict[str, Tensor]:
    from vidzoo.convert.pyslowfast import from_pyslowfast

    return from_pyslowfast(tensors)


def _is_pyslowfast(tensors: Weights) -> bool:
    return _any(r"s1\.pathway0_stem\.")(tensors) and not _any(_TS_LAYER)(tensors)


def _caffe2(tensors: Weights, name: str) -> dict[str, Tensor]:
    from vidzoo.convert.caffe2 import from_caffe2

    return from_caffe2(tensors)


def _sgs(tensors: Weights, name: str) -> dict[str, Tensor]:
    from vidzoo.convert.sgs import from_sgs

    return from_sgs(tensors)


def _mmaction(tensors: Weights, name: str) -> dict[str, Tensor]:
    from vidzoo.convert.mmaction import from_mmaction

    return from_mmaction(tensors)


def _ig65m(tensors: Weights, name: str) -> dict[str, Tensor]:
    from vidzoo.convert.ig65m import from_ig65m

    return from_ig65m(tensors)


def _lr_asd(tensors: Weights, name: str) -> dict[str, Tensor]:
    from vidzoo.convert.lr_asd import from_lr_asd

    return from_lr_asd(tensors, dense=name != "rank1_c3")


def _fast_pathway(tensors: Weights, name: str) -> dict[str, Tensor]:
    from vidzoo.convert.fast_pathway import from_fast_pathway

    ours = LAYOUTS[detect(tensors)].convert(tensors, name)
    return from_fast_pathway(ours, blocks=2 if name.startswith("resnet3d_18") else 3)


def _is_vidzoo(tensors: Weights) -> bool:
    keys = tensors.keys()
    if _any(r"layer1\.0\.conv1\.")(tensors) and _any(r"conv1\.")(tensors):
        flat = 4 in (_axes(tensors, "conv1.weight"), _axes(tensors, "layer1.0.conv1.weight"))
        return not flat and not _any(_TCONV)(tensors)
    return any(anchor in keys for anchor in _ANCHORS) or _any(r"host\.network\.")(tensors)


# Keys that only networks of ours have, of which one is enough.
_ANCHORS = (
    "slow.conv1.weight",
    "stem.spatial.weight",
    "stem.0.weight",
    "conv1.conv.spatial.weight",
    "layer1.0.bn.weight",
)
_TCONV = r".*\.Tconv\."
_TS_LAYER = r"s\d\.(pathway\d_)?ts_layer\."
_FAIR = ("c2d_pool_*", "i3d_3x1x1_*", "r2plus1d_r*", "slow_*", "slowfast_*", "x3d_*")
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_ALL = (
    Layout(
        name="gst",
        project="chenxuluo/GST-video",
        license="MIT",
        recognise=_any(_TCONV),
        convert=_gst,
        families=("gst_r50*", "gst_large_r50"),
    ),
    Layout(
        name="sgs",
        project="SimilarityGuidedSampling/Similarity-Guided-Sampling",
        license="Apache-2.0",
        recognise=_any(_TS_LAYER),
        convert=_sgs,
        families=("*_atfr",),
        hint="their samplers need the option released=True",
    ),
    Layout(
        name="pyslowfast",
        project="facebookresearch/SlowFast",
        license="Apache-2.0",
        recognise=_is_pyslowfast,
        convert=_pyslowfast,
        families=(*_FAIR, "c2d_r50", "resnet3d_18", "resnet3d_50"),
    ),
    Layout(
        name="caffe2",
        project="facebookresearch/SlowFast",
        license="Apache-2.0",
        recognise=_any(r"(t_)?res2_0_branch2a_w$"),
        convert=_caffe2,
        families=(*_FAIR, "c2d_r50"),
    ),
    Layout(
        name="mmaction",
        project="open-mmlab/mmaction2",
        license="Apache-2.0",
        recognise=_any(r"backbone\."),
        convert=_mmaction,
        families=("c2d_r*", "slow_*", "slowfast_*", "x3d_*"),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
    ),
    Layout(
        name="pytorchvideo",
        project="facebookresearch/pytorchvideo",
        license="Apache-2.0",
        recognise=_any(r"blocks\.\d+\.(res|multipathway)_blocks\."),
        convert=_pytorchvideo,
        families=_FAIR,
    ),
    Layout(
        name="lr-asd",
        project="Junhua-Liao/LR-ASD",
        license="MIT",
        recognise=_any(r"(.*\.)?block1\.[st]_\d\.weight"),
        convert=_lr_asd,
        partial=True,
    ),
    Layout(
        name="fast-pathway",
        project="facebookresearch/SlowFast",
        license="Apache-2.0",
        recognise=_never,
        convert=_fast_pathway,
        partial=True,
    ),
    Layout(
        name="ig65m",
        project="moabitcoin/ig65m-pytorch",
        license="MIT",
        recognise=_is_ig65m,
        convert=_ig65m,
        families=("r2plus1d_34",),
    ),
    Layout(
        name="torchvision",
        project="pytorch/vision",
        license="BSD-3-Clause",
        recognise=_is_torchvision,
        convert=_torchvision,
        families=("r3d_18", "mc3_18", "r2plus1d_18", "s3d"),
    ),
    Layout(
        name="ibm",
        project="IBM/action-recognition-pytorch",
        license="Apache-2.0",
        recognise=_is_ibm,
        convert=_ibm,
        families=("i3d_r18", "i3d_r34", "i3d_r50", "i3d_r101", "s3d_r18", "s3d_r50"),
    ),
    Layout(
        name="resnet-2d",
        project="timm, torchvision",
        license="Apache-2.0, BSD-3-Clause",
        recognise=_is_resnet_2d,
        convert=_resnet_2d,
        families=("c2d_r*", "c2d_pool_r18"),
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
    ),
    Layout(
        name="backbone",
        project="timm, torchvision",
        license="Apache-2.0, BSD-3-Clause",
        recognise=_never,
        convert=_as_it_is,
        families=("*_mobilenetv2_100", "*_convnext_tiny", "*_r3d_18"),
    ),
    Layout(
        name="vidzoo",
        project="vidzoo",
        license="Apache-2.0",
        recognise=_is_vidzoo,
        convert=_as_it_is,
        families=("*",),
    ),
)

LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in _ALL}
"""Every layout by its name, those with keys of their own first: :func:`detect` takes the first that fits."""
