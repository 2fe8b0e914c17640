"""Networks as their users bring them: modules in two places, frozen, of another precision, without a head."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import vidzoo
from grafting.networks import CifarResNet, frame_by_frame, lively, timm_network
from vidzoo.errors import ConfigError
from vidzoo.grafting import Inflate, InsertCTM, InsertShift, ReplaceHead, SwapConv, Where, graft

EXAMPLE = torch.linspace(-1, 1, 4 * 3 * 32 * 32).sin().reshape(4, 3, 32, 32)


class Headed(nn.Module):
    """A stem, what a subclass puts behind it, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)
        self.conv, self.other = (nn.Conv2d(8, 8, 3, 1, 1, bias=False) for _ in range(2))
        self.one, self.two = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.two(self.other(F.relu(self.one(self.conv(x))))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.body(F.relu(self.stem(x)))).flatten(1))


class OneConvolution(Headed):
    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.two(self.conv(F.relu(self.one(self.conv(x))))))


class OneNorm(Headed):
    def body(self, x: Tensor) -> Tensor:
        return F.relu(self.one(self.other(F.relu(self.one(self.conv(x))))))


class Bypass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.narrow = nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.relu(self.narrow(F.relu(self.norm(x)))) + x


class NormBesideAFunction(Headed):
    def __init__(self) -> None:
        super().__init__()
        self.bypass = Bypass()

    def body(self, x: Tensor) -> Tensor:
        return self.bypass(x)


class InContainers(Headed):
    def __init__(self) -> None:
        super().__init__()
        self.after = nn.Sequential(nn.Sequential(self.one, nn.ReLU(inplace=True)))

    def body(self, x: Tensor) -> Tensor:
        return self.after(self.conv(x))


def _clip(batch: int = 2, frames: int = 4, side: int = 32) -> Tensor:
    return torch.randn(batch, 3, frames, side, side)


@pytest.mark.parametrize(
    ("kind", "taken"),
    [(Headed, 2), (OneConvolution, 0), (OneNorm, 0), (NormBesideAFunction, 0), (InContainers, 1)],
)
def test_a_unit_takes_over_a_norm_only_where_all_of_the_convolution_goes_there_and_nothing_else(
    kind: type[nn.Module], taken: int
) -> None:
    network = lively(kind()).eval()
    model = graft(network, "reparam", example=EXAMPLE).eval()
    x = _clip()
    torch.testing.assert_close(model(x), frame_by_frame(network, x).mean(dim=1), rtol=1e-4, atol=1e-5)
    assert sum("is part of it" in row.note for row in model.graft_report.rows) == taken


@pytest.mark.parametrize("plan", ["inflate", "gst", InsertShift(Where(names=("first.0",)))])
def test_a_convolution_that_stands_in_two_places_is_exchanged_in_both(plan: object) -> None:
    class Twice(Headed):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(self.conv, nn.ReLU())
            self.second = nn.Sequential(self.conv, nn.ReLU())
            del self.conv

        def body(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    model = graft(lively(Twice()), plan, example=EXAMPLE)
    network = model.host.network
    assert network.first[0] is network.second[0]
    assert not isinstance(network.second[0], nn.Conv2d)
    again = copy.deepcopy(model).eval()
    x = _clip()
    assert torch.equal(again(x), model.eval()(x))


def test_what_was_frozen_stays_frozen_and_what_is_grafted_learns() -> None:
    network = timm_network("test_resnet").requires_grad_(False)
    for plan, grafted in (("frame", 0), ("ctm", 18), ("gst", 18)):
        model = graft(network, plan)
        learn = [name for name, p in model.named_parameters() if p.requires_grad]
        assert len(learn) == grafted
        assert all(".after." in name or ".layer." in name for name in learn)
    convolution = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1), nn.Flatten()
    )
    frozen = graft(convolution.requires_grad_(False), "frame", example=EXAMPLE)
    assert not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("plan", ["inflate", "ctm", "reparam"])
def test_a_backbone_keeps_its_precision(plan: str, dtype: torch.dtype) -> None:
    network = timm_network("test_resnet").to(dtype)
    model = graft(network, plan).eval()
    assert {p.dtype for p in model.parameters()} == {dtype}
    x = _clip(1, 3, 64).to(dtype)
    expected = frame_by_frame(network, x).mean(dim=1)
    assert model(x).dtype == dtype
    assert (model(x) - expected).abs().max() < 30 * torch.finfo(dtype).eps * expected.abs().max()


def test_a_clip_network_keeps_its_precision() -> None:
    blocks = torchvision.models.video.resnet
    network = blocks.VideoResNet(blocks.BasicBlock, [blocks.Conv3DSimple] * 4, [1] * 4, blocks.BasicStem, num_classes=5)
    x = _clip(1, 8, 32)
    expected = lively(network).eval()(x)
    plan = [InsertCTM(), SwapConv("reparam", Where(names=("layer3.*.conv1.0",)))]
    model = graft(copy.deepcopy(network).bfloat16(), plan, example=_clip(1, 8, 32)).eval()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert (model(x.bfloat16()).float() - expected).abs().max() < 0.05 * expected.abs().max()
    sampling = graft(network.double(), "sgs", example=_clip(1, 8, 32).double()).eval()
    assert sampling(x.double()).dtype == torch.float64


