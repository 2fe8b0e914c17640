"""GST: which channels look where, and where they start from."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vidzoo.errors import ConfigError, ModelInputError
from vidzoo.layers import GSTConv3d

alphas = pytest.mark.parametrize("alpha", [1 / 2, 1 / 4, 1 / 8])
betas = pytest.mark.parametrize("beta", [1 / 2, 1])


@alphas
@betas
@pytest.mark.parametrize("dims", [2, 3])
def test_the_spatial_group_takes_its_slice_and_the_temporal_one_stays_random(
    alpha: float, beta: float, dims: int
) -> None:
    conv = nn.Conv2d(16, 32, 3, padding=1) if dims == 2 else nn.Conv3d(16, 32, 3, padding=1)
    unit = GSTConv3d.from_conv(conv, alpha=alpha, beta=beta)
    filters = conv.weight if dims == 2 else conv.weight.sum(dim=2)
    rows, columns = int((1 - alpha) * 32), int(beta * 16)
    assert torch.equal(unit.spatial.weight[:, :, 0], filters[:rows, :columns])
    assert unit.temporal.weight.shape == (32 - rows, columns, 3, 3, 3)
    assert unit.temporal.weight.std() > 0
    assert conv.bias is not None
    assert torch.equal(torch.cat([unit.spatial.bias, unit.temporal.bias]), conv.bias)


def test_the_temporal_group_is_named_as_random_and_is_not_touched_by_loading() -> None:
    unit = GSTConv3d(16, 32, 3, 1, 1, bias=False)
    before = copy.deepcopy(unit.state_dict())
    unit.load_conv_(torch.randn(32, 16, 3, 3), None)
    kept = {key for key, value in unit.state_dict().items() if torch.equal(value, before[key])}
    assert kept == set(unit.random_after_load) == {"temporal.weight"}


@alphas
@betas
@pytest.mark.parametrize(("t", "k"), [(3, 3), (5, 3), (3, 7)])
def test_parameters_are_those_of_table_1(alpha: float, beta: float, t: int, k: int) -> None:
    unit = GSTConv3d(16, 32, (t, k, k), 1, (t // 2, k // 2, k // 2), bias=False, alpha=alpha, beta=beta)
    assert sum(value.numel() for value in unit.parameters()) == (1 - alpha + alpha * t) * k * k * 16 * 32 * beta


@alphas
@betas
def test_only_the_last_channels_look_at_other_frames(alpha: float, beta: float) -> None:
    unit, x = GSTConv3d(16, 32, 3, 1, 1, alpha=alpha, beta=beta), torch.randn(1, 16, 5, 4, 4)
    other = x.clone()
    other[:, :, 2] += 1
    moved = (unit(x) != unit(other))[0].flatten(2).any(dim=2)  # (C_out, T)
    rows = int((1 - alpha) * 32)
    assert moved[:rows].tolist() == [[False, False, True, False, False]] * rows
    assert moved[rows:].tolist() == [[False, True, True, True, False]] * (32 - rows)


def test_each_group_sees_its_own_half_of_the_input() -> None:
    unit, x = GSTConv3d(16, 32, 3, 1, 1), torch.randn(1, 16, 5, 4, 4)
    other = x.clone()
    other[:, :8] += 1
    moved = (unit(x) != unit(other))[0].flatten(1).any(dim=1)
    assert moved.tolist() == [True] * 24 + [False] * 8


def test_in_gst_large_both_groups_see_the_whole_input() -> None:
    unit, x = GSTConv3d(16, 32, 3, 1, 1, beta=1), torch.randn(1, 16, 5, 4, 4)
    for half in (slice(0, 8), slice(8, 16)):
        other = x.clone()
        other[:, half] += 1
        assert (unit(x) != unit(other))[0].flatten(1).any(dim=1).all()


def test_an_odd_channel_goes_to_the_temporal_group() -> None:
    unit = GSTConv3d(7, 9, 3, 1, 1).double()
    assert (unit.spatial_in, unit.temporal_in, unit.spatial_channels, unit.temporal_channels) == (3, 4, 7, 2)
    x = torch.randn(1, 7, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(unit.to_conv3d()(x), unit(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("channels", [15, 17, 32])
@betas
def test_a_clip_with_another_number_of_channels_is_refused(channels: int, beta: float) -> None:
    with pytest.raises(ModelInputError, match="16 input channels"):
        GSTConv3d(16, 32, 3, 1, 1, beta=beta)(torch.randn(1, channels, 3, 4, 4))


@pytest.mark.parametrize("alpha", [0, 1, -0.25, 1.5, float("nan")])
def test_an_alpha_outside_the_open_unit_interval_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        GSTConv3d(16, 32, 3, 1, 1, alpha=alpha)


@pytest.mark.parametrize("beta", [0, 0.3, 2, -1])
def test_a_beta_that_is_neither_half_nor_one_is_refused(beta: float) -> None:
    with pytest.raises(ConfigError, match="beta"):
        GSTConv3d(16, 32, 3, 1, 1, beta=beta)


@pytest.mark.parametrize(("c_in", "c_out", "alpha"), [(16, 4, 1 / 8), (1, 32, 1 / 4), (16, 1, 1 / 2)])
def test_an_empty_group_is_refused(c_in: int, c_out: int, alpha: float) -> None:
    with pytest.raises(ConfigError, match="empty"):
        GSTConv3d(c_in, c_out, 3, 1, 1, alpha=alpha)


@pytest.mark.parametrize(("t", "padding", "dilation"), [(2, 1, 1), (4, 2, 1), (3, 0, 1), (3, 1, 2), (1, 1, 1)])
def test_an_even_temporal_kernel_or_one_that_shifts_the_frames_is_refused(t: int, padding: int, dilation: int) -> None:
    with pytest.raises(ConfigError, match="frames aligned"):
        GSTConv3d(16, 32, (t, 3, 3), 1, (padding, 1, 1), (dilation, 1, 1))
