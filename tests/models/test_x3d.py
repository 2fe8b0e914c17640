"""X3D: how its factors become a network, what its blocks do, and what its head sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models import group_parameters
from torch import Tensor, nn

import vidzoo
from vidzoo.errors import ConfigError
from vidzoo.layers.drop import DropPath
from vidzoo.layers.ragged import honour_lengths, lengths_of, with_lengths
from vidzoo.layers.squeeze import SqueezeExcite
from vidzoo.models.x3d import X3D, X3DBlock, x3d_l, x3d_m, x3d_s, x3d_xl, x3d_xs

# X3D (CVPR 2020), Tables 1 and 3: output channels of res2 to res5, inner channels, blocks.
SMALL = ((24, 48, 96, 192), (54, 108, 216, 432), (3, 5, 11, 7))
SIZES = {
    x3d_xs: SMALL,
    x3d_s: SMALL,
    x3d_m: SMALL,
    x3d_l: (*SMALL[:2], (5, 10, 25, 15)),
    x3d_xl: ((32, 72, 136, 280), (72, 162, 306, 630), (5, 10, 25, 15)),
}
OPTIONS: list[dict[str, Any]] = [
    {"drop_rate": 1.0},
    {"drop_path_rate": -0.1},
    {"width_factor": 0.0},
    {"depth_factor": -1.0},
    {"num_classes": -1},
]


def _tiny(**options: Any) -> X3D:
    """One to three blocks per stage, batch norms with statistics and scales that make every path count."""
    torch.manual_seed(0)
    model = X3D(**{"depth_factor": 0.5, "width_factor": 1.0, "num_classes": 5, **options})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def _blocks(model: X3D) -> list[list[X3DBlock]]:
    return [list(model.get_submodule(f"layer{stage}").children()) for stage in (1, 2, 3, 4)]  # type: ignore[arg-type]


@pytest.mark.parametrize("build", SIZES, ids=lambda build: build.__name__)
def test_widths_and_blocks_are_those_of_the_paper(build: Any) -> None:
    planes, inner, counts = SIZES[build]
    with torch.device("meta"):
        model = build(num_classes=3)
    stages = _blocks(model)
    assert tuple(len(blocks) for blocks in stages) == counts
    assert tuple(blocks[0].conv3.out_channels for blocks in stages) == planes
    assert tuple(blocks[-1].conv2.in_channels for blocks in stages) == inner
    assert model.num_features == inner[-1]
    assert [info.num_chs for info in model.feature_info] == [planes[0], *planes, inner[-1]]


@pytest.mark.parametrize("build", SIZES, ids=lambda build: build.__name__)
def test_the_entrypoint_itself_knows_how_long_its_clips_are(build: Any) -> None:
    with torch.device("meta"):
        cfg = vidzoo.create_model(build.__name__).pretrained_cfg
        assert build().num_frames == cfg.num_frames
        assert build(num_frames=7).num_frames == 7
    assert cfg.test_crop_size == (cfg.short_side, cfg.short_side)


def test_every_other_block_squeezes_beginning_with_the_first_of_a_stage() -> None:
    for blocks in _blocks(_tiny(depth_factor=2.2)):
        squeezes = [isinstance(block.se, SqueezeExcite) for block in blocks]
        assert squeezes == [position % 2 == 0 for position in range(len(blocks))]


def test_the_convolutions_over_time_see_one_channel_each() -> None:
    model = _tiny()
    over_time = [m for m in model.modules() if isinstance(m, nn.Conv3d) and m.kernel_size[0] > 1]
    assert {conv.kernel_size for conv in over_time} == {(5, 1, 1), (3, 3, 3)}
    assert all(conv.groups == conv.in_channels == conv.out_channels for conv in over_time)


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_the_time_axis_is_kept_whole_and_every_stage_halves_the_map(frames: int) -> None:
    with torch.inference_mode():
        features, maps = _tiny().forward_intermediates(torch.randn(1, 3, frames, 70, 33))
    assert [m.shape[2] for m in maps] == [frames] * 6
    assert [tuple(m.shape[3:]) for m in maps] == [(35, 17), (18, 9), (9, 5), (5, 3), (3, 2), (3, 2)]
    assert torch.equal(features, maps[-1])


def test_a_fresh_block_passes_its_shortcut_on() -> None:
    torch.manual_seed(0)
    model, x = X3D(num_classes=3, depth_factor=1.0).train(), torch.randn(2, 24, 3, 8, 8)
    first, second = _blocks(model)[1]
    assert first.downsample is not None
    passed = first(x)
    torch.testing.assert_close(passed, first.downsample(x).relu())
    torch.testing.assert_close(second(passed), passed)


def test_only_a_shortcut_that_changes_the_channels_has_a_norm() -> None:
    first, *later = (blocks[0].downsample for blocks in _blocks(_tiny()))
    assert [type(m) for m in first] == [nn.Conv3d]  # type: ignore[union-attr]
    assert all([type(m) for m in shortcut] == [nn.Conv3d, nn.BatchNorm3d] for shortcut in later)  # type: ignore[union-attr]


def test_the_head_is_a_hidden_layer_on_the_mean_of_the_last_map() -> None:
    model, x = _tiny(), torch.randn(2, 3, 3, 40, 40)
    with torch.inference_mode():
        features = model.forward_features(x)
        hidden = (features.mean(dim=(2, 3, 4)) @ model.conv6.weight.T).relu()
        assert hidden.shape == (2, model.head_hidden_size) == (2, 2048)
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), hidden, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model(x), hidden @ model.fc.weight.T + model.fc.bias, rtol=1e-5, atol=1e-6)
        model.reset_classifier(0)
        assert model(x).shape == (2, 2048)


def test_layers_of_the_head_are_as_deep_as_the_data_flow_says() -> None:
    model = _tiny()
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        order = ["stem.spatial", "layer1.0.conv1", "layer4.0.conv1", "conv5", "conv6", "fc"]
        depths = [groups[f"{name}.weight"] for name in order]
        assert depths == sorted(set(depths))
        assert groups["bn5.weight"] == groups["conv5.weight"]
        assert max(groups.values()) == (7 if coarse else 2 + sum(map(len, _blocks(model))) + 1)


def test_drop_path_rises_linearly_to_its_rate_at_the_last_block() -> None:
    model = _tiny(depth_factor=1.0, drop_path_rate=0.5)
    rates = [
        block.drop_path.rate if isinstance(block.drop_path, DropPath) else 0.0 for b in _blocks(model) for block in b
    ]
    assert rates == pytest.approx([0.05 * index for index in range(11)])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_option_out_of_its_range_is_refused(options: dict[str, Any]) -> None:
    with torch.device("meta"), pytest.raises(ConfigError):
        X3D(**options)


class _FirstFrames(nn.Module):
    """Stands for a sampler: clip i keeps its first ``keep[i]`` frames."""

    def __init__(self, keep: list[int]) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor(self.keep)
        real = torch.arange(max(self.keep)) < lengths[:, None]  # (B, T')
        return with_lengths(x[:, :, : max(self.keep)] * real[:, None, :, None, None], lengths)


@pytest.mark.parametrize("after", ["stem", "layer1", "layer2"])
def test_clips_of_different_length_are_answered_together_as_alone(after: str) -> None:
    model, x = honour_lengths(_tiny()), torch.randn(3, 3, 6, 40, 40)
    assert isinstance(model, X3D)
    keep = [5, 1, 3]
    with torch.inference_mode():
        model.add_sampler(_FirstFrames(keep), after=after)
        lengths = lengths_of(model.forward_features(x))
        together = model(x)
        alone = []
        for clip, length in zip(x, keep, strict=True):
            model.add_sampler(_FirstFrames([length]), after=after)
            alone.append(model(clip[None]))
    assert lengths is not None
    assert lengths.tolist() == keep
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert (together[0] - together[2]).abs().max() > 1e-3


@pytest.mark.parametrize("drop_path_rate", [0.0, 0.2])
def test_clips_of_different_length_train_every_weight_of_the_network(drop_path_rate: float) -> None:
    model, x = honour_lengths(_tiny(drop_path_rate=drop_path_rate)).train(), torch.randn(3, 3, 6, 40, 40)
    assert isinstance(model, X3D)
    model.add_sampler(_FirstFrames([5, 1, 3]), after="layer1")
    model.set_grad_checkpointing()
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
