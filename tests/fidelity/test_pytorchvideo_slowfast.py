"""SlowFast against pytorchvideo's: the same weights give the same logits, at the same cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import vidzoo
from fidelity.networks import count_macs, lively
from vidzoo.convert.pytorchvideo.slowfast import from_slowfast, to_slowfast
from vidzoo.errors import WeightsError

hub = pytest.importorskip("pytorchvideo.models.hub")
their_slowfast = pytest.importorskip("pytorchvideo.models.slowfast")


class Pair(NamedTuple):
    """One of their networks and ours; ``frames``: what their head is built for, in the fast pathway."""

    theirs: str
    ours: str
    alpha: int
    frames: int


PAIRS = (
    Pair("slowfast_r50", "slowfast_r50_8x8", alpha=4, frames=32),
    Pair("slowfast_r101", "slowfast_r101_8x8", alpha=4, frames=32),
    Pair("slowfast_16x8_r101_50_50", "slowfast_r101_16x8", alpha=4, frames=64),
    Pair("create_slowfast 4x16", "slowfast_r50_4x16", alpha=8, frames=32),
)
pairs = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.theirs)


def _theirs(pair: Pair) -> nn.Module:
    if hasattr(hub, pair.theirs):
        return getattr(hub, pair.theirs)(pretrained=False).eval()
    # 4x16 has weights but no hub function; alpha and kernel are those of PySlowFast's SLOWFAST_4x16_R50.yaml.
    return their_slowfast.create_slowfast(
        model_depth=50,
        slowfast_fusion_conv_kernel_size=(5, 1, 1),
        slowfast_fusion_conv_stride=(8, 1, 1),
        head_pool_kernel_sizes=((4, 7, 7), (32, 7, 7)),
    ).eval()


def _packed(x: Tensor, alpha: int) -> list[Tensor]:
    """Both inputs of their network, as in the tutorial of torch.hub's page of SlowFast; it changes the list."""
    frames = x.shape[2]
    index = torch.linspace(0, frames - 1, frames // alpha, device="cpu").long()
    return [x.index_select(2, index.to(x.device)), x]


def _cost(net: nn.Module, clip: Tensor | list[Tensor]) -> tuple[int, int]:
    return sum(value.numel() for value in net.parameters()), count_macs(net, clip)


@torch.no_grad()
def _assert_equal_logits(theirs: nn.Module, name: str, alpha: int) -> None:
    frames = 2 * alpha
    pools = [nn.AvgPool3d((length, 2, 2), stride=1) for length in (2, frames)]
    theirs.blocks[5].pool = nn.ModuleList(pools)  # type: ignore[index]
    lively(theirs).double()
    ours = vidzoo.create_model(name, num_classes=400).double().eval()
    ours.load_state_dict(from_slowfast(theirs.state_dict()))
    x = torch.randn(2, 3, frames, 64, 48, dtype=torch.float64)
    expected = theirs(_packed(x, alpha))
    assert expected.std() > 1e-2 * expected.abs().max()  # logits that are all alike would prove nothing
    assert (ours(x) - expected).abs().max() <= 1e-10 * expected.abs().max()


@pairs
def test_their_weights_give_their_logits(pair: Pair) -> None:
    torch.manual_seed(0)
    _assert_equal_logits(_theirs(pair), pair.ours, pair.alpha)


@pairs
def test_keys_and_shapes_become_exactly_ours_and_come_back(pair: Pair) -> None:
    with torch.device("meta"):
        theirs, ours = _theirs(pair).state_dict(), vidzoo.create_model(pair.ours).state_dict()
    converted = from_slowfast(theirs)
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in ours.items()}
    back = to_slowfast(converted)
    assert back.keys() == theirs.keys()
    assert all(back[key] is value for key, value in theirs.items())


