"""The first day: an empty cache, everybody's servers (played by the loopback hub), random numbers in the real layouts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save
from torch import Tensor

import vidzoo
from hub.loopback import LoopbackHub, point_client_at
from vidzoo.blank import blank
from vidzoo.convert.pytorchvideo.x3d import to_x3d
from vidzoo.donors import cache_folder
from vidzoo.errors import ConfigError
from vidzoo.models.base import FeatureExtractor

CLIP = (1, 3, 2, 64, 64)


def backbone(name: str) -> dict[str, Tensor]:
    """What one of timm's repositories holds, but for the numbers."""
    import timm

    with blank():
        shapes = timm.create_model(name).state_dict()
    return random_numbers(shapes)


def random_numbers(shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for key, value in shapes.items():
        if not value.is_floating_point():
            weights[key] = torch.zeros(value.shape, dtype=value.dtype)
        elif key.endswith("running_var"):
            weights[key] = torch.rand(value.shape, generator=generator) + 0.5
        else:
            weights[key] = 0.05 * torch.randn(value.shape, generator=generator)
    return weights


@pytest.fixture(scope="module")
def resnet50() -> dict[str, Tensor]:
    return backbone("resnet50")


@pytest.fixture(scope="module")
def resnet50_file(resnet50: dict[str, Tensor]) -> bytes:
    return save(resnet50, {"format": "pt"})


@pytest.fixture
def x3d_xs(web: LoopbackHub, tmp_path: Path) -> dict[str, Tensor]:
    """What pytorchvideo's file holds, by our names; it lies at its address."""
    with blank():
        shapes = vidzoo.create_model("x3d_xs").state_dict()
    weights = random_numbers(shapes)
    torch.save({"model_state": to_x3d(weights)}, tmp_path / "X3D_XS.pyth")
    web.host("https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/X3D_XS.pyth", tmp_path / "X3D_XS.pyth")
    return weights


def offline(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers any more."""
    point_client_at("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setenv("VIDZOO_MIRROR", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.log.clear()


@pytest.mark.parametrize("name", ["gst_r50", "ctm_r50", "stdcf_r50", "i3d_r50_reparam_11335"])
def test_an_imagenet_backbone_becomes_a_video_network(
    web: LoopbackHub,
    resnet50: dict[str, Tensor],
    resnet50_file: bytes,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    web.state.add_model("timm/resnet50.a1_in1k", {"model.safetensors": resnet50_file, "config.json": b"{}"})
    first = vidzoo.create_model(name, pretrained=True).eval()
    assert first.pretrained_cfg.name == f"{name}.in1k"
    assert first.pretrained_cfg.provenance["donor"] == "timm:resnet50.a1_in1k"
    assert len(first.pretrained_cfg.provenance["donor_revision"]) == 40
    state = first.state_dict()
    for key, value in resnet50.items():
        if key.startswith(("layer1.0.conv1", "layer4.2.bn3", "fc")) and key in state and value.numel() > 1:
            found = state[key]
            assert torch.equal(found.reshape(value.shape) if found.numel() == value.numel() else found, value), key
    offline(web, monkeypatch)
    second = vidzoo.create_model(name, pretrained=True).eval()
    assert web.log == []
    again = second.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in state.items())
    with torch.inference_mode():
        assert second(torch.randn(CLIP)).shape == (1, 1000)
    with pytest.raises(ConfigError, match="initialisation, not an action classifier"):
        vidzoo.predict("synthetic:jack?seed=3", first)


def test_a_graft_starts_from_its_backbones_file(web: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = backbone("mobilenetv2_100")
    file = save(weights, {"format": "pt"})
    web.state.add_model("timm/mobilenetv2_100.ra_in1k", {"model.safetensors": file, "config.json": b"{}"})
    first = vidzoo.create_model("gst_mobilenetv2_100", pretrained=True).eval()
    assert first.pretrained_cfg.name == "gst_mobilenetv2_100.in1k"
    state = first.state_dict()
    assert torch.equal(state["host.network.conv_stem.weight"], weights["conv_stem.weight"])
    assert torch.equal(state["fc.weight"], weights["classifier.weight"])
    offline(web, monkeypatch)
    second = vidzoo.create_model("gst_mobilenetv2_100", pretrained=True, num_classes=5, in_chans=1).eval()
    assert web.log == []
    assert second(torch.randn(1, 1, 2, 64, 64)).shape == (1, 5)
    with pytest.raises(ConfigError, match="initialisation, not an action classifier"):
        vidzoo.predict("synthetic:jack?seed=3", first)


def test_x3d_with_a_sampler_starts_from_pytorchvideos_file(
    web: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        shapes = vidzoo.create_model("x3d_s").state_dict()
    ours = random_numbers(shapes)
    torch.save({"model_state": to_x3d(ours), "epoch": 1}, tmp_path / "X3D_S.pyth")
    web.host("https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/X3D_S.pyth", tmp_path / "X3D_S.pyth")
    first = vidzoo.create_model("x3d_s_atfr", pretrained=True).eval()
    assert not first.pretrained_cfg.is_classifier
    host = vidzoo.create_model("x3d_s", pretrained=True).eval()
    assert host.pretrained_cfg.is_classifier
    assert host.pretrained_cfg.class_names[6] == "arm wrestling"
    assert len(web.log) == 1  # one download serves both
    offline(web, monkeypatch)
    second = vidzoo.create_model("x3d_s_atfr", pretrained=True).eval()
    state = second.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.state_dict().items())
    assert all(torch.equal(value, state[key]) for key, value in ours.items())
    assert any(key.startswith("sampler.") for key in state)
    assert web.log == []


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 5},
        {"num_classes": 0},
        {"in_chans": 1},
        {"in_chans": 5},
        {"num_frames": 6},
        {"drop_path_rate": 0.2},
        {"features_only": True},
        {"features_only": True, "out_indices": (1, -1), "in_chans": 1},
        {"num_classes": 5, "in_chans": 2, "num_frames": 6, "drop_path_rate": 0.1},
    ],
    ids=lambda options: "-".join(options),
)
@torch.inference_mode()
def test_what_a_user_changes_works_with_a_donor_too(
    web: LoopbackHub, x3d_xs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    first = vidzoo.create_model("x3d_xs", pretrained=True, **options).eval()
    offline(web, monkeypatch)
    second = vidzoo.create_model("x3d_xs", pretrained=True, **options).eval()
    assert web.log == []
    channels, classes = options.get("in_chans", 3), options.get("num_classes", 400)
    clip = torch.randn(1, channels, options.get("num_frames", 4), 32, 32)
    network = second.model if isinstance(second, FeatureExtractor) else second
    cfg = network.pretrained_cfg
    assert (cfg.num_classes, cfg.in_chans, cfg.num_frames) == (classes, channels, options.get("num_frames", 4))
    for key, value in network.state_dict().items():
        if not key.startswith(("fc." if classes != 400 else "-", "stem.spatial." if channels != 3 else "-")):
            assert torch.equal(value, x3d_xs[key]), key
    if channels != 3:
        kernel = network.state_dict()["stem.spatial.weight"]
        torch.testing.assert_close(kernel.sum(dim=1), x3d_xs["stem.spatial.weight"].sum(dim=1))
    if "features_only" in options:
        maps = second(clip)
        assert len(maps) == len(options.get("out_indices", network.feature_info))
        assert all(torch.equal(one, other) for one, other in zip(maps, first(clip), strict=True))
    else:
        assert second(clip).shape == (1, classes or 2048)


def test_pictures_of_another_size_have_weights_of_their_own(web: LoopbackHub) -> None:
    file = save(backbone("resnet18"), {"format": "pt"})
    web.state.add_model("timm/resnet18.a1_in1k", {"model.safetensors": file, "config.json": b"{}"})
    model = vidzoo.create_model("ctm_r18", pretrained=True, img_size=64, num_classes=3, in_chans=1).eval()
    assert model.pretrained_cfg.crop_size == (64, 64)
    with torch.inference_mode():
        assert model(torch.randn(1, 1, 3, 64, 64)).shape == (1, 3)
    vidzoo.create_model("ctm_r18", pretrained=True, img_size=96)
    assert len(list((cache_folder() / "converted").glob("*.safetensors"))) == 2


def test_options_that_change_weights_are_converted_for(web: LoopbackHub) -> None:
    file = save(backbone("resnet18"), {"format": "pt"})
    web.state.add_model("timm/resnet18.a1_in1k", {"model.safetensors": file, "config.json": b"{}"})
    half = vidzoo.create_model("gst_r18.in1k", pretrained=True, alpha=1 / 2)
    assert half.state_dict()["layer1.0.conv2.temporal.weight"].shape[0] == 32
    assert len(list((cache_folder() / "converted").glob("*.safetensors"))) == 1
    vidzoo.create_model("gst_r18.in1k", pretrained=True)
    assert len(list((cache_folder() / "converted").glob("*.safetensors"))) == 2


def test_every_donor_is_one_that_somebody_can_convert() -> None:
    import timm

    from vidzoo.convert import LAYOUTS

    for name in vidzoo.list_pretrained():
        cfg = vidzoo.get_pretrained_cfg(name)
        if not cfg.donor:
            continue
        assert cfg.donor_layout in LAYOUTS, name
        if cfg.donor.startswith("timm:"):
            assert timm.get_pretrained_cfg(cfg.donor.removeprefix("timm:")).hf_hub_id, name
        else:
            assert cfg.donor.startswith("https://"), name
        assert cfg.license, name
        assert cfg.origin_url, name


def test_every_family_has_a_donor() -> None:
    for module in vidzoo.list_modules():
        names = vidzoo.list_models(module=module, pretrained=True)
        if module.startswith("vidzoo.") and module != "vidzoo.models.grafted":  # which has its backbone's weights
            assert any(vidzoo.get_pretrained_cfg(name).donor for name in names), module
