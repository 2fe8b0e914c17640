"""Clips folded into a batch of pictures, and unfolded where something looks over time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from grafting.networks import CifarResNet, frame_by_frame, lively
from vidzoo.errors import ConfigError, ModelInputError
from vidzoo.grafting import find_places, graft
from vidzoo.grafting.folded import ClipMean, Fold, FrameCount, OverTime, fold, unfold
from vidzoo.layers import FullConv3d


def test_folding_puts_the_frames_of_a_clip_next_to_each_other() -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    folded = fold(x)
    assert folded.shape == (8, 3, 5, 6)
    assert torch.equal(folded[5], x[1, :, 1])
    assert torch.equal(unfold(folded, 4), x)


def test_with_the_channels_last_folding_copies_nothing_either_way() -> None:
    x = torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d)
    folded = fold(x)
    assert folded.data_ptr() == x.data_ptr()
    assert folded.is_contiguous(memory_format=torch.channels_last)
    back = unfold(folded, 4)
    assert back.data_ptr() == x.data_ptr()
    assert back.stride() == x.stride()
    assert back.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_grafted_place_reads_and_writes_memory_with_the_channels_last_in_place() -> None:
    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.seen, self.given = x.data_ptr(), x.is_contiguous(memory_format=torch.channels_last_3d)
            return x

    count, layer = FrameCount(4), Watched()
    x = torch.randn(8, 3, 5, 6).to(memory_format=torch.channels_last)
    out = OverTime(layer, count)(x)
    assert layer.given
    assert layer.seen == x.data_ptr() == out.data_ptr()
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_a_layer_over_time_sees_clips() -> None:
    count = FrameCount()
    conv = FullConv3d(3, 6, 3, (1, 2, 2), 1)
    x = torch.randn(2, 3, 4, 8, 8)
    out = OverTime(conv, count)(Fold(count)(x))
    torch.testing.assert_close(unfold(out, 4), conv(x))


def test_the_mean_over_a_clip_is_its_own() -> None:
    count = FrameCount(2)
    x = torch.tensor([1.0, 3.0, 10.0, 20.0])[:, None, None, None]
    assert ClipMean(count)(x).flatten().tolist() == [2, 2, 15, 15]


def test_a_batch_that_is_no_whole_number_of_clips_is_refused() -> None:
    with pytest.raises(ModelInputError, match="7 pictures"):
        unfold(torch.randn(7, 3, 2, 2), 4)


def test_batch_norm_over_the_folded_batch_is_the_one_over_clips() -> None:
    folded, clips = nn.BatchNorm2d(3), nn.BatchNorm3d(3)
    x = torch.randn(2, 3, 4, 5, 6)
    torch.testing.assert_close(unfold(folded(fold(x)), 4), clips(x))
    torch.testing.assert_close(folded.running_var, clips.running_var, rtol=1e-4, atol=1e-6)


def test_functions_without_modules_are_followed_and_stay_what_they_are() -> None:
    network = lively(CifarResNet(1)).eval()
    model = graft(network, "frame", example=torch.randn(2, 3, 32, 32)).eval()
    x = torch.randn(2, 3, 3, 32, 32)
    torch.testing.assert_close(model(x), frame_by_frame(network, x).mean(dim=1), rtol=1e-5, atol=1e-5)
    assert [info.reduction for info in model.feature_info] == [1, 2, 4]


def test_a_network_whose_modules_do_not_follow_each_other_is_refused() -> None:
    class Twin(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
            self.last = nn.Conv2d(4, 4, 3, padding=1)
            self.fc = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.last(self.one(x) * self.two(x)).mean((2, 3)))

    with pytest.raises(ConfigError, match="do not simply follow each other"):
        graft(Twin(), "inflate")
    with pytest.raises(ConfigError, match="pictures"):
        find_places(lively(CifarResNet(1)), torch.randn(3, 32, 32))


def test_the_mean_of_logits_and_of_features_agree_for_a_head_that_averages() -> None:
    network = lively(CifarResNet(1)).eval()
    x = torch.randn(2, 3, 3, 32, 32)
    plans = [[{"op": "ReplaceHead", "consensus": consensus}] for consensus in ("logits", "features")]
    one, two = (graft(network, plan, example=x[0].transpose(0, 1)).eval()(x) for plan in plans)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
