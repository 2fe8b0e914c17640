"""R3D, MC3, R(2+1)D and their kin: what each kind of convolution costs, which frames are kept, how they start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidzoo.errors import ConfigError
from vidzoo.layers.drop import DropPath
from vidzoo.layers.ragged import honour_lengths, lengths_of, with_lengths
from vidzoo.models.tran import Kind, MixedBlock, MixedResNet, mc3_18, r2plus1d_18, r3d_18
from vidzoo.registry import get_pretrained_cfg

# The authors' table (facebookresearch/VMZ, c2/tutorials/models.md): 2d or 3d in each of the five groups, parameters in
# millions, multiply-adds in 1e9 for 8 and for 16 frames of 112 x 112.
AUTHORS = {
    "fR2D": ("22222", 11.4, 13.8, 27.6),
    "R3D": ("33333", 33.4, 20.3, 40.7),
    "MC2": ("32222", 11.4, 14.3, 28.5),
    "MC3": ("33222", 11.7, 21.7, 43.3),
    "MC4": ("33322", 12.7, 20.0, 40.0),
    "MC5": ("33332", 16.8, 20.0, 39.9),
    "rMC2": ("23333", 33.3, 19.9, 39.8),
    "rMC3": ("22333", 33.0, 12.5, 25.0),
    "rMC4": ("22233", 32.0, 14.5, 29.1),
    "rMC5": ("22223", 27.9, 15.4, 30.8),
}
BUILDERS = [r3d_18, mc3_18, r2plus1d_18]
ALL_3D: tuple[Kind, ...] = ("3d",) * 5


def _lively(model: MixedResNet) -> MixedResNet:
    """Batch norms with statistics and scales that make every path count."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def _blocks(model: MixedResNet) -> list[MixedBlock]:
    return [block for block in model.modules() if isinstance(block, MixedBlock)]


def _size(net: nn.Module) -> int:
    return sum(value.numel() for value in net.parameters())


def _gmacs(model: MixedResNet, frames: int) -> float:
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, 3, frames, 112, 112))
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize("name", AUTHORS)
def test_every_mixture_costs_what_its_authors_print(name: str) -> None:
    groups, millions, *gmacs = AUTHORS[name]
    kinds: list[Kind] = ["2d" if group == "2" else "3d" for group in groups]
    with torch.device("meta"):
        model = MixedResNet(kinds)
        found = [_gmacs(model, frames) for frames in (8, 16)]
    assert abs(_size(model) / 1e6 - millions) < 0.1  # some of these they round, some they cut off
    assert found == pytest.approx(gmacs, abs=0.0501)


def test_with_exact_middle_widths_r2plus1d_costs_what_its_authors_print() -> None:
    with torch.device("meta"):
        exact, plain = r2plus1d_18(exact_middle=True), r2plus1d_18()
        assert [_gmacs(exact, frames) for frames in (8, 16)] == pytest.approx([20.7, 41.5], abs=0.05)
        assert _gmacs(plain, 16) == pytest.approx(40.5, abs=0.05)
    assert abs(_size(exact) / 1e6 - 33.3) < 0.1
    assert abs(_size(plain) / 1e6 - 31.5) < 0.1


