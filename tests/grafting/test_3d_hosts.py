"""Networks over clips of pytorchvideo and torchvision, and nobody's, with units and samplers in them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorchvideo.models.csn import create_csn
from pytorchvideo.models.r2plus1d import create_r2plus1d
from pytorchvideo.models.resnet import create_resnet
from pytorchvideo.models.slowfast import create_slowfast
from pytorchvideo.models.x3d import create_x3d
from torch import Tensor, nn
from torchvision import models
from torchvision.models.video import resnet

import vidzoo
from fidelity.networks import lively
from vidzoo.convert.pytorchvideo.x3d import from_x3d
from vidzoo.errors import ConfigError
from vidzoo.grafting import GraftedModel, InsertSGS, InsertShift, SwapConv, Where, graft
from vidzoo.grafting.adaptive import PatientMaxPool3d, Shortened, honour_clips, open_pools
from vidzoo.grafting.backbone import build
from vidzoo.grafting.hosts3d import Host3D, Sampled
from vidzoo.grafting.inflate import PadTime
from vidzoo.grafting.insert import TemporalShift
from vidzoo.grafting.traced import twin_of
from vidzoo.layers import STDCFConv3d
from vidzoo.layers.ragged import lengths_of, plain, with_lengths
from vidzoo.models.base import FeatureExtractor

CLASSES = 5
THIN = {"model_depth": 50, "model_num_class": CLASSES, "stem_dim_out": 8}


def _slowfast() -> nn.Module:
    return create_slowfast(
        model_depth=18, model_num_class=CLASSES, stem_dim_outs=(16, 2), slowfast_fusion_conv_kernel_size=(7, 1, 1)
    )


def _x3d(**options: Any) -> nn.Module:
    given = {"input_clip_length": 4, "input_crop_size": 160, "depth_factor": 0.4, "model_num_class": CLASSES, **options}
    return create_x3d(**given)


def _torchvision(conv: Any, stem: Any) -> nn.Module:
    convs = conv if isinstance(conv, list) else [conv] * 4
    return resnet.VideoResNet(resnet.BasicBlock, convs, [1, 1, 1, 1], stem, num_classes=CLASSES)


_FLAT = [resnet.Conv3DSimple, *[resnet.Conv3DNoTemporal] * 3]
# The libraries' own classes, made thin or shallow; s3d as it is.
HOSTS: dict[str, Any] = {
    "x3d": _x3d,
    "slow": lambda: create_resnet(head_pool_kernel_size=(8, 7, 7), **THIN),
    "r2plus1d": lambda: create_r2plus1d(**THIN),
    "csn": lambda: create_csn(head_pool_kernel_size=(4, 7, 7), stem_pool=nn.MaxPool3d, **THIN),
    "slowfast": _slowfast,
    "r3d": lambda: _torchvision(resnet.Conv3DSimple, resnet.BasicStem),
    "tv_r2plus1d": lambda: _torchvision(resnet.Conv2Plus1D, resnet.R2Plus1dStem),
    "mc3": lambda: _torchvision(_FLAT, resnet.BasicStem),
    "s3d": lambda: models.video.s3d(num_classes=CLASSES),
}
SIDES = {"r3d": 32, "tv_r2plus1d": 32, "mc3": 32}  # their last map has a sixteenth of the picture's side, not a 32nd
hosts = pytest.mark.parametrize("name", HOSTS)
# The wide half of torchvision's networks costs time and shows nothing new.
EARLY = Where(kernels=(3,), stages=(0, 1, 2))
FULL_ATOMS = SwapConv("stdcf", EARLY, options={"spatial_atoms": 9, "temporal_atoms": 3})


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _network(name: str) -> nn.Module:
    return twin_of(HOSTS[name]()).eval()


def _given(name: str, clip: Tensor) -> Any:
    return [clip[:, :, [0, 5, 10, 15]], clip.clone()] if name == "slowfast" else clip


def _clips(name: str = "") -> Tensor:
    """A still picture, and a moving one whose light changes: a sampler leaves them different numbers of frames."""
    side = SIDES.get(name, 64)
    x = torch.randn(2, 3, 16, side, side)
    x[0] = x[0, :, :1]
    x[1] *= torch.linspace(0.2, 4, 16)[torch.randperm(16)][:, None, None]
    return x


def _far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def _learns(model: nn.Module, x: Tensor) -> bool:
    model.train()(x).square().mean().backward()
    return all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@hosts
@torch.no_grad()
def test_a_host_gives_what_its_network_does(name: str) -> None:
    network, clip = _network(name), _clips(name)[1:]
    given = _given(name, clip)
    open_pools(network, given)  # windows of another size than this clip's
    expected = network(copy.copy(given))
    host = Host3D(copy.deepcopy(network), given, name=name)
    logits = host(clip)
    found = logits.softmax(dim=1) if any("probabilities" in warning for warning in host.warnings) else logits
    assert _far(found, expected) < 1e-5
    features = host.features(clip)
    assert features.shape[:2] == (1, host.num_features)
    assert torch.equal(host.classifier(host.head(features, pre_logits=True)), logits)
    assert [info.reduction for info in host.feature_info] == sorted({info.reduction for info in host.feature_info})
    assert host.feature_info[-1].num_chs == host.num_features
    assert not host.training
    assert host(torch.randn(2, 3, 9, 40, 64)).shape == (2, CLASSES)  # another clip than the network was made for


@hosts
@pytest.mark.parametrize("plan", [FULL_ATOMS, SwapConv("reparam", EARLY)], ids=["stdcf", "reparam"])
def test_units_that_can_keep_the_function_of_a_network_over_clips(name: str, plan: SwapConv) -> None:
    network, clip = _network(name), _clips(name)[1:]
    given = _given(name, clip)
    before = Host3D(copy.deepcopy(network), given, name=name)
    model = graft(network, plan, example=given, num_frames=16).eval()
    with torch.no_grad():
        assert _far(model(clip), before(clip)) < 1e-5
    changes = [row.change for row in model.graft_report.rows if row.what == "replaced" and row.change is not None]
    assert changes
    assert max(changes) < 1e-5
    assert _learns(model, _clips(name))


@hosts
def test_a_sampled_clip_is_answered_alone_as_beside_others(name: str) -> None:
    network, clips = _network(name), _clips(name)
    given = _given(name, clips[1:])
    model = graft(network, InsertSGS(), example=given, num_frames=16).eval()
    assert any(info.adaptive for info in model.feature_info)
    samplers = [module for module in model.modules() if type(module).__name__ == "Sampled"]
    assert len(samplers) == (2 if name == "slowfast" else 1)
    counts: list[Any] = []
    samplers[-1].register_forward_hook(lambda _, args, out: counts.append(lengths_of(out)))
    with torch.no_grad():
        together = model(clips)
        assert counts[0] is not None
        assert counts[0][0] != counts[0][1]
        alone = torch.cat([model(clip[None]) for clip in clips])
        assert _far(alone, together) < 1e-5
        longer = torch.cat([model(torch.cat([clip[None], torch.randn_like(clips)]))[:1] for clip in clips])
        assert _far(longer, together) < 1e-5
    assert _learns(model, clips)


@pytest.mark.parametrize("name", ["x3d", "slowfast"])
def test_units_and_a_sampler_in_one_network(name: str) -> None:
    network, clips = _network(name), _clips(name)
    given = _given(name, clips[1:])
    where = Where(kernels=(3,), stages=(-1, -2))
    plans = [InsertSGS(), SwapConv("reparam", where)], [SwapConv("reparam", where), InsertSGS()]
    first, second = (graft(network, plan, example=given, num_frames=16).eval() for plan in plans)
    weights = {key: value for key, value in first.state_dict().items() if "sampler" in key}
    second.load_state_dict(weights, strict=False)
    with torch.no_grad():
        assert _far(first(clips), second(clips)) < 1e-5
        assert _far(torch.cat([first(clip[None]) for clip in clips]), first(clips)) < 1e-5
    assert _learns(first, clips)


@pytest.mark.parametrize("name", ["x3d", "slowfast", "slow"])
@pytest.mark.parametrize("plan", ["sgs", "stdcf"])
def test_a_grafted_network_over_clips_keeps_the_contract_of_a_model(name: str, plan: str) -> None:
    network, clips = _network(name), _clips(name)
    model = graft(network, plan, example=_given(name, clips[1:]), num_frames=16).eval()
    with torch.no_grad():
        features = model.forward_features(clips)
        assert torch.equal(model.forward_head(features), model(clips))
        final, maps = model.forward_intermediates(clips)
        assert torch.equal(plain(final), plain(features))
        cut = FeatureExtractor(copy.deepcopy(model), (0, -1)).eval()
        for found, expected, info in zip(cut(clips), [maps[0], maps[-1]], cut.feature_info, strict=True):
            assert torch.equal(plain(found), plain(expected))
            assert found.shape[1] == info.num_chs
    saving = copy.deepcopy(model)
    saving.set_grad_checkpointing()
    results = []
    for one in (model, saving):
        torch.manual_seed(0)
        one.train()(clips).square().sum().backward()
        results.append({key: p.grad for key, p in one.named_parameters()} | dict(one.named_buffers()))
    for key, value in results[0].items():
        assert value is not None
        torch.testing.assert_close(results[1][key], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()))
    model.eval().reset_classifier(3)
    assert model(clips).shape == (2, 3)


@pytest.mark.parametrize(("source", "plan"), [("pytorchvideo:x3d_xs", "reparam"), ("pytorchvideo:x3d_xs", "sgs")])
def test_a_grafted_network_over_clips_is_saved_and_comes_back(source: str, plan: str, tmp_path: Path) -> None:
    network = twin_of(build(source, num_classes=CLASSES)).eval()
    model = graft(network, plan, num_classes=3, num_frames=16, source=source).eval()
    vidzoo.save_pretrained(model, tmp_path)
    again = vidzoo.create_model(f"local-dir:{tmp_path}").eval()
    x = _clips()
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    assert isinstance(again, GraftedModel)
    assert again.feature_info == model.feature_info


@torch.no_grad()
def test_pytorchvideos_x3d_with_a_sampler_is_the_zoos() -> None:
    theirs = lively(_x3d(input_clip_length=13, depth_factor=2.2)).eval()
    sampled = graft(theirs, InsertSGS(after="blocks.1"), num_frames=13).eval()
    ours = vidzoo.create_model("x3d_s_atfr", num_classes=CLASSES).eval()
    prefix = "host.network.blocks.1.sampler."
    weights = from_x3d(theirs.state_dict()) | {
        f"sampler.{key.removeprefix(prefix)}": value
        for key, value in sampled.state_dict().items()
        if key.startswith(prefix)
    }
    ours.load_state_dict(weights)
    clips = torch.randn(2, 3, 13, 160, 160)
    clips[0] = clips[0, :, :1]
    clips[1] *= torch.linspace(0.2, 4, 13)[torch.randperm(13)][:, None, None]
    expected = ours(clips)
    assert _far(sampled(clips), expected) < 1e-5
    assert ours.forward_features(clips).shape[2] < 13
    assert _far(graft(theirs, "frame", num_frames=13).eval()(clips), expected) > 1e-2  # the sampler does something


def test_a_network_of_the_zoo_takes_units_and_a_sampler() -> None:
    network = twin_of(vidzoo.create_model("resnet3d_18", num_classes=CLASSES)).eval()
    model = graft(network, [FULL_ATOMS, InsertSGS()], num_frames=8).eval()
    assert any(isinstance(module, STDCFConv3d) for module in model.modules())
    clips = _clips()
    with torch.no_grad():
        assert _far(torch.cat([model(clip[None]) for clip in clips]), model(clips)) < 1e-5
        whole = graft(network, FULL_ATOMS, num_frames=8).eval()
        assert _far(whole(clips), network(clips)) < 1e-5


class Skips(nn.Module):
    """A shortcut round two modules that is nobody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv3d(n, 8, 3, padding=1) for n in (3, 8, 8, 8))
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.fc(self.pool(self.d(x + self.c(self.b(x)))).flatten(1))


