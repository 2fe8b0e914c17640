"""``vidzoo finetune`` on the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import pytest

import vidzoo.train.loop
from vidzoo.cli import main
from vidzoo.cli.finetune import add_parser
from vidzoo.train.config import FinetuneConfig


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser.parse_args(["finetune", "c2d_r18", "data", "--out", "run", *words])


def test_every_option_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "--help"]) == 0
    words = capsys.readouterr().out.split()
    for field in dataclasses.fields(FinetuneConfig):
        assert any(word.strip(",[]") == "--" + field.name.replace("_", "-") for word in words), field.name


def test_options_are_read_as_what_they_are() -> None:
    args = parse(
        "--crop-size", "64", "80", "--mean", "0", "0.5", "1", "--extra", "a", "--extra", "b", "--no-ema-warmup"
    )
    assert args.crop_size == [64, 80]
    assert args.mean == [0.0, 0.5, 1.0]
    assert args.extra == ["a", "b"]
    assert args.ema_warmup is False
    assert "epochs" not in args


def test_an_option_on_the_command_line_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "options.json"
    file.write_text(json.dumps({"epochs": 7, "lr": 0.5, "val-none": True}))
    given: list[FinetuneConfig] = []

    def stop(model: str, data: str, out: str, config: FinetuneConfig, **_: object) -> None:
        given.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(vidzoo.train.loop, "finetune", stop)
    assert main(["finetune", "c2d_r18", "data", "--out", "run", "--config", str(file), "--lr", "0.1"]) == 130
    assert (given[0].epochs, given[0].lr, given[0].val_none) == (7, 0.1, True)


def test_a_run_prints_its_epochs_and_where_the_model_is(
    bars: Path, quick: FinetuneConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "options.json"
    file.write_text(json.dumps({**quick.to_dict(), "epochs": 1}))
    assert main(["finetune", "c2d_r18", str(bars), "--out", str(tmp_path / "run"), "--config", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "epoch 1/1" in printed
    assert f"local-dir:{tmp_path / 'run'}" in printed


def test_processes_without_torchrun_are_one_sentence_and_exit_code_1(
    bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "c2d_r18", str(bars), "--out", str(tmp_path / "run"), "--val-none", "--processes", "2"]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "torchrun" in message
