"""The report's figures are those of the profiler, its rows those of the layers."""

from __future__ import annotations

import json

import pytest
import torch
from pytorchvideo.models.slowfast import create_slowfast
from torch import nn
from torchvision import models

import vidzoo
from vidzoo.errors import ConfigError
from vidzoo.grafting import graft
from vidzoo.grafting.folded import fold
from vidzoo.grafting.plan import SwapConv
from vidzoo.grafting.report import GraftReport, added, kept, measure, replaced
from vidzoo.grafting.swap import unit_for
from vidzoo.layers.ctm import CTMBlock


def test_costs_of_a_clip_network_are_the_profilers() -> None:
    network = vidzoo.create_model("gst_r18", num_classes=5)
    costs = vidzoo.profile(network, (4, 64, 48))
    assert measure(network, torch.empty(1, 3, 4, 64, 48)) == (costs.params, costs.macs)


def test_costs_of_a_picture_network_are_those_of_all_frames() -> None:
    network = models.resnet18(num_classes=5)
    params, macs = measure(network, torch.empty(8, 3, 64, 64))
    one = measure(network, torch.empty(1, 3, 64, 64))
    assert (params, macs) == (sum(p.numel() for p in network.parameters()), 8 * one[1])
    # The 2D network of the zoo is the same one, run frame by frame.
    assert macs == vidzoo.profile(vidzoo.create_model("c2d_r18", num_classes=5), (8, 64, 64)).macs + 7 * 512 * 5


def test_costs_of_two_pathways_are_those_of_both() -> None:
    network = create_slowfast(model_depth=50, model_num_class=400, head_pool_kernel_sizes=((2, 2, 2), (8, 2, 2)))
    found = measure(network, [torch.empty(1, 3, 2, 64, 64), torch.empty(1, 3, 8, 64, 64)])
    costs = vidzoo.profile("slowfast_r50_8x8", (8, 64, 64))
    assert found == (costs.params, costs.macs)


def test_costs_are_of_one_clip() -> None:
    with pytest.raises(ConfigError, match="costs are those of one clip"):
        measure(models.video.r3d_18(), torch.empty(2, 3, 8, 32, 32))


@pytest.mark.parametrize("plan", ["gst", "ctm", "reparam"])
def test_the_report_of_a_graft_has_the_profilers_figures(plan: str) -> None:
    network = models.resnet18(num_classes=5)
    model = graft(network, plan, num_frames=4)
    report = model.graft_report
    assert report is not None
    before = vidzoo.profile(graft(network, "frame", num_frames=4), report.input_size)
    after = vidzoo.profile(model, report.input_size)
    assert (report.params_before, report.macs_before) == (before.params, before.macs)
    assert (report.params_after, report.macs_after) == (after.params, after.macs)
    changed = [row for row in report.rows if row.what != "kept"]
    assert sum(row.macs_after - row.macs_before for row in changed) == after.macs - before.macs
    # A norm that a unit takes over is in the row of its convolution.
    assert sum(row.params_after - row.params_before for row in changed) == after.params - before.params


def test_a_row_compares_the_layer_before_and_after() -> None:
    conv = nn.Conv2d(8, 12, 3, padding=1, bias=False)
    x = torch.randn(4, 8, 6, 5)
    row = replaced("layer1.conv", conv, unit_for(conv, SwapConv("full"), name="layer1.conv"), x)
    assert (row.name, row.what, row.before, row.after) == ("layer1.conv", "replaced", "Conv2d 3x3", "FullConv3d 3x3x3")
    assert (row.params_before, row.params_after) == (864, 3 * 864)
    assert (row.macs_before, row.macs_after) == (864 * 4 * 30, 3 * 864 * 4 * 30)
    assert row.change is not None
    assert row.change < 1e-6
    gst = replaced("conv", conv, unit_for(conv, SwapConv("gst"), name="conv"), x)
    assert gst.change is not None
    assert 0.1 < gst.change < 10


def test_the_change_of_a_row_is_measured_on_clips_with_their_frames_in_order() -> None:
    conv = nn.Conv3d(4, 4, 3, padding=1)
    clip = torch.randn(1, 4, 5, 6, 6)
    shifted = unit_for(conv, SwapConv("frame"), name="conv")
    with torch.no_grad():
        expected = float((shifted(clip) - conv(clip)).norm() / conv(clip).norm())
    assert replaced("conv", conv, shifted, clip).change == pytest.approx(expected, rel=1e-4)
    flat = nn.Conv2d(4, 4, 3, padding=1)
    over_time = unit_for(flat, SwapConv("gst", options={"alpha": 0.5}), name="conv")
    frames = fold(clip)
    with torch.no_grad():
        expected = float((fold(over_time(clip)) - flat(frames)).norm() / flat(frames).norm())
    assert replaced("conv", flat, over_time, frames).change == pytest.approx(expected, rel=1e-4)


def test_the_report_is_a_table_with_every_layer_and_warning() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    rows = (
        replaced("a", conv, unit_for(conv, SwapConv("stdcf"), name="a"), torch.randn(2, 8, 4, 4)),
        kept("b.conv", nn.Conv2d(8, 8, 1), torch.randn(2, 8, 4, 4), note="does not look over space"),
        added("c", CTMBlock(8, size=(4, 4)), torch.randn(1, 8, 2, 4, 4)),
    )
    report = GraftReport(rows, 1_000, 2_500_000, 5_000_000, 7_250_000, (2, 4, 4), ("windows were opened",), 0.25)
    lines = str(report).splitlines()
    assert len(lines) == 1 + len(rows) + 3
    assert len({line.index("moved by") for line in lines[:1]}) == 1
    assert [line.split()[0] for line in lines[1:4]] == ["a", "b.conv", "c"]
    assert "GroupedSTDCFConv3d 3x3x3 groups 8" in lines[1]
    assert lines[2].endswith("does not look over space")
    assert "kept" in lines[2]
    assert lines[4].split() == ["in", "all", "1,000", "2,500,000", "5.00", "7.25", "2.5e-01"]
    assert lines[5].endswith("for a clip of 2x4x4.")
    assert lines[6] == "Note: windows were opened"
    assert json.loads(json.dumps(report.to_dict()))["rows"][2]["params_after"] == rows[2].params_after > 0
