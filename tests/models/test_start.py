"""Trained weights of a relative: hosts of samplers, plain ResNets of other lengths over time, parts of a network."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vidzoo
from models.trained import trained
from models.untouched import writes
from vidzoo.blank import blank
from vidzoo.errors import ConfigError, WeightsError
from vidzoo.models import VideoModel
from vidzoo.models.inflation import fit_length
from vidzoo.models.start import StartReport, start_from


@cache
def _untouched(name: str) -> VideoModel:
    """A model for refusals, which leave it as it is and need no values to tell."""
    with blank():
        return vidzoo.create_model(name, num_classes=5)


def _started(name: str, weights: dict[str, Tensor], **options: object) -> tuple[VideoModel, StartReport]:
    model = vidzoo.create_model(name, num_classes=5, **options).eval()
    return model, start_from(model, weights)


def _refused(model: VideoModel, weights: dict[str, Tensor], match: str) -> None:
    before = writes(model)
    with pytest.raises(WeightsError, match=match):
        start_from(model, weights)
    assert writes(model) == before


def _without_counters(keys: list[str]) -> list[str]:
    return [key for key in keys if not key.endswith("num_batches_tracked")]


# The model's own keys.


@torch.no_grad()
def test_weights_in_the_models_own_keys_are_loaded_to_the_last_tensor() -> None:
    donor = trained("gst_r18")
    model, report = _started("gst_r18", donor.state_dict(), drop_rate=0.0)
    assert report == StartReport(loaded=len(donor.state_dict()))
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(model(clip), donor(clip))


def test_a_classifier_of_other_classes_stays_fresh_and_is_reported() -> None:
    donor = trained("c2d_r18").state_dict()
    model = vidzoo.create_model("c2d_r18", num_classes=7)
    before = model.fc.weight.clone()
    report = start_from(model, donor)
    assert report.fresh == ("fc.weight", "fc.bias")
    assert report.loaded == len(donor) - 2
    assert torch.equal(model.fc.weight, before)
    assert torch.equal(model.conv1.weight, donor["conv1.weight"])


@pytest.mark.parametrize(
    ("host", "sampled"),
    [
        ("x3d_s", "x3d_s_atfr"),
        ("x3d_s", "x3d_s_attention"),
        ("slowfast_r18_8x8", "slowfast_r18_8x8_atfr"),
        ("resnet3d_18", "resnet3d_18_atfr"),
    ],
)
def test_a_host_gives_everything_but_the_sampler(host: str, sampled: str) -> None:
    donor = trained(host).state_dict()
    model = vidzoo.create_model(sampled, num_classes=5)
    before = copy.deepcopy(model.state_dict())
    report = start_from(model, donor)
    own = [key for key in before if key.startswith("sampler.")]
    assert list(report.fresh) == _without_counters(own) != []
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] if key in own else donor[key])


@torch.no_grad()
def test_half_of_a_sampler_is_refused() -> None:
    weights = dict(trained("resnet3d_18").state_dict())
    model = vidzoo.create_model("resnet3d_18_atfr", num_classes=5)
    key = next(key for key in model.state_dict() if key.startswith("sampler."))
    _refused(model, {**weights, key: model.state_dict()[key].clone()}, r"missing: sampler\.")


@torch.no_grad()
def test_ctm_blocks_stay_the_identity_that_they_start_as() -> None:
    donor = trained("c2d_r18")
    model, report = _started("ctm_r18", donor.state_dict())
    assert report.fresh
    assert all(key.startswith("layer3.ctm_0.") for key in report.fresh)
    clip = torch.randn(1, 3, 3, 32, 32)
    torch.testing.assert_close(model(clip), donor(clip), rtol=1e-5, atol=1e-5)


def test_tables_for_pictures_of_another_size_are_brought_to_the_models_own() -> None:
    donor = vidzoo.create_model("ctm_r18", num_classes=5, img_size=64).state_dict()
    model = vidzoo.create_model("ctm_r18", num_classes=5, img_size=96)
    report = start_from(model, donor)
    assert report == StartReport(loaded=len(donor))
    assert torch.equal(model.layer3[0].conv1.weight, donor["layer3.0.conv1.weight"])
    tables = [value for value in model.state_dict().values() if value.ndim == 3]
    assert [tuple(table.shape) for table in tables] == [(9, 6, 6)]


# Kernels of another length.


@pytest.mark.parametrize(("taps", "length"), [(1, 3), (3, 5), (1, 5), (3, 3)])
def test_a_lengthened_kernel_is_the_same_function_of_any_clip(taps: int, length: int) -> None:
    kernel, clip = torch.randn(4, 3, taps, 3, 3), torch.randn(2, 3, 6, 8, 8)
    longer = fit_length(kernel, length)
    assert longer.shape == (4, 3, length, 3, 3)
    expected = F.conv3d(clip, kernel, padding=(taps // 2, 1, 1))
    torch.testing.assert_close(F.conv3d(clip, longer, padding=(length // 2, 1, 1)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("taps", "length"), [(3, 1), (5, 3), (5, 1), (7, 3)])
def test_a_shortened_kernel_gives_a_static_clip_the_same_away_from_its_ends(taps: int, length: int) -> None:
    kernel, still = torch.randn(4, 3, taps, 3, 3), torch.randn(2, 3, 1, 8, 8).expand(-1, -1, 9, -1, -1)
    shorter = fit_length(kernel, length)
    assert shorter.shape == (4, 3, length, 3, 3)
    expected = F.conv3d(still, kernel, padding=(taps // 2, 1, 1))
    found = F.conv3d(still, shorter, padding=(length // 2, 1, 1))
    inner = slice(taps // 2, 9 - taps // 2)
    torch.testing.assert_close(found[:, :, inner], expected[:, :, inner], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, expected, rtol=1e-2, atol=1e-2)


def test_only_the_outermost_frames_that_are_kept_change() -> None:
    kernel = torch.randn(2, 2, 7, 3, 3)
    shorter = fit_length(kernel, 5)
    assert torch.equal(shorter[:, :, 1:4], kernel[:, :, 2:5])
    assert torch.equal(shorter[:, :, 0], kernel[:, :, 1] + kernel[:, :, 0])
    assert torch.equal(shorter[:, :, 4], kernel[:, :, 5] + kernel[:, :, 6])


def test_lengths_without_a_common_middle_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 frames and one of 3 have no common middle"):
        fit_length(torch.zeros(1, 1, 4, 1, 1), 3)


# A dense network in the place of which ours has units.


@torch.no_grad()
def test_i3d_33333_becomes_11335_stage_by_stage() -> None:
    donor = trained("i3d_r18")
    model, report = _started("i3d_r18_11335", donor.state_dict())
    shortened = {"conv1", *(f"layer{stage}.{block}.conv{i}" for stage in (1,) for block in (0, 1) for i in (1, 2))}
    assert {name for name, _ in report.approximated} == shortened
    assert report.fresh == ()
    # The longer kernels of res5 are the trained ones, frame by frame of any clip.
    clip = torch.randn(1, 256, 5, 6, 6)
    torch.testing.assert_close(model.layer4(clip), donor.layer4(clip), rtol=1e-4, atol=1e-4)
    kernel = donor.conv1.weight
    lost = torch.cat([kernel[:, :, :1], kernel[:, :, :1] + kernel[:, :, 2:], kernel[:, :, 2:]], dim=2)
    assert dict(report.approximated)["conv1"] == pytest.approx(float(lost.norm() / kernel.norm()), rel=1e-4)


@torch.no_grad()
def test_a_static_clip_gets_the_features_of_the_trained_network_away_from_its_ends() -> None:
    donor = trained("i3d_r18")
    model, _ = _started("i3d_r18_11335", donor.state_dict())
    reach = 1 + 16  # frames on either side that a feature of the donor sees: stem, sixteen convolutions of three frames
    clip = torch.randn(1, 3, 1, 16, 16).expand(-1, -1, 2 * reach + 3, -1, -1)
    expected, found = donor.forward_features(clip), model.forward_features(clip)
    middle = slice(reach, reach + 3)
    assert (found - expected)[:, :, middle].abs().max() <= 1e-4 * expected.abs().max()


@torch.no_grad()
def test_regularised_branches_give_what_the_single_kernels_give() -> None:
    weights = trained("i3d_r18").state_dict()
    plain, told = _started("i3d_r18_11335", weights)
    branched, report = _started("i3d_r18_reparam_11335", weights)
    assert [name for name, _ in report.approximated] == [name for name, _ in told.approximated]
    clip = torch.randn(1, 3, 4, 32, 32)
    expected = plain(clip)
    assert (branched(clip) - expected).abs().max() <= 1e-4 * expected.abs().max()


@torch.no_grad()
def test_as_many_atoms_as_taps_are_the_trained_network() -> None:
    donor = trained("c3d_c3")
    model, report = _started("stdcf_c3", donor.state_dict(), spatial_atoms=9, temporal_atoms=3)
    assert report == StartReport(loaded=len(_without_counters(list(donor.state_dict()))))
    clip = torch.randn(1, 3, 4, 32, 32)
    expected = donor(clip)
    assert (model(clip) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_fewer_atoms_are_reported_with_their_projection_error() -> None:
    model, report = _started("stdcf_c3", trained("c3d_c3").state_dict())
    assert [name for name, _ in report.approximated] == [f"layer{number}.0.conv" for number in (1, 2, 3)]
    for name, error in report.approximated:
        assert error == pytest.approx(model.get_submodule(name).projection_error, rel=1e-3)
        assert 0 < error < 1


def test_separable_units_keep_the_sum_over_time_and_say_what_is_lost() -> None:
    donor = trained("c3d_r18").state_dict()
    model, report = _started("p3d_r18", donor)
    kernel = donor["layer2.0.conv1.weight"]
    assert torch.equal(model.layer2[0].conv1.spatial.weight, kernel.sum(dim=2, keepdim=True))
    lost = kernel.clone()
    lost[:, :, 1] -= kernel.sum(dim=2)
    assert dict(report.approximated)["layer2.0.conv1"] == pytest.approx(float(lost.norm() / kernel.norm()), rel=1e-4)
    assert len(report.approximated) == 16


def test_a_relu_that_was_not_there_is_reported_even_where_the_kernel_is_kept() -> None:
    _, report = _started("p3d_r18", trained("c2d_r18").state_dict())
    assert [name for name, _ in report.approximated] == [f"layer{s}.{b}.conv2" for s in (1, 2, 3, 4) for b in (0, 1)]
    assert {error for _, error in report.approximated} == {0.0}


def test_groups_report_the_half_of_the_kernel_that_they_have_no_place_for() -> None:
    donor = trained("c3d_r18").state_dict()
    _, report = _started("c3d_g2_r18", donor)
    kernel = donor["layer3.1.conv2.weight"].clone()
    whole = kernel.norm()
    kernel[:128, :128] = kernel[128:, 128:] = 0
    assert dict(report.approximated)["layer3.1.conv2"] == pytest.approx(float(kernel.norm() / whole), rel=1e-4)


def test_gst_keeps_its_temporal_group_fresh_and_counts_it_as_lost() -> None:
    donor = trained("i3d_r18").state_dict()
    model, report = _started("gst_r18", donor)
    assert len(report.fresh) == 16
    assert all(key.endswith(".temporal.weight") for key in report.fresh)
    kernel = donor["layer1.0.conv1.weight"]
    assert torch.equal(model.layer1[0].conv1.spatial.weight[:, :, 0], kernel.sum(dim=2)[:48, :32])
    kept = torch.zeros_like(kernel)
    kept[:48, :32, 1] = kernel.sum(dim=2)[:48, :32]
    error = float((kept - kernel).norm() / kernel.norm())
    assert dict(report.approximated)["layer1.0.conv1"] == pytest.approx(error, rel=1e-4)


def test_frames_seen_one_by_one_take_part_in_eta_inf() -> None:
    weights = trained("c2d_r18").state_dict()
    model, report = _started("i3d_r18_reparam_11335", weights, eta="inf")
    assert report.approximated == ()
    _refused(model, trained("i3d_r18").state_dict(), r"layer2\.0\.conv1\.weight is .* eta=inf cannot hold")


@torch.no_grad()
def test_pictures_start_a_network_with_other_input_channels_and_their_classifier_comes_along() -> None:
    import torchvision

    image = torchvision.models.resnet18(num_classes=5).eval()
    model, report = _started("c2d_r18", image.state_dict(), in_chans=1)
    assert report.fresh == report.approximated == ()
    gray = torch.randn(1, 1, 2, 48, 48)
    expected = torch.stack([image(frame.expand(-1, 3, -1, -1)) for frame in gray.unbind(2)]).mean(dim=0)
    assert (model(gray) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("donor", "name"), [("i3d_r18", "i3d_r18"), ("i3d_r18", "stdcf_r18"), ("x3d_s", "x3d_s")])
def test_the_first_convolution_of_any_relative_adapts_to_the_input_channels(donor: str, name: str) -> None:
    weights = trained(donor).state_dict()
    model, _ = _started(name, weights, in_chans=4)
    stem = next(iter(weights))
    assert model.get_parameter(stem).shape[1] == 4
    total = model.get_parameter(stem).sum(dim=(1, 2))
    torch.testing.assert_close(total, weights[stem].sum(dim=(1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_ends_in_the_models_own(dtype: torch.dtype) -> None:
    given = trained("c3d_c3").state_dict()
    weights = {key: value.to(dtype) if value.is_floating_point() else value for key, value in given.items()}
    for name, options in (("c3d_c3", {}), ("stdcf_c3", {"spatial_atoms": 9, "temporal_atoms": 3})):
        model, _ = _started(name, weights, **options)
        assert {value.dtype for value in model.parameters()} == {torch.float32}
        conv = model.layer3[0].conv
        kernel = conv.weight if name == "c3d_c3" else conv.kernel()
        torch.testing.assert_close(kernel, weights["layer3.0.conv.weight"].float(), rtol=1e-4, atol=1e-5)


def test_an_inflation_is_passed_on_to_every_kernel() -> None:
    model = vidzoo.create_model("c3d_r18", num_classes=5)
    kernel = trained("c2d_r18").state_dict()["layer1.0.conv1.weight"]
    start_from(model, trained("c2d_r18").state_dict(), mode="mean")
    torch.testing.assert_close(model.layer1[0].conv1.weight, kernel.expand(-1, -1, 3, -1, -1) / 3)


# Parts.


def test_a_part_needs_to_be_declared_and_what_is_missing_is_then_fresh() -> None:
    weights = {k: v for k, v in trained("resnet3d_18").state_dict().items() if not k.startswith(("layer4.", "fc."))}
    model = vidzoo.create_model("resnet3d_18", num_classes=5)
    _refused(model, weights, r"missing: layer4\.0\.conv1\.weight")
    before = copy.deepcopy(model.state_dict())
    report = start_from(model, weights, partial=True)
    left = [key for key in before if key.startswith(("layer4.", "fc."))]
    assert list(report.fresh) == _without_counters(left)
    assert report.loaded == len(weights)
    assert all(
        torch.equal(value, before[key] if key in left else weights[key]) for key, value in model.state_dict().items()
    )


def test_a_dense_part_starts_the_atoms_of_the_layers_that_it_has() -> None:
    model = vidzoo.create_model("stdcf_c3", spatial_atoms=9, temporal_atoms=3)
    kernel = torch.randn(64, 32, 3, 3, 3)
    weights = {"layer2.0.conv.weight": kernel, "layer2.0.bn.weight": torch.full((64,), 2.0)}
    first = copy.deepcopy(model.layer1.state_dict())
    report = start_from(model, weights, partial=True)
    torch.testing.assert_close(model.layer2[0].conv.kernel(), kernel, rtol=1e-3, atol=1e-4)
    assert report.loaded == 2
    assert {"layer1.0.conv.psi", "layer2.0.bn.bias", "layer3.0.bn.running_mean", "fc.weight"} <= set(report.fresh)
    assert not {"layer2.0.conv.alpha", "layer2.0.bn.weight"} & set(report.fresh)
    assert all(torch.equal(value, first[key]) for key, value in model.layer1.state_dict().items())


# Refusals.


def _changed(weights: dict[str, Tensor], key: str, value: Tensor | None) -> dict[str, Tensor]:
    changed = {name: one for name, one in weights.items() if name != key}
    return changed if value is None else {**changed, key: value}


@pytest.mark.parametrize("name", ["i3d_r18_11335", "stdcf_r18", "gst_r18"])
@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("layer2.1.bn2.running_var", None, r"1 missing: layer2\.1\.bn2\.running_var"),
        ("layer2.1.conv2.weight", None, r"1 missing: layer2\.1\.conv2\.weight"),
        ("layer2.1.se.weight", torch.zeros(1), r"1 unexpected: layer2\.1\.se\.weight"),
        ("layer2.0.conv2.weight", torch.zeros(128, 128, 4, 3, 3), "no middle frame in common with a kernel of 3"),
        ("layer2.0.conv2.weight", torch.zeros(128, 64, 3, 3, 3), r"expected \(128, 128, 3, 3\)"),
        ("layer2.0.conv2.weight", torch.zeros(128, 128, 3, 3, 3, dtype=torch.int8), r"holds torch\.int8"),
        ("layer2.0.bn1.bias", torch.full((128,), torch.nan), r"NaN or infinite values in layer2\.0\.bn1\.bias"),
    ],
)
def test_what_does_not_fit_is_named_and_the_model_is_untouched(
    name: str, key: str, value: Tensor | None, match: str
) -> None:
    _refused(_untouched(name), _changed(trained("i3d_r18").state_dict(), key, value), match)


@pytest.mark.parametrize(
    ("name", "donor"),
    [("x3d_s", "slow_r18"), ("r3d_18", "mc3_18"), ("i3d_r34", "i3d_r18"), ("stdcf_r50", "c3d_r18"), ("s3d", "c2d_r18")],
)
def test_a_network_of_another_topology_is_refused(name: str, donor: str) -> None:
    _refused(_untouched(name), trained(donor).state_dict(), r"do not fit .*(missing|of another shape)")


@pytest.mark.parametrize("weights", [{}, {"fc.weight": torch.zeros(5, 512), "fc.bias": torch.zeros(5)}])
def test_a_classifier_alone_starts_nothing(weights: dict[str, Tensor]) -> None:
    _refused(_untouched("c2d_r18"), weights, "no trained weights here")


def test_a_mode_that_does_not_exist_changes_nothing() -> None:
    model = _untouched("c3d_r18")
    before = writes(model)
    with pytest.raises(ConfigError, match="median"):
        start_from(model, trained("c2d_r18").state_dict(), mode="median")
    assert writes(model) == before
