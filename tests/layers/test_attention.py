"""Temporal attention weighs frames, and keeps every one of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vidzoo.errors import ConfigError
from vidzoo.layers.attention import TemporalAttention
from vidzoo.layers.ragged import plain, with_lengths


def _trained() -> TemporalAttention:
    block = TemporalAttention(8, reduction=2)
    nn.init.normal_(block.project.weight)
    return block.double()


def test_it_starts_as_identity() -> None:
    x = torch.randn(2, 8, 5, 4, 4)
    assert torch.equal(TemporalAttention(8)(x), x)


def test_it_is_the_double_attention_of_its_paper_over_frames() -> None:
    block, x = _trained(), torch.randn(1, 8, 5, 3, 3, dtype=torch.float64)
    frames = x.mean(dim=(3, 4))[0]  # (C, T)

    def linear(conv: nn.Conv1d) -> torch.Tensor:
        return conv.weight[:, :, 0] @ frames + conv.bias[:, None]

    bags = linear(block.feature) @ linear(block.gather).softmax(dim=1).T  # (M, N)
    given = torch.stack([bags @ column for column in linear(block.distribute).softmax(dim=0).T], dim=1)  # (M, T)
    added = block.project.weight[:, :, 0] @ given + block.project.bias[:, None]
    torch.testing.assert_close(block(x)[0], x[0] + added[:, :, None, None])


def test_frames_that_are_alike_are_weighed_alike() -> None:
    block = _trained()
    y = block(torch.randn(1, 8, 1, 3, 3, dtype=torch.float64).expand(-1, -1, 6, -1, -1))
    torch.testing.assert_close(y, y[:, :, :1].expand_as(y))


def test_a_shorter_clip_does_not_see_its_padding() -> None:
    block, x = _trained(), torch.randn(2, 8, 5, 3, 3, dtype=torch.float64)
    x[0, :, 3:] = 0
    together = plain(block(with_lengths(x, torch.tensor([3, 5]))))
    torch.testing.assert_close(together[:1, :, :3], block(x[:1, :, :3]))
    torch.testing.assert_close(together[1:], block(x[1:]))


def test_no_channel_left_is_refused() -> None:
    with pytest.raises(ConfigError, match="reduced"):
        TemporalAttention(2, reduction=4)
