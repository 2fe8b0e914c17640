"""create_model: names, weights, heads, channels, features, and every way to ask for something that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import vidzoo
from vidzoo import hub, registry
from vidzoo.checkpoint import sha256_of
from vidzoo.errors import (
    ConfigError,
    HubError,
    ModelInputError,
    UnknownModelError,
    UnknownOptionError,
    UnknownTagError,
    WeightsError,
)
from vidzoo.models.resnet import VideoResNet
from vidzoo.pretrained import VideoCfg

CLIP = (2, 3, 2, 32, 32)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VideoResNet]:
    """A model with an embedded set of weights, ``zoo_r18.tiny``: five classes, half precision, a hash."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    torch.manual_seed(3)
    model = vidzoo.create_model("gst_r18", num_classes=5).eval()
    path = tmp_path / "zoo_r18.tiny.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}, path)
    monkeypatch.setattr(hub, "embedded", lambda file: tmp_path / file)
    cfg = VideoCfg(
        num_classes=5,
        num_frames=12,
        class_names=("a", "b", "c", "d", "e"),
        file=path.name,
        sha256=sha256_of(path),
    )

    @vidzoo.register_model(cfgs={"": VideoCfg(), "tiny": cfg})
    def zoo_r18(*, num_classes: int = 400, in_chans: int = 3, num_frames: int = 8) -> VideoResNet:
        return vidzoo.model_entrypoint("gst_r18")(num_classes=num_classes, in_chans=in_chans, num_frames=num_frames)

    assert isinstance(model, VideoResNet)
    model.load_state_dict({k: v.half().float() if v.is_floating_point() else v for k, v in model.state_dict().items()})
    return model


def test_pretrained_weights_give_the_outputs_of_the_model_that_was_saved(published: VideoResNet) -> None:
    x = torch.randn(CLIP)
    for name in ("zoo_r18", "zoo_r18.tiny"):
        model = vidzoo.create_model(name, pretrained=True).eval()
        assert torch.equal(model(x), published(x))
        assert model.pretrained_cfg.class_names == ("a", "b", "c", "d", "e")
        assert model.pretrained_cfg.num_frames == 12
        assert not any(value.is_meta for value in model.state_dict().values())


def test_another_number_of_classes_keeps_the_features_and_gets_a_fresh_head(published: VideoResNet) -> None:
    x = torch.randn(CLIP)
    model = vidzoo.create_model("zoo_r18", pretrained=True, num_classes=3).eval()
    assert model(x).shape == (2, 3)
    assert torch.equal(model.forward_features(x), published.forward_features(x))
    assert model.pretrained_cfg.class_names == ()
    assert model.pretrained_cfg.num_classes == 3


def test_no_classes_gives_pooled_features(published: VideoResNet) -> None:
    x = torch.randn(CLIP)
    model = vidzoo.create_model("zoo_r18", pretrained=True, num_classes=0).eval()
    assert torch.equal(model(x), published.forward_head(published.forward_features(x), pre_logits=True))


@pytest.mark.parametrize("in_chans", [1, 2, 5])
def test_a_pretrained_model_on_gray_clips_answers_as_on_rgb(published: VideoResNet, in_chans: int) -> None:
    gray = torch.randn(2, 1, 2, 32, 32)
    model = vidzoo.create_model("zoo_r18", pretrained=True, in_chans=in_chans).eval()
    expected = published(gray.expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(model(gray.expand(-1, in_chans, -1, -1, -1)), expected, rtol=1e-4, atol=1e-5)


def test_features_of_a_pretrained_model_are_its_own_intermediates(published: VideoResNet) -> None:
    x = torch.randn(CLIP)
    features = vidzoo.create_model("zoo_r18", pretrained=True, features_only=True, out_indices=(1, -1)).eval()(x)
    for found, expected in zip(
        features, published.forward_intermediates(x, (1, 4), intermediates_only=True), strict=True
    ):
        assert torch.equal(found, expected)


def test_a_junk_checkpoint_is_an_error_even_when_the_head_is_replaced(published: VideoResNet, tmp_path: Path) -> None:
    file = tmp_path / "zoo_r18.tiny.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match="sha256"):
        vidzoo.create_model("zoo_r18", pretrained=True, num_classes=3)
    for options in ({}, {"num_classes": 3}, {"in_chans": 1}, {"num_classes": 3, "in_chans": 5}):
        with pytest.raises(WeightsError, match=r"missing: .*unexpected: a"):
            vidzoo.create_model("zoo_r18", pretrained=True, pretrained_cfg_overlay={"sha256": ""}, **options)


def test_weights_of_another_architecture_are_refused(published: VideoResNet, tmp_path: Path) -> None:
    other = vidzoo.create_model("c2d_r18", num_classes=5)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"conv1\.spatial\.weight"):
        vidzoo.create_model("gst_r18", checkpoint_path=tmp_path / "other.safetensors")


