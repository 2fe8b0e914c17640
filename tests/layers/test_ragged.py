"""Clips of different length in one batch: no clip knows of its mates."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidzoo.errors import ModelInputError
from vidzoo.layers.ragged import (
    RaggedBatchNorm3d,
    RaggedClips,
    RaggedMaxPool3d,
    honour_lengths,
    lengths_of,
    mean_over_clip,
    plain,
    time_mask,
    with_lengths,
)

LENGTHS = torch.tensor([1, 4, 9, 6])


def _clips(channels: int = 3) -> Tensor:
    x = torch.randn(4, channels, 9, 6, 6)
    for clip, length in zip(x, LENGTHS, strict=True):
        clip[:, length:] = 0
    return x


def _net() -> nn.Module:
    net = nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool3d((2, 1, 1), ceil_mode=True),
        nn.Conv3d(8, 8, (5, 1, 1), stride=(2, 1, 1), padding=(2, 0, 0)),
        nn.BatchNorm3d(8),
        nn.SiLU(),
        nn.Conv3d(8, 4, (3, 1, 1), padding="same"),
        nn.Sigmoid(),
        nn.AdaptiveAvgPool3d(1),
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return net


def test_a_clip_is_answered_alone_as_among_longer_and_shorter_ones() -> None:
    net, x = honour_lengths(_net()).eval(), _clips()
    alone = torch.cat([net(clip[None, :, :length]) for clip, length in zip(x, LENGTHS, strict=True)])
    torch.testing.assert_close(net(with_lengths(x, LENGTHS)), alone)


def test_a_map_that_every_clip_fills_is_an_ordinary_tensor() -> None:
    x = torch.randn(2, 3, 5, 4, 4)
    full = with_lengths(x, torch.tensor([5, 5]))
    assert type(full) is Tensor
    assert lengths_of(full) is time_mask(full) is None
    torch.testing.assert_close(mean_over_clip(full), x.mean(dim=(2, 3, 4)))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x + 1,
        lambda x: x + x,
        lambda x: 1 + x,
        lambda x: x - 0.5,
        lambda x: x * 3,
        lambda x: x.sigmoid(),
        lambda x: F.silu(x),
        lambda x: F.dropout(x, 0.5),
        lambda x: x.clone().add_(1.0),
        lambda x: F.relu(x.clone(), inplace=True),
        lambda x: torch.cat([x, x], dim=1),
        lambda x: x.split([1, 2], dim=1)[1],
        lambda x: torch.split(x, 2, 1)[0],
        lambda x: x.chunk(3, dim=1)[2],
        lambda x: torch.cat([x, torch.ones_like(plain(x))], dim=1),
        lambda x: F.conv3d(x, torch.randn(2, 3, 3, 1, 1), torch.randn(2), padding=(1, 0, 0)),
        lambda x: F.batch_norm(x, torch.ones(3), torch.ones(3)),
        lambda x: x.to(torch.float64),
        lambda x: x.contiguous(memory_format=torch.channels_last_3d),
        lambda x: x.detach(),
        lambda x: x.cpu(),
        lambda x: copy.deepcopy(x),
        lambda x: torch.relu(input=x),
        lambda x: torch.cat(tensors=[x, x], dim=1),
        lambda x: F.conv3d(input=x, weight=torch.randn(2, 3, 3, 1, 1), bias=torch.randn(2), padding=(1, 0, 0)),
    ],
)
def test_lengths_travel_and_the_padding_stays_zero(operation: object) -> None:
    result = operation(with_lengths(_clips(), LENGTHS))  # type: ignore[operator]
    assert torch.equal(lengths_of(result), LENGTHS)
    mask = time_mask(result)
    assert (plain(result).masked_select(~mask) == 0).all()
    assert (plain(result).masked_select(mask) != 0).any()


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.transpose(1, 2),
        lambda x: x.mean(dim=(2, 3, 4)),
        lambda x: x.flatten(2),
        lambda x: x[:, :, :2],
        lambda x: x.unbind(2),
        lambda x: x.mT,
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.__setitem__((slice(None), slice(None), slice(8, None)), 5.0),
        lambda x: x * torch.ones(2, 1, 1, 1, 1, 1),
        lambda x: torch.mean(input=x, dim=(2, 3, 4)),
        lambda x: torch.cat(tensors=[x, x], dim=2),
        lambda x: x.split(3, dim=2),
        lambda x: x.max(dim=2),
        lambda x: torch.var_mean(x),
        lambda x: F.avg_pool3d(x, 2),
        lambda x: F.max_pool3d(x, 2),
        lambda x: F.adaptive_avg_pool3d(x, 1),
        lambda x: torch.cat([x, x], dim=2),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.group_norm(x, 1),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: nn.BatchNorm3d(3)(x),
    ],
)
def test_an_operation_whose_effect_on_the_lengths_is_unknown_is_refused(operation: object) -> None:
    with pytest.raises(ModelInputError, match=r"lengths|batch norm"):
        operation(with_lengths(_clips(), LENGTHS))  # type: ignore[operator]


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_strided_convolution_shortens_each_clip_as_if_it_were_alone(kernel: int, stride: int, dilation: int) -> None:
    conv = nn.Conv3d(3, 2, (kernel, 1, 1), (stride, 1, 1), (dilation * (kernel // 2), 0, 0), (dilation, 1, 1))
    x = _clips()
    result = conv(with_lengths(x, LENGTHS))
    assert isinstance(result, RaggedClips)
    for i, length in enumerate(LENGTHS):
        alone = conv(x[i : i + 1, :, :length])
        assert result.lengths[i] == alone.shape[2]
        torch.testing.assert_close(plain(result)[i, :, : alone.shape[2]], alone[0])


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 3, 0), (2, 1, 0), (2, 3, 1)])
def test_a_maximum_over_time_shortens_each_clip_as_if_it_were_alone(
    kernel: int, stride: int, padding: int, ceil: bool
) -> None:
    lengths = torch.tensor([3, 4, 9, 6])  # torch itself refuses a clip shorter than the window
    x = torch.randn(4, 3, 9, 2, 2) - 2.0
    for clip, length in zip(x, lengths, strict=True):
        clip[:, length:] = 0
    arguments = ((kernel, 1, 1), (stride, 1, 1), (padding, 0, 0))
    result = RaggedMaxPool3d(*arguments, ceil_mode=ceil)(with_lengths(x, lengths))
    for i, length in enumerate(lengths):
        alone = nn.MaxPool3d(*arguments, ceil_mode=ceil)(x[i : i + 1, :, :length])
        assert lengths_of(result)[i] == alone.shape[2]
        torch.testing.assert_close(plain(result)[i, :, : alone.shape[2]], alone[0])


def test_statistics_in_training_are_those_of_the_real_frames_alone() -> None:
    x = _clips().requires_grad_()
    norm, reference = RaggedBatchNorm3d(3).train(), nn.BatchNorm1d(3).train()
    result = norm(with_lengths(x, LENGTHS))
    real = torch.cat([clip[:, :length].flatten(1).T for clip, length in zip(x, LENGTHS, strict=True)])
    expected = reference(real)
    found = torch.cat(
        [clip[:, :length].flatten(1).T for clip, length in zip(plain(result), LENGTHS, strict=True)],
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(norm.running_mean, reference.running_mean)
    torch.testing.assert_close(norm.running_var, reference.running_var)
    weight = torch.randn_like(expected)
    one = torch.autograd.grad((found * weight).sum(), x)[0]
    two = torch.autograd.grad((expected * weight).sum(), x)[0]
    torch.testing.assert_close(one, two)


def test_swapped_layers_share_parameters_and_keep_keys_and_ordinary_answers() -> None:
    net = _net().eval()
    x = torch.randn(2, 3, 5, 6, 6)
    before, expected = net.state_dict(), net(x)
    swapped = honour_lengths(copy.deepcopy(net))
    assert list(swapped.state_dict()) == list(before)
    torch.testing.assert_close(swapped(x), expected)
    parameters = {id(value) for value in net.parameters()}
    assert {id(value) for value in honour_lengths(net).parameters()} == parameters


@pytest.mark.parametrize(
    "lengths",
    [
        torch.tensor([1, 2]),
        torch.tensor([1, 2, 10, 3]),
        torch.tensor([-1, 2, 3, 4]),
        torch.tensor(3),
        torch.tensor([1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_lengths_that_do_not_belong_to_the_map_are_refused(lengths: Tensor) -> None:
    with pytest.raises(ModelInputError, match=r"belong|fit"):
        with_lengths(_clips(), lengths)


@pytest.mark.parametrize("change", [lambda x: x.fill_(5.0), lambda x: x.zero_(), lambda x: x.copy_(plain(x) + 1)])
def test_a_change_in_place_is_refused_before_it_has_happened(change: object) -> None:
    x = with_lengths(_clips(), LENGTHS)
    before = plain(x).clone()
    with pytest.raises(ModelInputError, match="lengths"):
        change(x)  # type: ignore[operator]
    assert torch.equal(plain(x), before)


def test_of_two_maps_the_longer_clip_counts() -> None:
    one, two = _clips(), torch.randn(4, 3, 9, 6, 6)
    others = torch.tensor([5, 2, 3, 6])
    for joined in (
        with_lengths(one, LENGTHS) + with_lengths(two, others),
        with_lengths(one, LENGTHS).clone().add_(with_lengths(two, others)),
        torch.cat([with_lengths(one, LENGTHS), with_lengths(two, others)], dim=1),
    ):
        assert torch.equal(lengths_of(joined), torch.tensor([5, 4, 9, 6]))
        assert (plain(joined).masked_select(~time_mask(joined)) == 0).all()


def test_what_lies_behind_a_clips_end_is_blanked_and_the_lengths_are_its_own() -> None:
    lengths = LENGTHS.clone()
    x = with_lengths(torch.ones(4, 3, 9, 6, 6), lengths)
    lengths.fill_(9)
    torch.testing.assert_close(mean_over_clip(x), torch.ones(4, 3))
    assert torch.equal(lengths_of(x), LENGTHS)


def test_a_compiled_network_gives_what_it_gives_uncompiled() -> None:
    net, x = honour_lengths(_net()).eval(), with_lengths(_clips(), LENGTHS)
    torch.testing.assert_close(torch.compile(net, backend="eager")(x), net(x))


def test_an_empty_clip_has_a_mean_of_zero() -> None:
    x = torch.randn(2, 3, 4, 2, 2)
    x[0] = 0
    mean = mean_over_clip(with_lengths(x, torch.tensor([0, 4])))
    assert torch.equal(mean[0], torch.zeros(3))
    torch.testing.assert_close(mean[1], x[1].mean(dim=(1, 2, 3)))
