"""The single-pathway ResNets against pytorchvideo's: the same weights give the same logits, at the same cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import vidzoo
from fidelity.networks import lively
from vidzoo.convert.pytorchvideo.resnet import from_resnet, to_resnet
from vidzoo.errors import WeightsError

hub = pytest.importorskip("pytorchvideo.models.hub")
their_resnet = pytest.importorskip("pytorchvideo.models.resnet")


class Pair(NamedTuple):
    """One of their networks and ours; ``frames`` is what their head is built for, ``left`` what the last map has of 8."""

    theirs: str
    ours: str
    frames: int
    left: int
    pool: bool


PAIRS = (
    Pair("slow_r50", "slow_r50", frames=8, left=8, pool=False),
    Pair("i3d_r50", "i3d_3x1x1_r50", frames=8, left=4, pool=True),
    Pair("c2d_r50", "c2d_pool_r50", frames=8, left=4, pool=True),
    Pair("r2plus1d_r50", "r2plus1d_r50", frames=16, left=2, pool=False),
)
pairs = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.theirs)


def _theirs(name: str, **options: Any) -> nn.Module:
    net = getattr(hub, name)(pretrained=False, **options).eval()
    net.blocks[-1].activation = None  # r2plus1d_r50 ends with a softmax, the others have nothing there
    return net


def _cost(build: Callable[[], nn.Module], frames: int, size: int) -> tuple[int, int]:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = build().eval()
        net(torch.empty(1, 3, frames, size, size))
    return sum(value.numel() for value in net.parameters()), counter.get_total_flops() // 2


@pairs
@torch.no_grad()
def test_their_weights_give_their_logits(pair: Pair) -> None:
    options: dict[str, Any] = {"model_num_class": 7}
    if pair.theirs != "slow_r50":  # its hub function fixes the kernel of its head itself
        options["head_pool_kernel_size"] = (pair.left, 2, 2)
    theirs = lively(_theirs(pair.theirs, **options)).double()
    if pair.theirs == "slow_r50":
        theirs.blocks[-1].pool = nn.AvgPool3d((pair.left, 2, 2), stride=1)
    ours = vidzoo.create_model(pair.ours, num_classes=7).double().eval()
    ours.load_state_dict(from_resnet(theirs.state_dict()))
    x = torch.randn(2, 3, 8, 64, 48, dtype=torch.float64)
    expected = theirs(x)
    assert expected.std() > 1e-2 * expected.abs().max()  # logits that are all alike would prove nothing
    assert (ours(x) - expected).abs().max() <= 1e-10 * expected.abs().max()


@pairs
def test_keys_and_shapes_become_exactly_ours_and_come_back(pair: Pair) -> None:
    with torch.device("meta"):
        theirs = _theirs(pair.theirs).state_dict()
        ours = vidzoo.create_model(pair.ours).state_dict()
    converted = from_resnet(theirs)
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in ours.items()}
    back = to_resnet(converted, temporal_pool=pair.pool)
    assert back.keys() == theirs.keys()
    assert all(back[key] is value for key, value in theirs.items())


@pairs
def test_parameters_and_multiply_adds_are_theirs_at_their_own_size(pair: Pair) -> None:
    expected = _cost(lambda: _theirs(pair.theirs), pair.frames, 224)
    assert _cost(lambda: vidzoo.create_model(pair.ours), pair.frames, 224) == expected


@pytest.mark.parametrize("family", ["slow", "i3d_3x1x1", "c2d_pool"])
def test_r18_has_two_of_their_bottlenecks_per_stage(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Their builder knows the depths 50 and more; two blocks per stage is what PySlowFast calls 18.
    monkeypatch.setitem(their_resnet._MODEL_STAGE_DEPTH, 50, (2, 2, 2, 2))
    pair = next(pair for pair in PAIRS if pair.ours == f"{family}_r50")
    expected = _cost(lambda: _theirs(pair.theirs), 8, 224)
    assert _cost(lambda: vidzoo.create_model(f"{family}_r18"), 8, 224) == expected


@pytest.mark.parametrize(
    ("name", "frames", "size", "printed"),
    [
        ("i3d_3x1x1_r50", 32, 256, 148.4),
        ("c2d_pool_r50", 32, 256, 101.8),
        ("c2d_pool_r18", 32, 224, 46.5),
        ("c2d_pool_r18", 64, 224, 93.1),
    ],
)
def test_multiply_adds_are_those_that_atfr_prints(name: str, frames: int, size: int, printed: float) -> None:
    # CVPR 2021, Tables 4 and 7; c2d_pool stands there as "R(2+1)D". 93.1 needs the 400 classes of Kinetics (93.0504).
    _, macs = _cost(lambda: vidzoo.create_model(name, num_classes=400), frames, size)
    assert round(macs / 1e9, 1) == printed


@pytest.mark.parametrize(
    "extra", ["blocks.0.pool.weight", "blocks.1.res_blocks.0.branch2.norm_b.1.weight", "fc.weight"]
)
def test_a_key_that_has_no_place_is_refused(extra: str) -> None:
    with torch.device("meta"):
        theirs = _theirs("slow_r50").state_dict()
    with pytest.raises(WeightsError, match=extra):
        from_resnet({**theirs, extra: torch.zeros(1)})


@pytest.mark.parametrize("missing", ["blocks.4.", "blocks."])
def test_another_network_is_refused_by_its_stages(missing: str) -> None:
    with torch.device("meta"):
        theirs: dict[str, Tensor] = _theirs("slow_r50").state_dict()
    with pytest.raises(WeightsError, match="residual blocks"):
        from_resnet({key: value for key, value in theirs.items() if not key.startswith(missing)})


@pytest.mark.parametrize("name", ["c2d_r18", "gst_r50"])
def test_blocks_that_they_do_not_have_are_refused(name: str) -> None:
    with torch.device("meta"):
        ours = vidzoo.create_model(name).state_dict()
    with pytest.raises(WeightsError, match=r"layer1\.0 has"):
        to_resnet(ours, temporal_pool=False)


def test_a_key_of_ours_that_they_do_not_have_is_refused() -> None:
    with torch.device("meta"):
        ours = vidzoo.create_model("slow_r18").state_dict()
    with pytest.raises(WeightsError, match=r"sampler\.fc\.weight"):
        to_resnet({**ours, "sampler.fc.weight": torch.zeros(1)}, temporal_pool=False)
