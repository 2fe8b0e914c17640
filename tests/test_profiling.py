from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

import vidzoo
from vidzoo.errors import ConfigError, UnknownModelError
from vidzoo.profiling import latency, profile

# Counted by an independent program, one MAC per multiply-add of convolutions and linear layers, 174 classes, 8 x 224 x 224.
COUNTED = {
    "c2d_r18": (11265774, 14508579840),
    "c3d_r18": (33236718, 41329056768),
    "p3d_r50": (27644526, 37629947904),
    "gst_r18": (8519406, 11156020224),
    "gst_r50": (21035246, 28998070272),
    "gst_r50_alpha2": (23864558, 32697446400),
    "gst_r50_alpha8": (19620590, 27148382208),
    "gst_large_r50": (29523182, 40096198656),
}


class ByValue(nn.Module):
    """Runs its convolution only on frames that are bright: the cost depends on the clip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean((0, 1, 3, 4)) > 0
        return self.conv(x[:, :, bright]).mean((2, 3, 4))


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_and_macs_are_exact(name: str) -> None:
    with torch.device("meta"):
        model = vidzoo.create_model(name, num_classes=174)
    found = profile(model, (8, 224, 224))
    assert (found.params, found.macs) == COUNTED[name]
    assert found.input_size == (3, 8, 224, 224)
    assert not found.measured


def test_a_name_is_profiled_at_the_size_of_its_cfg() -> None:
    found = profile("gst_r18")
    assert found.input_size == (3, 8, 224, 224)
    assert found.macs == 11156020224 + 512 * (400 - 174)


def test_twice_the_frames_cost_twice_the_convolutions() -> None:
    model = vidzoo.create_model("c2d_r18", num_classes=0)
    assert profile(model, (16, 32, 32)).macs == 2 * profile(model, (8, 32, 32)).macs


def test_matrix_products_count_once_per_multiply_add() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(0, 2)[0]  # (H, W)
            return rows @ rows.T

    found = profile(Product(), (1, 5, 7))
    assert found.macs == 5 * 7 * 5
    assert found.activations == 5 * 5
    assert found.params == 0


def test_groups_divide_the_macs() -> None:
    sizes = [profile(nn.Conv3d(3, 6, 3, padding=1, groups=groups), (2, 4, 4)).macs for groups in (1, 3)]
    assert sizes == [6 * 3 * 27 * 32, 6 * 27 * 32]


def test_a_cost_that_depends_on_the_clip_is_measured_and_says_so() -> None:
    found = profile(ByValue(), (4, 6, 6))
    assert found.measured
    assert found.macs == 3 * 4 * 4 * 36


def test_profiling_does_not_touch_the_model() -> None:
    model = vidzoo.create_model("c2d_r18", num_classes=3).train()
    model.layer1.eval()
    calls: list[str] = []
    model.register_forward_hook(lambda *_: calls.append("hook"))
    model.fc.register_forward_pre_hook(lambda *_: calls.append("pre-hook"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    profile(model, (2, 32, 32))
    assert calls == []
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_a_size_must_be_known_and_possible() -> None:
    with pytest.raises(ConfigError, match="give input_size"):
        profile(nn.Conv3d(3, 4, 1))
    for size in ((8, 224), (0, 224, 224), (8.0, 224, 224)):
        with pytest.raises(ConfigError, match=r"\(T, H, W\)"):
            profile("gst_r18", size)
    with pytest.raises(UnknownModelError):
        profile("gst_r19")


def test_the_profile_is_plain_json() -> None:
    content = profile(nn.Conv3d(3, 4, 1), (1, 2, 2)).to_dict()
    assert json.loads(json.dumps(content)) == content


def test_latency_is_a_time_and_leaves_everything_as_it_was() -> None:
    model = vidzoo.create_model("c2d_r18", num_classes=3).train()
    threads = torch.get_num_threads()
    strides = model.layer1[0].conv1.weight.stride()
    assert latency(model, (2, 32, 32), runs=2, warmup=1, threads=1, channels_last=True, batch_size=2) > 0
    assert model.training
    assert torch.get_num_threads() == threads
    assert model.layer1[0].conv1.weight.stride() == strides
    assert int(model.bn1.num_batches_tracked) == 0
    with pytest.raises(ConfigError, match="at least 1 run"):
        latency(model, (2, 32, 32), runs=0)
