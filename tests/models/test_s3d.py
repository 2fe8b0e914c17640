"""S3D: what its convolutions see, how its blocks are put together, and how its head weighs the map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vidzoo.errors import ConfigError
from vidzoo.models.s3d import S3D, HalvingPool, InceptionBlock, s3d
from vidzoo.registry import get_pretrained_cfg

# Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, Table 1: channels after each inception module, 3a to 5b.
GOOGLENET = [256, 480, 512, 512, 512, 528, 832, 832, 1024]


def _small(**options: Any) -> S3D:
    torch.manual_seed(0)
    return s3d(num_classes=5, **options).eval()


def test_blocks_have_the_widths_of_googlenet() -> None:
    with torch.device("meta"):
        model = s3d()
        blocks = [block for block in model.modules() if isinstance(block, InceptionBlock)]
        widths = [192, *GOOGLENET]
        for block, inplanes, planes in zip(blocks, widths[:-1], widths[1:], strict=True):
            assert block(torch.empty(1, inplanes, 2, 5, 5)).shape == (1, planes, 2, 5, 5)
    assert model.num_features == GOOGLENET[-1]
    assert [info.num_chs for info in model.feature_info] == [64, 192, 480, 832, 1024]


def test_no_convolution_looks_over_space_and_time_at_once() -> None:
    with torch.device("meta"):
        convs = [module for module in s3d().modules() if isinstance(module, nn.Conv3d)]
    kernels = [conv.kernel_size for conv in convs]
    assert set(kernels) == {(1, 1, 1), (1, 3, 3), (3, 1, 1), (1, 7, 7), (7, 1, 1)}
    assert kernels.count((1, 3, 3)) == kernels.count((3, 1, 1)) == 19
    assert all(conv.bias is None for conv in convs)


def test_a_norm_and_a_relu_stand_behind_every_convolution() -> None:
    model, x = _small(), torch.randn(1, 3, 8, 64, 64)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    assert len(norms) == sum(isinstance(module, nn.Conv3d) for module in model.modules())
    assert all((norm.eps, norm.momentum) == (1e-3, 1e-3) for norm in norms)
    with torch.inference_mode():
        assert all(bool((found >= 0).all()) for found in model.forward_intermediates(x, intermediates_only=True))


def test_the_four_branches_follow_each_other() -> None:
    torch.manual_seed(0)
    block, x = InceptionBlock(6, (3, 4, 5, 2, 7, 1)).eval(), torch.randn(1, 6, 3, 4, 5)
    with torch.inference_mode():
        parts = block(x).split([3, 5, 7, 1], dim=1)
        for part, branch in zip(parts, (block.branch0, block.branch1, block.branch2, block.branch3), strict=True):
            assert torch.equal(part, branch(x))
            assert part.abs().max() > 0


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ((16, 224, 224), [(8, 112, 112), (8, 56, 56), (8, 28, 28), (4, 14, 14), (2, 7, 7)]),
        ((20, 242, 226), [(10, 121, 113), (10, 61, 57), (10, 31, 29), (5, 16, 15), (2, 8, 7)]),
        ((1, 32, 33), [(1, 16, 17), (1, 8, 9), (1, 4, 5), (1, 2, 3), (1, 1, 1)]),
        ((1, 1, 1), [(1, 1, 1)] * 5),
    ],
)
def test_maps_shrink_to_one_position_but_not_to_none(
    clip: tuple[int, int, int], expected: list[tuple[int, int, int]]
) -> None:
    with torch.device("meta"):
        maps = s3d().eval().forward_intermediates(torch.empty(1, 3, *clip), intermediates_only=True)
    assert [tuple(found.shape[2:]) for found in maps] == expected


def test_halving_leaves_the_last_of_an_odd_number_out_and_an_only_one_as_it_is() -> None:
    x = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(-1, -1, -1, 1, 3)
    assert HalvingPool()(x).flatten().tolist() == [1.0, 3.0]
    assert torch.equal(HalvingPool()(x[:, :, :1, :, :1]), x[:, :, :1, :, :1])


def test_inner_frames_weigh_more_than_outer_ones_in_the_head() -> None:
    model = _small()
    impulses = torch.eye(4)[:, None, :, None, None].expand(4, 1024, 4, 7, 7)  # clip i has its only light in frame i
    pooled = model.forward_head(impulses, pre_logits=True)
    expected = torch.tensor([1, 2, 2, 1]) / 6  # windows of two frames that a frame lies in, over 3 windows of 2
    torch.testing.assert_close(pooled, expected[:, None].expand(4, 1024))


def test_windows_are_no_larger_than_the_map() -> None:
    model, features = _small(), torch.randn(2, 1024, 1, 3, 5)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.mean(dim=(2, 3, 4)))


def test_dropout_takes_each_window_by_itself() -> None:
    model = _small(drop_rate=0.5).train()
    pooled = model.forward_head(torch.ones(8, 1024, 3, 7, 7), pre_logits=True)  # two windows
    kept, counts = pooled.unique(return_counts=True)
    assert kept.tolist() == [0.0, 1.0, 2.0]
    assert (counts / counts.sum()).tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_the_entrypoint_itself_knows_how_long_its_clips_are() -> None:
    with torch.device("meta"):
        assert s3d().num_frames == get_pretrained_cfg("s3d").num_frames == 64
        assert s3d(num_frames=7).num_frames == 7


@pytest.mark.parametrize("options", [{"drop_rate": 1.0}, {"drop_rate": -0.1}, {"num_classes": -1}, {"in_chans": 0}])
def test_an_option_out_of_its_range_is_refused(options: dict[str, Any]) -> None:
    with torch.device("meta"), pytest.raises(ConfigError):
        s3d(**options)