@pairs
def test_parameters_and_multiply_adds_are_theirs_at_their_own_size(pair: Pair) -> None:
    with torch.device("meta"):
        x = torch.empty(1, 3, pair.frames, 224, 224)
        expected = _cost(_theirs(pair), _packed(x, pair.alpha))
        assert _cost(vidzoo.create_model(pair.ours), x) == expected


def test_r18_has_two_of_their_bottlenecks_per_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    # Their own depth 18 has one block per stage; two is what PySlowFast calls 18, and what ATFR's figures need.
    monkeypatch.setitem(their_slowfast._MODEL_STAGE_DEPTH, 50, (2, 2, 2, 2))
    torch.manual_seed(0)
    _assert_equal_logits(_theirs(PAIRS[0]), "slowfast_r18_8x8", 4)
    _assert_equal_logits(_theirs(PAIRS[3]), "slowfast_r18_4x16", 8)


@pytest.mark.parametrize(
    ("name", "frames", "size", "classes", "params", "macs"),
    [
        ("slowfast_r50_8x8", 32, 256, 400, 34.57, 65.709),
        ("slowfast_r50_4x16", 32, 256, 400, 34.48, 36.099),
        ("slowfast_r101_8x8", 32, 256, 400, 62.83, 125.906),
        ("slowfast_r101_16x8", 64, 256, 400, 53.77, 213.021),
        ("slowfast_r50_16x8", 64, 256, 400, 34.57, 131.417),
        ("slowfast_r18_8x8", 32, 224, 200, 20.13, 30.938),
        ("slowfast_r18_8x8", 32, 256, 200, 20.13, 40.408),
    ],
)
def test_millions_of_parameters_and_billions_of_multiply_adds(
    name: str, frames: int, size: int, classes: int, params: float, macs: float
) -> None:
    # Parameters as in pytorchvideo's model zoo; 65.7, 36.1, 30.9 and 40.4 GFLOPs as in ATFR's Tables 4, 7 and 8.
    with torch.device("meta"):
        model = vidzoo.create_model(name, num_classes=classes)
        found = _cost(model, torch.empty(1, 3, frames, size, size))
    assert (round(found[0] / 1e6, 2), round(found[1] / 1e9, 3)) == (params, macs)


def _named(names: str, build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return {key: value for key, value in build().state_dict().items() if key.startswith(names)}


@pytest.mark.parametrize(
    "extra",
    [
        "blocks.1.multipathway_blocks.2.res_blocks.0.branch2.conv_a.weight",
        "blocks.1.multipathway_blocks.0.res_blocks.0.branch2.conv_b.conv_t.weight",
        "blocks.4.multipathway_fusion.norm.weight",
        "model.blocks.6.proj.weight",
    ],
)
def test_a_key_of_another_network_of_theirs_is_refused(extra: str) -> None:
    theirs = _named("", lambda: _theirs(PAIRS[0]))
    with pytest.raises(WeightsError, match=extra):
        from_slowfast({**theirs, extra: torch.zeros(1)})


def test_a_single_pathway_and_a_missing_fusion_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"has no 'blocks\.0\.conv\.weight'"):
        from_slowfast(_named("", lambda: hub.slow_r50(pretrained=False)))
    theirs = _named("", lambda: _theirs(PAIRS[0]))
    del theirs["blocks.2.multipathway_fusion.norm.weight"]
    with pytest.raises(WeightsError, match=r"lacks blocks\.2\.multipathway_fusion\.norm\.weight"):
        from_slowfast(theirs)


def test_what_they_have_no_place_for_is_refused_on_the_way_back() -> None:
    ours = _named("", lambda: vidzoo.create_model("slowfast_r18_8x8"))
    with pytest.raises(WeightsError, match=r"no place for 'sampler\.slow\.fc\.weight'"):
        to_slowfast({**ours, "sampler.slow.fc.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"lacks fuse1\.conv\.weight"):
        to_slowfast({key: value for key, value in ours.items() if not key.startswith("fuse1.conv")})
