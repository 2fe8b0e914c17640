"""State dicts of torchvision's ``s3d`` (BSD-3-Clause) to ours, and back.

Its layers are numbered, ours have names; its 1x1x1 convolution of pooled maps (``classifier.1``) is a linear layer here,
so that weight changes its shape. torchvision's ``r3d_18``, ``mc3_18`` and ``r2plus1d_18`` have the keys of ours and need
no conversion.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vidzoo.errors import WeightsError

__all__ = ["from_s3d", "to_s3d"]

# Theirs, ours.
_POINT = {"0": "conv", "1": "bn"}
_SEPARABLE = {"0.0": "conv.spatial", "0.1": "conv.norm.0", "1.0": "conv.temporal", "1.1": "bn"}
_BRANCHES = {
    "branch0": _POINT,
    "branch1.0": _POINT,
    "branch1.1": _SEPARABLE,
    "branch2.0": _POINT,
    "branch2.1": _SEPARABLE,
    "branch3.1": _POINT,
}
_FIRST = {"features.0": ("conv1", _SEPARABLE), "features.2": ("conv2b", _POINT), "features.3": ("conv2c", _SEPARABLE)}
_BLOCKS = {5: "mixed3.0", 6: "mixed3.1", **{8 + i: f"mixed4.{i}" for i in range(5)}, 14: "mixed5.0", 15: "mixed5.1"}
_MODULES = {
    **{f"{theirs}.{a}": f"{ours}.{b}" for theirs, (ours, parts) in _FIRST.items() for a, b in parts.items()},
    **{
        f"features.{number}.{branch}.{a}": f"{ours}.{branch}.{b}"
        for number, ours in _BLOCKS.items()
        for branch, parts in _BRANCHES.items()
        for a, b in parts.items()
    },
    "classifier.1": "fc",
}
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_LEAVES = {"bn": _NORM, "0": _NORM, "fc": ("weight", "bias")}
_OURS = {
    f"{theirs}.{leaf}": f"{ours}.{leaf}"
    for theirs, ours in _MODULES.items()
    for leaf in _LEAVES.get(ours.rpartition(".")[2], ("weight",))
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def from_s3d(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their keys to ours; the tensors are the same objects, the classifier's weight is a view of theirs.

    Raises:
        WeightsError: a key that their S3D does not have, one that it always has is missing, or a classifier that is not
            a 1x1x1 convolution.
    """
    ours = _renamed(state_dict, _OURS, "a state dict of torchvision's s3d")
    weight = ours["fc.weight"]
    if weight.ndim != 5 or weight.shape[2:] != (1, 1, 1):
        raise WeightsError(
            f"'classifier.1.weight' must be the weight of a 1x1x1 convolution, its shape is {tuple(weight.shape)}"
        )
    ours["fc.weight"] = weight.flatten(1)  # (num_classes, 1024)
    return ours


def to_s3d(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys to theirs; the tensors are the same objects, the classifier's weight is a view of ours.

    Raises:
        WeightsError: a key that their S3D has no place for, such as a sampler's, or one that it needs is missing.
    """
    theirs = _renamed(state_dict, _THEIRS, "the state dict of an S3D of vidzoo")
    theirs["classifier.1.weight"] = theirs["classifier.1.weight"][:, :, None, None, None]
    return theirs


def _renamed(state_dict: Mapping[str, Tensor], keys: Mapping[str, str], what: str) -> dict[str, Tensor]:
    unknown = [key for key in state_dict if key not in keys]
    missing = [key for key in keys if key not in state_dict]
    for fault, found in (("has no place for", unknown), ("lacks", missing)):
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise WeightsError(f"this is not {what}: it {fault} {', '.join(found[:5])}{more}")
    return {keys[key]: value for key, value in state_dict.items()}
