"""A grafted model keeps the contract of every model of the zoo."""

from __future__ import annotations

import copy
import io
import pickle
import re

import pytest
import torch
from timm.models import group_parameters
from torch import Tensor, nn

import vidzoo
from grafting.networks import CifarResNet, frame_by_frame, lively, timm_network
from vidzoo.errors import ConfigError, ModelInputError
from vidzoo.grafting import GraftedModel, Inflate, InsertCTM, ReplaceHead, SwapConv, Where, graft
from vidzoo.models.base import FeatureExtractor

EXAMPLE = torch.linspace(-1, 1, 4 * 3 * 32 * 32).sin().reshape(4, 3, 32, 32)
PLAN = [SwapConv("stdcf", Where(stages=(1,), kernels=(3,))), InsertCTM(after=("layer3.1",), reduction=4)]


def _small(**options: object) -> GraftedModel:
    torch.manual_seed(0)
    return lively(graft(lively(CifarResNet(2)), PLAN, num_classes=7, example=EXAMPLE, **options))


def _clip(batch: int = 2, frames: int = 4, side: int = 32) -> Tensor:
    return torch.randn(batch, 3, frames, side, side)


def test_the_parts_of_the_forward_pass_make_the_whole() -> None:
    model, x = _small().eval(), _clip()
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 4, 8, 8)
    assert model.forward_head(features).shape == model(x).shape == (2, 7)
    assert torch.equal(model.forward_head(features), model(x))
    assert torch.equal(model.get_classifier()(model.forward_head(features, pre_logits=True)), model(x))
    final, maps = model.forward_intermediates(x)
    assert torch.equal(final, features)
    assert torch.equal(maps[-1], features)
    for found, info in zip(maps, model.feature_info, strict=True):
        assert found.shape == (2, info.num_chs, 4, 32 // info.reduction, 32 // info.reduction)
    early, only = model.forward_intermediates(x, [0], stop_early=True)
    assert torch.equal(early, only[0])


@pytest.mark.parametrize("name", ["test_efficientnet", "test_byobnet"])
def test_features_only_gives_the_maps_of_the_stages(name: str) -> None:
    model = graft(timm_network(name), "ctm").eval()
    x = _clip(1, 3, 64)
    expected = model.forward_intermediates(x, intermediates_only=True)
    cut = FeatureExtractor(copy.deepcopy(model), (0, 2)).eval()
    maps = cut(x)
    assert [torch.equal(found, expected[index]) for found, index in zip(maps, (0, 2), strict=True)] == [True, True]
    assert sum(p.numel() for p in cut.parameters()) < 0.3 * sum(p.numel() for p in model.parameters())


def test_any_clip_is_answered_alone_as_in_a_batch() -> None:
    model = _small().eval()
    x = _clip(3, 5)
    torch.testing.assert_close(torch.cat([model(clip[None]) for clip in x]), model(x), rtol=1e-4, atol=1e-5)
    for frames, side in ((1, 32), (7, 40)):
        assert model(_clip(1, frames, side)).isfinite().all()
    with pytest.raises(ModelInputError, match="clips"):
        model(x[:, :, 0])


@pytest.mark.parametrize("host", ["cifar", "test_convnext"])
def test_checkpointing_gives_the_same_gradients_and_moves_statistics_once(host: str) -> None:
    plain = (_small() if host == "cifar" else graft(timm_network(host), "reparam", num_classes=7)).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    assert any(len(row) > 1 for row in saving._rows.values())  # block by block
    clips = _clip(2, 4, 64), _clip(2, 2, 64)
    for model in (plain, saving):
        # Two lengths before the backward pass: a block that runs again must remember its own.
        torch.manual_seed(5)
        sum(model(x).square().mean() for x in clips).backward()
    for (key, one), (_, two) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert one.grad is not None, key
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6, msg=key)
    for (key, one), (_, two) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        assert torch.equal(one, two), key