class MixesTime(nn.Module):
    """A stage that takes the mean over all frames by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, 3, stride=2, padding=1)
        self.inner = nn.Sequential(nn.Conv3d(8, 8, 3, stride=(1, 2, 2), padding=1), nn.InstanceNorm3d(8))
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.inner(self.stem(x))).flatten(1))


@pytest.mark.parametrize(
    ("build_network", "plan", "why"),
    [
        (Skips, "frame", "modules of Skips do not simply follow each other between its input and its last map"),
        (MixesTime, "sgs", "no sampler can stand behind stem of MixesTime: clips of different length met"),
        (lambda: models.video.swin3d_t(num_classes=2), "sgs", "no sampler can stand behind patch_embed.proj of Swin"),
        (_x3d, InsertSGS(after=4), "Net has 5 stages: a sampler stands behind one of 0 to 3, not 4"),
        (_x3d, InsertSGS(after="blocks.9"), "Net has no module 'blocks.9' for a sampler to stand behind: did you mean"),
        (_x3d, InsertSGS(after="blocks.5.proj"), "a sampler stands between the input and the last map"),
        (_x3d, InsertSGS(options={"colour": 1}), "sampler behind blocks.1 does not take these options"),
        (_x3d, [InsertSGS(), InsertSGS()], "Net has a sampler already: a network samples once"),
        (_x3d, SwapConv("r2plus1d", Where(kernels=(3,), stages=(2,))), "depthwise convolution"),
        (lambda: vidzoo.create_model("slowfast_r18_8x8", num_classes=2), "stdcf", "nothing is grafted onto a SlowFast"),
    ],
)
def test_what_a_network_over_clips_cannot_take_is_refused(build_network: Any, plan: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as error:
        graft(build_network(), plan, num_frames=16)
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_opened_windows_are_reported_and_the_same_at_their_own_size() -> None:
    network = lively(_x3d(input_crop_size=64, input_clip_length=8)).eval()
    clip = torch.randn(2, 3, 8, 64, 64)
    expected = network(clip)
    host = Host3D(network, clip[:1], name="x3d")
    assert _far(host(clip).softmax(dim=1), expected) < 1e-5
    assert [warning.split(":")[0] for warning in host.warnings] == ["blocks.5.pool.pool", "blocks.5.activation"]


@torch.no_grad()
def test_a_pool_between_the_stages_keeps_its_window() -> None:
    network = nn.Sequential(nn.AvgPool3d((1, 2, 2)), nn.Conv3d(3, 4, 1), nn.AvgPool3d((2, 5, 5), stride=1))
    notes = open_pools(network, torch.randn(1, 3, 4, 4, 4))
    assert [note.split(":")[0] for note in notes] == ["2"]
    assert isinstance(network[0], nn.AvgPool3d)
    assert network(torch.randn(1, 3, 4, 20, 20)).shape == (1, 4, 1, 1, 1)


@torch.no_grad()
def test_a_pool_over_frames_takes_a_clip_that_is_shorter_than_its_window() -> None:
    pool = PatientMaxPool3d((2, 1, 1))
    x = torch.randn(3, 2, 5, 4, 4)
    torch.testing.assert_close(pool(x), nn.MaxPool3d((2, 1, 1))(x))
    torch.testing.assert_close(pool(x[:, :, :1]), x[:, :, :1])
    lengths = torch.tensor([1, 3, 5])
    pooled = pool(with_lengths(x, lengths))
    assert lengths_of(pooled).tolist() == [1, 1, 2]  # type: ignore[union-attr]
    for i, n in enumerate(lengths):
        alone = pool(x[i : i + 1, :, :n])
        torch.testing.assert_close(pooled.as_subclass(Tensor)[i : i + 1, :, : alone.shape[2]], alone)


@torch.no_grad()
def test_making_room_for_clips_of_different_length_changes_nothing_for_others() -> None:
    for name in ("x3d", "slowfast", "s3d"):
        network, given = _network(name), _given(name, torch.randn(1, 3, 16, 64, 64))
        open_pools(network, given)
        before, keys = network(copy.copy(given)), list(network.state_dict())
        honour_clips(network, given)
        assert list(network.state_dict()) == keys
        assert _far(network(copy.copy(given)), before) < 1e-5


def test_a_classifier_is_replaced_by_a_linear_layer_whatever_it_was() -> None:
    host = Host3D(_network("s3d"), torch.randn(1, 3, 16, 64, 64))
    assert isinstance(host.classifier, nn.Linear)
    host.reset_classifier(2)
    assert host(torch.randn(1, 3, 16, 64, 64)).shape == (1, 2)
    host.reset_classifier(0)
    assert host(torch.randn(1, 3, 16, 64, 64)).shape == (1, host.head_hidden_size) == (1, 1024)


@torch.no_grad()
@pytest.mark.parametrize("layer", [TemporalShift(8, 4), PadTime(2)])
def test_what_moves_frames_minds_the_end_of_each_clip(layer: nn.Module) -> None:
    x, lengths = torch.randn(3, 8, 5, 2, 2), torch.tensor([5, 1, 3])
    found = layer(with_lengths(x, lengths))
    for i, frames in enumerate(lengths):
        alone = layer(x[i : i + 1, :, :frames])
        assert lengths_of(found)[i] == alone.shape[2]  # type: ignore[index]
        assert torch.equal(plain(found)[i : i + 1, :, : alone.shape[2]], alone)
        assert not plain(found)[i, :, alone.shape[2] :].any()


@torch.no_grad()
def test_a_shift_behind_a_sampler_is_answered_alone_as_beside_others() -> None:
    model = graft(_network("r3d"), [InsertSGS(1), InsertShift()]).eval()
    sampled = next(module for module in model.modules() if isinstance(module, Sampled))
    sampled.sampler = Shortened(2)
    clip = torch.randn(1, 3, 16, 64, 64)
    beside = model(torch.cat([torch.randn(1, 3, 16, 64, 64), clip]))[1:]
    assert _far(beside, model(clip)) < 1e-5


def test_what_cannot_follow_a_sampler_is_refused_when_it_is_grafted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TemporalShift, "forward", lambda self, x: x.roll(1, dims=2))
    with pytest.raises(ConfigError, match="behind the sampler of VideoResNet nothing of that kind can stand"):
        graft(_network("r3d"), [InsertSGS(1), InsertShift()])
