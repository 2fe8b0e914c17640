"""One suite over every registered name: the contract of a model, with no exceptions.

Small networks run in full; the others are checked on the meta device, where shapes are exact and nothing is computed.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vidzoo
from vidzoo.models.base import FeatureExtractor, VideoModel
from vidzoo.models.s3d import S3D

ALL = vidzoo.list_models()
# One small variant per family and option runs for real.
SMALL = vidzoo.list_models(
    ["*_r18", "*_r18_*", "*_18", "*_18_*", "*_c3", "x3d_xs", "x3d_s_atfr", "s3d", "gst_mobilenetv2_100"],
    exclude_filters="stdcf_r3d_18",  # of the grafts one is enough
)
CLASSES = 7


def _model(name: str, **options: object) -> VideoModel:
    torch.manual_seed(0)
    model = vidzoo.create_model(name, num_classes=CLASSES, **options)
    assert isinstance(model, VideoModel)
    return model


def _clip(batch: int = 2, frames: int = 4, height: int = 64, width: int = 64, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, frames, height, width)


def _lively(model: VideoModel) -> VideoModel:
    """Batch norms with statistics and scales that make every path count."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.2, 0.2, generator=generator)
    return model


@pytest.mark.parametrize("name", ALL)
@torch.inference_mode()
def test_shapes_features_and_head_agree(name: str) -> None:
    with torch.device("meta"):
        model, x = _model(name).eval(), _clip(2, 5, 96, 80)
    if any(info.adaptive for info in model.feature_info):  # its shapes depend on values, which meta tensors lack
        model, x = _model(name).eval(), _clip(2, 5, 96, 80)
    features = model.forward_features(x)
    assert features.shape[:2] == (2, model.num_features)
    assert model.forward_head(features).shape == model(x).shape == (2, CLASSES)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    final, maps = model.forward_intermediates(x)
    assert final.shape == features.shape == maps[-1].shape
    for found, info in zip(maps, model.feature_info, strict=True):
        batch, channels, frames, *size = found.shape
        assert (batch, channels) == (2, info.num_chs)
        # Rounded up; S3D and ConvNeXt alone drop the last of an odd number, where their weights' own networks do.
        down = (isinstance(model, S3D) or "convnext" in name) and info.reduction == 32
        rounded = [80 // 32 if down else -(-80 // info.reduction)]
        assert size == [-(-96 // info.reduction), *rounded]
        most = -(-5 // info.t_reduction)
        assert 1 <= frames <= most
        assert info.adaptive or frames == most
    assert dict(model.named_modules()).keys() >= {info.module for info in model.feature_info}
    assert all(f"{head}.weight" in model.state_dict() for head in model.pretrained_cfg.classifier)
    for stem in model.pretrained_cfg.first_conv:  # its filters may be atoms and coefficients
        assert any(key.startswith(f"{stem}.") for key in model.state_dict())


@pytest.mark.parametrize("name", ALL)
def test_the_cfg_says_how_the_model_was_built(name: str) -> None:
    with torch.device("meta"):
        model = _model(name, in_chans=1, num_frames=12)
    cfg = model.pretrained_cfg
    assert (cfg.architecture, cfg.num_classes, cfg.in_chans, cfg.num_frames) == (name, CLASSES, 1, 12)
    assert model.in_chans == 1
    assert model.num_classes == CLASSES


@pytest.mark.parametrize("name", ALL)
def test_layers_are_grouped_by_depth_without_gaps(name: str) -> None:
    from timm.models import group_parameters

    with torch.device("meta"):
        model = _model(name)
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert set(groups) == {key for key, _ in model.named_parameters()}
        for stem in model.pretrained_cfg.first_conv:
            assert {group for key, group in groups.items() if key.startswith(f"{stem}.")} == {0}
        assert all(groups[f"{head}.weight"] == max(groups.values()) for head in model.pretrained_cfg.classifier)
        assert sorted(set(groups.values())) == list(range(max(groups.values()) + 1))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (2, 4, 64, 48), (1, 7, 40, 56)])
def test_any_clip_gives_finite_logits(name: str, shape: tuple[int, int, int, int]) -> None:
    logits = _model(name).eval()(_clip(*shape))
    assert logits.shape == (shape[0], CLASSES)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_a_clip_is_answered_alone_as_in_a_batch(name: str) -> None:
    model, x = _lively(_model(name)).eval(), _clip(3, 3, 32, 32)
    together = model(x)
    torch.testing.assert_close(torch.cat([model(clip[None]) for clip in x]), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_the_parts_of_the_forward_pass_make_the_whole(name: str) -> None:
    model, x = _lively(_model(name)).eval(), _clip(1, 4, 32, 32)
    features = model.forward_features(x)
    assert torch.equal(model.forward_head(features), model(x))
    assert torch.equal(model.get_classifier()(model.forward_head(features, pre_logits=True)), model(x))
    final, maps = model.forward_intermediates(x, [0, -1])
    assert torch.equal(final, features)
    assert torch.equal(maps[-1], features)
    early, only = model.forward_intermediates(x, [1], stop_early=True)
    assert torch.equal(early, only[0])


@pytest.mark.parametrize("name", SMALL)
def test_features_only_gives_the_stages_that_feature_info_describes(name: str) -> None:
    whole = _lively(_model(name)).eval()
    x = _clip(1, 4, 64, 48)
    expected = whole.forward_intermediates(x, intermediates_only=True)
    for indices in (None, 2, (0, len(expected) - 1), (-2,)):
        cut = FeatureExtractor(copy.deepcopy(whole), indices).eval()
        maps = cut(x)
        assert len(maps) == len(cut.feature_info)
        for found, info, index in zip(maps, cut.feature_info, cut.indices, strict=True):
            assert torch.equal(found, expected[index])
            assert found.shape[1] == info.num_chs
    kept = sum(p.numel() for p in FeatureExtractor(copy.deepcopy(whole), (1,)).parameters())
    assert kept < 0.3 * sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_nothing(name: str) -> None:
    plain = _lively(_model(name)).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    x = _clip(2, 8, 32, 32)  # eight, of which SlowFast's slow pathway sees two
    results = []
    for model in (plain, saving):
        torch.manual_seed(5)
        logits = model(x)
        logits.square().mean().backward()
        results.append(logits)
    assert torch.equal(*results)
    for (key, one), (_, two) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert one.grad is not None, key
        assert one.grad.isfinite().all(), key
        assert one.grad.abs().sum() > 0, key
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)
    for (key, one), (_, two) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        assert torch.equal(one, two), f"{key}: a block that ran twice moved its statistics twice"


@pytest.mark.parametrize("name", SMALL)
def test_the_classifier_is_reset_in_both_ways(name: str) -> None:
    model, x = _model(name).eval(), _clip(1, 2, 32, 32)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(0)
    assert torch.equal(model(x), pooled)
    assert isinstance(model.get_classifier(), nn.Identity)
    model.double().reset_classifier(3)
    assert model(x.double()).shape == (1, 3)
    assert model.num_classes == 3
    assert not model.get_classifier().training
    assert _model(name, in_chans=1).eval()(x[:, :1]).shape == (1, CLASSES)


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_model_reloads_to_equal_outputs(name: str, tmp_path: Path) -> None:
    from vidzoo.hub import save_pretrained

    model, x = _lively(_model(name, num_frames=6)).eval(), _clip(1, 3, 32, 32)
    save_pretrained(model.to(memory_format=torch.channels_last_3d), tmp_path / "saved")
    again = vidzoo.create_model(f"local-dir:{tmp_path / 'saved'}").eval()
    torch.testing.assert_close(again(x), model(x), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    assert again.pretrained_cfg.replace(sha256="") == model.pretrained_cfg.replace(sha256="")
    assert again.model_args == model.model_args


@pytest.mark.parametrize("name", SMALL)
def test_memory_format_and_half_precision_keep_the_answer(name: str) -> None:
    model, x = _lively(_model(name)).eval(), _clip(1, 4, 32, 32)
    expected = model(x)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(last(x.to(memory_format=torch.channels_last_3d)), expected, rtol=1e-3, atol=1e-4)
    half = model.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    scale = expected.abs().max()
    assert (half.float() - expected).abs().max() < 0.1 * scale + 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_drop_path_and_dropout_only_act_in_training(name: str) -> None:
    residual = {"drop_path_rate": 0.3} if "drop_path_rate" in vidzoo.registry.model_options(name) else {}
    model = _lively(_model(name, drop_rate=0.5, **residual))
    x = _clip(2, 2, 32, 32)
    assert torch.equal(model.eval()(x), model.eval()(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_checkpointing_is_compiled_with_the_network() -> None:
    plain = _lively(_model("gst_r18", drop_rate=0.0)).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    x = _clip(2, 2, 32, 32)
    plain(x).square().mean().backward()
    torch.compile(saving, backend="aot_eager")(x).square().mean().backward()
    for (key, one), (_, two) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5, msg=key)
    for (key, one), (_, two) in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
        torch.testing.assert_close(one, two, msg=key)