def test_checkpointing_minds_blocks_that_change_their_input_in_place() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.SiLU(inplace=True)
            self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(self.relu(x)))

    stem = nn.Conv2d(3, 8, 3, padding=1)
    network = nn.Sequential(stem, Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    plain = graft(network, "inflate", example=EXAMPLE).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    x = _clip()
    for model in (plain, saving):
        model(x).square().mean().backward()
    for one, two in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_copies_and_pickles_answer_alike_and_count_their_own_frames() -> None:
    model, x = _small().eval(), _clip()
    expected = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert again.host.count is not model.host.count
        again(_clip(1, 3))
        assert model.host.count.frames == 4
        assert torch.equal(again(x), expected)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_the_whole_is_traced_by_the_compiler(name: str) -> None:
    model = graft(timm_network(name), "p3d", num_classes=7).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for frames in (3, 4):
        x = _clip(2, frames, 64)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


def test_checkpointing_is_compiled_with_the_network() -> None:
    plain = _small().train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    x = _clip()
    plain(x).square().mean().backward()
    torch.compiler.reset()  # sizes that earlier tests changed count as unknown, which torch's own resizing cannot derive
    torch.compile(saving, backend="aot_eager", dynamic=False)(x).square().mean().backward()
    for (key, one), (_, two) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5, msg=key)


def test_channels_last_and_half_precision_keep_the_answer() -> None:
    model, x = _small().eval(), _clip()
    expected = model(x)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last_3d)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    assert all(p.is_contiguous(memory_format=formats[p.ndim]) for p in last.parameters() if p.ndim in formats)
    torch.testing.assert_close(last(x.to(memory_format=torch.channels_last_3d)), expected, rtol=1e-4, atol=1e-5)
    half = model.to(torch.bfloat16)(x.bfloat16())
    assert (half.float() - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_classifier_is_reset_and_removed() -> None:
    model, x = _small().eval(), _clip()
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)
    model.double().reset_classifier(3)
    assert model(x.double()).shape == (2, 3)
    assert model.num_classes == 3


def test_the_backbones_classifier_is_kept_until_another_is_asked_for() -> None:
    network = lively(CifarResNet(1)).eval()
    model = graft(network, "frame", example=EXAMPLE)
    assert model.num_classes == 10
    assert torch.equal(model.fc.weight, network.linear.weight)
    assert not any(key.startswith("host.network.linear") for key in model.state_dict())
    assert graft(network, ReplaceHead(4), example=EXAMPLE).num_classes == 4
    assert graft(network, ReplaceHead(4), num_classes=6, example=EXAMPLE).num_classes == 6
    assert isinstance(graft(network, "frame", num_classes=0, example=EXAMPLE).fc, nn.Identity)


def test_a_convolution_as_classifier_becomes_the_linear_layer_that_it_is() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1), nn.Flatten()
    )
    model = graft(network, "frame", example=EXAMPLE)
    x = _clip()
    torch.testing.assert_close(model(x), frame_by_frame(network, x).mean(dim=1))
    assert isinstance(model.fc, nn.Linear)


def test_dropout_acts_on_each_frame_or_on_the_clip_and_only_in_training() -> None:
    network = lively(CifarResNet(1))
    x = _clip(1, 4).expand(1, 3, 4, 32, 32)
    for consensus, kinds in (("logits", 5), ("features", 2)):
        model = graft(network, ReplaceHead(0, consensus, 0.5), example=EXAMPLE)
        assert torch.equal(model.eval()(x), model(x))
        plain = model(x)
        model.host.network.requires_grad_(False)
        for norm in (m for m in model.train().modules() if isinstance(m, nn.BatchNorm2d)):
            norm.eval()
        shares = torch.cat([model(x) / plain for _ in range(50)])[:, plain[0].abs() > 1e-3]
        # Of four frames 0 to 4 are left, each doubled; of one mean all or nothing, when the frames are alike.
        still = x[:, :, :1].expand(1, 3, 4, 32, 32)
        alike = torch.cat([model(still) for _ in range(50)]) / model.eval()(still)
        found = alike[:, plain[0].abs() > 1e-3].mul(2).round().unique()
        assert len(found) == kinds
        assert shares.std() > 0.1


