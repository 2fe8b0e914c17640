"""Models travel to the Hub and back, over both transports, with the client as it is."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants

import vidzoo
from hub.loopback import LoopbackHub
from vidzoo.hub import fetch, push
from vidzoo.models.base import VideoModel

CLIP = torch.linspace(-1, 1, 3 * 2 * 8 * 8).view(1, 3, 2, 8, 8)  # (B, C, T, H, W)


def test_a_pushed_model_comes_back_with_equal_logits_and_cfg(
    hub: LoopbackHub, transport: str, model: VideoModel
) -> None:
    url = push(model, "zoo/round", token="hf_write")
    again = vidzoo.create_model("hf-hub:zoo/round").eval()
    assert url == f"{hub.url}/zoo/round"
    assert torch.equal(again(CLIP), model(CLIP))
    assert again.pretrained_cfg.replace(sha256="", hf_hub_id="") == model.pretrained_cfg
    assert again.model_args == model.model_args
    used = {"lfs": "PUT /_lfs/put", "xet": "GET /_cas/get"}
    seen = {name for name, line in used.items() if any(f"{r.method} {r.path}".startswith(line) for r in hub.log)}
    assert seen == {transport}


def test_a_pushed_branch_is_fetched_by_its_revision(hub: LoopbackHub, transport: str, model: VideoModel) -> None:
    push(model, "zoo/round", token="hf_write")
    with torch.no_grad():
        model.fc.bias += 1
    url = push(model, "zoo/round", token="hf_write", revision="v2")
    assert url == f"{hub.url}/zoo/round/tree/v2"
    first = vidzoo.create_model("hf-hub:zoo/round").eval()
    second = vidzoo.create_model("hf_hub:zoo/round@v2").eval()
    assert torch.allclose(second(CLIP) - first(CLIP), torch.ones(1, 4), atol=1e-6)
    assert second.pretrained_cfg.hf_hub_id == "zoo/round@v2"


def test_a_tag_and_a_commit_are_revisions_too(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    HfApi(token="hf_write").create_tag("zoo/tiny", tag="v1.0")
    commit = hub.state.repos["zoo/tiny"].branches["main"]
    for revision in ("v1.0", commit):
        assert fetch(f"zoo/tiny@{revision}").weights is not None


def test_a_pull_request_leaves_main_alone(hub: LoopbackHub, model: VideoModel, published: dict[str, bytes]) -> None:
    before = hub.state.repos["zoo/tiny"].branches["main"]
    with torch.no_grad():
        model.fc.bias += 1
    url = push(model, "zoo/tiny", token="hf_write", create_pr=True)
    assert url == f"{hub.url}/zoo/tiny/discussions/1"
    assert hub.state.repos["zoo/tiny"].branches["main"] == before


def test_a_private_repository_is_made_on_request_and_read_with_a_token(hub: LoopbackHub, model: VideoModel) -> None:
    push(model, "zoo/secret", token="hf_write", private=True)
    assert hub.state.repos["zoo/secret"].private
    assert fetch("zoo/secret", token="hf_write").architecture == "hub_tiny"


def test_the_card_on_the_hub_names_the_hub_as_the_place_to_load_from(hub: LoopbackHub, model: VideoModel) -> None:
    push(model, "zoo/round", token="hf_write", metrics={"top1": 91.5})
    card = ModelCard(Path(huggingface_hub.hf_hub_download("zoo/round", "README.md")).read_text(encoding="utf-8"))
    assert 'create_model("hf-hub:zoo/round")' in card.text
    assert card.data.eval_results is not None
    assert card.data.eval_results[0].metric_value == 91.5


def test_the_config_is_asked_for_first_and_the_agent_names_vidzoo(
    hub: LoopbackHub, published: dict[str, bytes]
) -> None:
    fetch("zoo/tiny")
    asked = [request for request in hub.log if not request.cdn]
    assert asked[0].path == "/zoo/tiny/resolve/main/config.json"
    assert all(f"vidzoo/{vidzoo.__version__}" in request.user_agent for request in asked)


def test_weights_come_from_the_commit_that_the_config_came_from(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    commit = hub.state.repos["zoo/tiny"].branches["main"]
    fetch("zoo/tiny")
    asked = {request.path for request in hub.log if request.path.endswith("model.safetensors")}
    assert asked == {f"/zoo/tiny/resolve/{commit}/model.safetensors"}


def test_a_config_alone_is_fetched_without_the_weights(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    folder = fetch("zoo/tiny", weights=False)
    assert folder.weights is None
    assert folder.cfg.class_names[0] == "wave"
    assert not any("safetensors" in request.path for request in hub.log)


def test_a_repository_without_weights_gives_a_fresh_network_only(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    hub.state.add_model("zoo/bare", {"config.json": published["config.json"]})
    assert fetch("zoo/bare").weights is None
    vidzoo.create_model("hf-hub:zoo/bare", pretrained=False)
    with pytest.raises(vidzoo.errors.WeightsError, match="zoo/bare has a config but no weights"):
        vidzoo.create_model("hf-hub:zoo/bare")


def test_shards_on_the_hub_are_merged(hub: LoopbackHub, model: VideoModel, tmp_path: Path) -> None:
    folder = vidzoo.hub.save_pretrained(model, tmp_path / "sharded", max_shard_size=2000)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert "model.safetensors" not in files
    hub.state.add_model("zoo/shards", files)
    again = vidzoo.create_model("hf-hub:zoo/shards").eval()
    assert torch.equal(again(CLIP), model(CLIP))
    cached = vidzoo.create_model("hf-hub:zoo/shards", local_files_only=True).eval()
    assert torch.equal(cached(CLIP), model(CLIP))


def test_a_cached_model_needs_no_network(
    hub: LoopbackHub, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch("zoo/tiny")
    hub.log.clear()
    assert fetch("zoo/tiny", local_files_only=True) == first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("zoo/tiny") == first
    assert hub.log == []


def test_a_cached_file_that_lost_a_byte_is_downloaded_again(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    weights = fetch("zoo/tiny").weights
    assert weights is not None
    weights.resolve().write_bytes(b"X" + published["model.safetensors"][1:])
    healed = fetch("zoo/tiny").weights
    assert healed is not None
    assert healed.read_bytes() == published["model.safetensors"]


def test_another_cache_dir_is_used_when_given(hub: LoopbackHub, published: dict[str, bytes], tmp_path: Path) -> None:
    weights = fetch("zoo/tiny", cache_dir=tmp_path / "elsewhere").weights
    assert weights is not None
    assert weights.is_relative_to(tmp_path / "elsewhere")
