"""A saved model is rebuilt exactly, and a save that fails leaves what was there before."""

from __future__ import annotations

import json
import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

import vidzoo
from vidzoo.errors import HubError, WeightsError
from vidzoo.hub import save_pretrained
from vidzoo.models.base import VideoModel

CLIP = torch.linspace(-1, 1, 3 * 2 * 8 * 8).view(1, 3, 2, 8, 8)  # (B, C, T, H, W)


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def test_a_saved_model_comes_back_with_equal_logits_cfg_and_options(tmp_path: Path) -> None:
    model = vidzoo.create_model("hub_tiny", width=24, order=(5, 6), num_frames=4).eval()
    again = vidzoo.create_model(f"local-dir:{save_pretrained(model, tmp_path / 'a')}").eval()
    assert torch.equal(again(CLIP), model(CLIP))
    assert again.pretrained_cfg.replace(sha256="") == model.pretrained_cfg
    assert again.model_args == model.model_args


def test_a_model_of_the_zoo_comes_back_too(tmp_path: Path) -> None:
    model = vidzoo.create_model("gst_r18", num_classes=3).eval()
    folder = save_pretrained(model, tmp_path / "gst")
    again = vidzoo.create_model(f"local-dir:{folder}").eval()
    clip = torch.rand(1, 3, 4, 32, 32)
    assert torch.equal(again(clip), model(clip))
    assert again.pretrained_cfg.replace(sha256="") == model.pretrained_cfg


def test_the_config_says_what_the_readme_of_the_format_promises(model: VideoModel, tmp_path: Path) -> None:
    config = config_of(save_pretrained(model, tmp_path / "a"))
    assert list(config) == [
        *("vidzoo_version", "config_version", "architecture", "model_args"),
        *("num_classes", "num_features", "class_names", "pretrained_cfg"),
    ]
    assert config["architecture"] == "hub_tiny"
    assert config["num_features"] == 16
    assert config["class_names"][2] == 'Björn\'s "clap"'
    assert config["pretrained_cfg"]["sha256"] == vidzoo.checkpoint.sha256_of(tmp_path / "a" / "model.safetensors")
    with safe_open(tmp_path / "a" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "vidzoo_version": vidzoo.__version__}


def test_a_new_head_is_what_the_config_says(model: VideoModel, tmp_path: Path) -> None:
    model.reset_classifier(7)
    folder = save_pretrained(model, tmp_path / "seven")
    config = config_of(folder)
    assert (config["num_classes"], config["model_args"]["num_classes"], config["class_names"]) == (7, 7, [])
    assert torch.equal(vidzoo.create_model(f"local-dir:{folder}").eval()(CLIP), model(CLIP))


def test_a_model_without_a_head_comes_back_without_one(model: VideoModel, tmp_path: Path) -> None:
    model.reset_classifier(0)
    again = vidzoo.create_model(f"local-dir:{save_pretrained(model, tmp_path / 'a')}")
    assert again(CLIP).shape == (1, 16)


def test_saving_changes_nothing_on_the_model(model: VideoModel, tmp_path: Path) -> None:
    model.reset_classifier(7)
    cfg, args = model.pretrained_cfg, dict(model.model_args)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    save_pretrained(model.train(), tmp_path / "a", metrics={"top1": 50.0})
    assert model.pretrained_cfg is cfg
    assert model.model_args == args
    assert model.training
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_figures_go_into_the_config_beside_those_of_the_source(model: VideoModel, tmp_path: Path) -> None:
    folder = save_pretrained(model, tmp_path / "a", metrics={"top1": torch.tensor(50.0)})
    assert config_of(folder)["pretrained_cfg"]["metrics"] == {"top1 of the paper": 71.5, "top1": 50.0}


def test_weights_in_another_memory_format_are_saved(model: VideoModel, tmp_path: Path) -> None:
    expected = model(CLIP)
    model = model.to(memory_format=torch.channels_last_3d)
    assert not model.conv1.weight.is_contiguous()
    again = vidzoo.create_model(f"local-dir:{save_pretrained(model, tmp_path / 'a')}").eval()
    assert torch.equal(again(CLIP), expected)


def test_weights_that_share_memory_are_saved_apart(model: VideoModel, tmp_path: Path) -> None:
    flat = torch.cat([value.flatten() for value in (model.fc.weight.detach(), model.fc.bias.detach())])
    model.fc.weight.data = flat[: model.fc.weight.numel()].view_as(model.fc.weight)
    model.fc.bias.data = flat[model.fc.weight.numel() :]
    again = vidzoo.create_model(f"local-dir:{save_pretrained(model, tmp_path / 'a')}").eval()
    assert torch.equal(again(CLIP), model(CLIP))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compiled"])
def test_a_wrapped_model_is_saved_as_the_model(model: VideoModel, tmp_path: Path, wrap: type) -> None:
    folder = save_pretrained(wrap(model), tmp_path / "a")
    assert torch.equal(vidzoo.create_model(f"local-dir:{folder}").eval()(CLIP), model(CLIP))


