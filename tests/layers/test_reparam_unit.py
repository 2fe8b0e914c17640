"""Regularised branches: the sum of Eq. 2 in its literal form, the filters of Eq. 6 from an explicit basis."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.conv import FrameConv3d, FullConv3d
from vidzoo.layers.p3d import P3DConv3d
from vidzoo.layers.ragged import plain, with_lengths
from vidzoo.layers.reparam import MeanScaledConv3d, ReparamConv3d

ETAS = [1, 2, 4, math.inf]
etas = pytest.mark.parametrize("eta", ETAS)
lengths = pytest.mark.parametrize("tau", range(1, 8))


def _basis(tau: int) -> Tensor:
    """[mu, U_perp] of Eq. 4 with the cosines of the DCT-II, ``(tau, tau)``."""
    n = torch.arange(tau, dtype=torch.float64) + 0.5
    rows = [torch.full((tau,), 1 / math.sqrt(tau), dtype=torch.float64)]
    rows += [math.sqrt(2 / tau) * torch.cos(math.pi * n * k / tau) for k in range(1, tau)]
    return torch.stack(rows, dim=1)


def _scaled(tau: int, eta: float) -> Tensor:
    """[mu / eta, U_perp] of Eq. 6; the paper's only exception here: a branch of one frame is not scaled."""
    basis = _basis(tau)
    if tau > 1:
        basis[:, 0] /= eta
    return basis


