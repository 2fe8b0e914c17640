"""A grafted network on the Hub: the weights, the source of the backbone and the plan are all that it takes."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import timm
import torch
from huggingface_hub import ModelCard

import vidzoo
from hub.loopback import LoopbackHub


def test_a_pushed_graft_comes_back_with_equal_logits_and_names_its_base_model(hub: LoopbackHub) -> None:
    network = timm.create_model("test_efficientnet.r160_in1k", num_classes=5, pad_type="same")
    source = "timm:test_efficientnet?pad_type=same"
    model = vidzoo.graft(network, "gst", source=source)
    vidzoo.push(model.eval(), "zoo/graft", token="hf_write")
    again = vidzoo.create_model("hf-hub:zoo/graft").eval()
    clip = torch.randn(1, 3, 4, 64, 64)
    assert torch.equal(again(clip), model(clip))
    assert again.model_args == model.model_args
    assert again.model_args["backbone"] == source
    card = ModelCard(Path(huggingface_hub.hf_hub_download("zoo/graft", "README.md")).read_text(encoding="utf-8"))
    assert card.data.base_model == "timm/test_efficientnet.r160_in1k"