def test_a_model_that_the_factory_did_not_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="this Linear does not know the name and options that would rebuild it"):
        save_pretrained(nn.Linear(2, 2), tmp_path / "a")
    with pytest.raises(HubError, match="not a features_only one"):
        save_pretrained(vidzoo.create_model("hub_tiny", features_only=True), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_was_operated_on_is_refused(model: VideoModel, tmp_path: Path) -> None:
    model.conv1 = nn.Conv3d(3, 16, 1)
    with pytest.raises(HubError, match=r"no longer what hub_tiny .* builds \(1 tensors differ, first conv1\.weight"):
        save_pretrained(model, tmp_path / "a")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(model: VideoModel, tmp_path: Path, value: float) -> None:
    with torch.no_grad():
        model.fc.bias[0] = value
    with pytest.raises(WeightsError, match=r"fc\.bias has NaN or infinite values"):
        save_pretrained(model, tmp_path / "a")


def test_weights_on_the_meta_device_are_refused(model: VideoModel, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="on the meta device"):
        save_pretrained(model.to("meta"), tmp_path / "a")


def test_a_figure_that_is_not_a_number_is_refused(model: VideoModel, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="the figure 'top1' is nan"):
        save_pretrained(model, tmp_path / "a", metrics={"top1": math.nan})


def test_an_option_that_json_cannot_hold_is_refused_and_leaves_nothing(model: VideoModel, tmp_path: Path) -> None:
    model.model_args["norm"] = nn.BatchNorm3d
    with pytest.raises(HubError, match="JSON cannot hold"):
        save_pretrained(model, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_size_of_shards_that_is_none_is_refused(model: VideoModel, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="max_shard_size='many' is not a size"):
        save_pretrained(model, tmp_path / "a", max_shard_size="many")


def test_a_file_in_the_way_is_left_alone(model: VideoModel, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(HubError, match="there is a file of that name"):
        save_pretrained(model, tmp_path / "a")
    assert (tmp_path / "a").read_text() == "mine"


def test_a_file_among_the_parents_is_refused(model: VideoModel, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(HubError, match=r"cannot be saved to .*: Not a directory"):
        save_pretrained(model, tmp_path / "a" / "b")


def test_a_folder_in_the_place_of_a_file_stops_the_save_before_anything_moves(
    model: VideoModel, tmp_path: Path
) -> None:
    folder = save_pretrained(model, tmp_path / "a")
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.fc.bias += 1
    with pytest.raises(HubError, match=r"config\.json is a folder there; move it away"):
        save_pretrained(model, folder)
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_refused(
    model: VideoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(HubError, match=r"cannot be saved to .*: Permission denied"):
        save_pretrained(model, tmp_path / "a")


@contextmanager
def small_disk() -> Iterator[None]:
    """No file may grow beyond 3000 bytes: writing fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_nothing_behind(model: VideoModel, tmp_path: Path) -> None:
    with small_disk(), pytest.raises(HubError, match="cannot be saved to"):
        save_pretrained(model, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_fails_leaves_the_one_before(model: VideoModel, tmp_path: Path) -> None:
    folder = save_pretrained(model, tmp_path / "a")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with torch.no_grad():
        model.fc.bias += 1
    with small_disk(), pytest.raises(HubError):
        save_pretrained(model, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_save_that_is_killed_between_two_files_does_not_load_as_a_mixture(
    model: VideoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_pretrained(model, tmp_path / "a")
    with torch.no_grad():
        model.fc.bias += 1
    replace, moved = os.replace, []

    def die_before_the_config(source: Path, target: Path) -> None:
        if Path(target).name == "config.json":
            raise KeyboardInterrupt
        moved.append(Path(target).name)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("vidzoo.hub.folder.os.replace", die_before_the_config)
        with pytest.raises(KeyboardInterrupt):
            save_pretrained(model, folder)
    assert moved == ["model.safetensors", "README.md"]
    with pytest.raises(WeightsError, match="is not the file that was published"):
        vidzoo.create_model(f"local-dir:{folder}")
    save_pretrained(model, folder)
    vidzoo.create_model(f"local-dir:{folder}")


def test_files_of_others_stay_and_older_weights_go(model: VideoModel, tmp_path: Path) -> None:
    folder = save_pretrained(model, tmp_path / "a", max_shard_size=2000)
    (folder / "log.csv").write_text("mine")
    save_pretrained(model, folder)
    names = {"log.csv", "config.json", "README.md", "model.safetensors"}
    assert {file.name for file in folder.iterdir()} == names
    save_pretrained(model, folder, max_shard_size=2000)
    assert not (folder / "model.safetensors").exists()
    assert vidzoo.create_model(f"local-dir:{folder}").num_classes == 4


def test_a_card_of_ones_own_is_written_as_it_is(model: VideoModel, tmp_path: Path) -> None:
    folder = save_pretrained(model, tmp_path / "a", card="# Björn\n")
    assert (folder / "README.md").read_text(encoding="utf-8") == "# Björn\n"
