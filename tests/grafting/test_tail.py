"""Where features end and the head begins, in networks of other libraries and of nobody's, against their own outputs."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from pytorchvideo.models.resnet import create_resnet
from pytorchvideo.models.slowfast import create_slowfast
from pytorchvideo.models.x3d import create_x3d
from torch import Tensor, nn
from torchvision import models

from fidelity.networks import lively
from vidzoo.errors import ConfigError
from vidzoo.grafting.adaptive import open_pools
from vidzoo.grafting.tail import Tail, split
from vidzoo.grafting.traced import glue_between, record, twin_of

CLASSES = 7


class Glued(nn.Module):
    """Features without a container, glue between all parts, a head that is two functions and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.left, self.right = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.norm(self.left(x) * torch.sigmoid(self.right(x))))
        return self.fc(x.mean([2, 3]))


class ChannelsLast(nn.Module):
    """A map whose channels come last, and the mean over its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, stride=8)
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Entangled(nn.Module):
    """A head that weighs the map by what another layer says of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weight = x.flatten(2).softmax(dim=2)
        return self.fc((x.flatten(2) * weight).sum(dim=2))


class TwoHeads(nn.Module):
    """Two answers of one map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.two = nn.Linear(8, CLASSES), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x).mean((2, 3))
        return self.one(x), self.two(x)


def _x3d() -> nn.Module:
    return create_x3d(input_clip_length=4, input_crop_size=160, model_num_class=CLASSES, depth_factor=0.5)


PICTURES: dict[str, tuple[Any, str, str, int, int]] = {
    # network, its last map, its classifier, channels of the map, width that the classifier sees
    "timm_resnet18": (lambda: timm.create_model("resnet18", num_classes=CLASSES), "layer4", "fc", 512, 512),
    "resnet18": (lambda: models.resnet18(num_classes=CLASSES), "layer4", "fc", 512, 512),
    "densenet121": (lambda: models.densenet121(num_classes=CLASSES), "features", "classifier", 1024, 1024),
    "mobilenet_v3_small": (
        lambda: models.mobilenet_v3_small(num_classes=CLASSES),
        "features",
        "classifier.3",
        576,
        1024,
    ),
    "mobilenet_v2": (lambda: models.mobilenet_v2(num_classes=CLASSES), "features", "classifier.1", 1280, 1280),
    "swin_t": (lambda: models.swin_t(num_classes=CLASSES), "permute", "head", 768, 768),
    "glued": (Glued, "norm", "fc", 8, 8),
    "channels_last": (ChannelsLast, "norm", "fc", 16, 16),
}
CLIPS: dict[str, tuple[Any, str, str, int, int]] = {
    "r3d_18": (lambda: models.video.r3d_18(num_classes=CLASSES), "layer4", "fc", 512, 512),
    "s3d": (lambda: models.video.s3d(num_classes=CLASSES), "features", "classifier.1", 1024, 1024),
    "x3d": (_x3d, "blocks.5.pool.pre_act", "blocks.5.proj", 432, 2048),
    "slow": (
        lambda: create_resnet(model_depth=50, model_num_class=CLASSES, head_pool_kernel_size=(8, 7, 7)),
        "blocks.4",
        "blocks.5.proj",
        2048,
        2048,
    ),
    "slowfast": (
        lambda: create_slowfast(model_depth=50, model_num_class=CLASSES),
        "blocks.4",
        "blocks.6.proj",
        2304,
        2304,
    ),
}


def _network(build: Any) -> nn.Module:
    torch.manual_seed(0)
    return twin_of(build()).eval()


def _clip(name: str) -> Any:
    clip = torch.randn(1, 3, 16, 64, 64)
    return [clip[:, :, ::4].contiguous(), clip] if name == "slowfast" else clip


def _check(tail: Tail, network: nn.Module, x: Any, expected: Tensor) -> Tensor:
    features = tail.features(network, copy.copy(x))
    logits = tail.run_head(network, features)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    hidden = tail.run_head(network, features, pre_logits=True)
    assert hidden.shape == (features.shape[0], tail.hidden)
    return features


@pytest.mark.parametrize("name", PICTURES)
@torch.no_grad()
def test_the_halves_of_a_picture_network_give_what_the_whole_does(name: str) -> None:
    build, module, classifier, channels, hidden = PICTURES[name]
    network = _network(build)
    tail = split(network, torch.randn(1, 3, 64, 64), name=name)
    assert (tail.map_module, tail.classifier, tail.num_features, tail.hidden) == (module, classifier, channels, hidden)
    x = torch.randn(2, 3, 96, 64)
    features = _check(tail, network, x, network(x))
    assert features.shape[:2] == (2, channels)
    assert features.ndim == 4


@pytest.mark.parametrize("name", CLIPS)
@torch.no_grad()
def test_the_halves_of_a_clip_network_give_what_the_whole_does(name: str) -> None:
    build, module, classifier, channels, hidden = CLIPS[name]
    network, x = _network(build), _clip(name)
    open_pools(network, x)
    tail = split(network, x, name=name)
    assert (tail.map_module, tail.classifier, tail.num_features, tail.hidden) == (module, classifier, channels, hidden)
    expected = network(copy.copy(x))
    logits = tail.run_head(network, tail.features(network, copy.copy(x)))
    found = logits.softmax(dim=1) if name == "x3d" else logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert tail.left_out == (("blocks.5.activation",) if name == "x3d" else ())
    assert tail.pathways is (name == "slowfast")


@torch.no_grad()
def test_a_relu_without_a_module_belongs_to_the_map() -> None:
    tail = split(_network(PICTURES["densenet121"][0]), torch.randn(1, 3, 64, 64))
    assert [step.name for step in tail.behind] == ["relu"]


@torch.no_grad()
def test_a_map_is_caught_on_its_way_where_the_modules_do_not_follow_each_other() -> None:
    network = _network(Glued)
    tail = split(network, torch.randn(1, 3, 32, 32))
    assert tail.front is None
    calls = record(network, torch.randn(1, 3, 32, 32))
    assert "fc" in [call.name for call in calls]
    ran: list[str] = []
    network.fc.register_forward_hook(lambda *_: ran.append("fc"))
    assert tail.features(network, torch.randn(2, 3, 32, 32)).shape == (2, 8, 16, 16)
    assert ran == []  # the head does not run for the features
    assert not network.norm._forward_hooks


@torch.no_grad()
def test_a_tail_holds_for_copies_and_survives_pickling() -> None:
    network = _network(PICTURES["resnet18"][0])
    tail = pickle.loads(pickle.dumps(split(network, torch.randn(1, 3, 64, 64))))
    other = copy.deepcopy(network)
    nn.init.normal_(other.fc.weight)
    x = torch.randn(1, 3, 64, 64)
    _check(tail, other, x, other(x))
    assert not torch.allclose(tail.run_head(network, tail.features(network, x)), other(x))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("test_resnet", "fc"),
        ("test_convnext", "head.fc"),
        ("mobilenetv3_small_050", "classifier"),
    ],
)
def test_an_identity_in_the_place_of_the_classifier_is_one(name: str, classifier: str) -> None:
    network = _network(lambda: timm.create_model(name, num_classes=0))
    x = torch.randn(2, 3, 64, 64)
    tail = split(network, x)
    assert tail.classifier == classifier
    assert tail.hidden == network(x).shape[1]
    torch.testing.assert_close(tail.run_head(network, tail.features(network, x)), network(x))


@torch.no_grad()
def test_a_map_with_its_channels_last_is_turned_and_turned_back_for_a_head_that_takes_it_so() -> None:
    options = {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1), "embed_dim": 24, "num_classes": CLASSES}
    network = _network(lambda: timm.create_model("swin_tiny_patch4_window7_224", **options))
    x = torch.randn(2, 3, 64, 64)
    tail = split(network, x)
    assert tail.num_features == network.num_features == 192
    features = tail.features(network, x)
    assert features.shape == (2, 192, 2, 2)
    torch.testing.assert_close(features, network.forward_features(x).movedim(-1, 1))
    torch.testing.assert_close(tail.run_head(network, features), network(x))


def test_modules_that_have_no_part_in_the_answer_are_found() -> None:
    class Borrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lent = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:  # ``lent`` is not called, but has its part
            return F.conv2d(x, self.lent.weight, self.lent.bias)

    network = nn.Sequential(Borrow(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    assert split(network, torch.randn(1, 3, 16, 16)).idle == ()
    network[0].auxiliary, network[0].spare = nn.Sequential(nn.Conv2d(8, 2, 1)), nn.Conv2d(3, 8, 3)
    network.requires_grad_(False)
    assert split(network, torch.randn(1, 3, 16, 16)).idle == ("0.auxiliary", "0.spare")
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


@torch.no_grad()
def test_a_classifier_that_was_removed_leaves_what_it_saw() -> None:
    network = _network(PICTURES["mobilenet_v3_small"][0])
    tail = split(network, torch.randn(1, 3, 64, 64))
    x = torch.randn(2, 3, 64, 64)
    features = tail.features(network, x)
    hidden = tail.run_head(network, features, pre_logits=True)
    network.classifier[3] = nn.Identity()
    assert torch.equal(tail.run_head(network, features), hidden)


def test_the_split_leaves_the_network_as_it_was() -> None:
    network = lively(models.resnet18(num_classes=CLASSES)).train()
    before = copy.deepcopy(network.state_dict())
    split(network, torch.randn(1, 3, 64, 64))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())
    assert network.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize(
    ("build", "x", "why"),
    [
        (
            Entangled,
            torch.randn(1, 3, 16, 16),
            r"head of mine cannot be followed: .*last map \(stem, \(1, 8, 16, 16\)\)",
        ),
        (
            lambda: models.squeezenet1_1(num_classes=CLASSES),
            torch.randn(1, 3, 64, 64),
            "does not end with a linear layer",
        ),
        (lambda: nn.Conv2d(3, 8, 3), torch.randn(1, 3, 16, 16), "mine ends with a map of shape"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), torch.randn(1, 3, 4, 4), "mine puts out no map"),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", img_size=64),
            torch.randn(1, 3, 64, 64),
            r"mine goes on with tokens, \(1, 17, 192\)",
        ),
        (
            lambda: models.vit_b_32(num_classes=CLASSES),
            torch.randn(1, 3, 64, 64),
            r"mine does not take an example of shape \(1, 3, 64, 64\) \(Wrong image height! Expected 224 but got 64!\)",
        ),
        (TwoHeads, torch.randn(1, 3, 16, 16), "gives more than one tensor"),
    ],
    ids=["entangled", "squeezenet", "no_head", "no_map", "tokens", "other_size", "two_heads"],
)
def test_a_head_that_cannot_be_followed_is_refused(build: Any, x: Tensor, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        split(_network(build), x, name="mine")


def test_glue_is_told_by_numbers() -> None:
    x = torch.randn(2, 4, 3, 5, 5)
    expected: dict[tuple[str, ...], Tensor] = {
        (): x.clone(),
        ("relu",): x.relu(),
        ("flatten",): x.flatten(1),
        ("mean",): x.mean((2, 3, 4), keepdim=True),
        ("mean", "flatten"): x.mean((2, 3, 4)),
        ("relu", "mean", "flatten"): x.relu().mean((2, 3, 4)),
        ("mean over space",): x.mean((3, 4), keepdim=True),
        ("channels last",): x.permute(0, 2, 3, 4, 1),
        ("softmax",): x.softmax(dim=1),
    }
    for names, y in expected.items():
        steps = glue_between(x, y)
        assert steps is not None
        assert tuple(step.name for step in steps) == names
    assert glue_between(x, x + 0.01) is None
    assert glue_between(x, x.amax((2, 3, 4))) is None


def test_a_twin_has_no_branch_that_hides_and_is_the_same_every_time() -> None:
    network = timm.create_model("resnet18", num_classes=CLASSES, zero_init_last=True)
    twins = [twin_of(network).state_dict() for _ in range(2)]
    nn.init.normal_(network.fc.weight)
    twins.append(twin_of(network).state_dict())
    for key, value in twins[0].items():
        assert torch.equal(value, twins[1][key])
        assert torch.equal(value, twins[2][key])
    assert all(bool(value.any()) for key, value in twins[0].items() if "num_batches" not in key)
