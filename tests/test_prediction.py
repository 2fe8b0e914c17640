from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

import vidzoo
from ramps import Ramp, ramp_cfg, write_ramp
from vidzoo import prediction
from vidzoo.errors import ConfigError, HubError, UnknownModelError, VideoDecodeError, WeightsError
from vidzoo.picture import draw_prediction, write_picture
from vidzoo.prediction import LabelScore, VideoPrediction, load_classifier, model_source, predict, sampled_frames


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    return write_ramp(tmp_path / "ramp", "brighter")


def some_prediction(count: int = 3, label: str = "jack") -> VideoPrediction:
    scores = [LabelScore(f"{label}{i}", 0.8 / 2**i) for i in range(count)]
    return VideoPrediction("folder/video.mp4", "gst_r18.weizmann", scores)


def test_the_best_class_comes_first_with_its_softmax(ramp: Path) -> None:
    model = Ramp(5.0)
    found = predict(ramp, model)
    assert len(found) == 1
    guesses = found[0].predictions
    assert [guess.label for guess in guesses] == ["brighter", "darker"]
    rise = 5.0 * (sampled_frames(ramp, ramp_cfg()).float() / 255)[[0, 3]].mean((1, 2, 3)).diff().item()
    expected = torch.tensor([rise, -rise], dtype=torch.float64).softmax(0)
    assert [guess.score for guess in guesses] == pytest.approx(expected.tolist(), rel=1e-5)


def test_the_dictionary_has_exactly_the_promised_keys(ramp: Path) -> None:
    content = predict([ramp], Ramp(), topk=1)[0].to_dict()
    assert list(content) == ["video", "model", "predictions"]
    assert content["video"] == str(ramp)
    assert content["model"] == "ramp"
    assert [list(guess) for guess in content["predictions"]] == [["label", "score"]]
    assert isinstance(content["predictions"][0]["score"], float)


def test_scores_add_up_to_one_over_several_views(ramp: Path) -> None:
    found = predict(ramp, Ramp(), num_clips=3, num_crops=3)[0]
    assert sum(guess.score for guess in found.predictions) == pytest.approx(1.0)


def test_a_synthetic_video_is_a_video() -> None:
    spec = "synthetic:jack?seed=3&frames=6"
    assert predict(spec, Ramp())[0].video == spec


def test_a_broken_video_raises_and_names_its_path(tmp_path: Path, ramp: Path) -> None:
    with pytest.raises(VideoDecodeError, match=r"gone\.mp4"):
        predict([ramp, tmp_path / "gone.mp4"], Ramp())


def test_a_broken_video_is_left_out_with_a_warning_or_a_reason(tmp_path: Path, ramp: Path) -> None:
    videos = [tmp_path / "gone.mp4", ramp]
    with pytest.warns(UserWarning, match=r"gone\.mp4 is left out"):
        found = predict(videos, Ramp(), on_error="skip")
    assert [prediction.video for prediction in found] == [str(ramp)]
    broken: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(videos, Ramp(), on_error="skip", broken=broken)
    assert list(broken) == [str(tmp_path / "gone.mp4")]


def test_classes_without_names_are_numbered(ramp: Path) -> None:
    model = Ramp()
    model.pretrained_cfg = ramp_cfg().replace(class_names=())
    assert predict(ramp, model)[0].predictions[0].label == "class 0"


def test_an_initialisation_is_refused(ramp: Path) -> None:
    model = Ramp()
    model.pretrained_cfg = ramp_cfg().replace(is_classifier=False)
    with pytest.raises(ConfigError, match="initialisation, not an action classifier: fine-tune it first"):
        predict(ramp, model)
    with pytest.raises(ConfigError, match="no classifier"):
        predict(ramp, vidzoo.create_model("c2d_r18", num_classes=0))


def test_the_network_comes_back_in_training_mode(ramp: Path) -> None:
    model = Ramp().train()
    predict(ramp, model)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("option", [{"topk": 0}, {"on_error": "ignore"}, {"device": "nowhere"}, {"batch_size": 0}])
