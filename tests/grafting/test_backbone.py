"""Backbones by their names: the library's own network comes out, and a network that says its name is found again."""

from __future__ import annotations

import sys
from urllib.error import URLError

import pytest
import timm
import torch
from pytorchvideo.models.slowfast import create_slowfast
from timm.layers import Conv2dSame
from torch import nn
from torchvision import models

import vidzoo
from vidzoo.errors import ConfigError, HubError, MissingExtraError, UnknownOptionError
from vidzoo.grafting.backbone import base_model_of, build, difference, example_for, is_3d, name_of, source_of
from vidzoo.models.base import VideoModel


@pytest.mark.parametrize(
    ("source", "classifier", "clips"),
    [
        ("timm:resnet18", "fc", False),
        ("torchvision:resnet18", "fc", False),
        ("torchvision:r3d_18", "fc", True),
        ("pytorchvideo:x3d_xs", "blocks.5.proj", True),
        ("pytorchvideo:slowfast_r50", "blocks.6.proj", True),
        ("vidzoo:gst_r18", "fc", True),
    ],
)
def test_a_source_builds_the_network_of_its_library(source: str, classifier: str, clips: bool) -> None:
    network = build(source, num_classes=5)
    head = network.get_submodule(classifier)
    assert isinstance(head, nn.Linear)
    assert head.out_features == 5
    assert is_3d(network) is clips


def test_left_out_the_number_of_classes_is_the_librarys() -> None:
    assert build("torchvision:resnet18").get_submodule("fc").weight.shape[0] == 1000
    assert build("pytorchvideo:x3d_xs").get_submodule("blocks.5.proj").weight.shape[0] == 400


@pytest.mark.parametrize(
    "source", ["timm:resnet18", "pytorchvideo:x3d_xs", "pytorchvideo:slowfast_r50", "vidzoo:gst_r18"]
)
def test_other_input_channels_where_the_library_can(source: str) -> None:
    network = build(source, in_chans=2, num_classes=3)
    first = next(module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d)))
    assert first.in_channels == 2


def test_a_backbone_has_values_even_where_networks_are_built_without() -> None:
    with torch.device("meta"):
        assert not any(p.is_meta for p in build("timm:resnet18").parameters())


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("resnet18", "named by its library and its name there, such as timm:resnet50, got 'resnet18'"),
        ("keras:resnet18", "libraries: timm, torchvision, pytorchvideo, vidzoo"),
        ("timm:", "got 'timm:'"),
        ("timm:resnet_18", "timm has no network 'resnet_18': did you mean 'resnet18'"),
        ("torchvision:r3d18", "no network 'r3d18': did you mean 'r3d_18'"),
        ("torchvision:deeplabv3_resnet50", "torchvision classifies with no network 'deeplabv3_resnet50'"),
        ("pytorchvideo:x3d", "no network of convolutions 'x3d': did you mean"),
    ],
)
def test_a_source_that_does_not_exist_is_refused_with_the_nearest(source: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        build(source)


def test_options_of_the_library_stand_behind_the_name() -> None:
    assert isinstance(build("timm:mobilenetv2_100?pad_type=same").conv_stem, Conv2dSame)  # type: ignore[union-attr]
    assert build("timm:resnet18?output_stride=8&drop_rate=0.25").drop_rate == 0.25
    assert build("torchvision:mobilenet_v2?width_mult=0.5").last_channel == 1280
    assert build("pytorchvideo:x3d_xs?dropout_rate=0.125").blocks[5].dropout.p == 0.125  # type: ignore[union-attr,index]
    assert build("vidzoo:gst_r18?alpha=0.5").model_args["alpha"] == 0.5  # type: ignore[union-attr,index]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("timm:resnet18?pad_typ=same", "timm does not build resnet18 with pad_typ as in 'timm:resnet18"),
        ("timm:resnet18?same", "options of a backbone are written"),
        ("timm:resnet18?num_classes=3", "num_classes is no option that a source can set"),
        ("timm:resnet18?checkpoint_path=x.pth", "checkpoint_path is no option"),
        ("timm:resnet18?pretrained=true", "pretrained is no option"),
        ("torchvision:resnet18?weights=DEFAULT", "weights is no option"),
        ("torchvision:resnet18?wide=2", "torchvision does not build resnet18 with wide"),
        ("pytorchvideo:x3d_xs?progress=true", "progress is no option"),
        ("vidzoo:gst_r18?local_files_only=true", "local_files_only is no option"),
        ("vidzoo:gst_r18?alfa=1", "alpha"),
    ],
)
def test_an_option_that_no_source_can_have_is_refused(source: str, why: str) -> None:
    with pytest.raises((ConfigError, UnknownOptionError), match=why) as error:
        build(source)
    assert "\n" not in str(error.value)


def test_a_difference_between_a_source_and_a_network_is_told() -> None:
    network = timm.create_model("mobilenetv2_100", pad_type="same", num_classes=5).eval()
    example = torch.randn(2, 3, 64, 64)
    assert difference(network, "timm:mobilenetv2_100?pad_type=same", num_classes=5, example=example) is None
    told = difference(network, "timm:mobilenetv2_100", num_classes=5)
    assert told is not None
    assert "Conv2dSame" in told
    # What no module's name tells is seen in the outputs.
    bright = models.inception_v3(init_weights=False, aux_logits=False, transform_input=True).eval()
    options = "aux_logits=false&init_weights=false"
    example = torch.rand(2, 3, 96, 96)
    assert difference(bright, f"torchvision:inception_v3?{options}&transform_input=true", example=example) is None
    told = difference(bright, f"torchvision:inception_v3?{options}", example=example)
    assert told == "other outputs with weights alike"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "r3d_18"])
