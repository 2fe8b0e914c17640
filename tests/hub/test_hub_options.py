"""What a user changes about a model of the Hub changes that and nothing else, with network and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vidzoo
from hub.loopback import LoopbackHub, point_client_at
from vidzoo.models.base import FeatureExtractor

SAVED = {"x3d_xs": {}, "ctm_r18": {"img_size": 64}, "stdcf_c3": {"spatial_atoms": 4}}
"""Names and the options that they were saved with."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of each, by their names."""
    root, files = tmp_path_factory.mktemp("saved"), {}
    for name, options in SAVED.items():
        model = vidzoo.create_model(name, num_classes=7, **options)
        folder = vidzoo.save_pretrained(model, root / name, card="a card")
        files[name] = {file.name: file.read_bytes() for file in folder.iterdir()}
    return files


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x3d_xs", {"num_classes": 5}),
        ("x3d_xs", {"num_classes": 0}),
        ("x3d_xs", {"in_chans": 1}),
        ("x3d_xs", {"num_frames": 6, "drop_path_rate": 0.2}),
        ("x3d_xs", {"features_only": True, "out_indices": (1, -1)}),
        ("x3d_xs", {"num_classes": 5, "in_chans": 2, "num_frames": 6, "drop_path_rate": 0.1}),
        ("ctm_r18", {}),
        ("ctm_r18", {"img_size": 96, "num_classes": 3, "in_chans": 1}),
        ("ctm_r18", {"img_size": (64, 96), "features_only": True}),
        ("stdcf_c3", {"num_classes": 5, "in_chans": 5}),
        ("stdcf_c3", {"features_only": True, "num_frames": 3}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
@torch.inference_mode()
def test_options_of_create_model_work_with_the_hub_and_again_offline(
    hub: LoopbackHub,
    folders: dict[str, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
) -> None:
    hub.state.add_model("zoo/net", folders[name])
    first = vidzoo.create_model("hf-hub:zoo/net", **options).eval()
    point_client_at("http://127.0.0.1:9", monkeypatch)
    second = vidzoo.create_model("hf-hub:zoo/net", **options).eval()
    network = second.model if isinstance(second, FeatureExtractor) else second
    cfg, saved = network.pretrained_cfg, vidzoo.get_pretrained_cfg(name)
    channels, classes = options.get("in_chans", 3), options.get("num_classes", 7)
    frames = options.get("num_frames", saved.num_frames)
    assert (cfg.num_classes, cfg.in_chans, cfg.num_frames) == (classes, channels, frames)
    assert (
        network.model_args.items() >= {key: value for key, value in SAVED[name].items() if key not in options}.items()
    )
    height, width = cfg.crop_size if name == "ctm_r18" else (32, 32)
    clip = torch.randn(1, channels, 4, height, width)
    found, expected = second(clip), first(clip)
    if "features_only" in options:
        assert len(found) == len(options.get("out_indices", network.feature_info))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        return
    assert found.shape == (1, classes or network.head_hidden_size)
    if classes in (0, 7):  # else each has a fresh head of its own
        assert torch.equal(found, expected)


@torch.inference_mode()
def test_what_is_not_changed_is_what_was_saved(
    hub: LoopbackHub, folders: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    from safetensors.torch import load

    hub.state.add_model("zoo/net", folders["x3d_xs"])
    saved: dict[str, Tensor] = load(folders["x3d_xs"]["model.safetensors"])
    model = vidzoo.create_model("hf-hub:zoo/net", num_classes=5, in_chans=1)
    for key, value in model.state_dict().items():
        if key == "stem.spatial.weight":
            torch.testing.assert_close(value.sum(dim=1), saved[key].sum(dim=1))
        elif not key.startswith("fc."):
            assert torch.equal(value, saved[key]), key
