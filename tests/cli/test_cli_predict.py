from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vidzoo import prediction

Command = Callable[..., object]


def test_predict_prints_a_table_per_video(vidzoo_command: Command, model_folder: Path, video: Path) -> None:
    outcome = vidzoo_command("predict", video, "synthetic:jack?seed=3&frames=4", "--model", model_folder)
    assert outcome.code == 0
    assert outcome.err == ""
    lines = outcome.out.splitlines()
    assert lines[0] == str(video)
    assert {line.split()[0] for line in lines[1:3]} == {"brighter", "darker"}
    assert all(line.endswith("%") for line in lines[1:3])
    assert lines[3:5] == ["", "synthetic:jack?seed=3&frames=4"]


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_json_is_exactly_the_promised_list_and_nothing_else(
    vidzoo_command: Command, model_folder: Path, video: Path, prefix: str
) -> None:
    name = f"{prefix}{model_folder}"
    outcome = vidzoo_command("predict", video, video, "--model", name, "--json", "--topk", "1")
    content = json.loads(outcome.out)
    assert len(content) == 2
    for entry in content:
        assert set(entry) == {"video", "model", "predictions"}
        assert entry["video"] == str(video)
        assert entry["model"] == name
        assert [set(guess) for guess in entry["predictions"]] == [{"label", "score"}]
        assert 0.5 <= entry["predictions"][0]["score"] <= 1


def test_the_picture_is_a_picture(vidzoo_command: Command, model_folder: Path, video: Path, tmp_path: Path) -> None:
    target = tmp_path / "prediction.png"
    assert vidzoo_command("predict", video, "--model", model_folder, "--picture", target).code == 0
    with Image.open(target) as picture:
        assert picture.format == "PNG"


def test_a_picture_of_two_videos_is_a_senseless_command_line(
    vidzoo_command: Command, model_folder: Path, video: Path, tmp_path: Path
) -> None:
    outcome = vidzoo_command("predict", video, video, "--model", model_folder, "--picture", tmp_path / "x.png")
    assert outcome.code == 2
    assert "--picture shows a single video" in outcome.err


@pytest.mark.parametrize("place", ["nowhere/x.png", "."])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    vidzoo_command: Command, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "load_classifier", lambda name: pytest.fail("the work was begun"))
    outcome = vidzoo_command("predict", "video.mp4", "--picture", tmp_path / place)
    assert outcome.code == 1
    assert str(tmp_path) in outcome.sentence


def test_a_picture_of_an_unknown_kind_is_refused(
    vidzoo_command: Command, model_folder: Path, video: Path, tmp_path: Path
) -> None:
    outcome = vidzoo_command("predict", video, "--model", model_folder, "--picture", tmp_path / "x.txt")
    assert outcome.code == 1
    assert "must end in .png" in outcome.sentence


def unreadable(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "html":
        path.write_text("<!doctype html><html><body>Sign in to download</body></html>")
    elif kind == "noise":
        path.write_bytes(os.urandom(4096))
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["missing", "html", "noise", "empty", "folder"])
def test_a_video_that_is_none_is_one_sentence_with_its_path(
    kind: str, vidzoo_command: Command, model_folder: Path, tmp_path: Path
) -> None:
    path = unreadable(kind, tmp_path)
    outcome = vidzoo_command("predict", path, "--model", model_folder)
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.sentence.startswith(f"vidzoo: {path}: ")


def test_a_broken_video_is_listed_and_the_others_are_predicted(
    vidzoo_command: Command, model_folder: Path, video: Path, tmp_path: Path
) -> None:
    page = unreadable("html", tmp_path)
    outcome = vidzoo_command("predict", page, video, "--model", model_folder, "--on-error", "skip", "--json")
    assert outcome.code == 0
    assert [entry["video"] for entry in json.loads(outcome.out)] == [str(video)]
    assert outcome.sentence.startswith(f"vidzoo: {page} is left out: ")


def test_nothing_but_broken_videos_exits_with_1(vidzoo_command: Command, model_folder: Path, tmp_path: Path) -> None:
    page = unreadable("html", tmp_path)
    outcome = vidzoo_command("predict", page, "--model", model_folder, "--on-error", "skip", "--json")
    assert outcome.code == 1
    assert json.loads(outcome.out) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gst_r19", "did you mean"),
        ("gst_r18.kinetix", "has no weights tagged 'kinetix'"),
        ("local-dir:/nowhere/at/all", "/nowhere/at/all"),
        ("timm:resnet50", "local-dir:path for a folder"),
    ],
)
def test_a_model_that_does_not_exist_is_one_sentence(
    name: str, words: str, vidzoo_command: Command, video: Path
) -> None:
    outcome = vidzoo_command("predict", video, "--model", name)
    assert outcome.code == 1
    assert words in outcome.sentence


def test_a_folder_that_is_no_model_is_one_sentence(vidzoo_command: Command, video: Path, tmp_path: Path) -> None:
    assert "a folder without config.json" in vidzoo_command("predict", video, "--model", video).sentence
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "gst_r18",')
    outcome = vidzoo_command("predict", video, "--model", folder)
    assert outcome.code == 1
    assert "config.json" in outcome.sentence


def test_an_initialisation_is_refused(vidzoo_command: Command, untrained_folder: Path, video: Path) -> None:
    outcome = vidzoo_command("predict", video, "--model", untrained_folder)
    assert outcome.code == 1
    assert "an initialisation, not an action classifier: fine-tune it first" in outcome.sentence


def test_a_device_that_is_not_there_is_one_sentence(vidzoo_command: Command, model_folder: Path, video: Path) -> None:
    for device in ("cuda:99", "nowhere"):
        outcome = vidzoo_command("predict", video, "--model", model_folder, "--device", device)
        assert outcome.code == 1
        assert repr(device) in outcome.sentence


def test_real_videos_of_many_kinds(vidzoo_command: Command, model_folder: Path, shared_data: Path) -> None:
    paths = sorted((shared_data / "odd").iterdir())
    outcome = vidzoo_command("predict", *paths, "--model", model_folder, "--on-error", "skip", "--json")
    assert outcome.code == 0
    read = {Path(entry["video"]).name for entry in json.loads(outcome.out)}
    assert {"av1_video.mkv", "h265_video.mp4", "video_90.mov", "vfr.mp4"} <= read
    assert read.isdisjoint({"audio_only.mp3", "trunc_nomoov.mp4"})
    assert len(outcome.err.splitlines()) == len(paths) - len(read)