def _along_time(matrix: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("nk,oikhw->oinhw", matrix, weight)


def _branch(tau: int, eta: float) -> MeanScaledConv3d:
    kept = 1.0 if tau == 1 else 1 / eta
    return MeanScaledConv3d(3, 4, (tau, 3, 3), (1, 1, 1), (tau // 2, 1, 1), (1, 1, 1), kept=kept).double()


def _lively(unit: nn.Module) -> nn.Module:
    for module in unit.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return unit


def _literal(unit: ReparamConv3d, x: Tensor, coefficients: Sequence[Tensor], *, training: bool) -> Tensor:
    """The right side of Eq. 2, from W~ in the coordinates of Eq. 6."""
    total: Any = 0
    t, dilation = unit.kernel_size[0], unit.dilation
    for tau, weight, norm in zip(unit.lengths, coefficients, unit.norms, strict=True):
        padding = (unit.padding[0] - dilation[0] * (t - tau) // 2, *unit.padding[1:])
        filters = _along_time(_scaled(tau, unit.eta).to(weight.dtype), weight)
        y = F.conv3d(x, filters, None, unit.stride, padding, dilation)
        mean, var = copy.deepcopy((norm.running_mean, norm.running_var))
        total = total + F.batch_norm(y, mean, var, norm.weight, norm.bias, training=training, eps=norm.eps)
    return total


def _coefficients(unit: ReparamConv3d) -> list[Tensor]:
    """W~ = [mu, U_perp]^T V: what the unit stores, seen in the paper's basis."""
    pairs = zip(unit.lengths, unit.branches, strict=True)
    return [_along_time(_basis(tau).T.to(branch.weight.dtype), branch.weight) for tau, branch in pairs]


@lengths
def test_the_cosines_are_an_orthonormal_basis_with_the_mean_first(tau: int) -> None:
    basis = _basis(tau)
    torch.testing.assert_close(basis.T @ basis, torch.eye(tau, dtype=torch.float64), rtol=0, atol=1e-14)
    assert basis[:, 0].std(correction=0) < 1e-15
    if tau == 3:
        expected = (
            torch.tensor([[1, 0, -1], [1, -2, 1]], dtype=torch.float64)
            / torch.tensor([[2.0], [6.0]], dtype=torch.float64).sqrt()
        )
        torch.testing.assert_close(basis[:, 1:].T, expected, rtol=0, atol=1e-15)


@etas
@lengths
def test_filters_are_those_of_equation_6(tau: int, eta: float) -> None:
    branch = _branch(tau, eta)
    coefficients = _along_time(_basis(tau).T, branch.weight)
    expected = _along_time(_scaled(tau, eta), coefficients)
    torch.testing.assert_close(branch.filters(), expected, rtol=0, atol=1e-14)


@etas
@lengths
def test_ordinary_decay_weighs_the_mean_by_eta_squared(tau: int, eta: float) -> None:
    branch = _branch(tau, eta)
    parts = _along_time(_basis(tau).T, branch.filters())  # A first, then B
    mean, rest = parts[:, :, :1].square().sum(), parts[:, :, 1:].square().sum()
    if math.isinf(eta) and tau > 1:
        assert mean < 1e-28
        with torch.no_grad():
            branch.weight.sub_(branch.weight.mean(dim=2, keepdim=True))
        torch.testing.assert_close(rest, branch.weight.square().sum(), rtol=1e-12, atol=0)
    else:
        weight = 1 if tau == 1 else eta**2
        torch.testing.assert_close(weight * mean + rest, branch.weight.square().sum(), rtol=1e-12, atol=0)


@etas
@pytest.mark.parametrize("tau", [1, 3, 5])
def test_a_step_with_decay_scales_the_gradient_in_the_basis(tau: int, eta: float) -> None:
    branch = _branch(tau, eta)
    rate, decay = 0.1, 0.3
    before = branch.filters().detach().clone()
    gradient = torch.randn_like(before)
    optimiser = torch.optim.SGD(branch.parameters(), lr=rate, weight_decay=decay)
    (branch.filters() * gradient).sum().backward()
    optimiser.step()
    square = _scaled(tau, eta) @ _scaled(tau, eta).T  # mu mu^T / eta^2 + U_perp U_perp^T
    expected = before - rate * _along_time(square, gradient) - rate * decay * before
    torch.testing.assert_close(branch.filters().detach(), expected, rtol=0, atol=1e-14)


@etas
def test_training_goes_the_way_of_the_papers_own_parameter(eta: float) -> None:
    unit = ReparamConv3d(3, 4, (5, 3, 3), (1, 2, 2), (2, 1, 1), bias=False, eta=eta).double().train()
    theirs = [nn.Parameter(value.detach()) for value in _coefficients(unit)]
    ours = [branch.weight for branch in unit.branches]
    one, two = (torch.optim.SGD(p, lr=0.5, momentum=0.9, weight_decay=0.1) for p in (theirs, ours))
    for _ in range(3):
        x, target = torch.randn(2, 3, 6, 8, 8, dtype=torch.float64), torch.randn(2, 4, 6, 4, 4, dtype=torch.float64)
        expected, found = _literal(unit, x, theirs, training=True), unit(x)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for optimiser, y in ((one, expected), (two, found)):
            optimiser.zero_grad()
            (y - target).square().mean().backward()
        one.step()
        two.step()
    for expected, found in zip(theirs, _coefficients(unit), strict=True):
        torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)


@etas
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        ((5, 3, 3), 1, (2, 1, 1), 1),
        ((5, 3, 3), (2, 2, 1), (3, 0, 1), 1),
        ((3, 1, 5), 2, (2, 0, 4), (2, 1, 2)),
        ((7, 1, 1), 1, (3, 0, 0), 1),
        ((1, 3, 3), 1, (0, 1, 1), 1),
    ],
)
def test_the_fused_convolution_is_the_sum_of_the_branches(
    eta: float, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> None:
    unit = _lively(ReparamConv3d(6, 5, kernel, stride, padding, dilation, bias=False, eta=eta)).eval()
    x = torch.randn(2, 6, 8, 9, 9)
    for dtype, bound in ((torch.float32, 1e-4), (torch.float64, 1e-12)):
        unit, x = unit.to(dtype), x.to(dtype)
        with torch.no_grad():
            expected = _literal(unit, x, _coefficients(unit), training=False)
            fused = unit.fuse()
            assert type(fused) is nn.Conv3d
            assert fused.weight.shape == (5, 6, *kernel)
            for found in (unit(x), fused(x)):
                assert (found - expected).abs().max() <= bound * expected.abs().max()


def test_the_fused_convolution_is_a_copy() -> None:
    for unit in (ReparamConv3d(3, 3, 3, 1, 1), ReparamConv3d(3, 3, 1, norm=False, eta=1)):
        before = copy.deepcopy(unit.state_dict())
        nn.init.zeros_(unit.fuse().weight)
        assert all(torch.equal(value, before[key]) for key, value in unit.state_dict().items())


def test_frozen_norms_let_a_unit_train_as_one_convolution() -> None:
    unit = _lively(ReparamConv3d(3, 4, 3, 1, 1)).double().eval()
    x = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    expected = unit(x)
    assert not torch.allclose(copy.deepcopy(unit).train()(x), expected)
    unit.train()
    for norm in unit.norms:
        norm.eval()
    torch.testing.assert_close(unit(x), expected)
    x.requires_grad_()
    kept = copy.deepcopy(list(unit.buffers()))
    unit(x).square().sum().backward()
    assert all(torch.equal(one, two) for one, two in zip(kept, unit.buffers(), strict=True))
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in unit.parameters())


def test_training_moves_the_statistics_of_every_branch_to_its_own() -> None:
    unit = ReparamConv3d(3, 4, (5, 3, 3), 1, (2, 1, 1), bias=False).double().train()
    x = torch.randn(3, 3, 6, 8, 8, dtype=torch.float64)
    unit(x)
    for branch, norm in zip(unit.branches, unit.norms, strict=True):
        y = branch(x)
        torch.testing.assert_close(norm.running_mean, 0.1 * y.mean(dim=(0, 2, 3, 4)))
        torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * y.var(dim=(0, 2, 3, 4)))


