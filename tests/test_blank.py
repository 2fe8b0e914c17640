"""A network of shapes alone has the shapes of a real one, and nothing else of the program notices."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

import vidzoo
from vidzoo.blank import blank


@pytest.mark.parametrize("name", ["gst_r18", "i3d_r18_reparam_11335", "stdcf_c3", "x3d_xs", "resnet3d_18_atfr", "s3d"])
def test_names_shapes_and_types_are_those_of_the_real_network(name: str) -> None:
    real = vidzoo.create_model(name, num_classes=5).state_dict()
    with blank():
        model = vidzoo.create_model(name, num_classes=5)
    found = model.state_dict()
    assert {key: (value.shape, value.dtype) for key, value in found.items()} == {
        key: (value.shape, value.dtype) for key, value in real.items()
    }
    assert all(value.is_meta for value in found.values())


def test_what_has_a_place_is_drawn_as_ever() -> None:
    torch.manual_seed(3)
    expected = nn.init.kaiming_normal_(torch.empty(4, 4))
    torch.manual_seed(3)
    with blank():
        nn.Conv3d(3, 8, 3)
        found = nn.init.kaiming_normal_(torch.empty(4, 4, device="cpu"))
    assert torch.equal(found, expected)
    assert torch.empty(1).device.type == "cpu"


def test_torch_need_not_load_its_symbolic_algebra_for_it() -> None:
    code = (
        "import sys, vidzoo\nfrom vidzoo.blank import blank\n"
        "with blank(): vidzoo.create_model('gst_r18')\n"
        "print('sympy' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False"]
