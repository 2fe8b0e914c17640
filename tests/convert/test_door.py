"""The door of conversion: from whatever somebody saved to weights that load strictly, or one sentence."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vidzoo
from convert.blobs import blobs
from fidelity.networks import lively
from models.trained import trained
from vidzoo.convert import Conversion, convert, detect, door, to_vidzoo
from vidzoo.convert.gst import to_gst
from vidzoo.convert.pyslowfast import to_pyslowfast
from vidzoo.convert.pytorchvideo.slowfast import to_slowfast
from vidzoo.convert.sgs import to_sgs
from vidzoo.errors import ConfigError, UnknownModelError, UnknownOptionError, WeightsError
from vidzoo.loading import load_weights
from vidzoo.models import VideoModel


@cache
def _image(name: str = "resnet18") -> nn.Module:
    import torchvision

    torch.manual_seed(5)
    return torchvision.models.get_model(name, num_classes=6).eval()


@cache
def _sampled() -> VideoModel:
    return vidzoo.create_model("resnet3d_18_atfr", num_classes=5, released=True)


def _loaded(name: str, weights: dict[str, Tensor], **options: Any) -> VideoModel:
    """What the strict loader makes of the weights."""
    model = vidzoo.create_model(name, num_classes=weights["fc.weight"].shape[0], **options).eval()
    load_weights(model, weights, source="the door")
    return model


# The same topology.


@torch.no_grad()
def test_a_network_of_torchvision_gives_its_own_logits_out_of_any_wrapping() -> None:
    import torchvision

    theirs = lively(torchvision.models.video.r3d_18(num_classes=7)).eval()
    content = {"epoch": 2, "model_state": {f"module.{key}": value for key, value in theirs.state_dict().items()}}
    assert detect(content) == "torchvision"
    found = convert(content, "r3d_18")
    assert (found.layout, found.exact, found.fresh, found.approximated) == ("torchvision", True, (), ())
    clip = torch.randn(1, 3, 4, 32, 32)
    torch.testing.assert_close(_loaded("r3d_18", found.weights)(clip), theirs(clip), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_pytorchvideos_x3d_gives_its_own_logits_and_starts_the_sampled_one() -> None:
    create_x3d = pytest.importorskip("pytorchvideo.models.x3d").create_x3d
    theirs = create_x3d(input_clip_length=4, input_crop_size=160, head_activation=None, dropout_rate=0.0).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    content = {"model_state": theirs.state_dict()}
    found = convert(content, "x3d_xs")
    assert found.exact
    clip = torch.randn(1, 3, 4, 160, 160)
    expected = theirs(clip)
    model = _loaded("x3d_xs", found.weights)
    assert (model(clip) - expected).abs().max() <= 1e-5 * expected.abs().max()

    sampled = convert(content, "x3d_s_atfr", seed=1)
    assert not sampled.exact
    assert all(key.startswith("sampler.") for key in sampled.fresh)
    assert sampled.weights.keys() - found.weights.keys() >= set(sampled.fresh) != set()
    assert all(torch.equal(sampled.weights[key], value) for key, value in found.weights.items())
    _loaded("x3d_s_atfr", sampled.weights)
    again, other = (to_vidzoo(content, "x3d_s_atfr", seed=seed) for seed in (1, 2))
    assert all(torch.equal(value, sampled.weights[key]) for key, value in again.items())
    assert any(not torch.equal(other[key], sampled.weights[key]) for key in sampled.fresh)


def test_the_gst_authors_file_is_unwrapped_and_renamed() -> None:
    model = vidzoo.create_model("gst_r50", num_classes=5)
    theirs = {f"module.{key}": value for key, value in to_gst(model.state_dict(), wrapped=True).items()}
    found = convert({"state_dict": theirs, "arch": "resnet50"}, "gst_r50")
    assert (found.layout, found.exact) == ("gst", True)
    assert all(torch.equal(found.weights[key], value) for key, value in model.state_dict().items())


def test_caffe2s_arrays_are_read_like_tensors() -> None:
    donor = trained("slow_r18").state_dict()
    arrays: dict[str, Any] = {name: value.numpy() for name, value in blobs(to_pyslowfast(donor)).items()}
    arrays |= {"lr": torch.zeros(1).numpy(), "model_iter": torch.zeros(1).long().numpy()}
    found = convert({"blobs": arrays, "cfg": "a text"}, "slow_r18")
    assert (found.layout, found.exact) == ("caffe2", True)
    counters = [key for key in donor if key.endswith("num_batches_tracked")]
    assert all(torch.equal(found.weights[key], value) for key, value in donor.items() if key not in counters)


def test_pyslowfasts_file_is_told_from_that_of_sgs() -> None:
    donor = trained("resnet3d_18").state_dict()
    assert convert({"model_state": to_pyslowfast(donor)}, "resnet3d_18").exact
    sampled = _sampled().state_dict()
    found = convert({"model_state": to_sgs(sampled)}, "resnet3d_18_atfr", released=True)
    assert (found.layout, found.exact) == ("sgs", True)
    assert all(torch.equal(value, sampled[key]) for key, value in found.weights.items())
    with pytest.raises(WeightsError, match=r"sampler\.embedding.*their samplers need the option released=True"):
        to_vidzoo(to_sgs(sampled), "resnet3d_18_atfr")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["c3d_c3", "stdcf_c3"])
def test_every_floating_type_becomes_single_precision(dtype: torch.dtype, name: str) -> None:
    given = trained("c3d_c3").state_dict()
    weights = {key: value.to(dtype) if value.is_floating_point() else value for key, value in given.items()}
    found = to_vidzoo(weights, name)
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}
    assert torch.equal(found["layer2.0.bn.bias"], weights["layer2.0.bn.bias"].float())
    _loaded(name, found)


def test_files_of_old_versions_without_counters_are_complete() -> None:
    given = trained("c3d_c3").state_dict()
    weights = {key: value for key, value in given.items() if not key.endswith("num_batches_tracked")}
    found = convert(weights, "c3d_c3")
    assert found.exact
    assert found.weights.keys() == given.keys()
    assert found.weights["layer1.0.bn.num_batches_tracked"] == 0


def test_parameters_with_gradients_become_plain_tensors() -> None:
    found = to_vidzoo({**trained("c3d_c3").state_dict(), **dict(trained("c3d_c3").named_parameters())}, "c3d_c3")
    assert not any(value.requires_grad for value in found.values())


# Relatives.


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("c2d_r18", {}),
        ("gst_r18", {"alpha": 0.5}),
        ("stdcf_r18", {"spatial_atoms": 2, "in_chans": 1}),
        ("ctm_r18", {"img_size": 64, "blocks": 2}),
    ],
)
def test_a_2d_network_starts_every_family_with_its_options(name: str, options: dict[str, Any]) -> None:
    found = convert(_image().state_dict(), name, **options)
    assert (found.layout, found.exact) == ("resnet-2d", False)
    model = _loaded(name, found.weights, **options)
    assert torch.equal(model.fc.weight, _image().state_dict()["fc.weight"])
    assert torch.equal(
        model.layer3[0].downsample[0].weight[:, :, 0], _image().state_dict()["layer3.0.downsample.0.weight"]
    )


@torch.no_grad()
def test_frames_of_a_2d_network_keep_its_answer() -> None:
    model = _loaded("i3d_r18", to_vidzoo({"state_dict": _image().state_dict()}, "i3d_r18"), drop_rate=0.0)
    clip = torch.randn(1, 3, 3, 48, 48)
    expected = torch.stack([_image()(frame) for frame in clip.unbind(2)]).mean(dim=0)
    assert (model(clip) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_timms_keys_are_those_of_torchvision() -> None:
    timm = pytest.importorskip("timm")
    image = timm.create_model("resnet18", num_classes=6)
    found = convert(image.state_dict(), "p3d_r18")
    assert found.fresh == ()
    assert torch.equal(found.weights["layer4.1.conv2.spatial.weight"][:, :, 0], image.layer4[1].conv2.weight)


def test_a_start_of_the_same_function_is_exact_and_one_that_is_near_is_not() -> None:
    weights = trained("i3d_r18").state_dict()
    assert convert(weights, "i3d_r18", eta=2).exact
    near = convert(weights, "i3d_r18_11335")
    assert not near.exact
    assert "conv1" in dict(near.approximated)
    adapted = convert(trained("c3d_c3").state_dict(), "c3d_c3", in_chans=1)
    assert (adapted.exact, adapted.fresh, adapted.approximated) == (False, (), ())


@pytest.mark.parametrize("name", ["resnet3d_18", "resnet3d_18_atfr"])
@pytest.mark.parametrize("layout", [dict, to_slowfast, to_pyslowfast])
def test_a_fast_pathway_starts_the_network_of_atfr(name: str, layout: Callable[..., dict[str, Tensor]]) -> None:
    donor = trained("slowfast_r18_8x8").state_dict()
    found = convert(layout(donor), name)
    assert (found.layout, found.exact) == ("fast-pathway", False)
    assert torch.equal(found.weights["conv1.weight"], donor["fast.conv1.weight"])
    assert torch.equal(found.weights["layer1.1.bn3.running_var"], donor["fast.layer1.1.bn3.running_var"])
    assert {"layer2.0.conv1.weight", "layer4.1.bn3.weight", "fc.weight"} <= set(found.fresh)
    assert not any(key.startswith(("conv1.", "bn1.", "layer1.")) for key in found.fresh)


@pytest.mark.parametrize("name", ["rank1_c3", "c3d_c3", "stdcf_c3"])
def test_a_part_of_a_network_starts_what_it_can(name: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for number, (before, width) in enumerate([(1, 32), (32, 64), (64, 128)], start=1):
        parts = {"s_2.weight": (width, before if number > 1 else 16, 1, 3, 3), "t_2.weight": (width, width, 3, 1, 1)}
        parts |= {"t_1.weight": (width, width, 5, 1, 1), "t_norm_2.weight": (width,), "t_norm_2.bias": (width,)}
        shapes |= {f"model.visualEncoder.block{number}.{part}": shape for part, shape in parts.items()}
    found = convert({key: torch.randn(shape) for key, shape in shapes.items()}, name, in_chans=1)
    assert (found.layout, found.exact) == ("lr-asd", False)
    assert "fc.weight" in found.fresh
    assert "layer3.0.bn.weight" not in found.fresh
    model = vidzoo.create_model(name, in_chans=1)
    load_weights(model, found.weights, source="the door")


# Choice, seeds, options.


def test_the_random_generator_is_left_alone_and_the_seed_decides() -> None:
    torch.manual_seed(7)
    expected = torch.get_rng_state()
    first = to_vidzoo(_image().state_dict(), "gst_r18", seed=3)
    assert torch.equal(torch.get_rng_state(), expected)
    torch.manual_seed(8)
    second = to_vidzoo(_image().state_dict(), "gst_r18", seed=3)
    other = to_vidzoo(_image().state_dict(), "gst_r18", seed=4)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    differing = {key for key, value in first.items() if not torch.equal(value, other[key])}
    assert differing == {key for key in first if key.endswith(".temporal.weight")}


def test_threads_that_convert_at_once_draw_what_one_alone_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each thread stops once it has drawn its network, until the other has too or has been kept out.
    both = threading.Barrier(2)
    build = door._build

    def slow(arch: str, options: Any) -> Any:
        model = build(arch, options)
        if not next(model.parameters()).is_meta and threading.current_thread() is not threading.main_thread():
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(timeout=0.2)
        return model

    image, before = _image().state_dict(), torch.get_rng_state()
    expected = to_vidzoo(image, "gst_r18", seed=3)
    monkeypatch.setattr(door, "_build", slow)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda seed: to_vidzoo(image, "gst_r18", seed=seed), (3, 3)))
    assert all(torch.equal(value, one[key]) for one in found for key, value in expected.items())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_result_lies_on_the_cpu_wherever_networks_are_built() -> None:
    with torch.device("meta"):
        found = to_vidzoo(trained("c3d_c3").state_dict(), "stdcf_c3")
    assert {value.device.type for value in found.values()} == {"cpu"}
    _loaded("stdcf_c3", found)


def test_the_number_of_classes_is_that_of_the_weights_unless_another_is_asked_for() -> None:
    weights = trained("c3d_c3").state_dict()
    assert to_vidzoo(weights, "c3d_c3")["fc.weight"].shape == (5, 128)
    found = convert(weights, "c3d_c3", num_classes=9)
    assert found.weights["fc.weight"].shape == (9, 128)
    assert found.fresh == ("fc.weight", "fc.bias")
    assert "fc.weight" not in to_vidzoo(weights, "c3d_c3", num_classes=0)
    bare = {key: value for key, value in weights.items() if not key.startswith("fc.")}
    assert convert(bare, "c3d_c3").fresh == ("fc.weight", "fc.bias")


def test_a_layout_can_be_named_and_a_tag_is_passed_over() -> None:
    found = convert(trained("c3d_c3").state_dict(), "c3d_c3", "vidzoo")
    assert isinstance(found, Conversion)
    assert found.layout == "vidzoo"
    tagged = to_vidzoo(vidzoo.create_model("gst_r18", num_classes=10).state_dict(), "gst_r18.weizmann")
    assert tagged["fc.weight"].shape == (10, 512)


# Refusals.


@pytest.mark.parametrize(
    ("donor", "name", "match"),
    [
        (
            "mc3_18",
            "r3d_18",
            r"layout 'torchvision'\) do not make a r3d_18: .* of another shape: .*; they are those of mc3_18",
        ),
        (
            "c3d_c3",
            "r3d_18",
            r"layout 'vidzoo'\) do not make a r3d_18: .*missing: stem.*; they are those of c3d_c3",
        ),
        ("slow_r18", "x3d_s", r"layout 'vidzoo'\) do not make a x3d_s: .*; they are those of slow_r18"),
    ],
)
def test_a_network_of_another_topology_is_refused_with_the_one_that_it_is(donor: str, name: str, match: str) -> None:
    with pytest.raises(WeightsError, match=match):
        to_vidzoo(trained(donor).state_dict(), name)


def test_a_2d_network_of_another_depth_is_refused_with_the_depth_that_it_has() -> None:
    with pytest.raises(
        WeightsError, match=r"do not make a c2d_r34: .*missing: layer1\.2\.conv1\.weight.* those of c2d_r18"
    ):
        to_vidzoo(_image().state_dict(), "c2d_r34")


def test_a_layout_that_the_weights_do_not_have_is_refused_by_its_converter() -> None:
    with pytest.raises(
        WeightsError, match=r"in the layout 'pytorchvideo'\) cannot be read for c2d_r18: .*pytorchvideo"
    ):
        to_vidzoo(_image().state_dict(), "c2d_r18", "pytorchvideo")


def test_tensors_without_their_axes_or_their_values_are_refused() -> None:
    weights = to_pyslowfast(trained("slow_r18").state_dict())
    flat = {key: value.flatten() for key, value in weights.items()}
    with pytest.raises(WeightsError, match=r"in the layout 'pyslowfast'\) (cannot be read for|do not make a) slow_r18"):
        to_vidzoo(flat, "slow_r18")
    sampled = {key: value.flatten() for key, value in to_sgs(_sampled().state_dict()).items()}
    with pytest.raises(WeightsError, match="have not the shapes of that layout"):
        to_vidzoo(sampled, "resnet3d_18_atfr", released=True)
    empty = {key: value.to("meta") for key, value in weights.items()}
    with pytest.raises(WeightsError, match="on the meta device and have no values"):
        to_vidzoo(empty, "slow_r18")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    weights = dict(trained("c3d_c3").state_dict())
    weights["layer1.0.bn.weight"] = torch.full((32,), value)
    with pytest.raises(WeightsError, match=r"NaN or infinite values in layer1\.0\.bn\.weight"):
        to_vidzoo(weights, "c3d_c3")


def test_whole_numbers_in_the_place_of_a_filter_are_refused() -> None:
    weights = dict(trained("x3d_s").state_dict())
    weights["conv5.weight"] = weights["conv5.weight"].to(torch.int8)
    with pytest.raises(WeightsError, match=r"conv5\.weight is torch\.int8"):
        to_vidzoo(weights, "x3d_s")


@pytest.mark.parametrize(
    ("name", "source", "options", "error", "match"),
    [
        ("c3d_c4", None, {}, UnknownModelError, "did you mean"),
        ("c3d_c3", "pytorch-video", {}, ConfigError, "no layout 'pytorch-video'.*did you mean 'pytorchvideo'"),
        ("c3d_c3", None, {"depth": 3}, UnknownOptionError, "no option 'depth'"),
        ("stdcf_c3", None, {"spatial_atoms": 0}, ConfigError, "spatial_atoms=0"),
    ],
)
def test_names_layouts_and_options_that_do_not_exist_are_refused(
    name: str, source: str | None, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        to_vidzoo(trained("c3d_c3").state_dict(), name, source, **options)


def test_no_converter_is_imported_before_its_layout_is_met() -> None:
    import subprocess
    import sys

    code = "import sys, vidzoo.convert; print(*(name for name in sys.modules if name.startswith('vidzoo.convert.')))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(told.split()) == {"vidzoo.convert.door", "vidzoo.convert.layouts", "vidzoo.convert.wrappers"}


def test_weights_that_could_be_two_networks_have_to_be_named() -> None:
    with torch.device("meta"):
        shapes = vidzoo.create_model("r2plus1d_34").state_dict()
    weights = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}
    with pytest.raises(WeightsError, match="source='ig65m' or source='vidzoo'"):
        to_vidzoo(weights, "r2plus1d_34")
    assert torch.equal(to_vidzoo(weights, "r2plus1d_34", "vidzoo")["stem.1.running_var"], torch.zeros(45))
    assert float(to_vidzoo(weights, "r2plus1d_34", "ig65m")["stem.1.running_var"][0]) > 0