def test_a_single_filter_without_regularisation_is_an_ordinary_convolution() -> None:
    unit = ReparamConv3d(3, 4, 3, 1, 1, eta=1, branches=(3,), norm=False)
    conv = nn.Conv3d(3, 4, 3, 1, 1)
    unit.load_state_dict({"branches.0.weight": conv.weight, "bias": conv.bias})
    x = torch.randn(2, 3, 4, 5, 5)
    assert torch.equal(unit(x), conv(x))


@etas
def test_a_single_filter_has_the_same_network_with_its_own_norm_and_with_the_blocks(eta: float) -> None:
    inside = ReparamConv3d(3, 4, 3, 1, 1, bias=False, eta=eta, branches=(3,)).double()
    outside = ReparamConv3d(3, 4, 3, 1, 1, bias=False, eta=eta, branches=(3,), norm=False).double()
    outside.load_state_dict({"branches.0.weight": inside.branches[0].weight})
    assert outside.last_norms() == []
    x = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    expected = nn.BatchNorm3d(4).double()(outside(x))
    torch.testing.assert_close(inside(x), expected, rtol=1e-10, atol=1e-10)


def test_a_norm_undoes_a_finite_eta_on_the_branch_of_one_frame() -> None:
    exempt = ReparamConv3d(3, 4, 3, 1, 1, eta=4).double()
    scaled = ReparamConv3d(3, 4, 3, 1, 1, eta=4, eta_on_frame=True).double()
    scaled.load_state_dict(exempt.state_dict())
    torch.testing.assert_close(scaled.branches[0].filters(), exempt.branches[0].filters() / 4)
    x = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(scaled(x), exempt(x), rtol=1e-3, atol=1e-3)  # up to the norm's epsilon


def test_an_infinite_eta_leaves_a_static_clip_to_the_branch_of_one_frame() -> None:
    unit = ReparamConv3d(3, 4, (5, 3, 3), 1, (2, 1, 1), eta="inf", norm=False, bias=False).double()
    still = torch.randn(1, 3, 1, 6, 6, dtype=torch.float64).expand(-1, -1, 7, -1, -1)
    expected = unit.branches[0](still)
    torch.testing.assert_close(unit(still)[:, :, 2:-2], expected[:, :, 2:-2], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(unit(still)[:, :, 0], expected[:, :, 0])


# Starting from trained weights.


def _conv_and_norm(**options: Any) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, **options)
    return conv.double(), _norm2d(4)


def _norm2d(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).double()
    for value in (norm.weight, norm.running_var):
        nn.init.uniform_(value, 0.5, 1.5)
    for value in (norm.bias, norm.running_mean):
        nn.init.uniform_(value, -0.5, 0.5)
    return norm


def _by_frame(module: nn.Module, clip: Tensor) -> Tensor:
    return torch.stack([module(frame) for frame in clip.unbind(2)], dim=2)


