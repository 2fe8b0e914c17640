"""What every unit promises: it stands where an ``nn.Conv3d`` stood."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from vidzoo.errors import ConfigError
from vidzoo.layers import (
    FrameConv3d,
    FullConv3d,
    GroupedConv3d,
    GSTConv3d,
    P3DConv3d,
    ReparamConv3d,
    SpatioTemporalUnit,
    STDCFConv3d,
)
from vidzoo.layers.ragged import honour_lengths, lengths_of, plain, with_lengths

Unit = Callable[..., Any]

LINEAR: dict[str, Unit] = {
    "frame": FrameConv3d,
    "full": FullConv3d,
    "grouped": GroupedConv3d,
    "p3d": P3DConv3d,
    "p3d_time_first": partial(P3DConv3d, time_first=True),
    "stdcf": STDCFConv3d,
    "stdcf_factorised": partial(STDCFConv3d, mode="factorised"),
    "stdcf_time_first": partial(STDCFConv3d, mode="factorised", order="time_first"),
    "gst_alpha2": partial(GSTConv3d, alpha=1 / 2),
    "gst": GSTConv3d,
    "gst_alpha8": partial(GSTConv3d, alpha=1 / 8),
    "gst_large_alpha2": partial(GSTConv3d, alpha=1 / 2, beta=1),
    "gst_large": partial(GSTConv3d, beta=1),
    "gst_large_alpha8": partial(GSTConv3d, alpha=1 / 8, beta=1),
    "reparam_linear": partial(ReparamConv3d, norm=False),
}
UNITS = {
    **LINEAR,
    "p3d_norm": partial(P3DConv3d, norm=True),
    "p3d_time_first_norm": partial(P3DConv3d, norm=True, time_first=True),
    "reparam": ReparamConv3d,
    "reparam_inf": partial(ReparamConv3d, eta="inf"),
    "reparam_single": partial(ReparamConv3d, eta=4, norm=False, eta_on_frame=True),
    "p3d_reparam": partial(P3DConv3d, norm=True, temporal=ReparamConv3d),
}

linear = pytest.mark.parametrize("unit", LINEAR.values(), ids=LINEAR.keys())
every = pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS.keys())

# kernel, stride, padding, dilation, bias: all of them keep the frames aligned, as every unit can.
ARGUMENTS: list[tuple[Any, Any, Any, Any, bool]] = [
    (3, 1, 1, 1, False),
    (3, (1, 2, 2), 1, 1, True),
    (3, 2, 1, 1, True),
    ((5, 3, 3), (2, 1, 2), (2, 0, 1), 1, False),
    (3, 1, 2, 2, True),
    ((3, 1, 5), (3, 1, 1), (2, 1, 0), (2, 1, 1), True),
    ((1, 3, 3), 1, (0, 1, 1), 1, True),
]
arguments = pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "bias"), ARGUMENTS)


def _randomise(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for value in module.parameters():
            value.uniform_(-0.5, 0.5)
    return module


@every
@arguments
def test_a_unit_gives_the_shape_of_the_convolution_that_it_replaces(
    unit: Unit, kernel: Any, stride: Any, padding: Any, dilation: Any, bias: bool
) -> None:
    x = torch.randn(2, 16, 7, 9, 10)
    expected = nn.Conv3d(16, 8, kernel, stride, padding, dilation, bias=bias)(x).shape
    assert unit(16, 8, kernel, stride, padding, dilation, bias)(x).shape == expected


@linear
@arguments
def test_the_dense_twin_gives_the_same_output(
    unit: Unit, kernel: Any, stride: Any, padding: Any, dilation: Any, bias: bool
) -> None:
    built = _randomise(unit(16, 8, kernel, stride, padding, dilation, bias))
    x = torch.randn(2, 16, 7, 9, 10)
    twin = built.to_conv3d()
    assert type(twin) is nn.Conv3d
    assert twin.groups == 1
    torch.testing.assert_close(twin(x), built(x), rtol=1e-5, atol=1e-5)
    built, x = built.double(), x.double()
    torch.testing.assert_close(built.to_conv3d()(x), built(x), rtol=1e-12, atol=1e-12)


@linear
def test_the_dense_twin_is_a_copy(unit: Unit) -> None:
    built = _randomise(unit(16, 8, 3, 1, 1))
    before = copy.deepcopy(built.state_dict())
    nn.init.zeros_(built.to_conv3d().weight)
    assert all(torch.equal(value, before[key]) for key, value in built.state_dict().items())


@every
def test_a_unit_gives_the_same_numbers_in_channels_last_memory(unit: Unit) -> None:
    built = _randomise(unit(16, 8, 3, (1, 2, 2), 1)).eval()
    x = torch.randn(2, 16, 5, 8, 8)
    expected = built(x)
    built = built.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(
        built(x.contiguous(memory_format=torch.channels_last_3d)), expected, rtol=1e-5, atol=1e-5
    )


@every
def test_a_unit_runs_in_bfloat16_and_stays_close_to_single_precision(unit: Unit) -> None:
    built = unit(16, 8, 3, 1, 1).eval()
    x = torch.randn(2, 16, 5, 8, 8)
    expected = built(x)
    found = built.bfloat16()(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


@every
def test_a_copy_and_a_reloaded_unit_answer_alike_and_are_independent(unit: Unit) -> None:
    built = _randomise(unit(16, 8, 3, 1, 1)).eval()
    x = torch.randn(1, 16, 4, 6, 6)
    twin, fresh = copy.deepcopy(built), unit(16, 8, 3, 1, 1).eval()
    assert not torch.equal(fresh(x), built(x))
    fresh.load_state_dict(built.state_dict())
    assert torch.equal(twin(x), built(x))
    assert torch.equal(fresh(x), built(x))
    _randomise(twin)
    assert not torch.equal(twin(x), built(x))


@every
def test_a_shorter_clip_of_a_batch_is_answered_as_if_it_were_alone(unit: Unit) -> None:
    built = honour_lengths(nn.Sequential(_randomise(unit(16, 8, 3, 1, 1, bias=False)), nn.BatchNorm3d(8))).eval()
    x, lengths = torch.randn(2, 16, 6, 5, 5), torch.tensor([6, 4])
    x[1, :, 4:] = 0
    together = built(with_lengths(x, lengths))
    assert torch.equal(lengths_of(together), lengths)
    torch.testing.assert_close(plain(together)[1:, :, :4], built(x[1:, :, :4]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain(together)[:1], built(x[:1]), rtol=1e-4, atol=1e-5)


@every
def test_gradients_are_right_for_input_and_weights(unit: Unit) -> None:
    # Frozen statistics: in double precision a batch norm over so few values would be checked against its own noise.
    built = unit(4, 8, 3, (1, 2, 2), 1).double().eval()
    x = torch.randn(1, 4, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    names, values = zip(*built.named_parameters(), strict=True)

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(built, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


@every
@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel_size": 0},
        {"kernel_size": (3, 3)},
        {"kernel_size": 3.0},
        {"kernel_size": True},
        {"stride": 0},
        {"stride": None},
        {"stride": (1, 2)},
        {"padding": -1},
        {"padding": "same"},
        {"padding": (1, 1, 1, 1)},
        {"dilation": (1, 0, 1)},
        {"in_channels": 0},
        {"out_channels": 0},
    ],
    ids=str,
)
def test_an_argument_that_no_convolution_has_is_refused(unit: Unit, wrong: dict[str, Any]) -> None:
    given = {"in_channels": 16, "out_channels": 8, "kernel_size": 3, "padding": 1, **wrong}
    with pytest.raises(ConfigError):
        unit(**given)


FROM_CONV: dict[str, Unit] = {
    "frame": FrameConv3d.from_conv,
    "full": FullConv3d.from_conv,
    "grouped": GroupedConv3d.from_conv,
    "p3d": P3DConv3d.from_conv,
    "p3d_time_first": partial(P3DConv3d.from_conv, time_first=True),
    "stdcf": STDCFConv3d.from_conv,
    "reparam": partial(ReparamConv3d.from_conv, norm=False),
    "gst": GSTConv3d.from_conv,
}
from_conv = pytest.mark.parametrize("start", FROM_CONV.values(), ids=FROM_CONV.keys())


@from_conv
@pytest.mark.parametrize("bias", [False, True])
def test_a_unit_that_replaces_a_2d_convolution_keeps_every_frame_and_its_size(start: Unit, bias: bool) -> None:
    conv = nn.Conv2d(16, 8, (3, 5), stride=2, padding=(1, 2), bias=bias).double()
    x = torch.randn(2, 16, 4, 9, 9, dtype=torch.float64)
    unit = start(conv)
    assert next(unit.parameters()).dtype == torch.float64
    expected = conv(x.transpose(1, 2).flatten(0, 1))
    assert unit(x).shape == (2, 8, 4, *expected.shape[-2:])


@from_conv
def test_a_unit_that_replaces_a_3d_convolution_takes_over_its_arguments(start: Unit) -> None:
    conv = nn.Conv3d(16, 8, (5, 3, 3), stride=(2, 1, 2), padding=(2, 1, 0), bias=False)
    x = torch.randn(1, 16, 6, 7, 7)
    unit = start(conv)
    assert unit(x).shape == conv(x).shape
    assert all("bias" not in name for name, _ in unit.named_parameters())


@from_conv
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 8, 3, padding=1, groups=2),
        nn.Conv3d(16, 8, 3, padding=1, groups=4),
        nn.Conv2d(16, 8, 3, padding="same"),
        nn.Conv2d(16, 8, 3, padding=1, padding_mode="circular"),
    ],
    ids=["grouped", "grouped 3d", "string padding", "circular padding"],
)
def test_a_convolution_that_no_unit_can_stand_for_is_refused(start: Unit, conv: nn.Module) -> None:
    with pytest.raises(ConfigError):
        start(conv)


@from_conv
def test_an_even_temporal_kernel_is_refused_in_the_place_of_a_2d_convolution(start: Unit) -> None:
    with pytest.raises(ConfigError, match="even"):
        start(nn.Conv2d(16, 8, 3, padding=1), temporal_kernel=2)


@every
@pytest.mark.parametrize(
    "shape",
    [(8, 16, 3, 5), (8, 15, 3, 3), (9, 16, 3, 3), (8, 16, 3), (16, 8, 3, 3, 3), (1, 16, 3, 3), (8, 16, 1, 3, 3, 3)],
    ids=str,
)
def test_a_kernel_of_another_convolution_is_refused_and_nothing_changes(unit: Unit, shape: tuple[int, ...]) -> None:
    built = unit(16, 8, 3, 1, 1)
    before = copy.deepcopy(built.state_dict())
    with pytest.raises(ConfigError):
        built.load_conv_(torch.zeros(shape), None)
    assert all(torch.equal(value, before[key]) for key, value in built.state_dict().items())


def test_a_unit_without_a_dense_twin_says_so() -> None:
    class Bare(SpatioTemporalUnit):
        pass

    with pytest.raises(TypeError, match="Bare"):
        Bare(4, 4, 3).to_conv3d()
    with pytest.raises(TypeError, match="Bare"):
        Bare(4, 4, 3).load_conv_(torch.zeros(4, 4, 3, 3), None)


@every
def test_a_trained_bias_is_never_dropped_in_silence(unit: Unit) -> None:
    weight, bias = torch.randn(8, 8, 3, 3), torch.randn(8)
    with pytest.raises(ConfigError, match="built with bias=False"):
        unit(8, 8, 3, padding=1, bias=False).load_conv_(weight, bias)
    without = _randomise(unit(8, 8, 3, padding=1, bias=True)).load_conv_(weight, None)
    biases = [value for name, value in without.named_parameters() if name.endswith("bias") and "norm" not in name]
    assert biases
    assert all(bool((value == 0).all()) for value in biases)
