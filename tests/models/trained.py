"""Networks of the zoo with norms and a classifier as training leaves them, for tests of what becomes of such weights."""

from __future__ import annotations

from functools import cache

import torch

import vidzoo
from vidzoo.models import VideoModel


@cache
def trained(name: str) -> VideoModel:
    """Of five classes, in evaluation; nobody changes it."""
    torch.manual_seed(3)
    model = vidzoo.create_model(name, num_classes=5).eval()
    for key, value in model.state_dict().items():
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith(".weight")):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.ndim == 1:
            value.uniform_(-0.2, 0.2)
        elif key == "fc.weight":
            value.normal_()
    return model
