"""State dicts of PySlowFast (facebookresearch/SlowFast, Apache-2.0) to ours, and back.

Theirs name a pathway inside every stage (``s2.pathway0_res0.branch2.a``), ours have torchvision's names, below ``slow`` and
``fast`` where there are two pathways. Their I3D is our ``i3d_3x1x1_*``, their Slow our ``slow_*``, their SlowFast our
``slowfast_*`` and their X3D our ``x3d_*``. Their C2D has the same keys with and without temporal pooling: with it
(``MODEL.ARCH: c2d``) it is our ``c2d_pool_*``; without it (C2D_NOPOOL) every frame is looked at by itself, which is our
``c2d_r50``. Their checkpoints hold this state dict under ``model_state``.

Their X3D has a batch norm on the first shortcut of res2, pytorchvideo's and ours have none. Its scale goes into the
convolution in front of it and its shift into ``bn3`` of the same block, which is added to it: the network computes the same,
but has one norm less to train.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vidzoo.errors import WeightsError

__all__ = ["from_pyslowfast", "to_pyslowfast"]

# Inside a residual block: theirs, ours.
_PARTS = {
    "branch1": "downsample.0",
    "branch1_bn": "downsample.1",
    "branch2.a": "conv1",
    "branch2.a_bn": "bn1",
    "branch2.b": "conv2",
    "branch2.b_bn": "bn2",
    "branch2.se.fc1": "se.reduce",
    "branch2.se.fc2": "se.expand",
    "branch2.c": "conv3",
    "branch2.c_bn": "bn3",
}
# Outside the stages: theirs, ours.
_RESNET = {"s1.pathway0_stem.conv": "conv1", "s1.pathway0_stem.bn": "bn1", "head.projection": "fc"}
_SLOWFAST = {
    "s1.pathway0_stem.conv": "slow.conv1",
    "s1.pathway0_stem.bn": "slow.bn1",
    "s1.pathway1_stem.conv": "fast.conv1",
    "s1.pathway1_stem.bn": "fast.bn1",
    **{f"s{i}_fuse.conv_f2s": f"fuse{i}.conv" for i in (1, 2, 3, 4)},
    **{f"s{i}_fuse.bn": f"fuse{i}.bn" for i in (1, 2, 3, 4)},
    "head.projection": "fc",
}
_X3D = {
    "s1.pathway0_stem.conv_xy": "stem.spatial",
    "s1.pathway0_stem.conv": "stem.temporal",
    "s1.pathway0_stem.bn": "stem.bn",
    "head.conv_5": "conv5",
    "head.conv_5_bn": "bn5",
    "head.lin_5": "conv6",
    "head.projection": "fc",
}
_LEAF = "(weight|bias|running_mean|running_var|num_batches_tracked)"
_THEIRS = re.compile(rf"(?:s([2-5])\.pathway([01])_res(\d+)\.)?(.+)\.{_LEAF}")
_OURS = re.compile(rf"(?:(slow\.|fast\.|)layer([1-4])\.(\d+)\.)?(.+)\.{_LEAF}")
# 1x1x1 convolutions of pooled maps there, linear layers here.
_LINEAR = re.compile(r"(?:conv6|layer\d\.\d+\.se\.(?:reduce|expand))\.weight")
_SHORTCUT = "layer1.0.downsample.0.weight"
_SHORTCUT_NORM = "layer1.0.downsample.1."
_LAST_SHIFT = "layer1.0.bn3.bias"
_EPS = 1e-5  # of every norm in either project


def from_pyslowfast(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their keys to ours; the tensors are the same objects or views, new ones where X3D's extra norm is folded.

    Raises:
        WeightsError: a key that none of the networks above has (a non-local block, a split batch norm), one that they
            always have is missing, or a convolution over pooled maps that is not 1x1x1.
    """
    ends = _SLOWFAST if "s1.pathway1_stem.conv.weight" in state_dict else _RESNET
    ends = _X3D if "s1.pathway0_stem.conv_xy.weight" in state_dict else ends
    _check(state_dict, ends, "a state dict of PySlowFast's C2D, I3D, Slow, SlowFast or X3D")
    pathways = ("slow.", "fast.") if ends is _SLOWFAST else ("",)
    ours: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        found = _THEIRS.fullmatch(key)
        stage, path, position, module, leaf = found.groups() if found else (None, "", "", "", "")
        if stage and module in _PARTS and int(path) < len(pathways):
            name = f"{pathways[int(path)]}layer{int(stage) - 1}.{position}.{_PARTS[module]}.{leaf}"
        elif not stage and module in ends:
            name = f"{ends[module]}.{leaf}"
        else:
            raise WeightsError(
                f"no network of PySlowFast that this zoo has knows {key!r}: those are C2D, I3D, Slow, SlowFast and X3D, "
                "without non-local blocks and with the norms that they are saved with"
            )
        if _LINEAR.fullmatch(name):
            if value.ndim != 5 or value.shape[2:] != (1, 1, 1):
                raise WeightsError(f"{key!r} must be a 1x1x1 convolution's weight, its shape is {tuple(value.shape)}")
            value = value.flatten(1)  # (C_out, C_in)
        ours[name] = value
    return _fold_first_norm(ours) if ends is _X3D else ours


