"""Publishing: a dry run sends nothing, what was sent loads by its name, and one failure does not stop the others."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from huggingface_hub import hf_hub_download

import vidzoo
from hub import conftest as fixtures
from hub import tiny
from hub.loopback import LoopbackHub, point_client_at
from vidzoo import registry

_server, hub, transport = fixtures._server, fixtures.hub, fixtures.transport

FILES = ["README.md", "config.json", "model.safetensors"]
CLIP = torch.linspace(-1, 1, 3 * 2 * 8 * 8).view(1, 3, 2, 8, 8)  # (B, C, T, H, W)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What stderr says beside the client's progress bars, which must be a single line."""
        lines = [line for line in re.split(r"[\r\n]+", self.err) if line.strip() and not re.search(r"\d%\||it/s", line)]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("publish: ")
        return lines[0]


@pytest.fixture(scope="module")
def tool() -> Iterator[ModuleType]:
    tools = str(Path(__file__).resolve().parents[2] / "tools")
    sys.path.insert(0, tools)
    yield importlib.import_module("publish")
    sys.path.remove(tools)


@pytest.fixture
def weights(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models of a few kilobytes: one that can go, one whose licence says nothing, one that is lost, one without weights."""

    def hub_bare(*, num_classes: int = 4, in_chans: int = 3, num_frames: int = 2) -> tiny.Tiny:
        return tiny.Tiny(num_classes=num_classes, in_chans=in_chans, width=4)

    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    there = tiny.CFG.replace(hf_hub_id="origin/tiny")
    cfgs = {
        "weizmann": there,
        "research": there.replace(license="research (no formal licence)", class_names=()),
        "lost": there.replace(hf_hub_id="origin/lost"),
    }
    vidzoo.register_model(cfgs=cfgs)(tiny.hub_tiny)
    vidzoo.register_model()(hub_bare)
    folder = vidzoo.save_pretrained(vidzoo.create_model("hub_tiny"), tmp_path / "origin")
    hub.state.add_model("origin/tiny", {file.name: file.read_bytes() for file in folder.iterdir()})
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    return folder


@pytest.fixture
def publish(tool: ModuleType, weights: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run ``publish.py ARGS --organisation zoo`` in this process."""

    def run(*args: object) -> Outcome:
        capsys.readouterr()
        code = tool.main([*map(str, args), "--organisation", "zoo"])
        return Outcome(code, *capsys.readouterr())

    return run


def files_on(hub: LoopbackHub, repo: str, branch: str = "main") -> list[str]:
    found = hub.state.repos[repo]
    return sorted(found.commits[found.branches[branch]].tree)


def sent(hub: LoopbackHub) -> list[str]:
    """Requests that change something."""
    return [f"{one.method} {one.path}" for one in hub.log if one.method not in ("GET", "HEAD")]


def test_a_dry_run_asks_the_hub_nothing(hub: LoopbackHub, publish: Callable[..., Outcome]) -> None:
    outcome = publish("hub_tiny.weizmann")
    assert outcome.code == 0
    assert "zoo/hub_tiny.weizmann  0.0 MiB  Apache-2.0  goes" in outcome.out
    assert "1 of 1 would go with --push" in outcome.out
    assert outcome.err == ""
    assert hub.log == []


def test_a_dry_run_names_what_cannot_go_and_why(hub: LoopbackHub, publish: Callable[..., Outcome]) -> None:
    outcome = publish("hub_*")
    assert outcome.code == 1
    assert re.search(r"zoo/hub_bare .*not stated .*stays here: there are no weights\n", outcome.out)
    assert re.search(r"zoo/hub_tiny.research .*--accept-licence hub_tiny.research\n", outcome.out)
    assert "2 of 4 would go with --push" in outcome.out
    assert re.search(r"goes without class names\n", publish("hub_tiny", "--accept-licence", "hub_tiny.*").out)
    assert hub.log == []


def test_the_size_is_that_of_the_weights(tool: ModuleType, weights: Path) -> None:
    (item,) = tool.plan(["hub_tiny.weizmann"], "zoo", [])
    model = vidzoo.create_model("hub_tiny")
    assert item.size == sum(4 * parameter.numel() for parameter in model.parameters())


def test_a_folder_can_be_looked_at_without_sending_it(
    hub: LoopbackHub, publish: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = publish("hub_tiny.weizmann", "--out", tmp_path / "out")
    folder = tmp_path / "out" / "hub_tiny.weizmann"
    assert outcome.code == 0
    assert f"saved in {folder}" in outcome.out
    assert sorted(file.name for file in folder.iterdir()) == FILES
    assert sent(hub) == []
    vidzoo.create_model(f"local-dir:{folder}")


def test_what_was_pushed_is_a_model_and_is_not_pushed_twice(
    hub: LoopbackHub, transport: str, publish: Callable[..., Outcome]
) -> None:
    first = publish("hub_tiny.weizmann", "--push")
    assert first.code == 0
    assert f"zoo/hub_tiny.weizmann: pushed to {hub.url}/zoo/hub_tiny.weizmann" in first.out
    assert files_on(hub, "zoo/hub_tiny.weizmann") == FILES
    original, copy = (vidzoo.create_model(f"hf-hub:{repo}").eval() for repo in ("origin/tiny", "zoo/hub_tiny.weizmann"))
    assert torch.equal(copy(CLIP), original(CLIP))
    card = Path(hf_hub_download("zoo/hub_tiny.weizmann", "README.md")).read_text(encoding="utf-8")
    assert 'create_model("hf-hub:zoo/hub_tiny.weizmann")' in card
    assert "base_model" not in card

    hub.log.clear()
    second = publish("hub_tiny.weizmann", "--push")
    assert second.code == 0
    assert "zoo/hub_tiny.weizmann: is there already" in second.out
    assert sent(hub) == []


@pytest.mark.parametrize("name", FILES)
def test_a_repository_that_differs_in_one_file_is_brought_up_to_date(
    hub: LoopbackHub, publish: Callable[..., Outcome], name: str
) -> None:
    publish("hub_tiny.weizmann", "--push")
    repo = hub.state.repos["zoo/hub_tiny.weizmann"]
    before = repo.commits[repo.branches["main"]].tree
    hub.state.add_model("zoo/hub_tiny.weizmann", {name: b"another one"})
    assert "pushed to" in publish("hub_tiny.weizmann", "--push").out
    assert repo.commits[repo.branches["main"]].tree == before


def test_a_run_that_was_cut_off_is_started_again(hub: LoopbackHub, publish: Callable[..., Outcome]) -> None:
    hub.fault("POST .*/commit/", status=400, times=1)
    outcome = publish("hub_tiny.weizmann", "--push")
    assert outcome.code == 1
    assert "refused the upload to zoo/hub_tiny.weizmann with status 400" in outcome.sentence
    assert files_on(hub, "zoo/hub_tiny.weizmann") == []
    assert publish("hub_tiny.weizmann", "--push").code == 0
    assert files_on(hub, "zoo/hub_tiny.weizmann") == FILES


def test_one_that_fails_does_not_stop_the_others(hub: LoopbackHub, publish: Callable[..., Outcome]) -> None:
    outcome = publish("hub_*", "--push")
    assert outcome.code == 1
    assert "zoo/hub_tiny.lost: there is no model origin/lost" in outcome.sentence
    assert files_on(hub, "zoo/hub_tiny.weizmann") == FILES
    assert hub.state.repos.keys() == {"origin/tiny", "zoo/hub_tiny.weizmann"}


def test_an_unclear_licence_goes_only_when_its_name_is_given(hub: LoopbackHub, publish: Callable[..., Outcome]) -> None:
    name = "hub_tiny.research"
    assert publish(name, "--push", "--accept-licence", "hub_tiny.weizmann").code == 1
    assert hub.state.repos.keys() == {"origin/tiny"}
    assert publish(name, "--push", "--accept-licence", name).code == 0
    assert files_on(hub, "zoo/hub_tiny.research") == FILES


@pytest.mark.parametrize(
    ("licence", "free"),
    [
        ("apache-2.0", True),
        ("BSD-3-Clause", True),
        ("cc-by-nc-4.0", True),
        ("cc-by-nd-4.0", False),
        ("", False),
        ("research (no formal licence of the training videos)", False),
        ("mit, but not for video", False),
    ],
)
def test_a_licence_is_free_when_it_is_known_to_be(tool: ModuleType, licence: str, free: bool) -> None:
    assert tool.is_free(licence) == free


def test_a_private_repository_and_a_branch_are_made_on_request(
    hub: LoopbackHub, publish: Callable[..., Outcome]
) -> None:
    arguments = ("hub_tiny.weizmann", "--push", "--private", "--revision", "v2")
    assert f"pushed to {hub.url}/zoo/hub_tiny.weizmann/tree/v2" in publish(*arguments).out
    assert hub.state.repos["zoo/hub_tiny.weizmann"].private
    assert files_on(hub, "zoo/hub_tiny.weizmann", "v2") == FILES
    assert files_on(hub, "zoo/hub_tiny.weizmann") == []
    assert "is there already" in publish(*arguments).out


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("hf_read", "your token may not write to zoo/hub_tiny.weizmann"),
        ("hf_old", "does not know you"),
        ("", "does not know you"),
    ],
)
def test_a_token_that_may_not_write_is_one_sentence(
    hub: LoopbackHub, publish: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, token: str, reason: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    outcome = publish("hub_tiny.weizmann", "--push")
    assert outcome.code == 1
    assert reason in outcome.sentence
    assert hub.state.repos.keys() == {"origin/tiny"}


def test_a_hub_that_cannot_be_reached_is_one_sentence(
    hub: LoopbackHub, publish: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    point_client_at("http://127.0.0.1:9", monkeypatch)
    outcome = publish("hub_tiny", "--push")
    assert outcome.code == 1
    assert "http://127.0.0.1:9 cannot be reached to upload" in outcome.sentence


def test_a_name_that_fits_nothing_and_an_organisation_that_cannot_be(
    hub: LoopbackHub, publish: Callable[..., Outcome], tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = publish("hub_tiny.weizman", "--push")
    assert outcome.code == 1
    assert "no model fits 'hub_tiny.weizman': did you mean 'hub_tiny.weizmann'" in outcome.sentence
    assert tool.main(["hub_tiny.weizmann", "--organisation", "my zoo"]) == 1
    assert "no repository 'my zoo/hub_tiny.weizmann'" in capsys.readouterr().err
    assert hub.log == []


def test_gst_r18_weizmann_loads_from_an_organisation_as_it_does_from_the_zoo(
    hub: LoopbackHub, transport: str, publish: Callable[..., Outcome]
) -> None:
    name = "gst_r18.weizmann"
    assert publish(name, "--push", "--accept-licence", name).code == 0
    uploads = {"lfs": "/_lfs/put", "xet": "/_cas/v1/xorbs"}
    assert any(one.path.startswith(uploads[transport]) for one in hub.log)
    source = f"hf-hub:zoo/{name}"

    clip = torch.linspace(-1, 1, 3 * 6 * 24 * 32).view(1, 3, 6, 24, 32)  # (B, C, T, H, W)
    model, original = vidzoo.create_model(source).eval(), vidzoo.create_model(name, pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(model(clip), original(clip))
    assert model.pretrained_cfg.class_names == original.pretrained_cfg.class_names
    assert model.pretrained_cfg.hf_hub_id == f"zoo/{name}"

    gray = vidzoo.create_model(source, num_classes=5, in_chans=1, num_frames=6).eval()
    with torch.inference_mode():
        assert gray(clip[:, :1]).shape == (1, 5)
        # A gray clip in all three channels gives the features that its one channel gives.
        features = [
            one.forward_features(x) for one, x in ((gray, clip[:, :1]), (model, clip[:, :1].expand(-1, 3, -1, -1, -1)))
        ]
    torch.testing.assert_close(*features, rtol=1e-4, atol=1e-5)
    assert gray.pretrained_cfg.num_frames == 6

    maps = vidzoo.create_model(source, features_only=True, out_indices=(1, 4))
    with torch.inference_mode():
        assert [one.shape[1] for one in maps.eval()(clip)] == [info.num_chs for info in maps.feature_info]


def test_the_code_on_the_card_of_gst_r18_weizmann_runs(
    hub: LoopbackHub, tool: ModuleType, publish: Callable[..., Outcome], tmp_path: Path
) -> None:
    name = "gst_r18.weizmann"
    assert publish(name, "--push", "--accept-licence", name, "--out", tmp_path).code == 0
    card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
    kept = (Path(tool.__file__).parents[1] / "model_cards" / f"{name}.md").read_text(encoding="utf-8")
    assert card.replace(f'"hf-hub:zoo/{name}"', f'"{name}", pretrained=True') == kept
    code = re.search(r"```python\n(.*?)```", card, re.S)
    assert code is not None
    names: dict[str, object] = {}
    exec(code[1], names)
    output = names["output"]
    assert isinstance(output, torch.Tensor)
    assert output.shape == (1, 10)