@pytest.mark.parametrize(
    ("name", "plan", "stages"), [("", "", 3), ("test_efficientnet", "reparam", 5), ("test_resnet", "ctm", 4)]
)
def test_layers_are_grouped_by_depth_and_the_stem_comes_first(name: str, plan: str, stages: int) -> None:
    model = graft(timm_network(name), plan) if name else _small()
    counts = []
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert set(groups) == {key for key, _ in model.named_parameters()}
        assert sorted(set(groups.values())) == list(range(max(groups.values()) + 1))
        (stem,) = model.pretrained_cfg.first_conv
        assert groups[f"{stem}.weight"] == 0
        assert [key for key, group in groups.items() if group == max(groups.values())] == ["fc.weight", "fc.bias"]
        counts.append(len(set(groups.values())))
    assert counts[1] == 1 + stages + 1 <= counts[0]  # the stem, the stages that have more than it, the head


def test_no_weight_decay_is_what_the_backbone_says() -> None:
    class Careful(CifarResNet):
        def no_weight_decay(self) -> set[str]:
            return {"conv1.weight", "not.there"}

    assert graft(lively(Careful(1)), "frame", example=EXAMPLE).no_weight_decay() == {"host.network.conv1.weight"}
    assert _small().no_weight_decay() == set()


def test_the_profile_counts_every_frame_and_what_was_grafted() -> None:
    network = timm_network("resnet18")
    plain = vidzoo.profile(graft(network, "frame"), (4, 64, 64))
    report = graft(network, "gst").graft_report
    grafted = vidzoo.profile(graft(network, "gst"), (4, 64, 64))
    assert (report.params_before, report.params_after) == (plain.params, grafted.params)
    assert (report.macs_before, report.macs_after) == (plain.macs, grafted.macs)
    # 3/4 of a GST ResNet-18's 3x3 parameters are left (GST, Table 1, alpha 1/4, beta 1/2).
    convs = sum(p.numel() for key, p in network.named_parameters() if re.search(r"layer.*conv", key))
    assert plain.params - grafted.params == convs // 4
    assert "layer4.1.conv2" in str(report)


def test_the_cfg_says_how_the_backbone_wants_its_pictures() -> None:
    network = timm_network("test_efficientnet")
    network.pretrained_cfg |= {"mean": (0.5, 0.5, 0.5), "input_size": (3, 160, 128), "crop_pct": 0.8}
    cfg = graft(network, "ctm", num_classes=3, num_frames=12).pretrained_cfg
    assert (cfg.mean, cfg.crop_size, cfg.short_side, cfg.num_frames) == ((0.5, 0.5, 0.5), (160, 128), 160, 12)
    assert (cfg.architecture, cfg.num_classes, cfg.in_chans, cfg.is_classifier) == ("graft", 3, 3, False)
    assert cfg.first_conv == ("host.network.conv_stem",)


def test_the_tables_of_ctm_have_the_size_of_the_backbones_maps() -> None:
    tables = [value for key, value in graft(timm_network("test_resnet"), "ctm").named_parameters() if value.ndim == 3]
    assert [tuple(table.shape) for table in tables] == [(9, 10, 10)]
    wide = graft(timm_network("test_resnet"), InsertCTM(img_size=(96, 130)))
    assert [tuple(value.shape) for value in wide.parameters() if value.ndim == 3] == [(9, 6, 9)]


def test_a_sampler_of_ones_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="InsertSGS"):
        _small().add_sampler(nn.Identity(), after="host.network.layer1")


def test_gray_clips_need_a_gray_backbone() -> None:
    model = vidzoo.create_model("graft", backbone="timm:test_resnet", plan="inflate", in_chans=1, num_classes=5).eval()
    assert model(torch.randn(1, 1, 2, 64, 64)).shape == (1, 5)
    assert model.in_chans == model.pretrained_cfg.in_chans == 1


def test_warnings_tell_what_is_left_out() -> None:
    network = timm_network("test_resnet", drop_rate=0.25)
    assert any("drop_rate=0.25" in warning for warning in graft(network, "ctm").graft_report.warnings)
    assert (
        graft(timm_network("test_resnet"), Inflate(t_lengths=3, where=Where(kernels=(3,)))).graft_report.warnings == ()
    )
