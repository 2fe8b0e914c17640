"""The strict loader: everything fits, or nothing is loaded and the message names what does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vidzoo.errors import WeightsError
from vidzoo.loading import adapt_input_conv, load_weights


def _net(in_chans: int = 3, classes: int = 4) -> nn.Module:
    net = nn.Sequential()
    net.add_module("stem", nn.Conv3d(in_chans, 2, 1))
    net.add_module("norm", nn.BatchNorm3d(2))
    net.add_module("fc", nn.Linear(2, classes))
    return net


def _weights(**changes: Tensor | None) -> dict[str, Tensor]:
    torch.manual_seed(1)
    weights = {key: value.clone() for key, value in _net().state_dict().items()}
    for key, value in changes.items():
        name = key.replace("__", ".")
        weights.pop(name, None)
        if value is not None:
            weights[name] = value
    return weights


def test_a_fitting_state_dict_is_loaded_whole() -> None:
    net = _net()
    report = load_weights(net, _weights(), source="x")
    assert report.loaded == len(net.state_dict())
    assert report.dropped == report.adapted == ()
    assert all(torch.equal(value, _weights()[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (_weights(norm__running_mean=None), r"1 missing: norm\.running_mean"),
        (_weights(extra__weight=torch.zeros(1)), r"1 unexpected: extra\.weight"),
        (_weights(stem__weight=torch.zeros(2, 3, 3, 3, 3)), r"stem\.weight is \(2, 3, 3, 3, 3\), the model has"),
        (_weights(norm__num_batches_tracked=torch.tensor(1.0)), r"of another kind: norm\.num_batches_tracked"),
        (_weights(stem__bias=torch.full((2,), torch.nan)), r"NaN or infinite values in stem\.bias"),
        ({"a": torch.zeros(1)}, r"9 missing: .*1 unexpected: a"),
    ],
    ids=["missing", "unexpected", "shape", "kind", "nan", "junk"],
)
@pytest.mark.parametrize("drop_head", [False, True])
def test_what_does_not_fit_is_named_and_the_model_stays_as_it_was(
    weights: dict[str, Tensor], message: str, drop_head: bool
) -> None:
    net = _net(classes=7 if drop_head else 4)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    expected = message.replace("9 missing", "7 missing") if drop_head else message
    with pytest.raises(WeightsError, match=expected):
        load_weights(net, weights, source="x", classifier=("fc",), drop_head=drop_head)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_only_the_head_is_dropped_when_asked() -> None:
    net = _net(classes=7)
    head = net.get_submodule("fc").weight.clone()
    report = load_weights(net, _weights(), source="x", classifier=("fc",), drop_head=True)
    assert report.dropped == ("fc.weight", "fc.bias")
    assert torch.equal(net.get_submodule("fc").weight, head)
    assert torch.equal(net.get_submodule("stem").weight, _weights()["stem.weight"])


def test_another_number_of_classes_without_asking_is_an_error() -> None:
    with pytest.raises(WeightsError, match=r"fc\.weight"):
        load_weights(_net(classes=7), _weights(), source="x", classifier=("fc",))


def test_half_precision_weights_take_the_precision_of_the_model() -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in _weights().items()}
    net = _net()
    load_weights(net, half, source="x")
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_a_model_on_the_meta_device_is_filled_by_assignment() -> None:
    with torch.device("meta"):
        net = _net()
    load_weights(net, _weights(), source="x", assign=True)
    assert not any(value.is_meta for value in net.state_dict().values())
    assert torch.equal(net.get_submodule("stem").weight, _weights()["stem.weight"])


@pytest.mark.parametrize("ndim", [3, 4, 5])
@pytest.mark.parametrize("in_chans", [1, 2, 3, 4, 5, 7])
def test_a_gray_clip_in_any_number_of_channels_is_answered_as_the_same_clip_in_rgb(ndim: int, in_chans: int) -> None:
    weight = torch.randn(4, 3, *[3] * (ndim - 2), dtype=torch.float64)
    gray = torch.randn(2, 1, *[5] * (ndim - 2), dtype=torch.float64)
    conv = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[ndim - 3]
    rgb = conv(gray.expand(-1, 3, *[-1] * (ndim - 2)), weight)
    adapted = conv(gray.expand(-1, in_chans, *[-1] * (ndim - 2)), adapt_input_conv(weight, in_chans))
    torch.testing.assert_close(adapted, rgb)


def test_adapting_to_the_same_number_of_channels_changes_nothing() -> None:
    weight = torch.randn(4, 3, 1, 7, 7)
    assert torch.equal(adapt_input_conv(weight, 3), weight)


class _Sized(nn.Module):
    """A layer with one weight per pixel, which it can bring from one number of pixels to another."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(pixels))

    def adapt_weights(self, weights: dict[str, Tensor], prefix: str) -> list[str]:
        key = f"{prefix}weight"
        if key not in weights or weights[key].shape == self.weight.shape:
            return []
        weights[key] = weights[key].mean().expand(len(self.weight))
        return [key]


@pytest.mark.parametrize("where", ["", "block."])
def test_a_layer_whose_weights_belong_to_a_size_adapts_them_in_a_copy(where: str) -> None:
    layer = _Sized(3)
    net = nn.Sequential() if where else layer
    if where:
        net.add_module("block", layer)
    given = {f"{where}weight": torch.tensor([1.0, 3.0])}
    report = load_weights(net, given, source="x")
    assert layer.weight.tolist() == [2, 2, 2]
    assert given[f"{where}weight"].tolist() == [1, 3]
    assert (report.loaded, report.adapted) == (0, (f"{where}weight",))
    assert load_weights(net, {f"{where}weight": torch.arange(3.0)}, source="x").adapted == ()
    assert layer.weight.tolist() == [0, 1, 2]


def test_a_layer_that_adapts_its_weights_still_misses_those_that_are_not_there() -> None:
    with pytest.raises(WeightsError, match="1 missing: weight"):
        load_weights(_Sized(3), {}, source="x")
