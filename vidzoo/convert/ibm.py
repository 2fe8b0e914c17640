"""State dicts of IBM's action-recognition-pytorch (Apache-2.0) to those of ``i3d_r*`` and ``s3d_r*``, and back.

Their I3D ResNets, published for Kinetics-400 and Something-Something-v2, have our keys. Their S3D ResNets keep the temporal
convolution and the norm behind it as ``conv2_t`` and ``bn2_t`` beside ``conv2`` and ``bn2``; ours holds ``conv2``, ``bn2``
and ``conv2_t`` in one unit, as ``conv2.spatial``, ``conv2.norm.0`` and ``conv2.temporal``, with ``bn2`` behind it. Their
training wraps the network, which puts ``module.`` in front of every key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vidzoo.errors import WeightsError

__all__ = ["from_ibm", "to_ibm"]

_THEIRS = re.compile(r"(layer\d+\.\d+\.)(conv|bn)(\d)(_t)?\.(.+)")
_OURS = re.compile(r"(layer\d+\.\d+\.)(?:conv(\d)\.(spatial|norm\.0|temporal)|bn(\d))\.(.+)")
_PARTS = {("conv", None): "conv{}.spatial", ("bn", None): "conv{}.norm.0", ("conv", "_t"): "conv{}.temporal"}


def from_ibm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their keys to ours, with or without ``module.``; the tensors are the same objects.

    Raises:
        WeightsError: this is not one of their I3D or S3D ResNets (one over single frames, an Inception), its temporal
            convolutions are depthwise, or two keys would become one.
    """
    plain: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        name = key.removeprefix("module.")
        if name in plain:
            raise WeightsError(f"two keys of this state dict both mean {name!r}: keep one of them")
        plain[name] = value
    if "layer1.0.conv1.weight" not in plain or "conv1.weight" not in plain or plain["conv1.weight"].ndim != 5:
        raise WeightsError(
            "this is not a state dict of IBM's I3D or S3D ResNets: no 'layer1.0.conv1.weight', or no 'conv1.weight' over time"
        )
    separable = {match[1] + match[3] for match in map(_THEIRS.fullmatch, plain) if match and match[4]}
    ours: dict[str, Tensor] = {}
    for name, value in plain.items():
        match = _THEIRS.fullmatch(name)
        if match is None or match[1] + match[3] not in separable:
            ours[name] = value
            continue
        block, kind, number, over_time, rest = match.groups()
        if kind == "conv" and over_time and value.shape[1] != value.shape[0]:
            raise WeightsError(f"{name!r} is a depthwise convolution over time, {tuple(value.shape)}: ours is dense")
        ours[f"{block}{_PARTS.get((kind, over_time), 'bn{}').format(number)}.{rest}"] = value
    return ours


def to_ibm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys to theirs; the tensors are the same objects.

    Raises:
        WeightsError: their code has no such network: a temporal length other than 3, branches, or merged
            branches, which have a bias.
    """
    strange = [
        key
        for key in state_dict
        if ".branches." in key or re.fullmatch(r"(layer\d\.\d+\.)?conv\d(\.(spatial|temporal))?\.bias", key)
    ]
    if strange:
        raise WeightsError(
            f"IBM's code has neither branches nor biases of convolutions, this network has {strange[0]!r}"
        )
    for key, value in state_dict.items():
        wide = value.ndim == 5 and value.shape[-1] > 1 and not key.endswith(".spatial.weight")
        if (wide or key.endswith(".temporal.weight")) and value.shape[2] != 3:
            raise WeightsError(f"IBM's code has temporal lengths of 3 only, {key!r} is {tuple(value.shape)}")
    separable = {match[1] + match[2] for match in map(_OURS.fullmatch, state_dict) if match and match[2]}
    theirs: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        match = _OURS.fullmatch(key)
        name = key
        if match and match[2]:
            block, number, part, _, rest = match.groups()
            name = f"{block}{'bn' if part == 'norm.0' else 'conv'}{number}{'_t' if part == 'temporal' else ''}.{rest}"
        elif match and match[1] + match[4] in separable:
            name = f"{match[1]}bn{match[4]}_t.{match[5]}"
        theirs[name] = value
    if "layer1.0.conv1.weight" not in theirs:
        raise WeightsError("this is not the state dict of an I3D or S3D ResNet: it has no residual blocks")
    return theirs