def test_a_backbone_without_a_classifier_gives_its_features_until_it_gets_one() -> None:
    network = timm_network("test_resnet", num_classes=0)
    model = graft(network, "ctm").eval()
    x = _clip(2, 3, 64)
    torch.testing.assert_close(model(x), frame_by_frame(network, x).mean(dim=1), rtol=1e-4, atol=1e-5)
    assert (model.num_classes, model.num_features) == (0, 96)
    assert graft(network, [InsertCTM(), ReplaceHead(4)])(x).shape == (2, 4)
    other = torchvision.models.resnet18()
    other.fc = nn.Identity()
    assert graft(other, "gst", num_classes=3)(x).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "options", "maps"),
    [
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1), "embed_dim": 24},
            [(24, 4), (48, 8), (96, 16), (192, 32)],
        ),
        ("test_mambaout", {}, [(16, 4), (32, 8), (48, 16), (64, 32)]),
        ("pvt_v2_b0", {}, [(32, 4), (64, 8), (160, 16), (256, 32)]),
    ],
)
def test_maps_are_those_of_the_library_wherever_their_channels_stand(
    name: str, options: dict[str, object], maps: list[tuple[int, int]]
) -> None:
    network = timm_network(name, **options)
    model = graft(network, "frame", example=torch.randn(4, 3, 64, 64)).eval()
    assert [(info.num_chs, info.reduction) for info in model.feature_info] == maps
    x = _clip(1, 3, 64)
    final, found = model.forward_intermediates(x)
    for one, (channels, reduction) in zip(found, maps, strict=True):
        assert one.shape == (1, channels, 3, 64 // reduction, 64 // reduction)
    assert torch.equal(final, found[-1])
    torch.testing.assert_close(model(x), frame_by_frame(network, x).mean(dim=1), rtol=1e-4, atol=1e-5)


def test_threads_that_share_a_model_run_clips_of_different_length() -> None:
    model = graft(lively(CifarResNet(1)), "inflate", example=EXAMPLE).eval()
    clips = _clip(2, 4), _clip(4, 2)
    expected = [model(x) for x in clips]
    meet = threading.Barrier(2)

    def wait(*_: object) -> None:
        meet.wait(timeout=60)

    model.host.network.conv1.register_forward_hook(wait)
    found: dict[int, Tensor] = {}

    def answer(index: int) -> None:
        found[index] = model(clips[index])

    threads = [threading.Thread(target=answer, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, logits in enumerate(expected):
        torch.testing.assert_close(found[index], logits)


def test_heads_that_only_training_uses_are_told() -> None:
    network = torchvision.models.googlenet(num_classes=5, init_weights=False)
    warnings = graft(network, "ctm").graft_report.warnings
    assert any(warning.startswith("aux1, aux2: has no part in the answer") for warning in warnings)


def test_a_pattern_that_matches_nothing_is_told_and_a_stage_that_there_is_not_is_refused() -> None:
    network = timm_network("test_resnet")
    where = Where(names=("layer1.*", "layer9.*"), exclude=("fc9",))
    warnings = graft(network, [Inflate(t_lengths=3, where=where), SwapConv("gst")]).graft_report.warnings
    assert [warning.split(" in the plan")[0] for warning in warnings] == ["'layer9.*'", "'fc9'"]
    with pytest.raises(ConfigError, match="stages 0 to 4, there is no stage 9"):
        graft(network, SwapConv("gst", Where(stages=(1, 9))))
    with pytest.raises(ConfigError, match="9 layers that this plan exchanged before"):
        graft(network, [SwapConv("gst"), SwapConv("stdcf")])


@pytest.mark.parametrize(
    ("backbone", "options", "why"),
    [
        (None, {}, "a backbone is a network or a source such as timm:resnet50, got None"),
        (timm.models.resnet18, {}, "a backbone is a network or a source"),
        ("net", {"num_classes": "5"}, "num_classes"),
        ("net", {"num_classes": -1}, "num_classes"),
        ("net", {"example": torch.zeros(1, 5, 64, 64)}, r"does not take its example \(.*5 channels"),
        ("net", {"example": "clip"}, "an example is a tensor, or a list of one for each pathway, got str"),
        (
            "net",
            {"source": "timm:resnet10t"},
            "timm:resnet10t builds another network than the one that is to be grafted",
        ),
        ("grafted", {}, "this model is grafted already"),
        ("meta", {}, "meta device"),
    ],
)
def test_what_is_no_backbone_is_refused_in_a_sentence(backbone: Any, options: dict[str, Any], why: str) -> None:
    network = timm.create_model("test_resnet", num_classes=3)
    with torch.device("meta"):
        shadow = timm.create_model("test_resnet")
    if isinstance(backbone, str):
        backbone = {"net": network, "meta": shadow}.get(backbone) or graft(network, "frame")
    with pytest.raises(ConfigError, match=why) as error:
        graft(backbone, "inflate", **options)
    assert "\n" not in str(error.value)


def test_a_network_with_a_hook_is_grafted_and_has_no_source() -> None:
    network = timm.create_model("test_resnet", num_classes=3)
    network.layer1.register_forward_hook(lambda module, args, output: output * 2)
    assert graft(network, "inflate").model_args["backbone"] == ""
    assert (
        graft(timm.create_model("test_resnet", num_classes=3), "inflate").model_args["backbone"] == "timm:test_resnet"
    )


@pytest.mark.parametrize("head", [nn.Identity(), nn.Linear(512, 7, bias=False)])
def test_another_classifier_does_not_make_it_another_network(head: nn.Module, tmp_path: Path) -> None:
    network = torchvision.models.resnet18()
    network.fc = head
    model = graft(network, "ctm", num_classes=3, source="torchvision:resnet18").eval()
    vidzoo.save_pretrained(model, tmp_path)
    again = vidzoo.create_model(f"local-dir:{tmp_path}").eval()
    clip = torch.randn(1, 3, 2, 64, 64)
    assert torch.equal(again(clip), model(clip))
