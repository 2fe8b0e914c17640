"""A video ResNet that starts from a trained 2D one: torchvision's and timm's networks are the references."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vidzoo
from models.untouched import writes
from vidzoo.blank import blank
from vidzoo.errors import ConfigError, WeightsError
from vidzoo.layers.p3d import P3DConv3d
from vidzoo.layers.reparam import ReparamConv3d
from vidzoo.models import VideoResNet, init_from_2d
from vidzoo.models.i3d import i3d_r18, i3d_r18_11335, i3d_r18_reparam_11335, i3d_r50_reparam_11335
from vidzoo.models.p3d import p3d_r50
from vidzoo.models.s3d_resnet import s3d_r18, s3d_r50, s3d_r50_reparam_11335

FAMILIES = ["c2d", "c3d", "c3d_g2", "p3d", "gst", "gst_large"]


@cache
def _trained(source: str, name: str, **options: int) -> nn.Module:
    """A 2D network with batch norm statistics as a trained one has them: not zeros and ones."""
    if source == "timm":
        import timm

        model = timm.create_model(name, num_classes=5, **options)
    else:
        import torchvision

        model = torchvision.models.get_model(name, num_classes=5)
    generator = torch.Generator().manual_seed(2)
    for key, value in model.state_dict().items():
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith(".weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point() and value.ndim == 1:
            value.uniform_(-0.2, 0.2, generator=generator)
    return model.eval()


def _video(name: str, state_dict: dict[str, Tensor], **options: int) -> VideoResNet:
    model = vidzoo.create_model(name, num_classes=5, **options).eval()
    init_from_2d(model, state_dict)
    model.fc.load_state_dict({key: state_dict[f"fc.{key}"] for key in ("weight", "bias")})
    return model


def _frame_by_frame(model: nn.Module, clip: Tensor) -> Tensor:
    return torch.stack([model(frame) for frame in clip.unbind(2)]).mean(dim=0)


@pytest.mark.parametrize(
    ("source", "name"), [("torchvision", "resnet18"), ("torchvision", "resnet50"), ("timm", "resnet18")]
)
@torch.no_grad()
def test_c2d_averages_the_logits_of_the_2d_network_over_the_frames(source: str, name: str) -> None:
    image = _trained(source, name)
    video = _video(f"c2d_r{name.removeprefix('resnet')}", image.state_dict())
    clip = torch.randn(1, 3, 2, 64, 80)
    expected = _frame_by_frame(image, clip)
    assert (video(clip) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("family", "depth"), [("c2d", 18), ("c3d", 18), ("c3d", 50)])
@torch.no_grad()
def test_a_static_clip_gets_the_logits_of_its_image(family: str, depth: int) -> None:
    image = _trained("torchvision", f"resnet{depth}")
    video = _video(f"{family}_r{depth}", image.state_dict())
    still = torch.randn(2, 3, 64, 64)
    expected = image(still)
    found = video(still.unsqueeze(2).expand(-1, -1, 4, -1, -1))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("family", "depth", "source"),
    [
        *((family, 18, "torchvision") for family in FAMILIES),
        ("p3d", 50, "torchvision"),
        ("gst", 50, "timm"),
        ("gst", 18, "timm"),
    ],
)
def test_every_family_starts_and_names_what_stays_random(family: str, depth: int, source: str) -> None:
    model = vidzoo.create_model(f"{family}_r{depth}", num_classes=5)
    before = copy.deepcopy(model.state_dict())
    random = init_from_2d(model, _trained(source, f"resnet{depth}").state_dict())
    temporal = [key for key in before if key.endswith(".temporal.weight")]
    assert sorted(random) == (sorted(temporal) if family.startswith("gst") else [])
    assert len(temporal) == (16 if family.startswith(("gst", "p3d")) else 0)
    unchanged = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    free = {key for key in before if key.startswith("fc.") or key.endswith("num_batches_tracked")}
    for name, unit in model.named_modules():
        if isinstance(unit, P3DConv3d):  # the trained norm went inside, the one behind changes nothing
            free |= {f"{name.replace('conv', 'bn')}.{part}" for part in ("weight", "bias", "running_mean")}
    assert unchanged == free | set(random)


@torch.no_grad()
def test_gst_takes_the_slice_that_the_authors_take() -> None:
    given = _trained("torchvision", "resnet50").state_dict()
    model = vidzoo.create_model("gst_r50", num_classes=5)
    init_from_2d(model, given)
    kernel = given["layer3.2.conv2.weight"]
    assert torch.equal(model.get_parameter("layer3.2.conv2.spatial.weight")[:, :, 0], kernel[:192, :128])
    assert torch.equal(
        model.get_parameter("layer3.2.conv1.weight")[..., 0, 0, 0], given["layer3.2.conv1.weight"][..., 0, 0]
    )


@torch.no_grad()
def test_a_grayscale_network_answers_to_a_gray_clip_as_the_original_does_to_it_in_every_channel() -> None:
    image = _trained("torchvision", "resnet18")
    video = _video("c2d_r18", image.state_dict(), in_chans=1)
    assert video.conv1.weight.shape[1] == 1
    gray = torch.randn(1, 1, 2, 48, 48)
    expected = _frame_by_frame(image, gray.expand(-1, 3, -1, -1, -1))
    assert (video(gray) - expected).abs().max() <= 1e-5 * expected.abs().max()


def _blank(name: str, **options: Any) -> VideoResNet:
    """For refusals, which need no values."""
    with blank():
        return vidzoo.create_model(name, num_classes=5, **options)


def _refused(model: VideoResNet, state_dict: dict[str, Tensor], match: str) -> None:
    before = writes(model)
    with pytest.raises(WeightsError, match=match):
        init_from_2d(model, state_dict)
    assert writes(model) == before


@pytest.mark.parametrize("family", ["c3d", "gst"])
def test_another_depth_is_refused_and_the_model_is_untouched(family: str) -> None:
    import torchvision

    model = _blank(f"{family}_r18")
    with torch.device("meta"):
        others = [torchvision.models.resnet34().state_dict(), torchvision.models.resnet50().state_dict()]
    _refused(model, others[0], "unexpected")
    _refused(model, others[1], "ResNet-18")


def test_a_deep_stem_is_refused_and_the_model_is_untouched() -> None:
    import timm

    with torch.device("meta"):
        deep = timm.create_model("resnet50d").state_dict()
    _refused(_blank("c2d_r50"), deep, r"conv1\.weight")


@pytest.mark.parametrize("key", ["conv1.weight", "layer2.1.conv2.weight", "layer4.0.downsample.1.running_var"])
def test_a_missing_tensor_is_named_and_the_model_is_untouched(key: str) -> None:
    given = dict(_trained("torchvision", "resnet18").state_dict())
    del given[key]
    _refused(_blank("gst_r18"), given, f"1 missing: {key}")


def test_a_tensor_of_another_shape_is_named_and_the_model_is_untouched() -> None:
    given = dict(_trained("torchvision", "resnet18").state_dict())
    given["layer1.0.conv1.weight"] = torch.zeros(64, 64, 5, 5)
    _refused(_blank("p3d_r18"), given, r"layer1\.0\.conv1\.weight is \(64, 64, 5, 5\)")


def test_a_surplus_tensor_is_named_and_the_model_is_untouched() -> None:
    given = dict(_trained("torchvision", "resnet18").state_dict())
    given["layer1.0.se.weight"] = torch.zeros(1)
    _refused(_blank("c3d_g2_r18"), given, r"1 unexpected: layer1\.0\.se\.weight")


def test_a_network_in_double_precision_stays_so() -> None:
    model = vidzoo.create_model("gst_r18", num_classes=5).double()
    init_from_2d(model, _trained("torchvision", "resnet18").state_dict())
    assert {value.dtype for value in model.parameters()} == {torch.float64}


# Temporal-filter analysis: inflation in three ways, through branches and separable units too.


@lru_cache(maxsize=2)
def _built(build: Callable[..., VideoResNet], **options: Any) -> VideoResNet:
    return build(num_classes=5, drop_rate=0.0, **options).eval()


def _started(build: Callable[..., VideoResNet], depth: int, mode: Any, **options: Any) -> VideoResNet:
    """A network that other tests start too: every start gives all its values."""
    return _start(_built(build, **options), depth, mode)


def _start(model: VideoResNet, depth: int, mode: Any) -> VideoResNet:
    given = _trained("torchvision", f"resnet{depth}").state_dict()
    assert init_from_2d(model, given, mode=mode) == []
    model.fc.load_state_dict({key: given[f"fc.{key}"] for key in ("weight", "bias")})
    return model


@pytest.mark.parametrize(
    ("build", "depth", "options"),
    [
        (i3d_r18, 18, {}),
        (i3d_r18_11335, 18, {}),
        (i3d_r18_reparam_11335, 18, {}),
        (i3d_r18_reparam_11335, 18, {"eta": "inf"}),
        (i3d_r18_reparam_11335, 18, {"eta": 4, "single": True}),
        (i3d_r18, 18, {"t_lengths": (3, 1, 3, 1, 5), "eta": 2}),
        (i3d_r50_reparam_11335, 50, {}),
        (s3d_r50, 50, {}),
        (s3d_r50_reparam_11335, 50, {"eta": 4}),
        (p3d_r50, 50, {}),
    ],
)
@torch.no_grad()
def test_centre_inflation_gives_the_frames_of_any_clip_what_the_image_network_gives(
    build: Any, depth: int, options: Any
) -> None:
    model = _started(build, depth, "centre", **options)
    clip = torch.randn(1, 3, 3, 32, 32)
    expected = _frame_by_frame(_trained("torchvision", f"resnet{depth}"), clip)
    assert (model(clip) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("build", [i3d_r18_11335, i3d_r18_reparam_11335])
@torch.no_grad()
def test_branches_from_a_2d_network_train_as_it_trains(build: Any) -> None:
    model = _start(build(num_classes=5, drop_rate=0.0), 18, None).double().train()
    image = copy.deepcopy(_trained("torchvision", "resnet18")).double().train()
    stills = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    expected = image(stills)
    found = model(stills.unsqueeze(2).expand(-1, -1, 3, -1, -1))
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()  # filters were stored in single precision


@pytest.mark.parametrize("build", [i3d_r18_11335, i3d_r18_reparam_11335])
@torch.no_grad()
def test_mean_inflation_is_wrong_at_the_ends_of_a_static_clip_only(build: Any) -> None:
    model, image = _started(build, 18, "mean"), _trained("torchvision", "resnet18")
    reach = 4 * 1 + 4 * 1 + 4 * 2  # frames on either side that a feature of 1-1-3-3-5 sees
    still = torch.randn(1, 3, 32, 32)
    features = model.forward_features(still.unsqueeze(2).expand(-1, -1, 2 * reach + 3, -1, -1))
    stem = image.maxpool(image.relu(image.bn1(image.conv1(still))))
    expected = image.layer4(image.layer3(image.layer2(image.layer1(stem))))
    errors = (features - expected.unsqueeze(2)).abs().amax(dim=(0, 1, 3, 4)) / expected.abs().max()
    assert errors[reach : reach + 3].max() <= 1e-5
    assert errors[[0, -1]].min() > 0.1


@torch.no_grad()
def test_repeated_filters_multiply_what_a_static_clip_gives() -> None:
    model, image = _started(i3d_r18, 18, "repeat"), _trained("torchvision", "resnet18")
    still = torch.randn(1, 3, 32, 32)
    x = image.conv1(still)
    torch.testing.assert_close(model.conv1(still.unsqueeze(2).expand(-1, -1, 3, -1, -1))[:, :, 1], 3 * x)
    found = model(still.unsqueeze(2).expand(-1, -1, 8, -1, -1))
    assert found.abs().max() > 1e3 * image(still).abs().max()


@pytest.mark.parametrize(
    ("build", "options"), [(i3d_r18, {}), (i3d_r18, {"eta": 2}), (s3d_r18, {}), (s3d_r18, {"eta": 2})]
)
@pytest.mark.parametrize("mode", ["centre", "mean", "repeat"])
def test_a_mode_reaches_every_filter_over_time(build: Any, options: Any, mode: Any) -> None:
    model = _started(build, 18, mode, **options)
    weight = _trained("torchvision", "resnet18").state_dict()["layer2.1.conv2.weight"]
    unit = model.layer2[1].conv2
    if isinstance(unit, P3DConv3d):
        assert torch.equal(unit.spatial.weight[:, :, 0], weight)
        weight, unit = torch.eye(128)[:, :, None, None], unit.temporal
    filters = unit.branches[1].filters() if isinstance(unit, ReparamConv3d) else unit.weight
    shares = {"centre": (0, 1, 0), "mean": (1 / 3, 1 / 3, 1 / 3), "repeat": (1, 1, 1)}[mode]
    for frame, share in enumerate(shares):
        torch.testing.assert_close(filters[:, :, frame], share * weight, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("build", "options", "mode", "match"),
    [
        (i3d_r18, {}, "median", "'median'"),
        (i3d_r18_reparam_11335, {"eta": "inf"}, "mean", "all mean"),
        (s3d_r18, {"eta": "inf"}, "repeat", "all mean"),
    ],
)
def test_a_mode_that_cannot_be_is_refused_and_no_weight_changes(
    build: Any, options: Any, mode: Any, match: str
) -> None:
    model = _blank(build.__name__, **options)
    before = writes(model)
    with pytest.raises(ConfigError, match=match):
        init_from_2d(model, _trained("torchvision", "resnet18").state_dict(), mode=mode)
    assert writes(model) == before


@pytest.mark.parametrize("build", [i3d_r18_reparam_11335, s3d_r18])
def test_a_norm_that_belongs_into_a_unit_is_missed_by_name(build: Any) -> None:
    given = dict(_trained("torchvision", "resnet18").state_dict())
    del given["layer4.1.bn2.running_mean"]
    _refused(_blank(build.__name__), given, r"1 missing: layer4\.1\.bn2\.running_mean")


@pytest.mark.parametrize(("mode", "total"), [("centre", 1.0), ("mean", 1.0), ("repeat", 3.0)])
def test_a_mode_reaches_the_atoms_too(mode: Any, total: float) -> None:
    image = _trained("torchvision", "resnet18")
    model = vidzoo.create_model("stdcf_r18", spatial_atoms=9)
    init_from_2d(model, image.state_dict(), mode=mode)
    kernel = model.layer1[0].conv1.kernel()
    torch.testing.assert_close(kernel.sum(dim=2), total * image.layer1[0].conv1.weight, rtol=1e-4, atol=1e-5)
    assert (kernel[:, :, 0].abs().max() < 1e-5) == (mode == "centre")


def test_a_mode_that_one_unit_refuses_is_taken_by_none() -> None:
    model = _blank("i3d_r18_reparam_11335", eta="inf")
    before = [unit.inflation for unit in model.modules() if hasattr(unit, "inflation")]
    with pytest.raises(ConfigError, match="eta=inf"):
        init_from_2d(model, _trained("torchvision", "resnet18").state_dict(), mode="mean")
    assert [unit.inflation for unit in model.modules() if hasattr(unit, "inflation")] == before