def test_a_users_own_checkpoint_brings_its_number_of_classes(published: VideoResNet, tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in published.state_dict().items()}}, tmp_path / "own.pth")
    x = torch.randn(CLIP)
    model = vidzoo.create_model("gst_r18", checkpoint_path=tmp_path / "own.pth").eval()
    assert torch.equal(model(x), published(x))
    assert model.pretrained_cfg.num_classes == 5
    model = vidzoo.create_model("gst_r18", checkpoint_path=tmp_path / "own.pth", num_classes=9).eval()
    assert model(x).shape == (2, 9)
    assert torch.equal(model.forward_features(x), published.forward_features(x))


def test_two_sources_of_weights_are_refused(published: VideoResNet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        vidzoo.create_model("zoo_r18", pretrained=True, checkpoint_path=tmp_path / "own.pth")


def test_a_tag_without_pretrained_gives_the_sizes_of_its_weights(published: VideoResNet) -> None:
    model = vidzoo.create_model("zoo_r18.tiny")
    assert model.num_classes == 5
    assert model.pretrained_cfg.num_frames == 12


def test_an_overlay_changes_the_cfg(published: VideoResNet) -> None:
    model = vidzoo.create_model("zoo_r18", pretrained=True, pretrained_cfg_overlay={"temporal_stride": 3})
    assert model.pretrained_cfg.temporal_stride == 3
    with pytest.raises(ConfigError, match="no field 'stride_of_time'"):
        vidzoo.create_model("zoo_r18", pretrained_cfg_overlay={"stride_of_time": 3})


def test_options_that_are_none_are_left_out() -> None:
    assert vidzoo.create_model("gst_r18", alpha=None, num_classes=2).model_args.get("alpha", 0.25) == 0.25


def test_an_option_reaches_the_architecture() -> None:
    half = vidzoo.create_model("gst_r18", alpha=1 / 2, num_classes=2)
    named = vidzoo.create_model("gst_r18_alpha2", num_classes=2)
    assert {k: v.shape for k, v in half.state_dict().items()} == {k: v.shape for k, v in named.state_dict().items()}
    assert half.model_args["alpha"] == 1 / 2


def test_what_does_not_exist_is_one_sentence_with_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="did you mean 'gst_r18'"):
        vidzoo.create_model("gts_r18")
    with pytest.raises(UnknownTagError, match="has no weights tagged"):
        vidzoo.create_model("gst_r18.kinetics")
    with pytest.raises(UnknownOptionError, match="did you mean 'drop_rate'"):
        vidzoo.create_model("gst_r18", droprate=0.5)
    with pytest.raises(WeightsError, match="no published weights for x3d_xl"):
        vidzoo.create_model("x3d_xl", pretrained=True)
    with pytest.raises(HubError, match="nowhere"):
        vidzoo.create_model("local-dir:nowhere")


@pytest.mark.parametrize(
    "options",
    [{"num_classes": -1}, {"in_chans": 0}, {"alpha": 0.0}, {"beta": 0.3}, {"drop_rate": 1.0}, {"out_indices": (0,)}],
)
def test_a_value_that_no_model_can_have_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        vidzoo.create_model("gst_r18", **options)


@pytest.mark.parametrize("indices", [(5,), (-6,), 0, 6])
def test_a_stage_that_does_not_exist_is_refused(indices: int | tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="stages"):
        vidzoo.create_model("gst_r18", features_only=True, out_indices=indices)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 2, 32, 32), "add a batch axis"),
        ((2, 4, 2, 32, 32), "built for 3 input channels, got 4"),
        ((2, 2, 3, 32, 32), "the time axis comes third"),
        ((2, 3), "takes clips"),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_answered_with_the_right_one(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelInputError, match=message):
        vidzoo.create_model("c2d_r18", num_classes=2)(torch.zeros(shape))


def test_integer_clips_are_refused() -> None:
    with pytest.raises(ModelInputError, match="normalised floats"):
        vidzoo.create_model("c2d_r18", num_classes=2)(torch.zeros(CLIP, dtype=torch.uint8))


def test_creating_from_weights_does_not_move_the_random_state_of_the_features(published: VideoResNet) -> None:
    first = vidzoo.create_model("zoo_r18", pretrained=True).state_dict()
    second = vidzoo.create_model("zoo_r18", pretrained=True).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("i3d_r18", {"t_lengths": (3, 3, 3, 3, 3), "eta": 2}),
        ("stdcf_c3", {}),
        ("rank1_c3", {}),
        ("slowfast_r18_8x8", {}),
    ],
    ids=str,
)
def test_a_stem_of_any_make_takes_weights_for_another_number_of_channels(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    from vidzoo.hub import save_pretrained

    colour = vidzoo.create_model(name, num_classes=3, **options).eval()
    save_pretrained(colour, tmp_path / "saved")
    grey = vidzoo.create_model(f"local-dir:{tmp_path / 'saved'}", in_chans=1).eval()
    clip = torch.randn(1, 1, 4, 32, 32)
    torch.testing.assert_close(grey(clip), colour(clip.expand(-1, 3, -1, -1, -1)), rtol=1e-4, atol=1e-5)