def test_torchvisions_first_convolution_takes_other_channels(name: str) -> None:
    network, plain = build(f"torchvision:{name}", in_chans=1), build(f"torchvision:{name}")
    firsts = [next(m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))) for net in (network, plain)]
    assert firsts[0].weight.shape == (firsts[1].weight.shape[0], 1, *firsts[1].weight.shape[2:])
    assert (firsts[0].stride, firsts[0].padding) == (firsts[1].stride, firsts[1].padding)
    clip = example_for(network)
    assert clip.shape[1] == 1  # type: ignore[union-attr]
    assert network.eval()(clip).shape[0] == 1


@pytest.mark.parametrize("source", ["torchvision:resnet18", "pytorchvideo:x3d_xs"])
def test_weights_that_cannot_be_downloaded_are_told_in_a_sentence(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise URLError("nobody answers")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "nowhere")
    monkeypatch.setattr("os.makedirs", lambda *args, **kwargs: None)
    with pytest.raises(HubError, match=f"the trained weights of {source} cannot be had .*nobody answers"):
        build(source, pretrained=True)


def test_a_name_without_trained_weights_is_told() -> None:
    with pytest.raises(ConfigError, match="timm has no trained weights for cspresnet50d"):
        build("timm:cspresnet50d", pretrained=True)


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorchvideo.models", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vidzoo\[graft\]'"):
        build("pytorchvideo:x3d_xs")


def test_a_network_that_says_its_name_is_found_again() -> None:
    assert source_of(timm.create_model("resnet18", num_classes=5, in_chans=1)) == "timm:resnet18"
    assert source_of(timm.create_model("mobilenetv2_100")) == "timm:mobilenetv2_100"
    assert source_of(vidzoo.create_model("gst_r18", num_classes=5)) == "vidzoo:gst_r18"


def test_a_network_that_its_name_would_not_build_has_no_source() -> None:
    assert source_of(timm.create_model("resnet18", output_stride=8)) is None  # the same weights, other dilations
    assert source_of(vidzoo.create_model("gst_r18", alpha=0.5)) is None
    changed = timm.create_model("resnet18")
    changed.layer4 = nn.Identity()
    assert source_of(changed) is None
    assert source_of(models.resnet18()) is None
    assert name_of(models.resnet18(), None) == "ResNet"


def test_looking_for_a_source_draws_no_random_number() -> None:
    network = timm.create_model("resnet18")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    source_of(network)
    assert torch.equal(torch.rand(1), expected)


def test_the_card_names_the_repository_of_trained_weights() -> None:
    network = timm.create_model("resnet18.a1_in1k")
    assert base_model_of("timm:resnet18", network) == "timm/resnet18.a1_in1k"
    assert base_model_of("torchvision:resnet18", models.resnet18()) is None


@pytest.mark.parametrize("source", ["timm:resnet18", "torchvision:r3d_18", "pytorchvideo:slowfast_r50"])
def test_an_example_is_one_that_the_network_takes(source: str) -> None:
    example = example_for(build(source), source)
    found = [tuple(x.shape) for x in (example if isinstance(example, list) else [example])]
    assert (
        found
        == {
            "timm:resnet18": [(1, 3, 64, 64)],
            "torchvision:r3d_18": [(1, 3, 16, 64, 64)],
            "pytorchvideo:slowfast_r50": [(1, 3, 4, 64, 64), (1, 3, 16, 64, 64)],
        }[source]
    )


def test_an_example_has_the_size_that_a_network_insists_on() -> None:
    swin = timm.create_model("swin_tiny_patch4_window7_224")
    assert example_for(swin).shape == (1, 3, 224, 224)  # type: ignore[union-attr]


@pytest.mark.parametrize("alpha", [4, 8])
def test_two_pathways_are_told_by_what_a_network_takes(alpha: int) -> None:
    stride = (alpha, 1, 1)
    network = create_slowfast(model_depth=50, model_num_class=3, slowfast_fusion_conv_stride=stride).eval()
    example = example_for(network)
    assert isinstance(example, list)
    assert [x.shape[2] for x in example] == [16 // alpha, 16]


def test_a_network_that_takes_no_usual_input_asks_for_an_example() -> None:
    with pytest.raises(ConfigError, match=r"Conv3d takes neither .* give example="):
        example_for(nn.Conv3d(3, 4, 100))
    with pytest.raises(ConfigError, match="Linear has no convolution"):
        example_for(nn.Linear(3, 4))
    assert is_3d(nn.Linear(3, 4), torch.zeros(1, 3, 2, 4, 4))
    assert not is_3d(nn.Conv3d(3, 4, 1), torch.zeros(1, 3, 4, 4))


def test_zoo_networks_are_video_models() -> None:
    assert isinstance(build("vidzoo:gst_r18"), VideoModel)
