"""A model folder is read as it was meant, or refused in one sentence that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vidzoo
from vidzoo.errors import HubError, WeightsError
from vidzoo.hub import read_folder, save_pretrained
from vidzoo.models.base import VideoModel


@pytest.fixture
def folder(model: VideoModel, tmp_path: Path) -> Path:
    return save_pretrained(model, tmp_path / "saved")


def write(folder: Path, config: Any) -> None:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", "is not valid JSON"),
        ("", "is not valid JSON"),
        ("\x80", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ([1], "holds a JSON list"),
        ("null", "holds a JSON NoneType"),
        ({}, "does not say which architecture"),
        ({"architecture": 3}, "does not say which architecture"),
        ({"architecture": "hub_tinny"}, "did you mean 'hub_tiny'"),
        ({"architecture": "resnet18"}, "this vidzoo does not have"),
        ({"architecture": "hub_tiny", "model_args": [1]}, "model_args must be an object"),
        ({"architecture": "hub_tiny", "pretrained_cfg": 1}, "pretrained_cfg must be an object"),
        ({"architecture": "hub_tiny", "pretrained_cfg": {"num_frames": 0}}, "num_frames must be a positive"),
        ({"architecture": "hub_tiny", "pretrained_cfg": {"mean": "x"}}, "mean must be a sequence"),
        ({"architecture": "hub_tiny", "num_classes": 5, "pretrained_cfg": {"num_classes": 4}}, "contradicts itself"),
        ({"architecture": "hub_tiny", "num_classes": 2, "class_names": ["one"]}, "1 class names for 2 classes"),
    ],
)
def test_a_config_that_cannot_be_meant_is_refused_by_its_path(folder: Path, config: Any, reason: str) -> None:
    write(folder, config)
    with pytest.raises(HubError) as caught:
        read_folder(folder)
    assert str(folder / "config.json") in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="missing does not exist: local-dir: takes a folder"):
        vidzoo.create_model(f"local-dir:{tmp_path / 'missing'}")


def test_a_file_instead_of_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(HubError, match="is a file, not a folder"):
        read_folder(folder / "model.safetensors")


def test_a_folder_without_a_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(HubError, match=r"there is no config\.json in .*saved"):
        read_folder(folder)


def test_a_config_that_is_a_folder_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(HubError, match=r"config\.json cannot be read: Is a directory"):
        read_folder(folder)


def test_a_handwritten_config_is_fed_like_its_architecture_but_inherits_no_claims(tmp_path: Path) -> None:
    write(tmp_path, {"architecture": "hub_tiny", "num_classes": 2})
    cfg = read_folder(tmp_path).cfg
    assert (cfg.num_frames, cfg.crop_size, cfg.fps) == (2, (8, 8), 12.5)
    assert (cfg.class_names, cfg.metrics, cfg.license, cfg.tag) == ((), {}, "", "")
    assert cfg.num_classes == 2


def test_keys_of_a_newer_version_are_kept_with_a_warning(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["colour_space"] = "bt709"
    write(folder, config)
    with pytest.warns(UserWarning, match="colour_space"):
        assert read_folder(folder).cfg.extra == {"colour_space": "bt709"}


def test_a_deprecated_architecture_is_read_under_its_new_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidzoo.registry._deprecated", {"old_tiny": "hub_tiny", "gone_tiny": None})
    write(folder, {"architecture": "old_tiny"})
    with pytest.warns(FutureWarning, match="hub_tiny"):
        assert read_folder(folder).architecture == "hub_tiny"
    write(folder, {"architecture": "gone_tiny"})
    with pytest.raises(HubError, match=r"config\.json: the model 'gone_tiny' was removed"):
        read_folder(folder)


def test_lists_in_the_options_come_back_as_tuples(folder: Path) -> None:
    write(folder, {"architecture": "hub_tiny", "model_args": {"order": [3, 4]}})
    assert read_folder(folder).model_args == {"order": (3, 4)}


def test_a_folder_without_weights_is_read_but_loads_only_a_fresh_network(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert read_folder(folder).weights is None
    vidzoo.create_model(f"local-dir:{folder}", pretrained=False)
    with pytest.raises(WeightsError, match="has a config but no weights"):
        vidzoo.create_model(f"local-dir:{folder}")


def test_the_safetensors_file_called_model_is_preferred(folder: Path) -> None:
    (folder / "last.safetensors").write_bytes(b"")
    (folder / "pytorch_model.bin").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text("{}")
    assert read_folder(folder).weights == folder / "model.safetensors"


@pytest.mark.parametrize("name", ["last.safetensors", "pytorch_model.bin", "weights.pth"])
def test_the_only_other_file_of_weights_is_taken(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert read_folder(folder).weights == folder / name


def test_several_files_of_weights_are_not_guessed_among(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"a\.safetensors, b\.safetensors\) and none is called model\.safetensors"):
        read_folder(folder)


def test_weights_that_changed_since_they_were_saved_are_refused(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 0xFF
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="is not the file that was published"):
        vidzoo.create_model(f"local-dir:{folder}")


@pytest.fixture
def sharded(model: VideoModel, tmp_path: Path) -> Path:
    return save_pretrained(model, tmp_path / "sharded", max_shard_size=2000)


def test_shards_are_merged_into_what_was_saved(sharded: Path, model: VideoModel) -> None:
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 1
    weights = read_folder(sharded).weights
    assert weights is not None
    merged = load_file(weights)
    assert merged.keys() == model.state_dict().keys()
    assert all(torch.equal(merged[name], value) for name, value in model.state_dict().items())


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(WeightsError, match=f"lacks 1 of 2 shards: {shard.name}"):
        read_folder(sharded)


def test_a_damaged_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=shard.name):
        read_folder(sharded)


def test_a_shard_with_other_tensors_than_its_index_says_is_refused(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[0]
    save_file({"stranger": torch.zeros(1)}, shard)
    with pytest.raises(WeightsError, match=f"{shard.name} does not hold what the index says: .*stranger"):
        read_folder(sharded)


def test_shards_without_their_index_are_refused(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    with pytest.raises(WeightsError, match=r"they are shards whose model\.safetensors\.index\.json is missing"):
        read_folder(sharded)


@pytest.mark.parametrize(
    "index",
    ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../x.safetensors"}}'],
)
def test_an_index_that_cannot_be_meant_is_refused_by_its_path(sharded: Path, index: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        read_folder(sharded)
