"""P3D: one frame's filter, then identity over time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vidzoo.errors import ConfigError
from vidzoo.layers import P3DConv3d


@pytest.mark.parametrize("bias", [False, True])
def test_it_starts_as_the_2d_convolution_on_every_frame(bias: bool) -> None:
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=1, dilation=2, bias=bias).double()
    x = torch.randn(2, 6, 5, 9, 9, dtype=torch.float64)
    expected = torch.stack([conv(frame) for frame in x.unbind(2)], dim=2)
    torch.testing.assert_close(P3DConv3d.from_conv(conv)(x), expected, rtol=1e-12, atol=1e-12)


def test_it_starts_as_a_3d_convolution_on_a_static_clip_away_from_its_ends() -> None:
    conv = nn.Conv3d(6, 8, 3, padding=1).double()
    x = torch.randn(1, 6, 1, 8, 8, dtype=torch.float64).expand(-1, -1, 5, -1, -1)
    torch.testing.assert_close(P3DConv3d.from_conv(conv)(x)[:, :, 1:-1], conv(x)[:, :, 1:-1], rtol=1e-12, atol=1e-12)


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


def test_with_norm_there_is_no_dense_twin() -> None:
    with pytest.raises(ConfigError, match="norm"):
        P3DConv3d(6, 8, 3, 1, 1, norm=True).to_conv3d()


@pytest.mark.parametrize("t", [2, 4])
def test_an_even_temporal_kernel_is_refused(t: int) -> None:
    with pytest.raises(ConfigError, match="odd"):
        P3DConv3d(6, 8, (t, 3, 3))


def test_parameters_are_those_of_table_1_where_the_width_is_kept() -> None:
    def count(c_in: int, c_out: int, t: int) -> int:
        return sum(value.numel() for value in P3DConv3d(c_in, c_out, (t, 3, 3), bias=False).parameters())

    for t in (3, 5):
        assert count(16, 16, t) == (9 + t) * 16 * 16
        assert count(16, 32, t) == 9 * 16 * 32 + t * 32 * 32
