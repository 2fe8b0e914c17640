"""Runs from beginning to end, on a tiny data set."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import vidzoo
from vidzoo.data.listing import scan
from vidzoo.errors import ConfigError, DataError, UnknownOptionError
from vidzoo.evaluation import evaluate
from vidzoo.train.config import FinetuneConfig
from vidzoo.train.loop import FinetuneResult, finetune
from vidzoo.train.trainer import DivergedError

MODEL = "c2d_r18"


def weights(result: FinetuneResult) -> dict[str, torch.Tensor]:
    return result.model.state_dict()


def differing(a: FinetuneResult, b: FinetuneResult) -> list[str]:
    other = weights(b)
    return [name for name, value in weights(a).items() if not torch.equal(value, other[name])]


@pytest.fixture(scope="module")
def rich(quick: FinetuneConfig) -> FinetuneConfig:
    """Everything that has a state of its own: averaged weights, dropout, mixing, accumulation, several clips."""
    return quick.replace(
        ema_decay=0.9,
        drop_rate=0.3,
        mixup=0.2,
        cutmix=1.0,
        grad_accum=2,
        samples_per_video=2,
        layer_decay=0.8,
        save_every=1,
    )


@pytest.fixture(scope="module")
def finished(bars: Path, rich: FinetuneConfig, tmp_path_factory: pytest.TempPathFactory) -> FinetuneResult:
    return finetune(MODEL, bars, tmp_path_factory.mktemp("runs") / "finished", rich)


def test_the_loss_falls_and_the_training_videos_are_learnt(bars: Path, quick: FinetuneConfig, tmp_path: Path) -> None:
    config = quick.replace(
        epochs=6,
        label_smoothing=0.0,
        samples_per_video=2,
        val_match=None,
        val_none=True,
        augment=("crop=centre", "hflip=0"),
    )
    result = finetune(MODEL, bars, tmp_path / "run", config)
    losses = [row["train_loss"] for row in result.history]
    assert losses[-1] < 0.3 * losses[0]
    assert evaluate(result.model, scan(bars)).top1 == 1.0
    assert result.report is None
    assert result.epoch == 6


def test_the_folder_gives_the_same_logits_and_the_class_names(finished: FinetuneResult) -> None:
    loaded = vidzoo.create_model(f"local-dir:{finished.out}").eval()
    clip = torch.randn(2, 3, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(clip), finished.model(clip), rtol=0, atol=0)
    cfg = loaded.pretrained_cfg
    assert cfg.class_names == ("falls", "rests", "slides")
    assert (cfg.num_frames, cfg.crop_size, cfg.short_side) == (2, (32, 32), 32)


def test_the_report_belongs_to_the_weights_in_the_folder(finished: FinetuneResult, bars: Path) -> None:
    loaded = vidzoo.create_model(f"local-dir:{finished.out}")
    videos = scan(bars)
    kept = videos.only(item for item in videos.items if item.stem.endswith("_3"))
    assert finished.report is not None
    assert finished.report.num_videos == 3
    assert evaluate(loaded, kept).loss == pytest.approx(finished.report.loss, rel=1e-6)
    assert loaded.pretrained_cfg.metrics["top1"] == pytest.approx(100 * finished.report.top1)
    row = finished.history[finished.epoch - 1]
    assert row["val_loss"] == pytest.approx(finished.report.loss, rel=1e-6)


def test_results_csv_has_one_row_per_epoch(finished: FinetuneResult) -> None:
    with open(finished.out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0]) == [
        "epoch", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "seconds"
    ]  # fmt: skip
    assert float(rows[1]["val_loss"]) == pytest.approx(finished.history[1]["val_loss"], rel=1e-5)


def test_the_card_tells_the_recipe_and_how_the_epoch_was_chosen(finished: FinetuneResult) -> None:
    card = (finished.out / "README.md").read_text()
    assert "9 videos of 3 classes" in card
    assert "`mixup=0.2`" in card
    assert "videos whose name matches `*_3`" in card
    assert "chosen by these same videos" in card


def test_an_interrupted_run_that_is_resumed_ends_in_the_same_weights(
    bars: Path, rich: FinetuneConfig, finished: FinetuneResult, tmp_path: Path
) -> None:
    def interrupt(row: Mapping[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(MODEL, bars, tmp_path / "run", rich, on_epoch=interrupt)
    assert not (tmp_path / "run" / "config.json").exists()
    seen: list[int] = []
    result = finetune(
        MODEL, bars, tmp_path / "run", rich.replace(resume=True), on_epoch=lambda row: seen.append(row["epoch"])
    )
    assert seen == [2]
    assert differing(result, finished) == []
    assert [row["train_loss"] for row in result.history] == [row["train_loss"] for row in finished.history]


def test_a_finished_run_that_is_resumed_does_not_train_again(
    bars: Path, rich: FinetuneConfig, finished: FinetuneResult
) -> None:
    def refuse(row: Mapping[str, Any]) -> None:
        raise RuntimeError("it trained")

    result = finetune(MODEL, bars, finished.out, rich.replace(resume=True), on_epoch=refuse)
    assert differing(result, finished) == []


def test_a_run_does_not_go_on_with_other_settings(bars: Path, rich: FinetuneConfig, finished: FinetuneResult) -> None:
    with pytest.raises(ConfigError, match=r"lr was 0.01 and is 0.5"):
        finetune(MODEL, bars, finished.out, rich.replace(resume=True, lr=0.5))


def test_the_number_of_workers_and_the_cache_do_not_change_the_result(
    bars: Path, rich: FinetuneConfig, finished: FinetuneResult, tmp_path: Path
) -> None:
    config = rich.replace(workers=2, cache="ram", save_every=100)
    assert differing(finetune(MODEL, bars, tmp_path / "run", config), finished) == []


def test_another_seed_changes_the_result_and_the_callers_random_numbers_stay_his_own(
    bars: Path, quick: FinetuneConfig, finished: FinetuneResult, tmp_path: Path
) -> None:
    config = quick.replace(epochs=1, val_every=5, keep="last")
    before = torch.get_rng_state()
    one = finetune(MODEL, bars, tmp_path / "one", config.replace(seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    two = finetune(MODEL, bars, tmp_path / "two", config.replace(seed=2))
    assert "fc.weight" in differing(one, two)


def test_an_output_folder_with_a_run_needs_resume_or_overwrite(
    bars: Path, quick: FinetuneConfig, finished: FinetuneResult
) -> None:
    with pytest.raises(ConfigError, match="another run"):
        finetune(MODEL, bars, finished.out, quick)


def test_overwrite_replaces_a_run_once_the_new_one_can_start_and_leaves_other_files(
    bars: Path, quick: FinetuneConfig, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "config.json").write_text("old")
    config = quick.replace(overwrite=True, epochs=1, keep="last")
    with pytest.raises(ConfigError, match="one batch"):
        finetune(MODEL, bars, tmp_path, config.replace(batch_size=100))
    assert (tmp_path / "config.json").read_text() == "old"
    finetune(MODEL, bars, tmp_path, config)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert vidzoo.create_model(f"local-dir:{tmp_path}").num_classes == 3


def test_an_output_folder_that_cannot_be_written_stops_the_run_first(quick: FinetuneConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        finetune("no_such_model", tmp_path / "no_such_data", tmp_path / "file" / "run", quick)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(
    bars: Path, quick: FinetuneConfig, tmp_path: Path
) -> None:
    config = quick.replace(lr=1e30, clip_grad=0.0, sched="constant")
    with pytest.raises(DivergedError, match=r"epoch 1, step 2 of 2.*--lr"):
        finetune(MODEL, bars, tmp_path / "run", config)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_warm_start_keeps_the_rows_of_known_classes_and_what_is_frozen(
    bars: Path, quick: FinetuneConfig, finished: FinetuneResult, tmp_path: Path
) -> None:
    for name in ("slides", "falls"):
        shutil.copytree(bars / name, tmp_path / "data" / name)
    config = quick.replace(epochs=1, keep="last", freeze_bn="all-but-first", layer_decay=1e-6, lr=1e-6, min_lr=0.0)
    result = finetune(f"local-dir:{finished.out}", tmp_path / "data", tmp_path / "run", config)
    old, new = finished.model.get_classifier().weight, result.model.get_classifier().weight
    torch.testing.assert_close(new, old[[0, 2]], rtol=0, atol=1e-4)
    assert result.model.pretrained_cfg.class_names == ("falls", "slides")
    assert "fine-tuned" in result.model.pretrained_cfg.source
    moved = {name for name in differing(result, finished) if "bn" in name or "downsample.1" in name}
    assert "bn1.running_mean" in moved
    assert moved <= {"bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"}


def test_extra_data_with_a_class_of_its_own_are_refused(bars: Path, quick: FinetuneConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no class"):
        finetune(MODEL, bars, tmp_path / "run", quick.replace(extra=("synthetic:pairs?videos_per_class=1",)))


def test_data_that_do_not_say_what_validates_are_refused(bars: Path, quick: FinetuneConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--val-none"):
        finetune(MODEL, bars, tmp_path / "run", quick.replace(val_match=None))


def test_an_option_that_the_architecture_lacks_is_refused(bars: Path, quick: FinetuneConfig, tmp_path: Path) -> None:
    with pytest.raises(UnknownOptionError, match="colour"):
        finetune(MODEL, bars, tmp_path / "run", quick.replace(model_options=("colour=red",)))
