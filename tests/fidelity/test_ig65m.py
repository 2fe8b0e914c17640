"""R(2+1)D-34 against the network of IG-65M, built from torchvision's layers as moabitcoin/ig65m-pytorch (MIT) builds it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fidelity.networks import lively
from vidzoo.convert.ig65m import from_ig65m
from vidzoo.errors import WeightsError
from vidzoo.loading import load_weights
from vidzoo.models.base import VideoModel
from vidzoo.models.tran import r2plus1d_18, r2plus1d_34

parts = pytest.importorskip("torchvision.models.video.resnet")
EPS = 1e-3  # of Caffe2's norms


def _built() -> nn.Module:
    net = parts.VideoResNet(
        block=parts.BasicBlock,
        conv_makers=[parts.Conv2Plus1D] * 4,
        layers=[3, 4, 6, 3],
        stem=parts.R2Plus1dStem,
        num_classes=7,
    )
    for stage, width in ((net.layer2, 128), (net.layer3, 256), (net.layer4, 512)):
        stage[0].conv2[0] = parts.Conv2Plus1D(width, width, width * 9 // 4)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = EPS
    return net


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    with torch.device("meta"):
        net = _built()
    net = net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
    return lively(net).eval()


@pytest.fixture
def weights(theirs: nn.Module) -> dict[str, Tensor]:
    return theirs.state_dict()


def _loaded(weights: dict[str, Tensor]) -> VideoModel:
    with torch.device("meta"):
        model = r2plus1d_34(num_classes=7)
    load_weights(model, weights, source="IG-65M", assign=True)
    return model.eval()


def _error(model: nn.Module, theirs: nn.Module, x: Tensor) -> float:
    expected = theirs(x)
    assert expected.std() > 1e-2 * expected.abs().max()  # values that are all alike would prove nothing
    return float((model(x) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("shape", [(8, 32, 32), (3, 30, 42)])
@torch.inference_mode()
def test_their_weights_give_their_logits(
    theirs: nn.Module, weights: dict[str, Tensor], shape: tuple[int, int, int]
) -> None:
    assert _error(_loaded(from_ig65m(weights)), theirs, torch.randn(1, 3, *shape)) <= 1e-5


@torch.inference_mode()
def test_without_the_conversion_the_logits_are_others(theirs: nn.Module, weights: dict[str, Tensor]) -> None:
    assert _error(_loaded(weights), theirs, torch.randn(1, 3, 4, 32, 32)) > 1e-3


def test_keys_shapes_and_order_are_theirs() -> None:
    with torch.device("meta"):
        ours, net = r2plus1d_34(num_classes=7).state_dict(), _built().state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [(key, value.shape) for key, value in net.items()]


def test_only_variances_change_and_the_given_ones_stay(weights: dict[str, Tensor]) -> None:
    before = {key: value.clone() for key, value in weights.items() if key.endswith("running_var")}
    converted = from_ig65m(weights)
    assert {key for key, value in converted.items() if value is not weights[key]} == set(before)
    assert all(torch.equal(weights[key], value) for key, value in before.items())


def test_a_network_of_another_depth_or_width_is_refused(weights: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        shallow = r2plus1d_18().state_dict()
        wide = r2plus1d_34(stem_middle=83).state_dict()
    with pytest.raises(WeightsError, match=r"layer2\.0\.conv2"):
        from_ig65m(shallow)
    with pytest.raises(WeightsError, match=r"stem\.0"):
        from_ig65m(wide)
    with pytest.raises(WeightsError, match="not there"):
        from_ig65m({key: value for key, value in weights.items() if not key.startswith("layer2.3.")})
