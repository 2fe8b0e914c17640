"""Plans: read, written, and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vidzoo.errors import ConfigError
from vidzoo.grafting import (
    PLANS,
    Inflate,
    InsertCTM,
    InsertSGS,
    InsertShift,
    Operation,
    ReplaceHead,
    SwapConv,
    Where,
    read_plan,
    write_plan,
)
from vidzoo.grafting.places import Place

EVERYTHING = (
    Inflate("mean", (1, 3, 3, 5), Where(stages=(0, -1), kernels=(3, (1, 5)), names=("a*",), exclude=("b",), stem=True)),
    Inflate(squeeze="joint", time_padding="replicate"),
    SwapConv("reparam", Where(), 5, {"eta": float("inf"), "branches": [1, 3, 5]}),
    SwapConv("gst", options={"alpha": 0.5}),
    InsertCTM(after=("layer3.0", "layer4.*"), reduction=4, paths="tccm", img_size=[112, 96]),
    InsertCTM(stage=1, blocks=2),
    InsertSGS(after=1, options={"bins": [16, 8]}),
    InsertSGS(after="blocks.1"),
    InsertShift(Where(names=("*.conv1",)), 4),
    InsertShift(),
    ReplaceHead(174, "features", 0.5),
)


def _place(**values: Any) -> Place:
    given = {
        "name": "layer2.0.conv1",
        "path": "layer2.0.conv1",
        "kind": "conv2d",
        "kernel": (3, 3),
        "stride": (1, 1),
        "padding": (1, 1),
        "dilation": (1, 1),
        "groups": 1,
        "bias": False,
        "in_shape": (8, 16, 16),
        "out_shape": (8, 16, 16),
        "stage": 2,
        "stem": False,
    }
    return Place(**{**given, **values})


@pytest.mark.parametrize("plan", [*PLANS.values(), EVERYTHING, *((op,) for op in EVERYTHING)])
def test_a_plan_comes_back_from_json_as_it_was(plan: tuple[Operation, ...]) -> None:
    assert read_plan(json.loads(json.dumps(write_plan(plan)))) == plan
    assert write_plan(read_plan(write_plan(plan))) == write_plan(plan)


def test_a_plan_is_a_name_an_operation_or_several() -> None:
    assert read_plan("gst") == read_plan(SwapConv("gst")) == read_plan([{"op": "SwapConv", "unit": "gst"}])
    mixed = read_plan([{"op": "InsertCTM"}, SwapConv("p3d")])
    assert mixed == (InsertCTM(), SwapConv("p3d"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"op": "SwapCon", "unit": "gst"}, "SwapConv"),
        ({"op": "SwapConv", "unit": "gst", "wher": {}}, "where"),
        ({"op": "SwapConv", "unit": "gst", "where": {"kernel": [3]}}, "kernels"),
        ({"op": "SwapConv", "unit": "gst", "where": {"predicate": "x"}}, "predicate"),
        ({"unit": "gst"}, '"op"'),
        ({"op": "Inflate", "t_lengths": 2}, "odd"),
        ({"op": "Inflate", "t_lengths": [1, 3, 0]}, "odd"),
        ({"op": "Inflate", "mode": "center"}, "centre"),
        ({"op": "Inflate", "squeeze": "both"}, "joint"),
        ({"op": "SwapConv", "unit": "gst", "t_length": 4}, "odd"),
        ({"op": "InsertShift", "fold": 1}, "fold"),
        ({"op": "ReplaceHead", "consensus": "max"}, "features"),
        ({"op": "ReplaceHead", "drop_rate": 1.0}, "drop_rate"),
        ({"op": "ReplaceHead", "num_classes": -1}, "num_classes"),
        ({"op": "InsertCTM", "after": 3}, "after"),
        ({"op": "InsertCTM", "paths": "all"}, "shared"),
        ({"op": ["SwapConv"]}, "operation"),
        ({"op": "SwapConv"}, "'unit'"),
        ({"op": "SwapConv", "unit": ["gst"]}, "name of a unit"),
        ({"op": "SwapConv", "unit": "gst", "where": "layer1"}, "SwapConv.where"),
        ({"op": "SwapConv", "unit": "gst", "where": None}, "SwapConv.where"),
        ({"op": "SwapConv", "unit": "gst", "where": {"kernels": 3.5}}, "kernels"),
        ({"op": "SwapConv", "unit": "gst", "where": {"kernels": [[3, True]]}}, "kernels"),
        ({"op": "SwapConv", "unit": "gst", "where": {"stages": [True]}}, "stages"),
        ({"op": "SwapConv", "unit": "gst", "where": {"names": []}}, "empty"),
        ({"op": "Inflate", "t_lengths": []}, "empty"),
        ({"op": "Inflate", "where": 3}, "Inflate.where"),
        ({"op": "InsertCTM", "stage": "2"}, "stage"),
        ({"op": "InsertCTM", "blocks": 0}, "blocks"),
        ({"op": "InsertCTM", "reduction": "8"}, "reduction"),
        ({"op": "InsertCTM", "img_size": [0, 224]}, "img_size"),
        ({"op": "InsertCTM", "img_size": [1, 2, 3]}, "img_size"),
        ({"op": "InsertCTM", "img_size": "224"}, "img_size"),
        ({"op": "InsertSGS", "after": [1]}, "InsertSGS.after"),
        ({"op": "InsertSGS", "after": True}, "InsertSGS.after"),
        ({"op": "InsertShift", "where": 3}, "InsertShift.where"),
        ({"op": "ReplaceHead", "num_classes": True}, "num_classes"),
        ({"op": "ReplaceHead", "drop_rate": "0.5"}, "drop_rate"),
        ({"op": "ReplaceHead", "drop_rate": None}, "drop_rate"),
    ],
)
def test_what_no_plan_can_mean_is_refused_with_what_could_be_meant(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_plan([values])


def test_an_unknown_plan_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'stdcf'"):
        read_plan("stdfc")


def test_a_predicate_chooses_in_code_and_stays_out_of_files() -> None:
    wide = Where(predicate=lambda place: place.out_shape[0] > 4)
    assert wide.holds(_place(), 4)
    assert not wide.holds(_place(out_shape=(4, 16, 16)), 4)
    with pytest.raises(ConfigError, match="names"):
        write_plan([SwapConv("gst", wide)])


@pytest.mark.parametrize(
    ("where", "meant"),
    [
        (Where(), True),
        (Where(stages=(2,)), True),
        (Where(stages=(-2,)), True),
        (Where(stages=(-1, 0)), False),
        (Where(kernels=(3,)), True),
        (Where(kernels=3), True),
        (Where(kernels=((3, 3),)), True),
        (Where(kernels=(1, 5)), False),
        (Where(names=("layer2.*",)), True),
        (Where(names="layer2.*.conv1"), True),
        (Where(names=("layer2.*",), exclude=("*.conv1",)), False),
        (Where(names=("layer2",)), False),
        (Where(names=("layer2.*",), stages=(0,)), False),
    ],
)
def test_all_conditions_must_hold(where: Where, meant: bool) -> None:
    assert where.holds(_place(), stages=4) is meant


def test_the_stem_is_chosen_only_when_it_is_asked_for() -> None:
    stem = _place(name="conv1", stem=True)
    assert not Where().holds(stem, 4)
    assert Where(stem=True).holds(stem, 4)
    assert Where(names=("conv1",)).holds(stem, 4)


def test_a_3d_kernel_is_told_by_its_size_over_space() -> None:
    assert Where(kernels=(3,)).holds(_place(kernel=(1, 3, 3)), 4)
    assert not Where(kernels=(3,)).holds(_place(kernel=(3, 1, 1)), 4)
