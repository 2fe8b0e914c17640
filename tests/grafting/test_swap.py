"""Every unit in the place of every kind of convolution: what it keeps of the function, or why it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, ScaledStdConv2d
from torch import Tensor, nn

from fidelity.networks import lively
from vidzoo.errors import ConfigError, ModelInputError
from vidzoo.grafting.grouped import GroupedGSTConv3d
from vidzoo.grafting.swap import is_plain_norm, refusal, relative_change, takes_norm, unit_for
from vidzoo.layers import GSTConv3d, ReparamConv3d

CHANNELS, WIDTH, FRAMES = 8, 12, 5


@dataclass(frozen=True)
class Swap:
    """A swap as a plan has it."""

    unit: str
    t_length: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)


def _conv2d(kernel: int = 3, out: int = WIDTH, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(CHANNELS, out, kernel, **options)


def _conv3d(kernel: Any, out: int = WIDTH, **options: Any) -> nn.Conv3d:
    return nn.Conv3d(CHANNELS, out, kernel, **options)


# What a 2D convolution can look like, with the side of a map that it is tried on.
PICTURES: dict[str, tuple[nn.Conv2d, int]] = {
    "plain": (_conv2d(padding=1, bias=False), 9),
    "biased": (_conv2d(padding=1), 9),
    "strided": (_conv2d(padding=1, stride=2), 9),
    "strided_even": (_conv2d(padding=1, stride=2), 10),
    "dilated": (_conv2d(padding=2, dilation=2), 9),
    "unpadded": (_conv2d(), 9),
    "valid": (_conv2d(padding="valid"), 9),
    "same": (_conv2d(padding="same"), 9),
    "same_dilated": (_conv2d(padding="same", dilation=2), 9),
    "same_of_an_even_kernel": (_conv2d(4, padding="same"), 9),
    "tensorflow_same": (Conv2dSame(CHANNELS, WIDTH, 3), 9),
    "tensorflow_same_strided_odd": (Conv2dSame(CHANNELS, WIDTH, 3, stride=2), 9),
    "tensorflow_same_strided_even": (Conv2dSame(CHANNELS, WIDTH, 3, stride=2, bias=False), 10),
    "oblong": (nn.Conv2d(CHANNELS, WIDTH, (1, 5), padding=(0, 2)), 9),
}
GROUPS: dict[str, tuple[nn.Conv2d, int]] = {
    "grouped": (_conv2d(padding=1, groups=2), 9),
    "depthwise": (_conv2d(out=CHANNELS, padding=1, groups=CHANNELS, bias=False), 9),
    "depthwise_strided": (_conv2d(out=CHANNELS, padding=1, stride=2, groups=CHANNELS), 9),
    "depthwise_tensorflow_same": (Conv2dSame(CHANNELS, CHANNELS, 5, stride=2, groups=CHANNELS), 10),
    "multiplied_depthwise": (_conv2d(out=2 * CHANNELS, padding=1, groups=CHANNELS), 9),
}
POINT: dict[str, tuple[nn.Conv2d, int]] = {"pointwise": (_conv2d(1), 9), "pointwise_strided": (_conv2d(1, stride=2), 9)}
# As many atoms as there are taps in the largest kernel above.
FULL_ATOMS = {"spatial_atoms": 25, "temporal_atoms": 3}
EXACT: dict[str, Swap] = {
    "full": Swap("full"),
    "full_five_frames": Swap("full", 5),
    "frame": Swap("frame"),
    "reparam": Swap("reparam", 5),
    "reparam_unregularised": Swap("reparam", options={"eta": 1.0, "branches": [3]}),
    "reparam_with_norms": Swap("reparam", options={"norm": True}),
    "stdcf": Swap("stdcf", options=FULL_ATOMS),
    "p3d": Swap("p3d"),
}
exact = pytest.mark.parametrize("swap", EXACT.values(), ids=EXACT.keys())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _frames(side: int) -> Tensor:
    return torch.randn(FRAMES, CHANNELS, side, side + 1)


@exact
@pytest.mark.parametrize(("conv", "side"), [*PICTURES.values(), *GROUPS.values()], ids=[*PICTURES, *GROUPS])
def test_a_unit_gives_every_frame_what_the_convolution_gave_it(conv: nn.Conv2d, side: int, swap: Swap) -> None:
    unit = unit_for(conv, swap, name="layer1.conv")
    assert relative_change(conv, unit, _frames(side)) < 2e-6


@pytest.mark.parametrize("name", ["full", "frame", "reparam"])
@pytest.mark.parametrize(("conv", "side"), POINT.values(), ids=POINT.keys())
def test_a_pointwise_convolution_can_look_over_time(conv: nn.Conv2d, side: int, name: str) -> None:
    assert relative_change(conv, unit_for(conv, EXACT[name], name="conv"), _frames(side)) < 2e-6


@pytest.mark.parametrize(("conv", "side"), GROUPS.values(), ids=GROUPS.keys())
def test_gst_in_whole_groups_starts_as_the_convolution(conv: nn.Conv2d, side: int) -> None:
    unit = unit_for(conv, Swap("gst", options={"alpha": 0.5}), name="conv")
    assert relative_change(conv, unit, _frames(side)) < 2e-6
    assert sum(p.numel() for p in unit.parameters()) == 2 * conv.weight.numel() + (conv.bias is not None) * len(
        conv.weight
    )


@torch.no_grad()
def test_gst_in_groups_is_one_convolution_whose_last_groups_look_over_time() -> None:
    for groups, alpha, over_time in ((4, 0.5, 2), (4, 0.25, 1), (2, 0.5, 1)):
        conv = _conv2d(padding=1, groups=groups)
        unit = unit_for(conv, Swap("gst", options={"alpha": alpha}), name="conv").eval()
        assert isinstance(unit, GroupedGSTConv3d)
        for weight in unit.parameters():
            weight.normal_()
        # The same filters in one 3D kernel: those of the first groups at its middle frame, with zeros beside them.
        spatial = WIDTH - over_time * WIDTH // groups
        kernel = torch.zeros(WIDTH, CHANNELS // groups, 3, 3, 3)
        kernel[:spatial, :, 1] = unit.spatial.weight[:, :, 0]
        kernel[spatial:] = unit.temporal.weight
        bias = torch.cat([unit.spatial.bias, unit.temporal.bias])  # type: ignore[list-item]
        x = torch.randn(2, CHANNELS, FRAMES, 9, 8)
        whole = F.conv3d(x, kernel, bias, padding=1, groups=groups)
        torch.testing.assert_close(unit(x), whole, rtol=1e-5, atol=1e-4)


def test_gst_in_groups_divides_a_3d_kernel_by_what_each_side_sees() -> None:
    conv = lively(_conv3d(3, padding=1, groups=4))
    unit = unit_for(conv, Swap("gst"), name="conv")
    assert isinstance(unit, GroupedGSTConv3d)
    torch.testing.assert_close(unit.temporal.weight, conv.weight[9:])
    torch.testing.assert_close(unit.spatial.weight[:, :, 0], conv.weight[:9].sum(2))
    with pytest.raises(ModelInputError, match="this GST unit has 8 input channels"):
        unit(torch.randn(1, 7, 3, 9, 9))


@pytest.mark.parametrize(("conv", "side"), PICTURES.values(), ids=PICTURES.keys())
def test_gst_keeps_the_slice_that_its_spatial_half_sees(conv: nn.Conv2d, side: int) -> None:
    unit = unit_for(conv, Swap("gst", options={"alpha": 0.25}), name="conv").eval()
    x = _frames(side)
    blind = x.clone()
    blind[:, CHANNELS // 2 :] = 0
    spatial = WIDTH - WIDTH // 4
    found = unit(x.transpose(0, 1)[None])[0].transpose(0, 1)
    torch.testing.assert_close(found[:, :spatial], conv(blind)[:, :spatial], rtol=1e-5, atol=1e-5)
    assert relative_change(conv, unit, x) > 0.1  # the other half is new


@pytest.mark.parametrize(("conv", "side"), PICTURES.values(), ids=PICTURES.keys())
def test_r2plus1d_keeps_the_function_on_what_comes_out_of_a_relu(conv: nn.Conv2d, side: int) -> None:
    unit = unit_for(conv, Swap("r2plus1d"), name="conv")
    assert relative_change(conv, unit, _frames(side).relu()) < 2e-6
    assert relative_change(conv, unit, _frames(side)) > 0.1


@pytest.mark.parametrize(
    "conv",
    [
        _conv3d(3, padding=1, bias=False),
        _conv3d(3, padding=1, stride=(2, 1, 2)),
        _conv3d(3, padding=1, groups=4),
        _conv3d(3, padding="same", dilation=2),
        _conv3d((5, 3, 3), padding=(2, 1, 1), out=CHANNELS, groups=CHANNELS),
    ],
    ids=["plain", "strided", "grouped", "same_dilated", "depthwise"],
)
@pytest.mark.parametrize("name", ["full", "reparam", "stdcf"])
def test_a_kernel_over_time_is_kept(conv: nn.Conv3d, name: str) -> None:
    swap = Swap(name, options={"spatial_atoms": 9, "temporal_atoms": 5} if name == "stdcf" else {})
    assert relative_change(conv, unit_for(conv, swap, name="conv"), torch.randn(2, CHANNELS, 6, 9, 8)) < 2e-6


@pytest.mark.parametrize("name", ["p3d", "frame"])
@pytest.mark.parametrize("groups", [1, 2])
def test_where_a_kernel_over_time_is_summed_a_static_clip_sees_no_difference(name: str, groups: int) -> None:
    conv = _conv3d(3, padding=(1, 1, 1), groups=groups)
    unit = unit_for(conv, Swap(name), name="conv")
    still = torch.randn(1, CHANNELS, 1, 9, 9).expand(-1, -1, FRAMES, -1, -1)
    torch.testing.assert_close(unit(still)[:, :, 1:-1], conv(still)[:, :, 1:-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["full", "reparam", "stdcf", "p3d", "frame"])
@pytest.mark.parametrize("groups", [1, 4])
def test_the_spatial_half_of_a_factored_block_gets_a_time_axis(name: str, groups: int) -> None:
    conv = _conv3d((1, 3, 3), padding=(0, 1, 1), stride=(2, 2, 2), groups=groups)
    unit = unit_for(conv, EXACT[name], name="conv")
    assert relative_change(conv, unit, torch.randn(2, CHANNELS, 5, 8, 8)) < 2e-6


@pytest.mark.parametrize("length", [1, 3, 5])
def test_t_length_is_the_length_over_time_of_a_kernel_that_had_none(length: int) -> None:
    unit = unit_for(_conv2d(padding=1), Swap("gst", length), name="conv")
    assert isinstance(unit, GSTConv3d)
    assert unit.kernel_size == (length, 3, 3)
    kept = unit_for(_conv3d(3, padding=1), Swap("gst", length), name="conv")
    assert isinstance(kept, GSTConv3d)
    assert kept.kernel_size == (3, 3, 3)


@pytest.mark.parametrize("swap", [*EXACT.values(), Swap("gst"), Swap("r2plus1d")], ids=[*EXACT, "gst", "r2plus1d"])
def test_every_parameter_of_a_unit_learns_in_its_mode_dtype_and_place(swap: Swap) -> None:
    conv = _conv2d(padding=1).double().train()
    unit = unit_for(conv, swap, name="conv")
    assert unit.training
    x = torch.randn(2, CHANNELS, FRAMES, 6, 6, dtype=torch.float64)
    unit(x).square().sum().backward()
    assert all(p.grad is not None and p.dtype == torch.float64 for p in unit.parameters())
    assert not any(p is q for p in unit.parameters() for q in conv.parameters())


@pytest.mark.parametrize("name", ["stdcf", "reparam"])
def test_a_unit_in_groups_equals_its_one_convolution(name: str) -> None:
    unit: Any = unit_for(_conv2d(padding=1, groups=2), Swap(name), name="conv").eval()
    x = torch.randn(2, CHANNELS, FRAMES, 6, 6)
    torch.testing.assert_close(unit.to_conv3d()(x), unit(x), rtol=1e-5, atol=1e-5)


def test_the_branches_in_groups_are_normed_one_by_one_in_training() -> None:
    unit = unit_for(_conv2d(padding=1, groups=2, bias=False), Swap("reparam", options={"norm": True}), name="conv")
    assert isinstance(unit, ReparamConv3d)
    x = torch.randn(2, CHANNELS, FRAMES, 6, 6)
    parts = [
        F.batch_norm(F.conv3d(x, branch.filters(), padding=branch.padding, groups=2), None, None, training=True) / 2
        for branch in unit.branches
    ]
    torch.testing.assert_close(unit.train()(x), sum(parts), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_regularised_branches_take_over_the_norm_behind_a_convolution(bias: bool, groups: int) -> None:
    net = lively(nn.Sequential(_conv2d(padding=1, bias=bias, groups=groups), nn.BatchNorm2d(WIDTH, eps=1e-3))).eval()
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm2d)
    for values in (norm.weight, norm.bias, norm.running_mean):
        nn.init.uniform_(values)
    swap = Swap("reparam")
    assert takes_norm(swap)
    assert not takes_norm(Swap("reparam", options={"norm": False}))
    unit = unit_for(net[0], swap, name="conv", norm=norm)
    assert isinstance(unit, ReparamConv3d)
    assert len(unit.last_norms()) == 2
    assert {own.eps for own in unit.last_norms()} == {1e-3}
    assert relative_change(net, unit, _frames(9)) < 2e-6


def test_only_a_batch_norm_with_statistics_and_nothing_else_is_taken_over() -> None:
    assert is_plain_norm(nn.BatchNorm2d(4))
    assert is_plain_norm(nn.BatchNorm3d(4))
    assert not is_plain_norm(nn.BatchNorm2d(4, track_running_stats=False))
    assert not is_plain_norm(nn.BatchNorm2d(4, affine=False))
    assert not is_plain_norm(nn.GroupNorm(2, 4))
    assert not is_plain_norm(BatchNormAct2d(4))  # a ReLU is part of it
    conv = _conv2d(padding=1)
    with pytest.raises(ConfigError, match="conv cannot become a reparam unit: only the regularised branches take over"):
        unit_for(conv, Swap("reparam"), name="conv", norm=BatchNormAct2d(WIDTH))
    with pytest.raises(ConfigError, match="conv cannot become a full unit: only the regularised branches"):
        unit_for(conv, Swap("full"), name="conv", norm=nn.BatchNorm2d(WIDTH))


REFUSED: list[tuple[nn.Conv2d | nn.Conv3d, str, str]] = [
    (GROUPS["grouped"][0], "r2plus1d", r"grouped convolution \(groups=2\) and the r2plus1d unit mixes all channels"),
    (GROUPS["depthwise"][0], "r2plus1d", r"depthwise convolution \(groups=8\)"),
    (_conv2d(1), "gst", "kernel of 1x1, which does not look over space"),
    (_conv2d(1), "stdcf", "does not look over space"),
    (_conv3d((3, 1, 1), padding=(1, 0, 0)), "p3d", "kernel of 3x1x1"),
    (_conv2d(padding=1, padding_mode="circular"), "full", "padding_mode='circular'"),
    (ScaledStdConv2d(CHANNELS, WIDTH, 3), "stdcf", "is a ScaledStdConv2d, which is more than a convolution"),
]


@pytest.mark.parametrize(("conv", "unit", "why"), REFUSED)
def test_a_refusal_is_one_sentence_that_names_the_module(conv: nn.Conv2d | nn.Conv3d, unit: str, why: str) -> None:
    sentence = refusal(conv, unit, name="layer2.0.conv2")
    assert sentence is not None
    assert "\n" not in sentence
    with pytest.raises(ConfigError, match=why) as error:
        unit_for(conv, Swap(unit), name="layer2.0.conv2")
    assert str(error.value) == sentence
    assert sentence.startswith("layer2.0.conv2 ")


def test_a_parametrised_or_hooked_convolution_is_refused() -> None:
    parametrised = nn.utils.parametrizations.weight_norm(_conv2d())
    hooked = _conv2d()
    hooked.register_forward_hook(lambda module, args, output: output * 2)
    for conv in (parametrised, hooked):
        with pytest.raises(ConfigError, match="conv computes its weight or output through a parametrisation or a hook"):
            unit_for(conv, Swap("full"), name="conv")


@pytest.mark.parametrize(
    ("conv", "swap", "why"),
    [
        (_conv2d(), Swap("gts"), "no unit 'gts': did you mean 'gst'"),
        (_conv2d(), Swap("gst", 2), "odd number of frames, got t_length=2 for conv"),
        (_conv2d(), Swap("gst", options={"alfa": 0.5}), "no option 'alfa': did you mean 'alpha'"),
        (_conv2d(), Swap("stdcf", options={"temporal_kernel": 5}), "the length of the kernel is t_length"),
        (
            _conv2d(padding=1, groups=4),
            Swap("gst", options={"alpha": 0.2}),
            "less than one that could look over",
        ),
        (_conv2d(padding=1, groups=4), Swap("gst", options={"alpha": 1}), "GST needs 0 < alpha < 1"),
        (_conv2d(padding=1, groups=4), Swap("gst", options={"beta": 1}), "gst unit in groups has no option 'beta'"),
        (_conv3d(3, padding=0, groups=4), Swap("gst"), "GST needs an odd temporal kernel padded"),
        (_conv2d(), Swap("gst", options={"alpha": 2.0}), "conv cannot become a gst unit: GST needs 0 < alpha < 1"),
        (_conv3d(3, padding=0), Swap("gst"), "conv cannot become a gst unit: GST needs an odd temporal kernel padded"),
        (_conv3d((2, 3, 3)), Swap("p3d"), "conv cannot become a p3d unit: P3D needs an odd temporal kernel"),
        (_conv2d(padding=1, groups=2), Swap("stdcf", options={"mode": "dense"}), "unit in groups has no option 'mode'"),
    ],
)
def test_an_option_that_cannot_be_is_refused(conv: nn.Conv2d, swap: Swap, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        unit_for(conv, swap, name="conv")
