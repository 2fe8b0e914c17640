"""Whatever goes wrong with an upload is one sentence that says what helps, and nothing is half pushed."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import constants

from hub.loopback import LoopbackHub, point_client_at
from vidzoo.errors import HubError
from vidzoo.hub import push
from vidzoo.models.base import VideoModel


def sentence(model: VideoModel, repo: str = "zoo/tiny", *, token: str = "hf_write", **options: Any) -> str:
    with pytest.raises(HubError) as caught:
        push(model, repo, token=token, **options)
    text = str(caught.value)
    assert repo in text
    assert "\n" not in text
    assert caught.value.__cause__ is not None
    return text


def files_on(hub: LoopbackHub, repo: str = "zoo/tiny") -> list[str]:
    if repo not in hub.state.repos:
        return []
    found = hub.state.repos[repo]
    return sorted(found.commits[found.branches["main"]].tree)


def test_a_token_that_nobody_knows(hub: LoopbackHub, model: VideoModel) -> None:
    assert f"{hub.url} does not know you" in sentence(model, token="hf_old")
    assert hub.state.repos == {}


def test_no_token_at_all(hub: LoopbackHub, model: VideoModel) -> None:
    with pytest.raises(HubError, match="does not know you, so zoo/tiny cannot be uploaded: run `hf auth login`"):
        push(model, "zoo/tiny")


def test_a_token_that_may_only_read(hub: LoopbackHub, model: VideoModel, published: dict[str, bytes]) -> None:
    before = hub.state.repos["zoo/tiny"].branches["main"]
    for repo in ("zoo/tiny", "zoo/new"):
        assert f"your token may not write to {repo}" in sentence(model, repo, token="hf_read")
    assert hub.state.repos["zoo/tiny"].branches["main"] == before


def test_nobody_listens(hub: LoopbackHub, model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    point_client_at("http://127.0.0.1:9", monkeypatch)
    text = sentence(model)
    assert "http://127.0.0.1:9 cannot be reached to upload zoo/tiny" in text
    assert "`hf upload zoo/tiny FOLDER`" in text


def test_offline_mode(hub: LoopbackHub, model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "cannot be uploaded while HF_HUB_OFFLINE is set" in sentence(model)


@pytest.mark.parametrize("repo", ["a/b/c", "zoo/ti ny"])
def test_an_id_that_cannot_be(hub: LoopbackHub, model: VideoModel, repo: str) -> None:
    assert "is not a Hub id: write org/name" in sentence(model, repo)
    assert hub.state.repos == {}


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "with status 400"), (409, "push again"), (412, "push again"), (413, "no files of this size")],
)
def test_a_commit_that_is_refused(
    hub: LoopbackHub, transport: str, model: VideoModel, status: int, reason: str
) -> None:
    hub.fault("POST .*/commit/", status=status, message="so it is")
    assert reason in sentence(model)
    assert files_on(hub) == []


def test_a_hub_that_is_out_of_order(hub: LoopbackHub, model: VideoModel, no_backoff: None) -> None:
    hub.fault("POST .*/commit/", status=503)
    assert "out of order or overloaded" in sentence(model)


@pytest.mark.parametrize("match", ["PUT /_lfs/put", "POST /_lfs/verify"])
def test_large_files_that_are_refused(hub: LoopbackHub, model: VideoModel, match: str) -> None:
    hub.fault(match, status=422)
    assert "refused the upload to zoo/tiny with status 422" in sentence(model)
    assert files_on(hub) == []


def test_a_hub_that_does_not_speak_xet(hub: LoopbackHub, model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.fault("xet-write-token", status=404)
    text = sentence(model)
    assert "the upload to zoo/tiny broke off" in text
    assert "HF_HUB_DISABLE_XET=1" in text
    assert files_on(hub) == []


def test_a_card_whose_front_matter_is_not_yaml(hub: LoopbackHub, model: VideoModel) -> None:
    assert "the card of zoo/tiny is not accepted" in sentence(model, card="---\na: [\n---\n")
    assert files_on(hub) == []


def test_a_model_that_cannot_be_saved_is_not_pushed(hub: LoopbackHub, model: VideoModel) -> None:
    model.model_args = {"width": 3}
    with pytest.raises(HubError, match="no longer what hub_tiny"):
        push(model, "zoo/tiny", token="hf_write")
    assert hub.log == []
