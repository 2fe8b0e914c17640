"""Squeeze and excitation: what it computes, and over which frames."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidzoo.layers.ragged import RaggedClips, with_lengths
from vidzoo.layers.squeeze import SqueezeExcite


def _clip(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_it_equals_the_layer_of_fvcore_with_the_same_weights() -> None:
    fvcore = pytest.importorskip("fvcore.nn.squeeze_excitation")
    torch.manual_seed(0)
    theirs, ours = fvcore.SqueezeExcitation(12, 8, is_3d=True), SqueezeExcite(12, 8)
    pairs = {"reduce": theirs.block[0], "expand": theirs.block[2]}
    ours.load_state_dict(
        {f"{name}.weight": conv.weight.flatten(1) for name, conv in pairs.items()}
        | {f"{name}.bias": conv.bias for name, conv in pairs.items()}
    )
    x = _clip(2, 12, 3, 5, 4)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_every_position_of_a_channel_is_scaled_alike_by_less_than_one() -> None:
    torch.manual_seed(0)
    x = _clip(2, 6, 4, 3, 3)
    scale = (SqueezeExcite(6, 8)(x) / x).flatten(2)  # (B, C, T*H*W)
    torch.testing.assert_close(scale, scale[:, :, :1].expand_as(scale))
    assert ((scale > 0) & (scale < 1)).all()
    assert scale[0, :, 0].std() > 0


def test_a_shorter_clip_is_squeezed_over_its_own_frames_only() -> None:
    torch.manual_seed(0)
    layer, x = SqueezeExcite(6, 8), _clip(2, 6, 5, 3, 3)
    x[1, :, 3:] = 0
    together = layer(with_lengths(x, torch.tensor([5, 3])))
    assert isinstance(together, RaggedClips)
    assert together.lengths.tolist() == [5, 3]
    torch.testing.assert_close(together.as_subclass(Tensor)[:1], layer(x[:1]))
    torch.testing.assert_close(together.as_subclass(Tensor)[1:, :, :3], layer(x[1:, :, :3]))
    assert not torch.allclose(together.as_subclass(Tensor)[1:], layer(x[1:]))  # the padding would have counted
