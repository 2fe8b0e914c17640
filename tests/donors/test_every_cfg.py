"""Every cfg with a donor keeps what it promises, given a file with the keys and shapes of the real one; no values needed.

The networks of timm, torchvision and pytorchvideo are their own; for the other projects, whose keys were compared with their
code in tests/fidelity, ours stand in, by their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vidzoo
from convert.blobs import blobs
from vidzoo.blank import blank
from vidzoo.convert import LAYOUTS
from vidzoo.convert.gst import to_gst
from vidzoo.convert.ibm import to_ibm
from vidzoo.convert.mmaction import to_mmaction
from vidzoo.convert.pyslowfast import to_pyslowfast
from vidzoo.convert.wrappers import unwrap
from vidzoo.grafting.backbone import build
from vidzoo.grafting.model import GraftedModel
from vidzoo.models.base import VideoModel
from vidzoo.models.inflation import PlainTwin
from vidzoo.models.kth import ThreeLayerNet
from vidzoo.models.resnet import VideoResNet
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import model_entrypoint, model_options

CFGS = [cfg for name in vidzoo.list_pretrained() if (cfg := vidzoo.get_pretrained_cfg(name)).donor]
DONORS = sorted({cfg.donor for cfg in CFGS})

# pytorchvideo's files by what builds their networks; the last one has no function of its own.
_PYTORCHVIDEO = {
    "C2D_8x8_R50": "c2d_r50",
    "I3D_8x8_R50": "i3d_r50",
    "SLOW_8x8_R50": "slow_r50",
    "SLOW_4x16_R50": "slow_r50",
    "R2PLUS1D_16x4_R50": "r2plus1d_r50",
    "SLOWFAST_8x8_R50": "slowfast_r50",
    "SLOWFAST_8x8_R101": "slowfast_r101",
    "SLOWFAST_16x8_R101_50_50": "slowfast_16x8_r101_50_50",
    "X3D_XS": "x3d_xs",
    "X3D_S": "x3d_s",
    "X3D_M": "x3d_m",
    "X3D_L": "x3d_l",
    "SLOWFAST_4x16_R50": "",
}


def _ours(name: str, classes: int) -> dict[str, Tensor]:
    with blank():
        return dict(vidzoo.create_model(name, num_classes=classes).state_dict())


def _theirs(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    with blank():
        return dict(build().state_dict())


def _of_pytorchvideo(file: str, classes: int) -> dict[str, Tensor]:
    from pytorchvideo.models import hub

    build = _PYTORCHVIDEO[file.removesuffix(".pyth")]
    if build:
        return _theirs(partial(getattr(hub, build), pretrained=False, model_num_class=classes))
    from pytorchvideo.models.slowfast import create_slowfast

    kernel, stride = (5, 1, 1), (8, 1, 1)
    return _theirs(
        partial(create_slowfast, slowfast_fusion_conv_kernel_size=kernel, slowfast_fusion_conv_stride=stride)
    )


def _of_lr_asd() -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (inputs, width) in enumerate([(1, 32), (32, 64), (64, 128)], start=1):
        block = f"model.visualEncoder.block{number}"
        shapes[f"{block}.s_2.weight"] = (width, inputs if number > 1 else 16, 1, 3, 3)
        shapes[f"{block}.t_2.weight"] = (width, width, 3, 1, 1)
        shapes |= {f"{block}.t_norm_2.{leaf}": (width,) for leaf in ("weight", "bias")}
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@cache
def _file(donor: str) -> dict[str, Any]:
    """What lies at an address, in its wrapping."""
    cfg = min((cfg for cfg in CFGS if cfg.donor == donor), key=lambda one: not one.is_classifier)
    file, classes = donor.rpartition("/")[2], cfg.num_classes
    if donor.startswith("timm:"):
        import timm

        return _theirs(partial(timm.create_model, donor.removeprefix("timm:").partition(".")[0]))
    match cfg.donor_layout:
        case "pytorchvideo" | "fast-pathway":
            return {"model_state": _of_pytorchvideo(file, classes)}
        case "torchvision":
            import torchvision

            return _theirs(getattr(torchvision.models.video, file.partition("-")[0]))
        case "lr-asd":
            return _of_lr_asd()
        case "ig65m":
            return _ours("r2plus1d_34", classes)
        case "ibm":
            own = to_ibm(_ours("i3d_r101" if "101" in file else "i3d_r50", classes))
        case "gst":
            own = to_gst(_ours(cfg.architecture, classes), wrapped=True)
        case "mmaction":
            own = {**to_mmaction(_ours(cfg.architecture, classes)), "data_preprocessor.mean": torch.zeros(3, 1, 1, 1)}
        case "pyslowfast":
            return {"model_state": to_pyslowfast(_ours(cfg.architecture, classes)), "epoch": 1}
        case "caffe2":
            return {"blobs": blobs(to_pyslowfast(_ours(cfg.architecture, classes)))}
        case layout:
            raise AssertionError(f"nobody here builds a file of {layout}")
    return {"state_dict": {f"module.{key}": value for key, value in own.items()}, "epoch": 1}


def _wanted(cfg: VideoCfg) -> VideoModel:
    known = model_options(cfg.architecture)
    options = {key: getattr(cfg, key) for key in ("num_classes", "in_chans", "num_frames") if key in known}
    with blank():
        model: VideoModel = model_entrypoint(cfg.architecture)(**options)
    return model


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in weights.items() if not key.endswith("num_batches_tracked")}


def _is_start(model: VideoModel, given: Mapping[str, Tensor], *, partial: bool) -> bool:
    """Whether every tensor that is given has a place, and only what is added or cannot have a donor gets none."""
    if isinstance(model, GraftedModel):
        return _shapes(build(model.origin.source).state_dict()) == _shapes(given)  # type: ignore[union-attr]
    own, body = _shapes(model.state_dict()), {k: v for k, v in given.items() if not k.startswith("fc.")}
    found = _shapes(body)
    if found.items() <= own.items():
        new = [key for key in own.keys() - found.keys() if not re.search(r"^fc\.|sampler\.|\.ctm_\d", key)]
        return partial or not new
    if not isinstance(model, (VideoResNet, ThreeLayerNet)):
        return False
    twin = PlainTwin(model)
    return twin.faults(twin.adapted(body), partial=partial) == []


@pytest.mark.parametrize("donor", DONORS, ids=lambda donor: donor.rpartition("/")[2])
def test_a_donor_becomes_what_every_cfg_that_names_it_says(donor: str) -> None:
    for cfg in (cfg for cfg in CFGS if cfg.donor == donor):
        layout, model = LAYOUTS[cfg.donor_layout], _wanted(cfg)
        given = layout.convert(unwrap(_file(donor)), cfg.architecture)
        same = _shapes(given) == _shapes(model.state_dict())
        flat = any(value.ndim == 4 for value in given.values())
        if cfg.is_classifier:
            assert same, cfg.name
            assert not flat, cfg.name
        else:
            assert flat or not same, cfg.name
            assert _is_start(model, given, partial=layout.partial), cfg.name
        head = given.get("fc.weight")
        if cfg.donor_layout == "backbone":  # whose classifier is called as its library likes
            head = next(value for value in reversed(given.values()) if value.ndim == 2)
        assert (head is None) == layout.partial, cfg.name
        assert head is None or head.shape[0] == cfg.num_classes, cfg.name
        # Names are those of outputs that were trained.
        assert len(cfg.class_names) == (0 if layout.partial or cfg.donor_layout == "ig65m" else cfg.num_classes), (
            cfg.name
        )


@pytest.mark.parametrize("cfg", [cfg for cfg in CFGS if cfg.is_classifier], ids=lambda cfg: cfg.name)
def test_a_classifier_is_fed_as_its_publisher_feeds_it(cfg: VideoCfg) -> None:
    facebook, picture, torchvision = (0.45,) * 3, (0.485, 0.456, 0.406), (0.43216, 0.394666, 0.37645)
    expected = {"torchvision": torchvision, "ig65m": torchvision, "gst": picture, "ibm": picture, "mmaction": picture}
    assert cfg.mean == expected.get(cfg.donor_layout, facebook)
    assert cfg.sampling == ("segments" if cfg.tag.startswith("ssv2") or "/tsn/" in cfg.donor else "dense")
    assert cfg.num_classes == (174 if cfg.tag.startswith("ssv2") else 400)
    file = cfg.donor.rpartition("/")[2]
    if printed := re.match(r"(?:C2D|I3D|SLOW|SLOWONLY|R2PLUS1D)(?:_NOPOOL)?_(\d+)x(\d+)_", file):
        stride = cfg.temporal_stride if cfg.sampling == "dense" else int(printed[2])
        assert (cfg.num_frames, stride) == (int(printed[1]), int(printed[2]))
    elif printed := re.search(r"(?:-f|_clip)(\d+)[._]", file):  # IBM, IG-65M
        assert cfg.num_frames == int(printed[1])


def test_an_initialisation_is_sampled_as_its_donor_was() -> None:
    by_donor = {(cfg.donor, cfg.dataset): cfg.sampling for cfg in CFGS if cfg.is_classifier}
    starts = [cfg for cfg in CFGS if not cfg.is_classifier and (cfg.donor, cfg.dataset) in by_donor]
    assert len(starts) > 50
    assert [cfg.name for cfg in starts if cfg.sampling != by_donor[cfg.donor, cfg.dataset]] == []
