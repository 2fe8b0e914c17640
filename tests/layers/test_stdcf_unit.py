"""STDCF: one kernel and three convolutions are the same thing, and atoms may be dilated while nothing else moves."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidzoo.errors import ConfigError, WeightsError
from vidzoo.layers.ragged import lengths_of, plain, with_lengths
from vidzoo.layers.stdcf import STDCFConv3d

FORMS: list[dict[str, Any]] = [
    {"mode": "dense"},
    {"mode": "factorised", "order": "space_first"},
    {"mode": "factorised", "order": "time_first"},
]
form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form.values()))


def _kernel(unit: STDCFConv3d) -> Tensor:
    """Eq. 2, term by term."""
    psi, phi, alpha = unit.psi.detach(), unit.phi.detach(), unit.alpha.detach()
    terms = [
        alpha[:, :, m * len(phi) + n, None, None, None] * phi[n][:, None, None] * psi[m]
        for m in range(len(psi))
        for n in range(len(phi))
    ]
    return torch.stack(terms).sum(dim=0)


def _literal(unit: STDCFConv3d, x: Tensor, order: str, stride: int, at: str, ds: int, dt: int) -> Tensor:
    """Eq. 1 with one atom after the other, and with the stride in the atoms or in the coefficients."""
    b, c, _, _, _ = x.shape
    s, s_alpha = (stride, 1) if at == "atoms" else (1, stride)

    def space(maps: Tensor, atom: Tensor) -> Tensor:
        return F.conv3d(maps, atom[None, None, None], stride=(1, s, s), padding=(0, ds, ds), dilation=(1, ds, ds))

    def time(maps: Tensor, atom: Tensor) -> Tensor:
        weight = atom[None, None, :, None, None]
        return F.conv3d(maps, weight, stride=(s, 1, 1), padding=(dt, 0, 0), dilation=(dt, 1, 1))

    maps, total = x.flatten(0, 1)[:, None], torch.zeros(())  # (B C, 1, T, H, W)
    for (m, psi), (n, phi) in product(enumerate(unit.psi), enumerate(unit.phi)):
        y = time(space(maps, psi), phi) if order == "space_first" else space(time(maps, phi), psi)
        y = y.unflatten(0, (b, c)).squeeze(2)
        alpha = unit.alpha[:, :, m * len(unit.phi) + n, None, None, None]
        total = total + F.conv3d(y, alpha, stride=s_alpha)
    return total


@pytest.mark.parametrize("atoms", [(6, 2), (3, 2), (9, 3)], ids=lambda atoms: f"M{atoms[0]}N{atoms[1]}")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dt", [1, 2])
@pytest.mark.parametrize("ds", [1, 2])
@pytest.mark.parametrize("at", ["atoms", "coefficients"])
@pytest.mark.parametrize("order", ["space_first", "time_first"])
@torch.no_grad()
def test_the_three_convolutions_of_eq_1_are_the_one_of_eq_2(
    order: Any, at: str, ds: int, dt: int, stride: int, atoms: tuple[int, int]
) -> None:
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        unit = STDCFConv3d(4, 5, 3, stride, 1, bias=False, order=order, spatial_atoms=atoms[0], temporal_atoms=atoms[1])
        unit.set_dilation(spatial=ds, temporal=dt).to(dtype)
        x = torch.randn(2, 4, 7, 9, 8, dtype=dtype)
        expected = F.conv3d(x, _kernel(unit), stride=stride, padding=(dt, ds, ds), dilation=(dt, ds, ds))
        results = [unit(x), _literal(unit, x, order, stride, at, ds, dt)]
        unit.mode = "factorised"
        results.append(unit(x))
        for found in results:
            assert found.shape == expected.shape
            assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@form
@pytest.mark.parametrize(
    ("spatial", "temporal", "built"), [(2, 1, 1), (1, 2, 1), (2, 2, 1), (3, 2, 1), (2, 1, 2), (2, 3, (1, 2, 2))]
)
def test_dilated_atoms_are_atoms_spread_with_zeros_and_the_output_keeps_its_size(
    spatial: int, temporal: int, built: Any, form: dict[str, Any]
) -> None:
    padding = built if isinstance(built, int) else tuple(built)
    unit = STDCFConv3d(4, 5, 3, (1, 2, 2), padding, built, **form).double()
    x = torch.randn(1, 4, 9, 15, 16, dtype=torch.float64)
    size = unit(x).shape
    assert unit.set_dilation(spatial=spatial, temporal=temporal) is unit
    built_t, built_s = (built, built) if isinstance(built, int) else built[:2]
    dt, ds = temporal * built_t, spatial * built_s
    spread = torch.zeros(5, 4, 2 * dt + 1, 2 * ds + 1, 2 * ds + 1, dtype=torch.float64)
    spread[:, :, ::dt, ::ds, ::ds] = _kernel(unit)
    expected = F.conv3d(x, spread, unit.bias, (1, 2, 2), (dt, ds, ds))
    assert unit(x).shape == size == expected.shape
    torch.testing.assert_close(unit(x), expected, rtol=1e-12, atol=1e-12)
    twin = unit.to_conv3d()
    assert (twin.dilation, twin.padding) == ((dt, ds, ds), (dt, ds, ds))
    torch.testing.assert_close(twin(x), expected, rtol=1e-12, atol=1e-12)


def test_dilations_do_not_add_up_and_one_brings_the_original_back() -> None:
    unit, twin = (
        STDCFConv3d(4, 5, (5, 3, 3), 1, (1, 0, 2), spatial_dilation=2),
        STDCFConv3d(4, 5, (5, 3, 3), 1, (1, 0, 2)),
    )
    before = {key: value.clone() for key, value in unit.state_dict().items()}
    assert unit.padding == twin.set_dilation(spatial=2).set_dilation(spatial=2).padding == (1, 1, 3)
    unit.set_dilation(temporal=3)
    assert (unit.dilation, unit.padding) == ((3, 2, 2), (5, 1, 3))
    assert (unit.spatial_dilation, unit.temporal_dilation) == (2, 3)
    unit.set_dilation(spatial=1, temporal=1)
    assert (unit.dilation, unit.padding) == ((1, 1, 1), (1, 0, 2))
    assert all(torch.equal(value, before[key]) for key, value in unit.state_dict().items())


@pytest.mark.parametrize("wrong", [{"spatial": 0}, {"temporal": -1}, {"spatial": 1.5}, {"temporal": True}], ids=str)
def test_a_dilation_that_is_no_whole_number_is_refused_and_nothing_changes(wrong: dict[str, Any]) -> None:
    unit = STDCFConv3d(4, 5, 3, 1, 1, spatial_dilation=2)
    with pytest.raises(ConfigError, match="dilation"):
        unit.set_dilation(**wrong)
    assert (unit.dilation, unit.padding, unit.spatial_dilation) == ((1, 2, 2), (1, 2, 2), 2)


def test_an_even_kernel_is_only_dilated_where_it_grows_by_an_even_number_of_taps() -> None:
    unit = STDCFConv3d(4, 5, (3, 4, 4), 1, 1)
    x = torch.randn(1, 4, 5, 16, 16)
    size = unit(x).shape
    with pytest.raises(ConfigError, match="even"):
        unit.set_dilation(spatial=2)
    assert unit.set_dilation(spatial=3)(x).shape == size


@form
def test_frozen_atoms_get_no_gradient_and_the_others_and_alpha_do(form: dict[str, Any]) -> None:
    unit, x = STDCFConv3d(4, 5, 3, 1, 1, **form), torch.randn(1, 4, 4, 6, 6)
    for frozen, trained in ((unit.psi, unit.phi), (unit.phi, unit.psi)):
        unit.zero_grad()
        frozen.requires_grad_(False)
        unit(x).square().sum().backward()
        frozen.requires_grad_(True)
        assert frozen.grad is None
        for parameter in (trained, unit.alpha, unit.bias):
            assert parameter is not None
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0


@form
def test_both_modes_have_the_gradients_of_the_literal_form(form: dict[str, Any]) -> None:
    unit = STDCFConv3d(4, 5, 3, 2, 1, bias=False, **form).double()
    x = torch.randn(1, 4, 5, 7, 7, dtype=torch.float64, requires_grad=True)
    inputs = (x, unit.psi, unit.phi, unit.alpha)
    found = torch.autograd.grad(unit(x).square().sum(), inputs)
    expected = torch.autograd.grad(_literal(unit, x, "space_first", 2, "atoms", 1, 1).square().sum(), inputs)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@form
@torch.no_grad()
def test_a_shorter_clip_in_a_batch_is_answered_as_if_alone(form: dict[str, Any]) -> None:
    unit, clips = STDCFConv3d(4, 5, 3, (2, 1, 1), 1, **form).double(), torch.randn(2, 4, 7, 6, 6, dtype=torch.float64)
    clips[1, :, 4:] = 0
    found = unit(with_lengths(clips, torch.tensor([7, 4])))
    lengths = lengths_of(found)
    assert lengths is not None
    assert lengths.tolist() == [4, 2]
    torch.testing.assert_close(plain(found)[1:, :, :2], unit(clips[1:, :, :4]), rtol=1e-12, atol=1e-12)
    assert not plain(found)[1, :, 2:].any()


@pytest.mark.parametrize(("m", "n", "t", "k"), [(3, 2, 3, 3), (6, 2, 3, 3), (9, 3, 3, 3), (4, 3, 5, 5)])
def test_parameters_are_those_of_section_2_4(m: int, n: int, t: int, k: int) -> None:
    unit = STDCFConv3d(16, 32, (t, k, k), bias=False, spatial_atoms=m, temporal_atoms=n)
    assert sum(value.numel() for value in unit.parameters()) == n * t + m * k * k + 16 * 32 * m * n
    with_bias = STDCFConv3d(16, 32, (t, k, k), spatial_atoms=m, temporal_atoms=n)
    assert {key: tuple(value.shape) for key, value in with_bias.state_dict().items()} == {
        "psi": (m, k, k),
        "phi": (n, t),
        "alpha": (32, 16, m * n),
        "bias": (32,),
    }


def test_with_three_and_two_atoms_a_layer_has_two_ninths_of_a_3d_one_and_two_thirds_of_a_2d_one() -> None:
    with torch.device("meta"):
        unit = STDCFConv3d(256, 256, 3, 1, 1, bias=False, spatial_atoms=3, temporal_atoms=2)
    count = sum(value.numel() for value in unit.parameters())
    assert (count - unit.psi.numel() - unit.phi.numel()) * 9 == 2 * 256 * 256 * 27
    assert (count - unit.psi.numel() - unit.phi.numel()) * 3 == 2 * 256 * 256 * 9
    assert count / (256 * 256 * 27) == pytest.approx(2 / 9, abs=5e-5)


@pytest.mark.parametrize(("m", "n", "t", "k"), [(3, 2, 3, 3), (6, 2, 3, 3), (4, 3, 5, 5)])
def test_operations_of_the_three_convolutions_are_those_of_section_2_4(m: int, n: int, t: int, k: int) -> None:
    c_in, c_out, frames, side = 16, 32, 8, 14

    def count(**options: Any) -> int:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            unit = STDCFConv3d(c_in, c_out, (t, k, k), 1, (t // 2, k // 2, k // 2), bias=False, **options)
            unit(torch.empty(1, c_in, frames, side, side))
        return counter.get_total_flops()

    atoms = {"spatial_atoms": m, "temporal_atoms": n}
    voxels = 2 * c_in * frames * side**2
    assert count(mode="factorised", **atoms) == voxels * m * (k * k + n * t + n * c_out)
    assert count(mode="factorised", order="time_first", **atoms) == voxels * n * (t + m * k * k + m * c_out)
    kernel = 2 * c_out * c_in * m * n * t * k * k
    assert count(mode="dense", **atoms) - kernel == voxels * t * k * k * c_out


@pytest.mark.parametrize(("m", "n"), [(6, 2), (9, 3), (12, 4)])
def test_the_kernel_starts_with_the_variance_of_he_over_its_fan_out(m: int, n: int) -> None:
    unit = STDCFConv3d(64, 96, 3, bias=False, spatial_atoms=m, temporal_atoms=n)
    reference = nn.init.kaiming_normal_(torch.empty(96, 64, 3, 3, 3), mode="fan_out", nonlinearity="relu")
    assert float(unit.kernel().detach().var()) == pytest.approx(float(reference.var()), rel=0.03)
    kept = unit.psi.clone()
    unit.reset_parameters()
    assert not torch.equal(unit.psi, kept)


@pytest.mark.parametrize(("spatial", "temporal"), [(9, 3), (12, 4)])
@pytest.mark.parametrize("dims", [2, 3])
def test_enough_atoms_start_as_the_trained_convolution(spatial: int, temporal: int, dims: int) -> None:
    conv = nn.Conv3d(6, 8, 3, (1, 2, 2), 1) if dims == 3 else nn.Conv2d(6, 8, 3, 2, 1)
    conv, x = conv.double(), torch.randn(1, 6, 5, 9, 9, dtype=torch.float64)
    unit = STDCFConv3d.from_conv(conv, spatial_atoms=spatial, temporal_atoms=temporal)
    expected = conv(x) if dims == 3 else torch.stack([conv(frame) for frame in x.unbind(2)], dim=2)
    torch.testing.assert_close(unit(x), expected, rtol=1e-12, atol=1e-12)
    assert unit.projection_error is not None
    assert unit.projection_error < 1e-12


def test_the_error_of_the_projection_is_that_of_the_kernel_it_leaves() -> None:
    conv = nn.Conv3d(16, 16, 3, padding=1)
    unit = STDCFConv3d.from_conv(conv)
    lost = float(((unit.kernel() - conv.weight).norm() / conv.weight.norm()).detach())
    assert unit.projection_error == pytest.approx(lost, rel=1e-5)
    assert 0.6 < lost < 0.8
    assert STDCFConv3d(16, 16, 3).projection_error is None
    assert STDCFConv3d.random_after_load == ()


@pytest.mark.parametrize(
    ("inflation", "taps"), [("centre", [0, 1, 0]), ("mean", [1 / 3] * 3), ("repeat", [1, 1, 1])], ids=str
)
def test_a_2d_kernel_is_inflated_as_asked_and_one_temporal_atom_is_enough(inflation: Any, taps: list[float]) -> None:
    conv = nn.Conv2d(6, 8, 3, padding=1)
    unit = STDCFConv3d.from_conv(conv, spatial_atoms=9, temporal_atoms=1, inflation=inflation)
    expected = conv.weight.unsqueeze(2) * torch.tensor(taps)[:, None, None]
    torch.testing.assert_close(unit.kernel(), expected, rtol=1e-5, atol=1e-6)


def test_a_kernel_of_another_length_or_not_finite_is_refused_and_nothing_changes() -> None:
    unit = STDCFConv3d(4, 4, 3, 1, 1)
    before = {key: value.clone() for key, value in unit.state_dict().items()}
    with pytest.raises(ConfigError, match="3 taps over time"):
        unit.load_conv_(torch.ones(4, 4, 5, 3, 3), None)
    with pytest.raises(WeightsError, match="NaN"):
        unit.load_conv_(torch.full((4, 4, 3, 3), float("nan")), None)
    assert all(torch.equal(value, before[key]) for key, value in unit.state_dict().items())


def test_under_autocast_the_kernel_is_rounded_once_like_that_of_a_plain_layer() -> None:
    unit, x = STDCFConv3d(8, 8, 3, 1, 1), torch.randn(1, 8, 4, 8, 8)
    twin = unit.to_conv3d()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = unit(x), twin(x)
        assert torch.equal(unit.to_conv3d().weight, twin.weight)
        unit.mode = "factorised"
        assert unit(x).dtype == torch.bfloat16
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"spatial_atoms": 0},
        {"temporal_atoms": 0},
        {"spatial_atoms": 2.0},
        {"temporal_atoms": True},
        {"mode": "sparse"},
        {"order": "temporal"},
        {"inflation": "center"},
        {"spatial_dilation": 0},
    ],
    ids=str,
)
def test_an_option_that_does_not_exist_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        STDCFConv3d(4, 4, 3, 1, 1, **wrong)
