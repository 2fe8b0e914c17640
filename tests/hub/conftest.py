"""A hub of one's own for the tests of this room, and a model small enough to be sent through it many times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

import vidzoo
from hub import tiny
from hub.loopback import LoopbackHub, point_client_at
from vidzoo import registry
from vidzoo.models.base import VideoModel


@pytest.fixture(autouse=True)
def _tiny_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    vidzoo.register_model(cfgs={"weizmann": tiny.CFG})(tiny.hub_tiny)


@pytest.fixture
def model() -> VideoModel:
    return vidzoo.create_model("hub_tiny").eval()


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path_factory.mktemp("loopback")) as server:
        yield server


@pytest.fixture
def hub(_server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """An empty hub that the client talks to, with an empty cache and no token.

    The client read its environment when it was imported, so its constants are changed instead.
    """
    _server.reset()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    point_client_at(_server.url, monkeypatch)
    huggingface_hub.close_session()
    return _server


@pytest.fixture(params=["lfs", "xet"])
def transport(request: pytest.FixtureRequest, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> str:
    """The two ways in which the client moves large files."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    return str(request.param)


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's pauses between attempts, 23 seconds in all, take no time."""
    patient = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", patient)


@pytest.fixture
def published(hub: LoopbackHub, model: VideoModel, tmp_path: Path) -> dict[str, bytes]:
    """``zoo/tiny`` is on the hub; its files by name."""
    folder = vidzoo.hub.save_pretrained(model, tmp_path / "published")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    hub.state.add_model("zoo/tiny", files)
    return files
