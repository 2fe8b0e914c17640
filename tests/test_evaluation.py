from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ramps import NAMES, Ramp, ramp_cfg, write_ramps
from vidzoo.data.decode import open_video
from vidzoo.data.listing import VideoItem, VideoList
from vidzoo.data.sample import ClipSampler
from vidzoo.data.transform import eval_transform
from vidzoo.errors import ConfigError, DataError, VideoDecodeError, WeightsError
from vidzoo.evaluation import Report, evaluate


@pytest.fixture(scope="module")
def ramps(tmp_path_factory: pytest.TempPathFactory) -> VideoList:
    return write_ramps(tmp_path_factory.mktemp("ramps"), 7)


def with_broken(videos: VideoList, folder: Path) -> VideoList:
    page = folder / "page.mp4"
    page.write_text("<!doctype html><title>404</title>")
    items = (*videos.items[:3], VideoItem(str(page), 1), *videos.items[3:])
    return videos.only(items)


class Fixed(nn.Module):
    """The same logits for every clip."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def test_a_model_that_knows_the_answer_gets_everything_right(ramps: VideoList) -> None:
    report = evaluate(Ramp(), ramps)
    assert (report.top1, report.top5, report.mean_class, report.num_videos) == (1.0, 1.0, 1.0, 7)
    assert report.confusion == ((4, 0), (0, 3))
    assert report.per_class == {"brighter": 1.0, "darker": 1.0}
    assert report.broken == {}


def test_reversed_frames_turn_brighter_into_darker(ramps: VideoList) -> None:
    report = evaluate(Ramp(), ramps, order="reversed")
    assert report.top1 == 0.0
    assert report.confusion == ((0, 4), (3, 0))
    assert report.order == "reversed"


def test_a_still_video_leaves_a_model_of_motion_with_even_odds(ramps: VideoList) -> None:
    assert evaluate(Ramp(), ramps, order="still").loss == pytest.approx(0.6931471805599453)


def test_a_still_video_minus_its_mean_frame_is_nothing(ramps: VideoList) -> None:
    seen: list[Tensor] = []
    model = Ramp()
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    evaluate(model, ramps, ramp_cfg().replace(subtract_clip_mean=True), order="still")
    assert torch.cat(seen).abs().max() == 0


def test_shuffled_frames_are_the_same_for_the_same_seed_and_any_batch_size(ramps: VideoList) -> None:
    losses = [evaluate(Ramp(), ramps, order="shuffled", seed=1, batch_size=size).loss for size in (1, 3, 64)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(losses[2], rel=1e-6)
    normal = evaluate(Ramp(), ramps).loss
    assert losses[0] != pytest.approx(normal)
    assert evaluate(Ramp(), ramps, order="shuffled", seed=2).loss != pytest.approx(losses[0])


def test_views_are_averaged_as_asked(tmp_path: Path) -> None:
    for i, level in enumerate((10, 20, 60, 70, 200, 90, 30, 240)):
        Image.new("RGB", (40, 32), (level, level, level)).save(tmp_path / f"{i}.png")
    model = Ramp(2.0)
    cfg = ramp_cfg().replace(sampling="dense", num_frames=2, temporal_stride=3)
    with open_video(tmp_path) as source:
        clips = [source.frames(view) for view in ClipSampler.from_cfg(cfg).views(source, 3)]
    views = torch.cat([eval_transform(cfg, num_crops=3)(clip) for clip in clips])
    assert len(views) == 9
    logits = model.eval()(views).double().detach()
    videos = VideoList((VideoItem(str(tmp_path), 1),), NAMES)
    expected = {"scores": logits.softmax(1).mean(0), "logits": logits.mean(0).softmax(0)}
    assert abs(expected["scores"][1] - expected["logits"][1]) > 1e-3
    for average, scores in expected.items():
        report = evaluate(model, videos, cfg, num_clips=3, num_crops=3, average=average)
        assert report.loss == pytest.approx(-scores[1].log().item(), rel=1e-5)
        assert report.views == (3, 3)
    assert evaluate(model, videos, cfg, num_clips=3, num_crops=3).average == "scores"


def test_batch_size_counts_clips_and_not_videos(ramps: VideoList) -> None:
    model = Ramp()
    evaluate(model, ramps, num_clips=5, batch_size=4)
    assert max(shape[0] for shape in model.batches) == 4
    assert sum(shape[0] for shape in model.batches) == 7 * 5


def test_worker_processes_give_the_same_report(ramps: VideoList, tmp_path: Path) -> None:
    videos = with_broken(ramps, tmp_path)
    alone, shared = (evaluate(Ramp(), videos, workers=workers) for workers in (0, 2))
    assert alone == shared
    assert len(shared.broken) == 1


def test_classes_in_another_order_are_matched_by_name(ramps: VideoList) -> None:
    swapped = VideoList(
        tuple(dataclasses.replace(item, label=1 - item.label) for item in ramps.items), (NAMES[1], NAMES[0])
    )
    report = evaluate(Ramp(), swapped)
    assert report.top1 == 1.0
    assert report.class_names == ("darker", "brighter")
    assert report.confusion == ((3, 0), (0, 4))
    assert report.loss == pytest.approx(evaluate(Ramp(), ramps).loss)


def test_other_classes_are_refused_and_the_differences_named(ramps: VideoList) -> None:
    other = VideoList(ramps.items, ("brighter", "redder"))
    with pytest.raises(DataError, match=r"does not know 'redder'.*data have no 'darker'"):
        evaluate(Ramp(), other)


def test_a_model_without_class_names_must_have_as_many_classes(ramps: VideoList) -> None:
    cfg = ramp_cfg().replace(class_names=(), num_classes=2)
    assert evaluate(Ramp(), ramps, cfg).class_names == NAMES
    with pytest.raises(DataError, match="the data have 2 classes"):
        evaluate(Ramp(), ramps, cfg.replace(num_classes=3))


def test_a_label_outside_the_classes_is_refused(ramps: VideoList) -> None:
    with pytest.raises(DataError, match="has the label 2"):
        evaluate(Ramp(), ramps.only([VideoItem(ramps.items[0].path, 2)]))


def test_a_broken_video_is_listed_and_not_counted(ramps: VideoList, tmp_path: Path) -> None:
    report = evaluate(Ramp(), with_broken(ramps, tmp_path))
    assert report.num_videos == 7
    assert list(report.broken) == [str(tmp_path / "page.mp4")]
    reason = report.broken[str(tmp_path / "page.mp4")]
    assert reason
    assert str(tmp_path) not in reason
    assert str(tmp_path / "page.mp4") in report.to_text()


def test_a_broken_video_stops_when_asked_to(ramps: VideoList, tmp_path: Path) -> None:
    with pytest.raises(VideoDecodeError, match=r"page\.mp4"):
        evaluate(Ramp(), with_broken(ramps, tmp_path), on_error="raise")


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    videos = VideoList((VideoItem(str(tmp_path / "gone.mp4"), 0),), NAMES)
    with pytest.raises(DataError, match=r"none of the 1 videos can be read.*gone\.mp4"):
        evaluate(Ramp(), videos)
    with pytest.raises(DataError, match="the list is empty"):
        evaluate(Ramp(), VideoList((), NAMES))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers_are_refused(ramps: VideoList, value: float) -> None:
    with pytest.raises(WeightsError, match="NaN or infinite"):
        evaluate(Fixed([0.0, value]), ramps, ramp_cfg())


def test_an_initialisation_is_not_evaluated(ramps: VideoList) -> None:
    with pytest.raises(ConfigError, match="fine-tune it first"):
        evaluate(Ramp(), ramps, ramp_cfg().replace(is_classifier=False))
    with pytest.raises(ConfigError, match="pretrained_cfg"):
        evaluate(Fixed([0.0, 0.0]), ramps)


@pytest.mark.parametrize(
    "option",
    [
        {"order": "random"},
        {"average": "median"},
        {"batch_size": 0},
        {"num_clips": 0},
        {"num_crops": 2},
        {"on_error": "x"},
        {"device": "nowhere"},
        {"workers": -1},
    ],
)
def test_impossible_arguments_are_refused(ramps: VideoList, option: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        evaluate(Ramp(), ramps, **option)


def test_the_model_comes_back_as_it_was(ramps: VideoList) -> None:
    model = Ramp().train()
    frozen = Ramp().train()
    frozen.norm.eval()
    for network in (model, frozen):
        before = [module.training for module in network.modules()]
        evaluate(network, ramps)
        assert [module.training for module in network.modules()] == before
        assert int(network.norm.num_batches_tracked) == 0
    with pytest.raises(WeightsError):
        evaluate(Fixed([float("nan"), 0.0]).train(), ramps, ramp_cfg())


def test_a_class_without_videos_is_not_in_the_mean(ramps: VideoList) -> None:
    brighter = ramps.only([item for item in ramps.items if item.label == 0])
    report = evaluate(Ramp(), brighter)
    assert report.mean_class == 1.0
    assert report.per_class == {"brighter": 1.0}


def test_mean_class_weighs_classes_and_top1_weighs_videos(ramps: VideoList) -> None:
    report = evaluate(Fixed([1.0, 0.0]), ramps, ramp_cfg())
    assert report.top1 == pytest.approx(4 / 7)
    assert report.mean_class == 0.5
    assert report.loss == pytest.approx(-(4 * torch.tensor([1.0, 0.0]).log_softmax(0)[0].item() - 3 * 1.3132617) / 7)


def test_top5_looks_at_five_classes(ramps: VideoList) -> None:
    videos = VideoList(
        tuple(dataclasses.replace(item, label=i) for i, item in enumerate(ramps.items)), tuple("abcdefg")
    )
    cfg = ramp_cfg().replace(num_classes=7, class_names=())
    report = evaluate(Fixed([7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]), videos, cfg)
    assert report.top1 == pytest.approx(1 / 7)
    assert report.top5 == pytest.approx(5 / 7)


def test_the_report_is_plain_json_and_a_readable_table(ramps: VideoList) -> None:
    report = evaluate(Ramp(), ramps)
    content = report.to_dict()
    assert json.loads(json.dumps(content)) == content
    assert set(content) == {field.name for field in dataclasses.fields(Report)}
    lines = report.to_text().splitlines()
    assert "top-1 100.00%" in lines[2]
    assert any(line.split() == ["0", "brighter", "4", "."] for line in lines)
    assert any(line.split() == ["darker", "3", "100.0%"] for line in lines)


def test_a_wide_confusion_is_told_by_its_worst_mistakes(ramps: VideoList) -> None:
    names = tuple(f"class{i}" for i in range(30))
    cfg = ramp_cfg().replace(num_classes=30, class_names=())
    text = evaluate(Fixed([0.0, 9.0] + [0.0] * 28), VideoList(ramps.items, names), cfg).to_text()
    assert "4  class0 taken for class1" in text


_TWO_PROCESSES = """
import json, sys, torch
from pathlib import Path
from accelerate import Accelerator
from ramps import NAMES, Ramp
from vidzoo.data.listing import VideoItem, VideoList
from vidzoo.errors import VidzooError
from vidzoo.evaluation import evaluate
torch.set_num_threads(1)
items = json.loads(Path(sys.argv[1]).read_text())
videos = VideoList(tuple(VideoItem(path, label) for path, label in items), NAMES)
accelerator = Accelerator(cpu=True)
model = Ramp()
model = accelerator.prepare(model)
accelerator.unwrap_model(model).norm.running_mean.fill_(float(accelerator.process_index))
report = evaluate(model, videos, accelerator=accelerator, order="shuffled", batch_size=2)
mean = float(accelerator.unwrap_model(model).norm.running_mean[0])
try:
    evaluate(model, videos, accelerator=accelerator, on_error="raise")
    failure = ""