@pytest.mark.parametrize("exact", [True, False])
def test_a_2plus1d_convolution_has_as_many_weights_as_the_3d_one(exact: bool) -> None:
    with torch.device("meta"):
        model, dense = r2plus1d_18(exact_middle=exact), r3d_18()
    smaller = 0
    for block, twin in zip(_blocks(model), _blocks(dense), strict=True):
        for (spatial, _, _, temporal), whole in ((block.conv1[0], twin.conv1[0]), (block.conv2[0], twin.conv2[0])):
            lost = whole.weight.numel() - spatial.weight.numel() - temporal.weight.numel()
            channel = 9 * spatial.in_channels + 3 * temporal.out_channels  # weights of one middle channel
            assert lost >= 0
            smaller += lost >= channel  # rounding down costs less than one
    assert smaller == (0 if exact else 3)  # the second convolution of each block that widens


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_frames_are_halved_where_a_stage_looks_over_time_and_kept_elsewhere(
    build: Callable[..., MixedResNet], frames: int
) -> None:
    with torch.device("meta"):
        maps = build().eval().forward_intermediates(torch.empty(1, 3, frames, 70, 33), intermediates_only=True)
    halved = [-(-frames // 2**n) for n in (0, 0, 1, 2, 3)]
    assert [m.shape[2] for m in maps] == ([frames] * 5 if build is mc3_18 else halved)
    assert [tuple(m.shape[3:]) for m in maps] == [(35, 17), (35, 17), (18, 9), (9, 5), (5, 3)]


def test_2d_kinds_answer_each_frame_for_itself() -> None:
    torch.manual_seed(0)
    model, x = _lively(MixedResNet(("2d",) * 5, num_classes=3)), torch.randn(1, 3, 4, 32, 32)
    with torch.inference_mode():
        frames = torch.stack([model(x[:, :, t : t + 1]) for t in range(4)])
        torch.testing.assert_close(model(x), frames.mean(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_zero_init_last_lets_a_fresh_block_pass_its_shortcut_on(build: Callable[..., MixedResNet]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 64, 3, 8, 8).relu()
    for zero in (True, False):
        block = _blocks(build(zero_init_last=zero))[0].train()
        assert torch.equal(block(x), x) == zero


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_drop_path_rises_linearly_to_its_rate_at_the_last_block(build: Callable[..., MixedResNet]) -> None:
    with torch.device("meta"):
        blocks = _blocks(build(drop_path_rate=0.7))
    rates = [block.drop_path.rate if isinstance(block.drop_path, DropPath) else 0.0 for block in blocks]
    assert rates == pytest.approx([0.1 * index for index in range(8)])


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_the_entrypoint_itself_knows_how_long_its_clips_are(build: Callable[..., MixedResNet]) -> None:
    with torch.device("meta"):
        assert build().num_frames == get_pretrained_cfg(build.__name__).num_frames == 16
        assert build(num_frames=7).num_frames == 7


@pytest.mark.parametrize(
    ("kinds", "options"),
    [
        (ALL_3D[:4], {}),
        (("3d", "3d", "3d", "3d", "1d"), {}),
        (ALL_3D, {"drop_rate": 1.0}),
        (ALL_3D, {"drop_path_rate": -0.1}),
        (ALL_3D, {"num_classes": -1}),
    ],
)
def test_an_option_out_of_its_range_is_refused(kinds: Any, options: dict[str, Any]) -> None:
    with torch.device("meta"), pytest.raises(ConfigError):
        MixedResNet(kinds, **options)


class _FirstFrames(nn.Module):
    """Stands for a sampler: clip i keeps its first ``keep[i]`` frames."""

    def __init__(self, keep: list[int]) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor(self.keep)
        real = torch.arange(max(self.keep)) < lengths[:, None]  # (B, T')
        return with_lengths(x[:, :, : max(self.keep)] * real[:, None, :, None, None], lengths)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_clips_of_different_length_are_answered_together_as_alone(build: Callable[..., MixedResNet]) -> None:
    torch.manual_seed(0)
    model, x, keep = _lively(build(num_classes=5)), torch.randn(3, 3, 12, 32, 32), [12, 1, 5]
    honour_lengths(model)
    with torch.inference_mode():
        model.add_sampler(_FirstFrames(keep), after="layer1")
        lengths = lengths_of(model.forward_features(x))
        together = model(x)
        alone = []
        for clip, length in zip(x, keep, strict=True):
            model.add_sampler(_FirstFrames([length]), after="layer1")
            alone.append(model(clip[None]))
    assert lengths is not None
    assert lengths.tolist() == (keep if build is mc3_18 else [2, 1, 1])
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert (together[0] - together[2]).abs().max() > 1e-3
