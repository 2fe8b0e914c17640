"""The internet of these tests: a hub with timm's backbones, and a copy of the web with everybody else's checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import vidzoo
from donors.donated import URL
from hub import tiny
from hub.conftest import _server, hub, no_backoff, transport
from hub.loopback import LoopbackHub
from vidzoo import registry
from vidzoo.donors import web as room

__all__ = ["_server", "hub", "no_backoff", "transport"]


@pytest.fixture
def web(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """The hub as a copy of the whole web, and an empty cache for what is made of donors."""
    monkeypatch.setenv("VIDZOO_MIRROR", hub.mirror)
    monkeypatch.setenv("VIDZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(room, "PAUSES_SECONDS", (0.0, 0.0, 0.0))
    return hub


@pytest.fixture
def donated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    cfg = tiny.CFG.replace(donor=URL, donor_layout="vidzoo", license="mit")
    vidzoo.register_model(cfgs={"other": cfg, "start": cfg.replace(is_classifier=False)})(tiny.hub_tiny)


@pytest.fixture
def theirs(donated: None) -> dict[str, Tensor]:
    return vidzoo.create_model("hub_tiny").state_dict()


@pytest.fixture
def published(web: LoopbackHub, theirs: dict[str, Tensor], tmp_path: Path) -> Path:
    """The donor's file, which lies at its address."""
    file = tmp_path / "published.pth"
    torch.save({"model_state": theirs, "epoch": 3}, file)
    web.host(URL, file)
    return file
