from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ramps import NAMES

Command = Callable[..., object]


def test_eval_prints_a_report(vidzoo_command: Command, model_folder: Path, data_folder: Path) -> None:
    outcome = vidzoo_command("eval", model_folder, data_folder)
    assert outcome.code == 0
    assert outcome.err == ""
    assert "5 videos, 2 classes, 1 x 1 views" in outcome.out
    assert "confusion" in outcome.out


def test_json_on_stdout_and_in_the_file_are_the_same_report(
    vidzoo_command: Command, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "report.json"
    options = ["--num-clips", 2, "--num-crops", 3, "--order", "reversed", "--json", "--out", target]
    outcome = vidzoo_command("eval", model_folder, data_folder, *options)
    report = json.loads(outcome.out)
    assert json.loads(target.read_text()) == report
    assert report["views"] == {"num_clips": 2, "num_crops": 3}
    assert report["order"] == "reversed"
    assert report["num_videos"] == 5
    assert sum(map(sum, report["confusion"])) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_match_takes_a_part_of_the_data(vidzoo_command: Command, model_folder: Path, data_folder: Path) -> None:
    outcome = vidzoo_command("eval", model_folder, data_folder, "--match", "*00", "--match", "*03", "--json")
    assert json.loads(outcome.out)["num_videos"] == 2
    refused = vidzoo_command("eval", model_folder, data_folder, "--match", "*moshe*")
    assert refused.code == 1
    assert "no video fits '*moshe*': they are named like video00" in refused.sentence


def test_where_the_data_name_a_validation_part_that_is_evaluated(
    vidzoo_command: Command, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(data_folder, tmp_path / "train")
    shutil.copytree(data_folder, tmp_path / "val")
    shutil.rmtree(tmp_path / "val" / "darker" / "video01")
    outcome = vidzoo_command("eval", model_folder, tmp_path, "--json")
    assert json.loads(outcome.out)["num_videos"] == 4
    assert outcome.sentence.endswith("this is val")


def test_numbers_in_a_list_are_the_classes_of_the_model(
    vidzoo_command: Command, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(data_folder / "brighter", tmp_path / "videos")
    lines = [f"videos/video00 {1}", f"videos/video02 {0}"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    outcome = vidzoo_command("eval", model_folder, tmp_path / "list.txt", "--json")
    assert json.loads(outcome.out)["class_names"] == list(NAMES)


def test_other_classes_are_refused_by_name(vidzoo_command: Command, model_folder: Path) -> None:
    outcome = vidzoo_command("eval", model_folder, "synthetic:actions?videos_per_class=1")
    assert outcome.code == 1
    assert "does not know 'bend'" in outcome.sentence
    assert "the data have no 'brighter'" in outcome.sentence


def test_a_broken_video_is_listed_or_stops(
    vidzoo_command: Command, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(data_folder, tmp_path / "data")
    page = tmp_path / "data" / "darker" / "page.mp4"
    page.write_text("<html>")
    outcome = vidzoo_command("eval", model_folder, tmp_path / "data", "--json", "--workers", "1")
    assert outcome.code == 0
    report = json.loads(outcome.out)
    assert report["num_videos"] == 5
    assert list(report["broken"]) == [str(page)]
    stopped = vidzoo_command("eval", model_folder, tmp_path / "data", "--on-error", "raise")
    assert stopped.code == 1
    assert stopped.sentence.startswith(f"vidzoo: {page}: ")


@pytest.mark.parametrize("kind", ["missing", "empty", "flat", "binary", "words"])
def test_data_that_are_none_are_one_sentence(
    kind: str, vidzoo_command: Command, model_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "data"
    if kind in ("empty", "flat"):
        path.mkdir()
    if kind == "flat":
        (path / "video.mp4").touch()
    if kind == "binary":
        path.write_bytes(bytes(range(256)))
    if kind == "words":
        path.write_text("nothing like a list\n")
    outcome = vidzoo_command("eval", model_folder, path)
    assert outcome.code == 1
    assert outcome.out == ""
    assert str(path) in outcome.sentence


def test_a_report_that_cannot_be_written_is_refused_first(
    vidzoo_command: Command, model_folder: Path, tmp_path: Path
) -> None:
    outcome = vidzoo_command("eval", "nosuchmodel", "nodata", "--out", tmp_path / "nowhere" / "report.json")
    assert outcome.code == 1
    assert "there is no folder" in outcome.sentence
    assert "nosuchmodel" not in outcome.sentence


def test_an_initialisation_is_refused(vidzoo_command: Command, untrained_folder: Path, data_folder: Path) -> None:
    outcome = vidzoo_command("eval", untrained_folder, data_folder)
    assert outcome.code == 1
    assert "fine-tune it first" in outcome.sentence
