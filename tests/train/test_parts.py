"""The parts of a run by themselves: options, order of the clips, optimiser, freezing, the output folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import vidzoo
from vidzoo.errors import ConfigError
from vidzoo.models.base import VideoModel
from vidzoo.train.checkpointing import RunFolder, _replace
from vidzoo.train.config import FinetuneConfig, parse_pairs
from vidzoo.train.inputs import EpochBatches, make_augment
from vidzoo.train.optimiser import create_optimiser, create_schedule, freeze, train_mode
from vidzoo.train.start import rename_classes


@pytest.fixture
def network() -> VideoModel:
    return vidzoo.create_model("gst_r18", num_classes=3, num_frames=4)


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_options_survive_a_file(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"options{suffix}"
    values = {"batch-size": 4, "crop_size": [32, 48], "augment": ["hflip=0"], "opt": "sgd", "resume": True, "lr": 1}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    file.write_text("\n".join(lines) if suffix == ".toml" else json.dumps(values))
    config = FinetuneConfig.from_file(file)
    assert (config.batch_size, config.crop_size, config.augment, config.resume) == (4, (32, 48), ("hflip=0",), True)
    assert FinetuneConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"epochs": "3"}, "a whole number"),
        ({"epochs": 0}, "at least 1"),
        ({"crop_size": [1, 2, 3]}, "crop_size"),
        ({"freeze_bn": "al"}, "did you mean 'all'"),
        ({"val_match": "*_3", "val_none": True}, "val_match and val_none exclude each other"),
        ({"pretrained": True, "checkpoint": "x.pt"}, "exclude each other"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
        ({"warmup_epochs": 30.0}, "less than epochs"),
        ({"extra_samples": 3}, "needs extra data"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig.from_dict(options)


def test_pairs_become_python_values() -> None:
    pairs = parse_pairs(("hflip=0.5", "scale=0.5,1", "auto-augment=randaugment", "on=true"), what="x")
    assert pairs == {"hflip": 0.5, "scale": (0.5, 1), "auto_augment": "randaugment", "on": True}
    with pytest.raises(ConfigError, match="key=value"):
        parse_pairs(("hflip",), what="x")


@pytest.mark.parametrize("pair", ["hflp=1", "hflip=often", "scale=2"])
def test_an_augmentation_that_cannot_be_meant_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match=pair.partition("=")[0]):
        make_augment(FinetuneConfig(augment=(pair,)))


def test_the_processes_share_out_every_draw_of_an_epoch() -> None:
    ranks = [EpochBatches(12, batch_size=2, seed=0, rank=rank, world=3) for rank in range(3)]
    assert sorted(i for batches in ranks for batch in batches for i in batch) == list(range(12))
    alone = list(EpochBatches(12, batch_size=6, seed=0))
    together = [[i for batch in group for i in batch] for group in zip(*ranks, strict=True)]
    assert together == alone


def test_another_epoch_has_another_order_and_the_same_epoch_the_same() -> None:
    batches = EpochBatches(8, batch_size=4, seed=0)
    first = list(batches)
    assert list(batches) == first
    batches.epoch = 1
    assert list(batches) != first


def test_extra_videos_take_turns() -> None:
    batches = EpochBatches(4, batch_size=1, seed=0, extra=5, extra_samples=3)
    seen: list[int] = []
    for epoch in range(5):
        batches.epoch = epoch
        draws = [i for batch in batches for i in batch]
        assert sorted(i for i in draws if i < 4) == [0, 1, 2, 3]
        seen += [i for i in draws if i >= 4]
    assert sorted(seen) == sorted(list(range(4, 9)) * 3)


def test_layer_decay_gives_every_layer_its_own_rate_and_norms_no_decay(network: VideoModel) -> None:
    optimiser = create_optimiser(network, FinetuneConfig(layer_decay=0.5, weight_decay=0.1))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in optimiser.param_groups
        for p in group["params"]
    }
    assert set(found) == set(names.values())
    assert found["fc.weight"] == (1.0, 0.1)
    assert found["fc.bias"] == (1.0, 0.0)
    assert found["layer4.1.bn1.weight"] == (0.5, 0.0)
    assert found["conv1.weight"] == (0.5**9, 0.1)


def test_the_schedule_warms_up_to_the_peak_and_falls_to_the_floor(network: VideoModel) -> None:
    config = FinetuneConfig(epochs=10, warmup_epochs=2.5, lr=1.0, warmup_lr=0.0, min_lr=0.01)
    optimiser = create_optimiser(network, config)
    schedule = create_schedule(optimiser, config, updates_per_epoch=4)
    rates = []
    for update in range(1, 41):
        rates.append(optimiser.param_groups[0]["lr"])
        schedule.step_update(update)
    assert rates[:11] == pytest.approx([i / 10 for i in range(10)] + [rates[10]])
    assert rates[10] > 0.8
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=0.01)


def test_an_optimiser_that_timm_lacks_is_refused(network: VideoModel) -> None:
    with pytest.raises(ConfigError, match="did you mean 'adamw'"):
        create_optimiser(network, FinetuneConfig(opt="adamww"))


def test_frozen_norms_keep_statistics_and_affine_parameters(network: VideoModel) -> None:
    frozen = freeze(network, norms="all-but-first")
    train_mode(network, frozen)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1)
    network(torch.randn(2, 3, 4, 32, 32)).square().sum().backward()
    optimiser.step()
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm3d)}
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[0] for name in moved} & norms == {"bn1"}
    assert any(name.startswith("layer4.1.conv2") for name in moved)


def test_a_frozen_backbone_leaves_the_classifier_to_train(network: VideoModel) -> None:
    frozen = freeze(network, backbone=True)
    assert [name for name, p in network.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]
    train_mode(network, frozen)
    assert not network.bn1.training


def test_classes_are_found_again_by_their_names(network: VideoModel) -> None:
    network.pretrained_cfg = network.pretrained_cfg.replace(class_names=("a", "b", "c"))
    old = network.fc.weight.detach().clone()
    assert rename_classes(network, ("c", "d", "a", "e")) == ["c", "a"]
    assert torch.equal(network.fc.weight[[0, 2]], old[[2, 0]])
    assert network.fc.weight.shape[0] == 4


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.prepare(resume=False, overwrite=False)
    folder.save_last({"settings": {"lr": 1}, "epoch": 1})

    def fail(file: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _replace(folder.last, fail)
    state = folder.load_last({"lr": 1})
    assert state is not None
    assert state["epoch"] == 1
    assert [file.name for file in folder.checkpoints.iterdir()] == ["last.pt"]
