"""Weights made from a donor are the donor's or an error, and say how they came about."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from torch import Tensor

import vidzoo
from donors.donated import CHANGES, URL, Malice, changed, kept, load, refused
from hub.loopback import LoopbackHub
from vidzoo.donors import cache_folder
from vidzoo.errors import ConfigError, HubError

pytestmark = pytest.mark.usefixtures("donated")


def test_the_first_use_downloads_and_the_second_reads_the_cache(
    web: LoopbackHub, published: Path, theirs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load().state_dict()
    assert len(web.log) == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    second = load(local_files_only=True).state_dict()
    assert len(web.log) == 1
    for key, value in theirs.items():
        assert torch.equal(first[key], value)
        assert torch.equal(second[key], value)


def test_what_is_kept_says_how_it_came_about(web: LoopbackHub, published: Path) -> None:
    cfg = load().pretrained_cfg
    assert cfg.provenance["donor"] == URL
    assert cfg.provenance["conversion"] == "vidzoo"
    assert cfg.provenance["vidzoo_version"] == vidzoo.__version__
    assert len(cfg.provenance["donor_sha256"]) == 64
    note = next(cache_folder().glob("converted/*.json"))
    assert json.loads(note.read_text())["donor"] == URL
    assert cfg.license == "mit"


def test_provenance_and_licence_travel_with_a_saved_model(web: LoopbackHub, published: Path, tmp_path: Path) -> None:
    vidzoo.save_pretrained(load(), tmp_path / "saved")
    again = vidzoo.create_model(f"local-dir:{tmp_path / 'saved'}").pretrained_cfg
    assert again.provenance["donor"] == URL
    assert again.license == "mit"


def test_a_head_or_a_stem_of_another_size(web: LoopbackHub, published: Path, theirs: dict[str, Tensor]) -> None:
    model = load(num_classes=7, in_chans=1)
    assert model.fc.weight.shape[0] == 7
    assert torch.allclose(model.conv1.weight[:, 0], theirs["conv1.weight"].sum(1))
    assert model(torch.randn(1, 1, 2, 8, 8)).shape == (1, 7)


def test_a_truncated_file(web: LoopbackHub, published: Path) -> None:
    web.fault("GET /_web", truncate=2000)
    assert "damaged or cut" in refused()
    assert kept() == []
    web.state.faults.clear()
    load()


def test_a_git_lfs_pointer(web: LoopbackHub, published: Path) -> None:
    published.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert "it is a git-lfs pointer" in refused()


def test_a_web_page_that_calls_itself_a_file(web: LoopbackHub, published: Path) -> None:
    published.write_bytes(b"<!DOCTYPE html><html>sign in</html>")
    assert "it is an HTML page" in refused()


def test_an_empty_file(web: LoopbackHub, published: Path) -> None:
    published.write_bytes(b"")
    assert "empty" in refused()


def test_a_pickle_with_code_is_not_executed(web: LoopbackHub, published: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "meta": Malice(tmp_path / "canary")}, published)
    refused()
    published.write_bytes(pickle.dumps(Malice(tmp_path / "canary")))
    refused()
    assert not (tmp_path / "canary").exists()
    assert kept() == []


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_are_not_what_the_cfg_says(
    web: LoopbackHub, published: Path, theirs: dict[str, Tensor], change: str
) -> None:
    torch.save({"state_dict": changed(theirs, change)}, published)
    assert CHANGES[change] in refused()
    assert kept() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 3}, "no tensors"),
        ({"fc.weight": torch.zeros(9, 16), "fc.bias": torch.zeros(9)}, "classifier has not the 4 classes"),
    ],
)
def test_no_weights_or_another_number_of_classes(
    web: LoopbackHub, published: Path, theirs: dict[str, Tensor], content: dict[str, Any], said: str
) -> None:
    torch.save({"state_dict": {**theirs, **content} if "fc.weight" in content else content}, published)
    assert said in refused()
    assert kept() == []


def test_half_precision_becomes_single(web: LoopbackHub, published: Path, theirs: dict[str, Tensor]) -> None:
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in theirs.items()}, published)
    weights = load().state_dict()
    assert weights["conv1.weight"].dtype is torch.float32
    assert torch.allclose(weights["conv1.weight"], theirs["conv1.weight"], atol=1e-3)


def test_no_network_and_nothing_cached(web: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for how in ({"local_files_only": True}, {}):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not how)
        text = refused(HubError, **how)
        assert "the network is switched off" in text
        assert URL in text
    assert web.log == []


def test_a_failed_download_leaves_nothing(web: LoopbackHub, published: Path) -> None:
    web.fault("GET /_web", cut=500)
    refused(HubError)
    assert kept() == []


def test_an_initialisation_is_not_asked_for_classes(web: LoopbackHub, published: Path) -> None:
    model = vidzoo.create_model("hub_tiny.start", pretrained=True)
    assert not model.pretrained_cfg.is_classifier
    with pytest.raises(ConfigError, match="initialisation"):
        vidzoo.predict("synthetic:jack?seed=3", model)
