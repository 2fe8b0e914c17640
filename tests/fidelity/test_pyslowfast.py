"""PySlowFast's networks, their Caffe2 blobs and the SGS authors' networks against ours: the same weights, the same logits.

``pyslowfast.json`` holds what their networks say of themselves (its ``about`` line tells which and how): keys, shapes, names
of blobs, and the logits, computed in double precision, for weights and a clip that ``formula.py`` makes anew here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fidelity.formula import formula_state_dict, formula_uniform
from vidzoo import create_model
from vidzoo.convert.caffe2 import from_caffe2
from vidzoo.convert.pyslowfast import from_pyslowfast, to_pyslowfast
from vidzoo.convert.sgs import from_sgs, to_sgs
from vidzoo.errors import WeightsError
from vidzoo.layers.sgs import SimilarityGuidedSampling

RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "pyslowfast.json").read_text())
CASES = RECORD["cases"]
SAMPLED = [case for case in CASES if case["model"].endswith("_atfr")]
PLAIN = [case for case in CASES if case not in SAMPLED]
CAFFE2 = [case for case in CASES if "blobs_sha256" in case]


def _each(cases: list[dict[str, Any]], having: str = "model") -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [case for case in cases if having in case], ids=lambda case: case["model"])


def _ours(name: str) -> nn.Module:
    released = {"released": True} if name.endswith("_atfr") else {}
    with torch.device("meta"):
        return create_model(name, num_classes=7, **released).eval()


@functools.cache
def _keys(name: str) -> dict[str, Tensor]:
    """Our state dict without values."""
    return dict(_ours(name).state_dict())


def _theirs(name: str) -> dict[str, Tensor]:
    return to_sgs(_keys(name)) if name.endswith("_atfr") else to_pyslowfast(_keys(name))


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in weights.items()}


def _weights(name: str) -> dict[str, Tensor]:
    weights = formula_state_dict(_shapes(_theirs(name)))
    return {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}


def _digest(listed: Any) -> str:
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())


def _agree(logits: Tensor, case: dict[str, Any]) -> None:
    expected = torch.tensor(case["logits"], dtype=torch.float64)
    assert (logits.double() - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert expected.std() > 0.1 * expected.abs().max()  # logits that are all alike would prove nothing


@_each(CASES)
def test_keys_and_shapes_become_exactly_theirs_and_come_back(case: dict[str, Any]) -> None:
    theirs = _theirs(case["model"])
    assert len(theirs) == case["tensors"]
    assert _digest(sorted([key, list(shape)] for key, shape in _shapes(theirs).items())) == case["keys_sha256"]
    back = from_sgs(theirs) if case in SAMPLED else from_pyslowfast(theirs)
    assert _shapes(back) == _shapes(_keys(case["model"]))


@_each(PLAIN, having="logits")
@torch.no_grad()
def test_their_weights_give_their_logits(case: dict[str, Any]) -> None:
    model = _ours(case["model"])
    model.load_state_dict(from_pyslowfast(_weights(case["model"])), assign=True)
    _agree(model(2 * formula_uniform("clip", tuple(case["clip"])).float())[0], case)


@_each(SAMPLED, having="logits")
@torch.no_grad()
def test_their_sampled_networks_give_their_logits(case: dict[str, Any]) -> None:
    # Pathways of equal length only: theirs pads at both ends, ours at the end.
    model = _ours(case["model"])
    model.load_state_dict(from_sgs(_weights(case["model"])), assign=True)
    model.double()
    kept: list[int] = []
    for module in model.modules():
        if isinstance(module, SimilarityGuidedSampling):
            module.register_forward_hook(lambda module, args, out: kept.append(out.shape[2]))
    logits = model(2 * formula_uniform("clip", tuple(case["clip"])))[0]
    assert kept == case["frames"]
    _agree(logits, case)


# The extra norm of their X3D.


def test_the_extra_norm_of_x3d_does_nothing_until_it_is_trained() -> None:
    model = create_model("x3d_s", num_classes=7)
    ours = model.state_dict()
    theirs = to_pyslowfast(ours)
    norm = {key: value for key, value in theirs.items() if key.startswith("s2.pathway0_res0.branch1_bn.")}
    assert len(norm) == 5 == len(theirs) - len(ours)
    x = torch.randn(2, 24, 2, 3, 3)
    batch_norm = nn.BatchNorm3d(24).eval()
    batch_norm.load_state_dict({key.rpartition(".")[2]: value for key, value in norm.items()})
    torch.testing.assert_close(batch_norm(x), x, rtol=1e-6, atol=0)
    assert _same(from_pyslowfast(theirs), dict(ours))


def test_an_x3d_without_the_extra_norm_is_taken_as_it_is() -> None:
    ours = _keys("x3d_s")
    theirs = {key: value for key, value in to_pyslowfast(ours).items() if "s2.pathway0_res0.branch1_bn" not in key}
    assert from_pyslowfast(theirs).keys() == ours.keys()


# Caffe2.

_LEAVES = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def _blob(key: str) -> str:
    """The name in Caffe2 of one of their keys; ``pyslowfast.json`` knows that their table turns it back."""
    module, _, leaf = key.rpartition(".")
    if module == "head.projection":
        return f"pred_{leaf[0]}"
    norm = f"bn_{_LEAVES[leaf]}" if re.search(r"bn$", module) else "w"
    if found := re.fullmatch(r"s1\.pathway([01])_stem\.(?:conv|bn)", module):
        return f"{'t_' * int(found[1])}{'conv1' if norm == 'w' else 'res_conv1'}_{norm}"
    if found := re.fullmatch(r"s(\d)_fuse\.(?:conv_f2s|bn)", module):
        last = {"2": 2, "3": 3, "4": 5}
        stage = "pool1" if found[1] == "1" else f"res{found[1]}_{last[found[1]]}_branch2c_bn"
        return f"t_{stage}_subsample_{norm}"
    found = re.fullmatch(r"s(\d)\.pathway([01])_res(\d+)\.branch([12])\.?([abc]?)(?:_bn)?", module)
    assert found, key
    return f"{'t_' * int(found[2])}res{found[1]}_{found[3]}_branch{found[4]}{found[5]}_{norm}"


def _learnt(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}


@_each(CAFFE2)
def test_blobs_that_their_table_turns_into_their_keys_become_ours(case: dict[str, Any]) -> None:
    theirs = _learnt(_theirs(case["model"]))
    pairs = sorted([_blob(key), key] for key in theirs)
    expected = case["blobs_sha256"]
    assert _digest(pairs) == expected
    ours = from_caffe2({_blob(key): value for key, value in theirs.items()})
    assert _shapes(ours) == _shapes(_keys(case["model"]))


@pytest.mark.parametrize("name", ["i3d_3x1x1_r18", "slowfast_r18_8x8"])
def test_every_blob_goes_to_the_place_of_its_key(name: str) -> None:
    theirs = _weights(name)
    blobs = {_blob(key): value for key, value in _learnt(theirs).items()}
    rest = {"lr": torch.ones(1), "model_iter": torch.ones(1), "conv1_w_momentum": torch.ones(1)}
    assert _same(from_caffe2({**rest, **blobs}), from_pyslowfast(theirs))


# Refusals.


def test_keys_that_no_network_of_ours_has_are_refused() -> None:
    theirs = _theirs("slow_r18")
    weight = theirs["s1.pathway0_stem.conv.weight"]
    for key in (
        "s3.pathway0_nonlocal1.conv_theta.weight",
        "s1.pathway0_stem.bn.split_bn.running_mean",
        "s2.pathway1_res0.branch1.weight",
    ):
        with pytest.raises(WeightsError, match=re.escape(key)):
            from_pyslowfast({**theirs, key: weight})
    with pytest.raises(WeightsError, match=r"head\.lin_5_bn"):
        from_pyslowfast({**_theirs("x3d_s"), "head.lin_5_bn.weight": weight})
    with pytest.raises(WeightsError, match=r"lacks s1\.pathway0_stem\.bn\.weight"):
        from_pyslowfast({key: value for key, value in theirs.items() if key != "s1.pathway0_stem.bn.weight"})


def test_an_x3d_with_other_layers_behind_its_pooling_is_refused() -> None:
    theirs = _theirs("x3d_s")
    with pytest.raises(WeightsError, match=r"head\.lin_5\.weight.* 1x1x1"):
        from_pyslowfast({**theirs, "head.lin_5.weight": torch.zeros(2, 2, 3, 1, 1)})
    del theirs["s2.pathway0_res0.branch1_bn.running_var"]
    with pytest.raises(WeightsError, match=r"downsample\.1\.running_var"):
        from_pyslowfast(theirs)


def test_networks_that_they_do_not_have_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"no place for 'sampler\."):
        to_pyslowfast(_keys("resnet3d_18_atfr"))
    with pytest.raises(WeightsError, match=r"no place for 'layer1\.0\.conv2\.spatial"):
        to_pyslowfast(_keys("gst_r50"))
    shift = "layer1.0.bn3.bias"
    with pytest.raises(WeightsError, match=f"lacks {shift}"):
        to_pyslowfast({key: value for key, value in _keys("x3d_s").items() if key != shift})
    with pytest.raises(WeightsError, match=r"lacks conv1\.weight"):
        to_pyslowfast({"fc.weight": torch.zeros(1)})


def test_samplers_in_two_stages_are_refused() -> None:
    theirs = _theirs("resnet3d_18_atfr")
    with pytest.raises(WeightsError, match="stages 2, 3"):
        from_sgs({**theirs, "s3.ts_layer.bn.weight": torch.zeros(8)})


def test_a_network_of_theirs_without_a_sampler_is_the_host() -> None:
    theirs = _theirs("resnet3d_18_atfr")
    host = {key: value for key, value in theirs.items() if ".ts_layer." not in key}
    assert _shapes(from_sgs(host)) == _shapes(_keys("resnet3d_18"))


def test_blobs_of_other_networks_are_refused() -> None:
    blobs = {_blob(key): value for key, value in _learnt(_theirs("slowfast_r18_8x8")).items()}
    with pytest.raises(WeightsError, match="nonlocal_conv3_1_theta_w"):
        from_caffe2({**blobs, "nonlocal_conv3_1_theta_w": torch.zeros(1)})
    lateral = "t_res2_2_branch2c_bn_subsample_w"
    with pytest.raises(WeightsError, match="t_res2_1_branch2c_bn_subsample_w"):
        from_caffe2({**blobs, lateral.replace("res2_2", "res2_1"): blobs[lateral]})
    with pytest.raises(WeightsError, match="lacks"):
        from_caffe2({key: value for key, value in blobs.items() if not key.startswith("pred")})