except VidzooError as error:
    failure = type(error).__name__
Path(sys.argv[2] + str(accelerator.process_index)).write_text(
    json.dumps({"world": accelerator.num_processes, "mean": mean, "failure": failure, "report": report.to_dict()})
)
accelerator.end_training()
"""


def test_two_processes_give_the_report_of_one(ramps: VideoList, tmp_path: Path) -> None:
    videos = with_broken(ramps, tmp_path)
    (tmp_path / "run.py").write_text(_TWO_PROCESSES)
    (tmp_path / "items.json").write_text(json.dumps([[item.path, item.label] for item in videos.items]))
    here = Path(__file__).resolve().parent
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "items.json"), str(tmp_path / "result")],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, complaint = process.communicate(timeout=240)
            assert process.returncode == 0, complaint[-2000:]
    finally:
        for process in processes:
            process.kill()
    first, second = (json.loads((tmp_path / f"result{rank}").read_text()) for rank in range(2))
    assert first["world"] == 2
    assert first["report"] == second["report"]
    expected = evaluate(Ramp(), videos, order="shuffled").to_dict()
    assert first["report"].pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-6)
    assert first["report"] == expected
    # The broken video is the fourth, so the second process meets it: both must stop, neither may wait for ever.
    assert (first["failure"], second["failure"]) == ("DistributedError", "VideoDecodeError")
    assert (first["mean"], second["mean"]) == (0.0, 0.0)
