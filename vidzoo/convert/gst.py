"""State dicts of the GST authors' code (chenxuluo/GST-video, MIT) to those of ``gst_r50`` and ``gst_large_r50``, and back.

Their block keeps the two groups apart as ``conv2`` and ``Tconv``, ours holds them in one unit: ``conv2.spatial`` and
``conv2.temporal``. Their training wraps the backbone as ``base_model`` with a classifier ``new_fc`` beside it (``fc`` inside
when it is trained without dropout), and data-parallel runs put ``module.`` in front of everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vidzoo.errors import WeightsError

__all__ = ["from_gst", "to_gst"]

_OURS = re.compile(r"(layer\d+\.\d+)\.conv2\.(spatial|temporal)\.(.+)")
_THEIRS = re.compile(r"(layer\d+\.\d+)\.(conv2|Tconv)\.(.+)")
_GROUPS = {"conv2": "spatial", "Tconv": "temporal"}
_NAMES = {group: name for name, group in _GROUPS.items()}


def from_gst(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their keys to ours; the tensors are the same objects.

    Batch norms saved without a counter of batches (torch 0.4.0 and older) get one that stands at zero.

    Raises:
        WeightsError: no bottleneck with a ``Tconv`` is in there, or two keys would become one.
    """
    ours: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        name = key.removeprefix("module.").removeprefix("base_model.")
        if name.startswith("new_fc."):
            name = name.removeprefix("new_")
        name = _THEIRS.sub(lambda m: f"{m[1]}.conv2.{_GROUPS[m[2]]}.{m[3]}", name)
        if name in ours:
            raise WeightsError(
                f"two keys of this state dict both mean {name!r}, the second is {key!r}: keep one of them"
            )
        ours[name] = value
    if not any(".conv2.temporal." in name for name in ours):
        raise WeightsError(
            "this is not a state dict of the GST authors' network: no block in it has a 'Tconv' beside its 'conv2'"
        )
    for name in [name for name in ours if name.endswith(".running_mean")]:
        counter = name.replace("running_mean", "num_batches_tracked")
        if counter not in ours:
            ours[counter] = torch.zeros((), dtype=torch.long, device=ours[name].device)
    return ours


def to_gst(state_dict: Mapping[str, Tensor], *, wrapped: bool = False) -> dict[str, Tensor]:
    """Our keys to those of their backbone, or with ``wrapped`` to those of their ``TemporalModel`` trained with dropout.

    Raises:
        WeightsError: the 3x3 convolutions are not GST units inside bottlenecks, which is all that their code has.
    """
    theirs: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        name = _OURS.sub(lambda m: f"{m[1]}.{_NAMES[m[2]]}.{m[3]}", key)
        if name.count(".spatial.") or name.count(".temporal."):
            raise WeightsError(f"the GST authors' code has bottlenecks only, it has no place for {key!r}")
        if wrapped:
            name = f"new_{name}" if name.startswith("fc.") else f"base_model.{name}"
        theirs[name] = value
    if not any(".Tconv." in name for name in theirs):
        raise WeightsError("this is not the state dict of a GST ResNet-50: no 'conv2.temporal' is in it")
    return theirs