def test_impossible_arguments_are_refused(ramp: Path, option: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        predict(ramp, Ramp(), **option)


def test_a_name_without_a_tag_takes_the_first_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = vidzoo.VideoCfg(architecture="gst_r18", num_classes=2)
    cfgs = {
        "": cfg,
        "in1k": cfg.replace(tag="in1k", file="a", is_classifier=False),
        "two": cfg.replace(tag="two", file="b"),
        "three": cfg.replace(tag="three", file="c"),
    }
    monkeypatch.setattr(prediction, "get_arch_pretrained_cfgs", lambda name: cfgs)
    monkeypatch.setattr(prediction, "get_pretrained_cfg", lambda name: cfgs[name.partition(".")[2]])
    monkeypatch.setattr(prediction, "list_pretrained", lambda: ["gst_r18.in1k", "gst_r18.two"])
    assert prediction._first_classifier("gst_r18") == "gst_r18.two"
    assert prediction._first_classifier("gst_r18.three") == "gst_r18.three"
    with pytest.raises(ConfigError, match=r"gst_r18\.in1k is an initialisation.*classifiers are gst_r18\.two$"):
        prediction._first_classifier("gst_r18.in1k")
    del cfgs["two"], cfgs["three"], cfgs["in1k"]
    monkeypatch.setattr(prediction, "list_pretrained", list)
    with pytest.raises(WeightsError, match="gst_r18 has no published weights"):
        prediction._first_classifier("gst_r18")


def test_what_may_be_typed_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "gst_r18"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert model_source("mine") == "local-dir:mine"
    assert model_source("gst_r18") == "gst_r18"
    assert model_source("./gst_r18") == "local-dir:./gst_r18"
    assert model_source("hf-hub:org/name") == "hf-hub:org/name"
    (tmp_path / "empty").mkdir()
    with pytest.raises(HubError, match=r"empty is a folder without config\.json"):
        model_source("empty")
    with pytest.raises(UnknownModelError, match="did you mean"):
        load_classifier("gst_r19")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_picture_is_written_whole(tmp_path: Path, suffix: str) -> None:
    frames = torch.randint(0, 256, (8, 48, 64, 3), dtype=torch.uint8)
    target = tmp_path / f"picture{suffix}"
    write_picture(target, frames, some_prediction())
    with Image.open(target) as picture:
        picture.load()
        assert picture.width > 1000
    assert os.listdir(tmp_path) == [target.name]


@pytest.mark.parametrize(("frames", "rows"), [(1, 1), (8, 1), (9, 2), (64, 8)])
def test_frames_stand_in_rows_of_at_most_eight(frames: int, rows: int) -> None:
    clip = torch.zeros((frames, 24, 32, 3), dtype=torch.uint8)
    picture = draw_prediction(clip, some_prediction())
    # In the middle of the first column, every frame is one black run.
    column = [picture.getpixel((60 if frames > 1 else picture.width // 2, y)) for y in range(picture.height)]
    dark = [pixel == (0, 0, 0) for pixel in column]
    assert sum(now and not before for before, now in zip([False, *dark], dark, strict=False)) >= rows
    assert sum(dark) > rows * 200


def test_longer_bars_mean_higher_scores() -> None:
    picture = draw_prediction(torch.zeros((4, 24, 32, 3), dtype=torch.uint8), some_prediction(2))
    colours = picture.getcolors(maxcolors=1 << 20)
    count = {colour: number for number, colour in colours}
    assert count[(38, 99, 201)] == pytest.approx(2 * count[(158, 184, 222)], rel=0.05)


def test_long_names_stay_inside_the_picture() -> None:
    clip = torch.zeros((2, 24, 32, 3), dtype=torch.uint8)
    long = some_prediction(2, label="a very long name of an action " * 6)
    picture = draw_prediction(clip, long)
    assert picture.width == draw_prediction(clip, some_prediction(2)).width
    edge = [picture.getpixel((picture.width - 1 - x, y)) for x in range(40) for y in range(picture.height)]
    assert set(edge) == {(255, 255, 255)}


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "picture.png"
    target.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_picture(target, torch.zeros((1, 8, 8, 3), dtype=torch.uint8), some_prediction())
    assert os.listdir(tmp_path) == ["picture.png"]
    assert target.read_text() == "old"


def test_a_picture_of_something_else_is_refused(tmp_path: Path) -> None:
    clip = torch.zeros((1, 8, 8, 3), dtype=torch.uint8)
    with pytest.raises(ConfigError, match=r"must end in \.png"):
        write_picture(tmp_path / "picture.txt", clip, some_prediction())
    with pytest.raises(ConfigError, match="uint8 frames"):
        write_picture(tmp_path / "picture.png", clip.float(), some_prediction())
