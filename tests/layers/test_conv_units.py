"""C2D, C3D and grouped C3D: where they start from, and what they cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers import FrameConv3d, FullConv3d, GroupedConv3d


def _per_frame(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return torch.stack([conv(frame) for frame in x.unbind(2)], dim=2)


def _count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def _conv2d(bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=bias).double()


CLIP = (2, 6, 5, 8, 8)


@pytest.mark.parametrize("length", [1, 3, 5])
def test_centre_inflation_answers_frame_by_frame_as_the_2d_convolution(length: int) -> None:
    conv, x = _conv2d(), torch.randn(CLIP, dtype=torch.float64)
    unit = FullConv3d.from_conv(conv, temporal_kernel=length)
    torch.testing.assert_close(unit(x), _per_frame(conv, x), rtol=1e-12, atol=1e-12)


def test_mean_inflation_answers_on_a_static_clip_as_the_2d_convolution_away_from_its_ends() -> None:
    conv = _conv2d()
    x = torch.randn(2, 6, 1, 8, 8, dtype=torch.float64).expand(CLIP)
    found, expected = FullConv3d.from_conv(conv, inflation="mean")(x), _per_frame(conv, x)
    torch.testing.assert_close(found[:, :, 1:-1], expected[:, :, 1:-1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found[:, :, 0], expected[:, :, 0])


def test_mean_inflation_is_the_mean_over_neighbouring_frames() -> None:
    conv, x = _conv2d(bias=False), torch.randn(CLIP, dtype=torch.float64)
    found, frames = FullConv3d.from_conv(conv, inflation="mean")(x), _per_frame(conv, x)
    torch.testing.assert_close(found[:, :, 2], frames[:, :, 1:4].mean(dim=2), rtol=1e-12, atol=1e-12)


def test_repeat_inflation_has_the_2d_filter_at_every_frame() -> None:
    conv = _conv2d()
    unit = FullConv3d.from_conv(conv, temporal_kernel=5, inflation="repeat")
    assert unit.weight.shape == (8, 6, 5, 3, 3)
    for t in range(5):
        assert torch.equal(unit.weight[:, :, t], conv.weight)


def test_an_unknown_inflation_is_refused() -> None:
    with pytest.raises(ConfigError, match="inflation"):
        FullConv3d.from_conv(_conv2d(), inflation="center")  # type: ignore[arg-type]


def test_a_dense_unit_takes_a_3d_kernel_as_it_is() -> None:
    conv = nn.Conv3d(6, 8, 3, stride=(1, 2, 2), padding=1).double()
    x = torch.randn(CLIP, dtype=torch.float64)
    assert torch.equal(FullConv3d.from_conv(conv)(x), conv(x))


def test_a_grouped_unit_takes_each_groups_own_slice() -> None:
    conv = _conv2d()
    unit = GroupedConv3d.from_conv(conv)
    assert unit.weight.shape == (8, 3, 3, 3, 3)
    assert torch.equal(unit.weight[:4, :, 1], conv.weight[:4, :3])
    assert torch.equal(unit.weight[4:, :, 1], conv.weight[4:, 3:])
    assert unit.weight[:, :, [0, 2]].count_nonzero() == 0
    assert torch.equal(unit.bias, conv.bias)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_trained_convolution_is_cut_into_as_many_groups_as_asked_for(groups: int, dims: int) -> None:
    conv = (nn.Conv2d if dims == 2 else nn.Conv3d)(8, 12, 3, padding=1).double()
    unit = GroupedConv3d.from_conv(conv, groups=groups)
    assert unit.groups == groups
    x = torch.randn(2, 8, 5, 6, 6, dtype=torch.float64)
    kernel = conv.weight if dims == 3 else FullConv3d.from_conv(conv).weight
    parts = zip(x.chunk(groups, dim=1), kernel.chunk(groups), range(0, 8, 8 // groups), strict=True)
    slices = [nn.functional.conv3d(part, rows[:, i : i + 8 // groups], padding=1) for part, rows, i in parts]
    assert conv.bias is not None
    expected = torch.cat(slices, dim=1) + conv.bias.view(-1, 1, 1, 1)
    torch.testing.assert_close(unit(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(unit.to_conv3d()(x), expected, rtol=1e-12, atol=1e-12)


def test_a_trained_convolution_whose_channels_do_not_divide_is_refused() -> None:
    for groups in (0, 3, 16):
        with pytest.raises(ConfigError, match="groups"):
            GroupedConv3d.from_conv(nn.Conv2d(8, 12, 3, padding=1), groups=groups)


def test_a_grouped_unit_takes_a_grouped_kernel_as_it_is() -> None:
    kernel = torch.randn(8, 3, 3, 3, 3)
    assert torch.equal(GroupedConv3d(6, 8, 3).load_conv_(kernel, None).weight, kernel)


def test_channels_that_do_not_divide_into_groups_are_refused() -> None:
    for channels in ((6, 8, 4), (8, 6, 4), (6, 8, 0), (6, 8, -1)):
        with pytest.raises(ConfigError, match="groups"):
            GroupedConv3d(channels[0], channels[1], 3, groups=channels[2])
    with pytest.raises(ConfigError, match="groups"):
        FullConv3d(6, 8, 3, groups=4)


def test_a_frame_unit_answers_frame_by_frame_as_the_2d_convolution() -> None:
    conv, x = _conv2d(), torch.randn(CLIP, dtype=torch.float64)
    torch.testing.assert_close(FrameConv3d.from_conv(conv)(x), _per_frame(conv, x), rtol=1e-12, atol=1e-12)


def test_a_frame_unit_sees_what_a_static_clip_sees_of_a_3d_convolution() -> None:
    conv = nn.Conv3d(6, 8, 3, padding=1).double()
    x = torch.randn(2, 6, 1, 8, 8, dtype=torch.float64).expand(CLIP)
    unit = FrameConv3d.from_conv(conv)
    assert unit.kernel_size == (1, 3, 3)
    torch.testing.assert_close(unit(x)[:, :, 1:-1], conv(x)[:, :, 1:-1], rtol=1e-12, atol=1e-12)


def test_a_frame_unit_never_looks_at_another_frame() -> None:
    unit, x = FrameConv3d(6, 8, 3, 1, 1), torch.randn(CLIP)
    other = x.clone()
    other[:, :, 2] += 1
    changed = (unit(x) != unit(other)).flatten(3).any(dim=3).any(dim=1).any(dim=0)
    assert changed.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("kernel", "padding", "dilation"), [(3, 0, 1), ((1, 3, 3), 1, 1), (3, 1, 2), ((2, 3, 3), 1, 1)]
)
def test_a_frame_unit_refuses_a_padding_that_would_change_the_number_of_frames(
    kernel: int | tuple[int, int, int], padding: int, dilation: int
) -> None:
    with pytest.raises(ConfigError, match="padding"):
        FrameConv3d(6, 8, kernel, 1, padding, dilation)


@pytest.mark.parametrize(("t", "k"), [(3, 3), (5, 3), (3, 7)])
def test_parameters_are_those_of_table_1(t: int, k: int) -> None:
    c_in, c_out = 16, 32
    size, padding = (t, k, k), (t // 2, k // 2, k // 2)
    assert _count(FrameConv3d(c_in, c_out, size, 1, padding, bias=False)) == k * k * c_in * c_out
    assert _count(FullConv3d(c_in, c_out, size, 1, padding, bias=False)) == t * k * k * c_in * c_out
    for g in (2, 4):
        assert (
            _count(GroupedConv3d(c_in, c_out, size, 1, padding, bias=False, groups=g)) == t * k * k * c_in * c_out // g
        )


def test_a_missing_bias_starts_at_zero() -> None:
    unit = FullConv3d(6, 8, 3, 1, 1, bias=True)
    unit.load_conv_(torch.randn(8, 6, 3, 3), None)
    assert unit.bias is not None
    assert unit.bias.count_nonzero() == 0
