"""A grafted model is rebuilt from its backbone's source and the plan, with equal outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vidzoo
from grafting.networks import CifarResNet, lively, timm_network
from vidzoo.errors import ConfigError, HubError
from vidzoo.grafting import GraftedModel, Inflate, InsertCTM, InsertShift, ReplaceHead, SwapConv, Where, graft
from vidzoo.hub import save_pretrained

EXAMPLE = torch.linspace(-1, 1, 4 * 3 * 32 * 32).sin().reshape(4, 3, 32, 32)
SPATIAL = Where(kernels=(3, 5, 7))
PLANS: list[tuple[str, Any]] = [
    ("test_resnet", [InsertCTM(), SwapConv("reparam", options={"eta": "inf"}), ReplaceHead(9, "features", 0.3)]),
    ("test_convnext", [SwapConv("stdcf", options={"temporal_atoms": 1}), InsertCTM(stage=2, reduction=4)]),
    ("test_efficientnet", [Inflate("mean", (1, 1, 3, 3, 5), SPATIAL, "joint", "replicate"), InsertShift()]),
]


def _clip(side: int = 64) -> Tensor:
    return torch.randn(2, 3, 3, side, side)


def _saved(model: GraftedModel, folder: Path) -> Path:
    return save_pretrained(model, folder / "saved")


@pytest.mark.parametrize(("name", "plan"), PLANS, ids=[name for name, _ in PLANS])
def test_a_saved_graft_comes_back_with_equal_outputs(name: str, plan: Any, tmp_path: Path) -> None:
    model = lively(graft(timm_network(name), plan, num_frames=6)).eval()
    folder = _saved(model, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == "graft"
    assert config["model_args"]["backbone"] == f"timm:{name}"
    again = vidzoo.create_model(f"local-dir:{folder}").eval()
    x = _clip()
    assert torch.equal(again(x), model(x))
    assert again.state_dict().keys() == model.state_dict().keys()
    assert again.model_args == model.model_args
    assert again.pretrained_cfg.replace(sha256="", hf_hub_id="") == model.pretrained_cfg.replace(
        sha256="", hf_hub_id=""
    )
    assert again.feature_info == model.feature_info
    assert again.dropout.p == model.dropout.p
    assert again.host.consensus == model.host.consensus


def test_a_saved_graft_takes_other_classes_and_channels_when_it_is_loaded(tmp_path: Path) -> None:
    model = graft(timm_network("test_efficientnet"), "ctm", num_classes=4).eval()
    folder = _saved(model, tmp_path)
    other = vidzoo.create_model(f"local-dir:{folder}", num_classes=6, in_chans=1, drop_rate=0.4).eval()
    x = _clip()[:, :1]
    assert other(x).shape == (2, 6)
    assert other.dropout.p == 0.4
    # A gray clip in each of three channels gives the same features.
    torch.testing.assert_close(
        other.forward_features(x), model.forward_features(x.expand(-1, 3, -1, -1, -1)), rtol=1e-4, atol=1e-4
    )
    maps = vidzoo.create_model(f"local-dir:{folder}", features_only=True, out_indices=(0, 3)).eval()(_clip())
    assert [found.shape[1] for found in maps] == [16, 48]


def test_a_reset_classifier_is_saved_as_it_is(tmp_path: Path) -> None:
    model = graft(timm_network("test_resnet"), "inflate").eval()
    model.reset_classifier(3)
    again = vidzoo.create_model(f"local-dir:{_saved(model, tmp_path)}").eval()
    assert again.num_classes == 3
    x = _clip()
    assert torch.equal(again(x), model(x))


def test_the_card_names_the_weights_that_it_was_made_from(tmp_path: Path) -> None:
    network = timm_network("test_resnet")
    network.pretrained_cfg |= {"hf_hub_id": "timm/", "tag": "a1_in1k"}
    card = (_saved(graft(network, "ctm", num_classes=3), tmp_path) / "README.md").read_text()
    assert re.search(r'base_model: "?timm/test_resnet\.a1_in1k', card)


def test_the_entrypoint_builds_a_graft_from_nothing_but_names() -> None:
    model = vidzoo.create_model("graft", backbone="timm:test_resnet", plan="ctm", num_classes=5)
    assert isinstance(model, GraftedModel)
    assert model.num_classes == 5
    assert model.graft_report is None
    with torch.device("meta"):
        shadow = vidzoo.create_model("graft", plan=[{"op": "SwapConv", "unit": "gst"}], num_classes=5)
    assert all(p.is_meta for p in shadow.parameters())
    assert shadow.model_args["plan"] == [{"op": "SwapConv", "unit": "gst"}]


def test_two_fresh_models_differ_where_a_paper_starts_at_random() -> None:
    one, two = (vidzoo.create_model("graft", num_classes=2).state_dict() for _ in range(2))
    key = "host.network.layer1.0.conv1.layer.temporal.weight"
    assert not torch.equal(one[key], two[key])


def test_a_backbone_without_a_source_works_and_saving_says_what_is_missing(tmp_path: Path) -> None:
    model = graft(lively(CifarResNet(1)), "inflate", example=EXAMPLE)
    assert model(_clip(32)).shape == (2, 10)
    with pytest.raises(HubError, match=r"source='timm:NAME'"):
        _saved(model, tmp_path)
    assert not (tmp_path / "saved").exists()


def test_a_changed_network_does_not_pass_for_the_one_of_its_name(tmp_path: Path) -> None:
    network = timm_network("test_efficientnet", pad_type="same")  # it calls itself as if it were not
    model = graft(network, "ctm")
    with pytest.raises(HubError, match="source="):
        _saved(model, tmp_path)
    network = timm_network("test_resnet")
    network.layer2[0].conv1 = nn.Conv2d(32, 48, 5, 2, 2, bias=False)
    with pytest.raises(ConfigError, match="timm:test_resnet builds another network"):
        graft(network, "ctm", source="timm:test_resnet")
    with pytest.raises(HubError, match="source="):
        _saved(graft(network, "ctm"), tmp_path)


def test_a_plan_with_a_predicate_works_and_saving_says_what_to_do(tmp_path: Path) -> None:
    wide = Where(kernels=(3,), predicate=lambda place: place.out_shape[0] >= 96)
    model = graft(timm_network("test_resnet"), SwapConv("gst", wide))
    assert {row.name.split(".")[0] for row in model.graft_report.rows} == {"layer4"}
    with pytest.raises(HubError, match="names"):
        _saved(model, tmp_path)


def test_an_example_of_ones_own_is_part_of_what_is_saved(tmp_path: Path) -> None:
    network = timm_network("test_resnet", num_classes=4)
    model = graft(network, "inflate", example=torch.randn(3, 3, 96, 64)).eval()
    assert model.model_args["example"] == (3, 3, 96, 64)
    again = vidzoo.create_model(f"local-dir:{_saved(model, tmp_path)}").eval()
    x = _clip()
    assert torch.equal(again(x), model(x))


def test_a_source_that_does_not_exist_is_refused() -> None:
    for backbone, message in (("timm:resnet81", "resnet18"), ("tim:resnet18", "timm"), ("resnet18", "timm:resnet50")):
        with pytest.raises(ConfigError, match=message):
            vidzoo.create_model("graft", backbone=backbone, num_classes=2)