def to_pyslowfast(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys to theirs; the tensors are the same objects or views, new ones for X3D's extra norm, which changes nothing.

    Keys do not tell strides, pooling and alpha: what comes out fits the network of theirs that is ours by its topology.

    Raises:
        WeightsError: a key that their networks have no place for, such as a sampler's, or one that they need is missing.
    """
    names = _SLOWFAST if "slow.conv1.weight" in state_dict else _RESNET
    names = _X3D if "stem.spatial.weight" in state_dict else names
    ends = {ours: theirs for theirs, ours in names.items()}
    _check(state_dict, ends, "a state dict of such a network of vidzoo")
    parts = {ours: theirs for theirs, ours in _PARTS.items()}
    pathways = {"slow.": 0, "fast.": 1} if names is _SLOWFAST else {"": 0}
    theirs: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        found = _OURS.fullmatch(key)
        path, stage, position, module, leaf = found.groups() if found else ("", None, "", "", "")
        if stage and module in parts and path in pathways:
            name = f"s{int(stage) + 1}.pathway{pathways[path]}_res{position}.{parts[module]}.{leaf}"
        elif not stage and module in ends:
            name = f"{ends[module]}.{leaf}"
        else:
            raise WeightsError(f"PySlowFast has no place for {key!r}")
        theirs[name] = value[:, :, None, None, None] if _LINEAR.fullmatch(key) else value
    if names is _X3D and f"{_SHORTCUT_NORM}weight" not in state_dict:
        if _LAST_SHIFT not in state_dict:
            raise WeightsError(f"this is not a state dict of an X3D of vidzoo: it lacks {_LAST_SHIFT}")
        like = state_dict[_LAST_SHIFT]
        theirs |= {
            "s2.pathway0_res0.branch1_bn.weight": torch.ones_like(like),
            "s2.pathway0_res0.branch1_bn.bias": torch.zeros_like(like),
            "s2.pathway0_res0.branch1_bn.running_mean": torch.zeros_like(like),
            "s2.pathway0_res0.branch1_bn.running_var": torch.full_like(like, 1 - _EPS),
            "s2.pathway0_res0.branch1_bn.num_batches_tracked": torch.zeros((), dtype=torch.long, device=like.device),
        }
    return theirs


def _check(state_dict: Mapping[str, Tensor], ends: Mapping[str, str], what: str) -> None:
    missing = [f"{name}.weight" for name in ends if f"{name}.weight" not in state_dict]
    if missing:
        raise WeightsError(f"this is not {what}: it lacks {', '.join(missing)}")


def _fold_first_norm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The norm of the first shortcut, ``y = scale x + shift``, as a factor of its convolution and a part of ``bn3``."""
    shortcut = weights.get(_SHORTCUT)
    if shortcut is None or shortcut.shape[0] != shortcut.shape[1] or f"{_SHORTCUT_NORM}weight" not in weights:
        return weights  # ours has this norm too where the channels change
    try:
        norm = {
            leaf: weights.pop(_SHORTCUT_NORM + leaf).double()
            for leaf in ("weight", "bias", "running_mean", "running_var")
        }
        last = weights[_LAST_SHIFT]
    except KeyError as error:
        raise WeightsError(f"this X3D lacks {error} in our names: give its state dict as it is") from error
    weights.pop(f"{_SHORTCUT_NORM}num_batches_tracked", None)
    scale = norm["weight"] / (norm["running_var"] + _EPS).sqrt()  # (C,)
    shift = norm["bias"] - scale * norm["running_mean"]
    weights[_SHORTCUT] = (shortcut.double() * scale[:, None, None, None, None]).to(shortcut.dtype)
    weights[_LAST_SHIFT] = (last.double() + shift).to(last.dtype)
    return weights