def _take_norm(unit: ReparamConv3d | P3DConv3d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    unit.load_norm_(norm.weight, norm.bias, norm.running_mean, norm.running_var)


@etas
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_unit_gives_every_frame_what_the_2d_convolution_gives(eta: float, norm: bool, bias: bool) -> None:
    conv, _ = _conv_and_norm(bias=bias)
    unit = ReparamConv3d.from_conv(conv, temporal_kernel=5, eta=eta, norm=norm).eval()
    clip = torch.randn(2, 3, 6, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(unit(clip), _by_frame(conv, clip), rtol=1e-12, atol=1e-12)


@etas
@torch.no_grad()
def test_the_norm_behind_the_2d_convolution_holds_for_the_branches_in_evaluation_and_in_training(eta: float) -> None:
    conv, norm = _conv_and_norm(bias=False)
    unit = ReparamConv3d.from_conv(conv, temporal_kernel=5, eta=eta)
    _take_norm(unit, norm)
    clip = torch.randn(3, 3, 6, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(
        unit.eval()(clip), _by_frame(nn.Sequential(conv, norm).eval(), clip), rtol=1e-12, atol=1e-12
    )
    as_batch = nn.Sequential(conv, norm).train()(clip.transpose(1, 2).flatten(0, 1))
    expected = as_batch.unflatten(0, (3, 6)).transpose(1, 2)
    torch.testing.assert_close(unit.train()(clip), expected, rtol=1e-3, atol=1e-3)  # up to the norm's epsilon


@pytest.mark.parametrize("eta", [1, 2, 4])
@pytest.mark.parametrize("branches", [None, (5,), (1, 5), (3, 5)])
@pytest.mark.parametrize("norm", [True, False])
def test_a_unit_takes_a_filter_over_time_as_it_is(eta: float, branches: Any, norm: bool) -> None:
    conv = nn.Conv3d(3, 4, (5, 3, 3), (1, 2, 2), (2, 1, 1)).double()
    unit = ReparamConv3d.from_conv(conv, eta=eta, branches=branches, norm=norm).eval()
    clip = torch.randn(2, 3, 6, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(unit(clip), conv(clip), rtol=1e-11, atol=1e-11)
    assert all(branch.weight.abs().sum() > 0 for branch in unit.branches)


@pytest.mark.parametrize("unit", [FullConv3d, ReparamConv3d])
@pytest.mark.parametrize(("t", "ends"), [(3, [2 / 3]), (5, [3 / 5, 4 / 5])])
def test_mean_inflation_is_exact_for_a_static_clip_but_at_its_ends(unit: Any, t: int, ends: list[float]) -> None:
    conv, _ = _conv_and_norm(bias=False)
    options = {"branches": (t,)} if unit is ReparamConv3d else {}
    inflated = unit(3, 4, (t, 3, 3), (1, 2, 2), (t // 2, 1, 1), bias=False, inflation="mean", **options).double().eval()
    inflated.load_conv_(conv.weight, None)
    still = torch.randn(1, 3, 1, 8, 8, dtype=torch.float64).expand(-1, -1, 8, -1, -1)
    expected = _by_frame(conv, still)
    shares = torch.tensor([*ends, *[1.0] * (8 - 2 * len(ends)), *reversed(ends)], dtype=torch.float64)
    torch.testing.assert_close(inflated(still), expected * shares[:, None, None], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("mode", "gain"), [("mean", 1), ("repeat", (1 + 3 + 5) / 3)])
def test_branches_are_inflated_one_by_one(mode: Any, gain: float) -> None:
    conv, _ = _conv_and_norm(bias=False)
    unit = ReparamConv3d.from_conv(conv, temporal_kernel=5, inflation=mode).eval()
    still = torch.randn(1, 3, 1, 8, 8, dtype=torch.float64).expand(-1, -1, 8, -1, -1)
    torch.testing.assert_close(
        unit(still)[:, :, 2:-2], gain * _by_frame(conv, still)[:, :, 2:-2], rtol=1e-12, atol=1e-12
    )


def test_a_single_filter_with_an_infinite_eta_starts_without_its_mean() -> None:
    weight = torch.randn(4, 3, 3, 3)
    unit = ReparamConv3d(3, 4, 3, 1, 1, eta="inf", branches=(3,), norm=False).load_conv_(weight, None)
    expected = torch.stack([-weight / 3, 2 * weight / 3, -weight / 3], dim=2)
    torch.testing.assert_close(unit.branches[0].filters(), expected)


def test_what_an_infinite_eta_cannot_hold_is_refused() -> None:
    for mode in ("mean", "repeat"):
        with pytest.raises(ConfigError, match="all mean"):
            ReparamConv3d(3, 4, 3, 1, 1, eta="inf", inflation=mode)
    with pytest.raises(ConfigError, match="2D kernel"):
        ReparamConv3d(3, 4, 3, 1, 1, eta="inf").load_conv_(torch.randn(4, 3, 3, 3, 3), None)
    with pytest.raises(ConfigError, match="eta_on_frame"):
        ReparamConv3d(3, 4, 3, 1, 1, eta="inf", eta_on_frame=True)


@pytest.mark.parametrize(
    ("kernel", "padding", "options", "match"),
    [
        (2, 1, {}, "odd"),
        (3, (0, 1, 1), {}, "padding of 0"),
        (5, (2, 1, 1), {"branches": (1, 3)}, "end with the kernel's own, 5"),
        (5, 2, {"branches": (3, 1, 5)}, "rising"),
        (5, 2, {"branches": (2, 5)}, "odd"),
        (5, 2, {"branches": ()}, "rising"),
        (3, 1, {"eta": 0.5}, ">= 1"),
        (3, 1, {"eta": math.nan}, ">= 1"),
        (3, 1, {"eta": "much"}, "'much'"),
        (3, 1, {"inflation": "median"}, "'median'"),
    ],
)
def test_options_that_no_branches_have_are_refused(kernel: Any, padding: Any, options: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        ReparamConv3d(3, 4, kernel, 1, padding, **options)


def test_a_kernel_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 frames long, the trained kernel 3"):
        ReparamConv3d(3, 4, (5, 3, 3), 1, (2, 1, 1)).load_conv_(torch.randn(4, 3, 3, 3, 3), None)


def test_a_shorter_clip_in_a_batch_is_answered_as_alone() -> None:
    unit = _lively(ReparamConv3d(3, 4, 3, 1, 1)).double().eval()
    clips = torch.randn(2, 3, 5, 6, 6, dtype=torch.float64)
    clips[1, :, 3:] = 0
    found = plain(unit(with_lengths(clips, torch.tensor([5, 3]))))
    torch.testing.assert_close(found[:1], unit(clips[:1]))
    torch.testing.assert_close(found[1:, :, :3], unit(clips[1:, :, :3]))
    assert not found[1, :, 3:].any()


# S3D: branches over time alone.

temporal = pytest.mark.parametrize("temporal", [FullConv3d, ReparamConv3d], ids=["plain", "branches"])


@temporal
def test_separable_units_look_over_space_then_over_time(temporal: Any) -> None:
    unit = (
        _lively(P3DConv3d(3, 4, (5, 3, 3), (2, 2, 1), (2, 1, 1), bias=False, norm=True, temporal=temporal))
        .double()
        .eval()
    )
    assert unit.spatial.weight.shape == (4, 3, 1, 3, 3)
    assert (unit.last_norms() != []) == (temporal is ReparamConv3d)
    clip = torch.randn(2, 3, 6, 8, 8, dtype=torch.float64)
    frames = unit.norm(F.conv3d(clip, unit.spatial.weight, None, (1, 2, 1), (0, 1, 1)))
    over_time = unit.temporal.to_conv3d()
    assert over_time.weight.shape == (4, 4, 5, 1, 1)
    expected = F.conv3d(frames, over_time.weight, over_time.bias, (2, 1, 1), (2, 0, 0))
    torch.testing.assert_close(unit(clip), expected, rtol=1e-12, atol=1e-12)


@temporal
@pytest.mark.parametrize("bias", [True, False])
def test_a_separable_unit_takes_the_norm_inside_and_gives_every_frame_what_they_give(temporal: Any, bias: bool) -> None:
    conv, norm = _conv_and_norm(bias=bias)
    unit = P3DConv3d.from_conv(conv, norm=True, temporal=temporal).eval()
    clip = torch.randn(2, 3, 5, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(unit(clip), _by_frame(nn.Sequential(conv, nn.ReLU()), clip), rtol=1e-12, atol=1e-12)
    _take_norm(unit, norm)
    expected = _by_frame(nn.Sequential(conv, norm, nn.ReLU()).eval(), clip)
    torch.testing.assert_close(unit(clip), expected, rtol=1e-12, atol=1e-12)


def test_a_separable_unit_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="odd"):
        P3DConv3d(3, 4, (2, 3, 3), 1, (1, 1, 1), norm=True)
    with pytest.raises(ConfigError, match="P3DConv3d"):
        P3DConv3d(3, 4, 3, 1, 1, temporal=P3DConv3d)
    with pytest.raises(ConfigError, match="all mean"):
        P3DConv3d(3, 4, 3, 1, 1, temporal=lambda *a, **o: ReparamConv3d(*a, eta="inf", **o)).inflation = "mean"


def test_one_frame_alone_is_a_plain_convolution_with_its_norm() -> None:
    unit = _lively(ReparamConv3d(3, 4, (1, 3, 3), 1, (0, 1, 1), bias=False)).double()
    frame = FrameConv3d(3, 4, 3, 1, 1, bias=False).double()
    frame.load_state_dict({"weight": unit.branches[0].weight})
    clip = torch.randn(2, 3, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(unit(clip), unit.norms[0](frame(clip)), rtol=1e-12, atol=1e-12)


def test_norms_converted_for_several_processes_are_still_the_branches_norms() -> None:
    unit = ReparamConv3d(3, 4, 3, 1, 1, bias=False).eval()
    for norm in unit.norms:
        nn.init.normal_(norm.running_mean)
        nn.init.normal_(norm.weight)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(unit)).eval()
    x = torch.randn(2, 3, 4, 6, 6)
    assert len(converted.last_norms()) == 2
    torch.testing.assert_close(converted(x), unit(x))
