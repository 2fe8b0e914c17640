"""A donor that timm keeps on the Hub meets the same faults as one of the web, over both transports of the Hub's client."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load, save
from torch import Tensor

import vidzoo
from donors.donated import CHANGES, Malice, changed
from hub import tiny
from hub.loopback import LoopbackHub, point_client_at
from vidzoo import registry
from vidzoo.donors import cache_folder
from vidzoo.errors import HubError, VidzooError, WeightsError

NAME = "test_resnet.r160_in1k"  # the smallest that timm knows; here it holds a network of this test
REPO = f"timm/{NAME}"
FILE = "model.safetensors"
BLOB = "^CDN GET|_cas/get"
"""The requests that large files come by, over either transport."""


@pytest.fixture(autouse=True)
def _donated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    cfg = tiny.CFG.replace(donor=f"timm:{NAME}", donor_layout="vidzoo", license="mit", is_classifier=False)
    vidzoo.register_model(cfgs={"start": cfg})(tiny.hub_tiny)


@pytest.fixture
def theirs() -> dict[str, Tensor]:
    return dict(vidzoo.create_model("hub_tiny").state_dict())


@pytest.fixture
def served(web: LoopbackHub, theirs: dict[str, Tensor]) -> LoopbackHub:
    return put(web, save(theirs, {"format": "pt"}))


def put(hub: LoopbackHub, data: bytes) -> LoopbackHub:
    hub.state.add_model(REPO, {FILE: data})
    return hub


def pushed(hub: LoopbackHub, theirs: dict[str, Tensor], folder: Path) -> None:
    """Put there by the client itself, so that it comes back over the transport that is on."""
    folder.mkdir()
    (folder / FILE).write_bytes(save(theirs, {"format": "pt"}))
    api = HfApi(token="hf_write")
    api.create_repo(REPO)
    api.upload_folder(repo_id=REPO, folder_path=folder)


def start(**options: Any) -> dict[str, Tensor]:
    return dict(vidzoo.create_model("hub_tiny.start", pretrained=True, **options).state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def refused(error: type[VidzooError], **options: Any) -> str:
    """The one sentence; nothing of ours was kept."""
    with pytest.raises(error) as caught:
        start(**options)
    text = str(caught.value)
    assert "\n" not in text
    assert NAME in text
    assert [file.name for file in cache_folder().rglob("*") if file.is_file() and file.suffix != ".lock"] == []
    return text


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "refuses your token"),
        (403, "your token lacks the right"),
        (429, "too many requests"),
        *((status, f"status {status}") for status in (408, 500, 502, 503, 504)),
    ],
)
def test_a_hub_that_refuses_or_is_overloaded(
    served: LoopbackHub, theirs: dict[str, Tensor], no_backoff: None, status: int, said: str
) -> None:
    served.fault("^HEAD .*resolve", status=status)
    assert said in refused(HubError, token="hf_old" if status == 401 else None)
    served.state.faults.clear()
    assert same(start(), theirs)


def test_a_repository_a_file_or_a_name_that_does_not_exist(web: LoopbackHub) -> None:
    assert f"there is no model {REPO}" in refused(HubError)
    web.state.add_model(REPO, {"README.md": b"moved"})
    assert f"{REPO} has no file {FILE}" in refused(HubError)
    later = {"donor": f"timm:{NAME}_of_a_later_version"}
    assert "install a newer timm" in refused(HubError, pretrained_cfg_overlay=later)


def test_a_gated_repository(served: LoopbackHub) -> None:
    served.state.repos[REPO].gated = True
    assert f"{REPO} is gated: ask for access" in refused(HubError)


def test_no_network_and_nothing_cached(
    served: LoopbackHub, theirs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = refused(HubError, local_files_only=True)
    assert "the network is switched off" in text
    assert f"`hf download {REPO} {FILE}`" in text
    url = served.url
    point_client_at("http://127.0.0.1:9", monkeypatch)
    assert "cannot be reached" in refused(HubError)
    point_client_at(url, monkeypatch)
    assert same(start(), theirs)


def test_a_login_page_in_between(served: LoopbackHub) -> None:
    served.fault("resolve", status=200, body="<html>please sign in</html>")
    assert "not as a Hub does: a login page" in refused(HubError)


@pytest.mark.parametrize("fault", [{"truncate": 900}, {"cut": 500}, {"cut": 500, "reset": True}, {"status": 500}])
def test_a_download_that_ends_early(
    served: LoopbackHub, theirs: dict[str, Tensor], no_backoff: None, fault: dict[str, Any]
) -> None:
    served.fault("^CDN GET", **fault)
    refused(HubError)
    served.state.faults.clear()
    assert same(start(), theirs)


def test_a_flipped_byte_is_never_accepted(
    web: LoopbackHub, transport: str, theirs: dict[str, Tensor], tmp_path: Path
) -> None:
    pushed(web, theirs, tmp_path / "pushed")
    web.fault(BLOB, corrupt=1500)
    assert "has not the sha256 that the Hub told for it" in refused(HubError)
    # Nor later, when nobody can send it again.
    refused(HubError, local_files_only=True)
    web.state.faults.clear()
    assert same(start(), theirs)


def test_a_byte_that_is_flipped_once_is_loaded_again(served: LoopbackHub, theirs: dict[str, Tensor]) -> None:
    served.fault("^CDN GET", corrupt=1500, times=1)
    assert same(start(), theirs)


def test_a_cached_file_that_is_damaged_is_loaded_again_with_network_only(
    served: LoopbackHub, theirs: dict[str, Tensor]
) -> None:
    start()
    for made in (cache_folder() / "converted").iterdir():
        made.unlink()
    blob = next(file for file in Path(constants.HF_HUB_CACHE).rglob("blobs/*") if file.stat().st_size > 1000)
    data = bytearray(blob.read_bytes())
    data[1500] ^= 0xFF
    blob.write_bytes(data)
    assert "damaged in the cache" in refused(HubError, local_files_only=True)
    assert same(start(), theirs)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("pointer", "git-lfs pointer"),
        ("page", "HTML page"),
        ("nothing", "the file is empty"),
        ("cut", "cut or no safetensors file"),
        ("code", "pickled torch file"),
    ],
)
def test_a_file_that_is_no_safetensors_file(
    web: LoopbackHub, theirs: dict[str, Tensor], tmp_path: Path, what: str, said: str
) -> None:
    data = {
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "page": b"<!DOCTYPE html><html>sign in</html>",
        "nothing": b"",
        "cut": save(theirs, {"format": "pt"})[:200],
        "code": pickle.dumps(Malice(tmp_path / "canary")),
    }
    put(web, data[what])
    assert said in refused(WeightsError)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_are_not_what_the_cfg_says(web: LoopbackHub, theirs: dict[str, Tensor], change: str) -> None:
    put(web, save(changed(theirs, change), {"format": "pt"}))
    assert CHANGES[change] in refused(WeightsError)


def test_half_precision_becomes_single(web: LoopbackHub, theirs: dict[str, Tensor]) -> None:
    put(web, save({key: value.half() for key, value in theirs.items()}, {"format": "pt"}))
    found = start()
    assert found["conv1.weight"].dtype is torch.float32
    assert torch.equal(found["conv1.weight"], theirs["conv1.weight"].half().float())


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.EACCES, "cannot be kept in"), (errno.EROFS, "cannot be kept in"), (errno.ENOSPC, "is full")],
)
def test_a_hub_cache_that_is_read_only_or_full(
    served: LoopbackHub, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", refuse)
    assert said in refused(HubError)


def test_the_file_of_the_hub_is_the_file_that_was_put_there(
    web: LoopbackHub, transport: str, theirs: dict[str, Tensor], tmp_path: Path
) -> None:
    pushed(web, theirs, tmp_path / "pushed")
    assert same(start(), theirs)
    asked = [request for request in web.log if not request.cdn]
    assert any("_cas" in request.path for request in asked) == (transport == "xet")
    made = next((cache_folder() / "converted").glob("*.safetensors"))
    assert same(load(made.read_bytes()), theirs)
