"""Structure is found by running a network, not from its names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from grafting.networks import CifarResNet, lively, timm_network
from vidzoo.errors import ConfigError
from vidzoo.grafting import Where, find_places, graft


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "convnext_atto"])
def test_stages_are_those_that_the_library_publishes(name: str) -> None:
    network = timm_network(name)
    published = [(info["module"], info["num_chs"], info["reduction"]) for info in network.feature_info]
    found = [(stage.module, stage.channels, stage.reduction) for stage in find_places(network).stages]
    assert found[:-1] == published[:-1]
    assert found[-1][1:] == (network.num_features, published[-1][2])  # the last is what the head gets


def test_a_place_says_what_a_convolution_is_and_where_it_stands() -> None:
    places = {place.name: place for place in find_places(timm_network("mobilenetv2_100"))}
    dw = places["blocks.3.0.conv_dw"]
    assert (dw.kind, dw.kernel, dw.stride, dw.groups, dw.bias) == ("conv2d", (3, 3), (2, 2), 192, False)
    assert (dw.in_shape, dw.out_shape) == ((192, 8, 8), (192, 4, 4))
    assert dw.stage == 3
    assert [place.name for place in places.values() if place.stem] == ["conv_stem"]
    assert {"conv2d", "norm", "block", "linear"} <= {place.kind for place in places.values()}


def test_blocks_are_the_smallest_modules_in_a_row_with_two_layers_or_more() -> None:
    stages = find_places(timm_network("resnet50")).stages
    assert [len(stage.blocks) for stage in stages] == [0, 3, 4, 6, 3]
    assert stages[3].blocks == tuple(f"layer3.{i}" for i in range(6))  # of which CTM takes the 1st, 3rd and 5th
    convnext = find_places(timm_network("convnext_atto")).stages
    assert convnext[2].blocks == tuple(f"stages.2.blocks.{i}" for i in range(6))  # the downsampling is none
    deep = find_places(timm_network("test_resnet")).stages  # three convolutions before the first stage
    assert [stage.blocks for stage in deep] == [(), *((f"layer{i}.0",) for i in (1, 2, 3, 4))]
    assert find_places(timm_network("densenet121")).stages[1].blocks == ("features.denseblock1",)


def test_the_default_place_is_every_odd_kernel_over_space_but_the_stem() -> None:
    from vidzoo.grafting.plan import SPACE

    places = find_places(timm_network("resnet18"))
    chosen = [place.name for place in places.convolutions(Where(kernels=SPACE))]
    assert chosen == [f"layer{s}.{b}.conv{c}" for s in (1, 2, 3, 4) for b in (0, 1) for c in (1, 2)]
    assert [place.name for place in places.convolutions(Where(kernels=(7,), stem=True))] == ["conv1"]
    assert [place.name for place in places.convolutions(Where(stages=(1,), kernels=(3,)))] == chosen[:4]


def test_what_is_found_does_not_depend_on_what_a_network_has_learnt() -> None:
    network = CifarResNet(1)
    fresh = find_places(network, torch.randn(2, 3, 32, 32))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    assert find_places(network, torch.randn(2, 3, 32, 32)) == fresh


def test_names_stay_those_of_the_network_after_something_was_put_in() -> None:
    from vidzoo.grafting import InsertCTM, SwapConv

    network = lively(CifarResNet(2))
    plan = [InsertCTM(after=("layer2.0",), reduction=4), SwapConv("p3d", Where(names=("layer2.0.conv2",)))]
    model = graft(network, plan, example=torch.randn(2, 3, 32, 32))
    assert [row.name for row in model.graft_report.rows] == ["layer2.0 (behind)", "layer2.0.conv2"]
    twice = [SwapConv("p3d", Where(names=("layer2.0.conv2",)))] * 2
    with pytest.raises(ConfigError, match=r"layer2\.0\.conv2"):
        graft(network, twice, example=torch.randn(2, 3, 32, 32))
