"""P3D: one frame's filter and identity over time, in either order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vidzoo.errors import ConfigError
from vidzoo.layers import P3DConv3d, ReparamConv3d

order = pytest.mark.parametrize("time_first", [False, True], ids=["space first", "time first"])


@order
@pytest.mark.parametrize("bias", [False, True])
def test_it_starts_as_the_2d_convolution_on_every_frame(bias: bool, time_first: bool) -> None:
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=1, dilation=2, bias=bias).double()
    x = torch.randn(2, 6, 5, 9, 9, dtype=torch.float64)
    expected = torch.stack([conv(frame) for frame in x.unbind(2)], dim=2)
    unit = P3DConv3d.from_conv(conv, time_first=time_first)
    torch.testing.assert_close(unit(x), expected, rtol=1e-12, atol=1e-12)


@order
def test_it_starts_as_a_3d_convolution_on_a_static_clip_away_from_its_ends(time_first: bool) -> None:
    conv = nn.Conv3d(6, 8, 3, padding=1).double()
    x = torch.randn(1, 6, 1, 8, 8, dtype=torch.float64).expand(-1, -1, 5, -1, -1)
    unit = P3DConv3d.from_conv(conv, time_first=time_first)
    torch.testing.assert_close(unit(x)[:, :, 1:-1], conv(x)[:, :, 1:-1], rtol=1e-12, atol=1e-12)


def test_norm_puts_batch_norm_and_relu_between_the_two() -> None:
    unit = P3DConv3d(6, 8, 3, (2, 2, 2), 1, norm=True).double()
    x = torch.randn(2, 6, 5, 8, 8, dtype=torch.float64)
    middle = nn.functional.conv3d(x, unit.spatial.weight, stride=(1, 2, 2), padding=(0, 1, 1))
    mean, var = middle.mean(dim=(0, 2, 3, 4), keepdim=True), middle.var(dim=(0, 2, 3, 4), keepdim=True, unbiased=False)
    middle = ((middle - mean) / (var + 1e-5).sqrt()).clamp(min=0)
    expected = nn.functional.conv3d(
        middle, unit.temporal.weight, unit.temporal.bias, stride=(2, 1, 1), padding=(1, 0, 0)
    )
    torch.testing.assert_close(unit(x), expected, rtol=1e-12, atol=1e-12)


def test_time_first_is_the_2plus1d_convolution_of_pytorchvideo() -> None:
    convolutions = pytest.importorskip("pytorchvideo.layers.convolutions")
    theirs = convolutions.create_conv_2plus1d(in_channels=6, out_channels=6, stride=(2, 2, 1), bias=False).double()
    unit = P3DConv3d(6, 6, 3, (2, 2, 1), 1, bias=False, norm=True, time_first=True).double()
    pairs = ((theirs.conv_t, unit.temporal), (theirs.norm, unit.norm[0]), (theirs.conv_xy, unit.spatial))
    for source, target in pairs:
        target.load_state_dict(source.state_dict())
    x = torch.randn(2, 6, 5, 8, 9, dtype=torch.float64)
    torch.testing.assert_close(unit(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_a_bias_stands_in_front_of_the_norm_and_without_one_behind_both_convolutions() -> None:
    for norm, time_first in ((True, False), (True, True), (False, True)):
        unit = P3DConv3d(6, 8, 3, 1, 1, norm=norm, time_first=time_first)
        assert unit.temporal.bias is None
        assert unit.spatial.bias is not None
    unit = P3DConv3d(6, 8, 3, 1, 1)
    assert unit.spatial.bias is None
    assert unit.temporal.bias is not None


def test_the_two_orders_are_two_functions_with_norm() -> None:
    first, second = (P3DConv3d(6, 8, 3, 1, 1, norm=True, time_first=flag) for flag in (False, True))
    assert (first.norm[0].num_features, second.norm[0].num_features) == (8, 6)
    square = P3DConv3d(6, 6, 3, 1, 1, bias=False, norm=True)
    turned = P3DConv3d(6, 6, 3, 1, 1, bias=False, norm=True, time_first=True)
    turned.load_state_dict(square.state_dict())
    x = torch.randn(1, 6, 5, 8, 8)
    assert (turned(x) - square(x)).abs().max() > 1e-3


@order
def test_with_norm_there_is_no_dense_twin(time_first: bool) -> None:
    with pytest.raises(ConfigError, match="norm"):
        P3DConv3d(6, 8, 3, 1, 1, norm=True, time_first=time_first).to_conv3d()


@pytest.mark.parametrize("t", [2, 4])
def test_an_even_temporal_kernel_is_refused(t: int) -> None:
    with pytest.raises(ConfigError, match="odd"):
        P3DConv3d(6, 8, (t, 3, 3))


def test_parameters_are_those_of_table_1_where_the_width_is_kept() -> None:
    def count(c_in: int, c_out: int, t: int, time_first: bool) -> int:
        unit = P3DConv3d(c_in, c_out, (t, 3, 3), bias=False, time_first=time_first)
        return sum(value.numel() for value in unit.parameters())

    for t in (3, 5):
        assert count(16, 16, t, False) == count(16, 16, t, True) == (9 + t) * 16 * 16
        assert count(16, 32, t, False) == 9 * 16 * 32 + t * 32 * 32
        assert count(16, 32, t, True) == 9 * 16 * 32 + t * 16 * 16


def test_a_trained_norm_needs_a_place_to_go() -> None:
    values = (torch.ones(8), torch.zeros(8), torch.zeros(8), torch.ones(8))
    for unit in (P3DConv3d(6, 8, 3, 1, 1), P3DConv3d(6, 8, 3, 1, 1, norm=True, time_first=True)):
        with pytest.raises(ConfigError, match="no norm"):
            unit.load_norm_(*values)
    branches = P3DConv3d(6, 8, 3, 1, 1, bias=False, temporal=ReparamConv3d)
    branches.load_conv_(torch.randn(8, 6, 3, 3), None).load_norm_(*(3 * value for value in values))
    assert [norm.running_var[0].item() for norm in branches.last_norms()] == [3.0, 3.0]
