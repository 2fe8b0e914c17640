"""Whose state dict it is: every layout is told by the keys of its real networks, and by no other's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

import vidzoo
from vidzoo.blank import blank
from vidzoo.convert import LAYOUTS, detect
from vidzoo.convert.gst import to_gst
from vidzoo.convert.ibm import to_ibm
from vidzoo.convert.layouts import has_fast_pathway
from vidzoo.convert.mmaction import to_mmaction
from vidzoo.convert.pyslowfast import to_pyslowfast
from vidzoo.convert.pytorchvideo.resnet import to_resnet
from vidzoo.convert.pytorchvideo.slowfast import to_slowfast
from vidzoo.convert.pytorchvideo.x3d import to_x3d
from vidzoo.convert.sgs import to_sgs
from vidzoo.errors import WeightsError

Weights = dict[str, Tensor]


def _ours(name: str) -> Weights:
    with blank():
        return vidzoo.create_model(name).state_dict()


def _torchvision(name: str) -> Weights:
    import torchvision

    with blank():
        if hasattr(torchvision.models.video, name):
            return getattr(torchvision.models.video, name)().state_dict()
        return torchvision.models.get_model(name).state_dict()


def _timm(name: str) -> Weights:
    import timm

    with blank():
        return timm.create_model(name).state_dict()


def _lr_asd() -> Weights:
    shapes = {"s_1.weight": (32, 1, 1, 5, 5), "t_1.weight": (32, 32, 5, 1, 1), "t_norm_2.weight": (32,)}
    return {f"model.visualEncoder.block1.{part}": torch.empty(shape, device="meta") for part, shape in shapes.items()}


def _sgs(name: str) -> Weights:
    with blank():
        return to_sgs(vidzoo.create_model(name, released=True).state_dict())


def _caffe2(name: str) -> Weights:
    path = "t_" if name.startswith("slowfast") else ""
    return {f"{path}{blob}": torch.empty(1, device="meta") for blob in ("conv1_w", "res2_0_branch2a_w", "pred_w")}


OURS = [
    "c2d_r18",
    "c3d_r50",
    "c3d_g2_r18",
    "i3d_r18_11335",
    "i3d_r18_reparam_11335",
    "stdcf_r18",
    "gst_r18",
    "p3d_r18",
    "ctm_r18",
    "s3d",
    "s3d_r18",
    "x3d_s",
    "x3d_s_atfr",
    "slow_r18",
    "slowfast_r18_8x8",
    "slowfast_r18_8x8_atfr",
    "c3d_c3",
    "rank1_c3",
    "stdcf_c3",
    "resnet3d_18",
    "r2plus1d_r18",
    "c2d_pool_r18_atfr",
]

CASES: list[tuple[str, str, Callable[[str], Weights]]] = [
    *(("resnet-2d", name, _torchvision) for name in ("resnet18", "resnet50")),
    *(("resnet-2d", name, _timm) for name in ("resnet34", "resnet26", "resnet50d")),
    *(("torchvision", name, _torchvision) for name in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d")),
    *(("pytorchvideo", name, lambda name: to_x3d(_ours(name))) for name in ("x3d_s", "x3d_xl")),
    *(
        ("pytorchvideo", name, lambda name: to_resnet(_ours(name), temporal_pool="pool" in name or "3x1x1" in name))
        for name in ("slow_r50", "c2d_pool_r50", "i3d_3x1x1_r50", "r2plus1d_r50")
    ),
    *(("pytorchvideo", name, lambda name: to_slowfast(_ours(name))) for name in ("slowfast_r50_8x8",)),
    *(
        ("mmaction", name, lambda name: to_mmaction(_ours(name)))
        for name in ("c2d_r50", "slow_r50", "slowfast_r50_8x8", "x3d_m")
    ),
    *(
        ("pyslowfast", name, lambda name: to_pyslowfast(_ours(name)))
        for name in ("slow_r18", "c2d_pool_r50", "i3d_3x1x1_r50", "slowfast_r50_4x16", "x3d_s")
    ),
    *(("sgs", name, lambda name: _sgs(name)) for name in ("resnet3d_18_atfr", "slowfast_r18_8x8_atfr")),
    *(("caffe2", name, lambda name: _caffe2(name)) for name in ("slow_r50", "slowfast_r50_8x8")),
    ("ig65m", "r2plus1d_34", _ours),
    *(("ibm", name, lambda name: to_ibm(_ours(name))) for name in ("i3d_r18", "i3d_r50", "i3d_r101", "s3d_r50")),
    ("gst", "gst_r50", lambda name: to_gst(_ours(name))),
    ("gst", "gst_large_r50", lambda name: to_gst(_ours(name), wrapped=True)),
    ("lr-asd", "", lambda name: _lr_asd()),
    *(("vidzoo", name, _ours) for name in OURS),
]


@pytest.mark.parametrize(("layout", "name", "build"), CASES, ids=[f"{layout}-{name}" for layout, name, _ in CASES])
def test_a_layout_is_told_by_its_keys(layout: str, name: str, build: Callable[[str], Weights]) -> None:
    weights = build(name)
    assert detect(weights) == layout
    # No layout with keys of its own takes another one's for its own, whatever the order in which they are asked.
    shared = {"vidzoo"} if layout in ("ibm", "ig65m", "torchvision") else set()
    assert {known.name for known in LAYOUTS.values() if known.recognise(weights)} - shared == {layout}


def test_every_layout_but_those_that_have_no_keys_of_their_own_is_detected() -> None:
    assert {layout for layout, _, _ in CASES} == set(LAYOUTS) - {"fast-pathway", "backbone"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_says_whose_it_is_and_under_which_licence(name: str) -> None:
    layout = LAYOUTS[name]
    assert layout.name == name
    assert layout.project
    assert layout.license
    assert layout.partial or vidzoo.list_models(layout.families)
    assert len(layout.mean) == len(layout.std)


def test_an_r2plus1d_34_that_has_counted_batches_is_our_own() -> None:
    weights = _ours("r2plus1d_34")
    counter = "layer1.0.conv1.1.num_batches_tracked"
    assert detect({**weights, counter: torch.tensor(0)}) == "ig65m"
    assert detect({**weights, counter: torch.tensor(12)}) == "vidzoo"


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (partial(_ours, "slowfast_r18_8x8"), True),
        (lambda: to_slowfast(_ours("slowfast_r18_8x8")), True),
        (lambda: to_mmaction(_ours("slowfast_r50_8x8")), True),
        (lambda: to_pyslowfast(_ours("slowfast_r18_8x8")), True),
        (partial(_ours, "slow_r18"), False),
        (lambda: to_pyslowfast(_ours("slow_r18")), False),
        (lambda: to_x3d(_ours("x3d_s")), False),
    ],
)
def test_a_fast_pathway_is_seen_in_every_layout(build: Callable[[], Weights], expected: bool) -> None:
    assert has_fast_pathway(build()) is expected


def test_a_classifier_beside_a_2d_backbone_becomes_ours() -> None:
    weights = {"conv1.weight": torch.zeros(1), "new_fc.weight": torch.zeros(2), "new_fc.bias": torch.zeros(3)}
    assert LAYOUTS["resnet-2d"].convert(weights, "c2d_r18").keys() == {"conv1.weight", "fc.weight", "fc.bias"}


@pytest.mark.parametrize("name", ["mobilenet_v2", "vgg11", "swin3d_t"])
def test_unknown_keys_are_shown_with_the_layouts_that_are_known(name: str) -> None:
    weights = _torchvision(name)
    with pytest.raises(
        WeightsError, match=rf"{len(weights)} tensors, the first are {next(iter(weights))}, .*pytorchvideo"
    ):
        detect(weights)
