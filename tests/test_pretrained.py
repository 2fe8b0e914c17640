"""VideoCfg: exact round trip, tolerance for what it does not know, refusal of what cannot be meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

import vidzoo
from vidzoo.errors import ConfigError
from vidzoo.pretrained import VideoCfg

FULL = VideoCfg(
    architecture="gst_r18",
    tag="weizmann",
    num_frames=12,
    sampling="dense",
    temporal_stride=2,
    fps=12.5,
    num_clips=4,
    in_chans=1,
    short_side=112,
    crop_size=(96, 112),
    test_crop_size=(112, 140),
    num_crops=3,
    interpolation="bicubic",
    mean=(0.1,),
    std=(0.3,),
    subtract_clip_mean=True,
    num_classes=2,
    class_names=("walk", "run"),
    dataset="a data set",
    file="x.safetensors",
    hf_hub_id="org/name@main",
    sha256="ab" * 32,
    source="somebody",
    license="research",
    origin_url="https://example.org",
    paper="a paper",
    description="words",
    metrics={"top1 (measured)": 0.5},
    first_conv=("stem",),
    classifier=("head", "aux"),
    extra={"invented_later": [1, 2]},
)


def test_a_cfg_survives_json_exactly() -> None:
    with pytest.warns(UserWarning, match="invented_later"):
        assert VideoCfg.from_dict(json.loads(json.dumps(FULL.to_dict()))) == FULL


@pytest.mark.parametrize("name", vidzoo.list_models(include_tags=True))
def test_every_registered_cfg_survives_json_exactly(name: str) -> None:
    cfg = vidzoo.get_pretrained_cfg(name)
    assert VideoCfg.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg


def test_missing_keys_take_their_defaults() -> None:
    assert VideoCfg.from_dict({}) == VideoCfg()
    assert VideoCfg.from_dict({"num_frames": 16}).num_frames == 16


def test_unknown_keys_are_kept_and_warned_about() -> None:
    with pytest.warns(UserWarning, match="unknown to this vidzoo"):
        cfg = VideoCfg.from_dict({"pool_size": [7, 7]})
    assert cfg.extra == {"pool_size": [7, 7]}
    assert cfg.to_dict()["pool_size"] == [7, 7]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_frames", 0),
        ("num_frames", 2.5),
        ("num_frames", "8"),
        ("num_frames", True),
        ("num_classes", -1),
        ("crop_size", 224),
        ("crop_size", (224,)),
        ("sampling", "randomly"),
        ("num_crops", 2),
        ("fps", 0.0),
        ("std", (0.2, 0.0, 0.2)),
        ("mean", (0.5,)),
        ("class_names", ("only one",)),
        ("class_names", "walk"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field.replace("class_names", "class.names").replace("mean", "mean|std")):
        VideoCfg(num_classes=3).replace(**{field: value})


def test_an_unknown_field_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no field 'num_frame': did you mean 'num_frames'"):
        VideoCfg().replace(num_frame=3)


@pytest.mark.parametrize("values", [None, [], "x", {"mean": None}, {"mean": 3}])
def test_something_that_is_no_cfg_is_refused(values: Any) -> None:
    with pytest.raises(ConfigError):
        VideoCfg.from_dict(values)


def test_the_test_crop_is_the_training_crop_unless_it_is_given() -> None:
    assert VideoCfg(crop_size=(96, 96)).eval_crop_size == (96, 96)
    assert VideoCfg(crop_size=(96, 96), test_crop_size=(112, 112)).eval_crop_size == (112, 112)
