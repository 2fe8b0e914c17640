"""Blobs of PySlowFast's Caffe2 networks (facebookresearch/SlowFast, Apache-2.0) to our state dicts.

Those are C2D without pooling (``c2d_r50``), I3D (``i3d_3x1x1_r50``), Slow and SlowFast of their model zoo, pickled as
``{"blobs": {name: array}}``. A name tells pathway (``t_`` is the fast one), stage, block and branch, ``w`` is a weight and
``bn_s``, ``bn_b``, ``bn_rm``, ``bn_riv`` are a norm's scale, shift, running mean and, in spite of its name, running
variance. A lateral convolution is named after the layer that it reads from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vidzoo.convert.pyslowfast import from_pyslowfast
from vidzoo.errors import WeightsError

__all__ = ["from_caffe2"]

_LEAVES = {"w": "weight", "s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_NORM = "bn_(?P<norm>s|b|rm|riv)"
# A blob's name, and those of the layer and the norm in PySlowFast.
_BLOBS = (
    (
        re.compile(rf"(?P<fast>t_)?(?:conv1_w|res_conv1_{_NORM})"),
        "s1.pathway{path}_stem.conv",
        "s1.pathway{path}_stem.bn",
    ),
    (
        re.compile(rf"(?P<fast>t_)?res(?P<stage>[2-5])_(?P<block>\d+)_branch1_(?:w|{_NORM})"),
        "s{stage}.pathway{path}_res{block}.branch1",
        "s{stage}.pathway{path}_res{block}.branch1_bn",
    ),
    (
        re.compile(rf"(?P<fast>t_)?res(?P<stage>[2-5])_(?P<block>\d+)_branch2(?P<layer>[abc])_(?:w|{_NORM})"),
        "s{stage}.pathway{path}_res{block}.branch2.{layer}",
        "s{stage}.pathway{path}_res{block}.branch2.{layer}_bn",
    ),
    (re.compile(rf"t_pool1_subsample_(?:w|{_NORM})"), "s1_fuse.conv_f2s", "s1_fuse.bn"),
    (
        re.compile(rf"t_res(?P<stage>[2-4])_\d+_branch2c_bn_subsample_(?:w|{_NORM})"),
        "s{stage}_fuse.conv_f2s",
        "s{stage}_fuse.bn",
    ),
    (re.compile("pred_[wb]"), "head.projection", ""),
)
# What a layer's blob ends with; learning rates, momenta and counters end otherwise.
_LEARNT = re.compile(r".+_(?:w|b|s|rm|riv)")


def from_caffe2(blobs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their blobs to our keys; the tensors are the same objects, or views where a blob leaves trailing axes out.

    Learning rates, momenta and counters are left behind; norms get a counter of batches that stands at zero.

    Raises:
        WeightsError: a weight that these networks do not have, such as a non-local block's, or one that they always have
            is missing.
    """
    theirs: dict[str, Tensor] = {}
    for blob, value in blobs.items():
        name = _renamed(blob)
        if name is None:
            if _LEARNT.fullmatch(blob):
                raise WeightsError(
                    f"none of PySlowFast's Caffe2 networks that this zoo has knows the blob {blob!r}: those are C2D without "
                    "pooling, I3D, Slow and SlowFast, without non-local blocks"
                )
            continue
        if value.ndim > 1 and not name.startswith("head."):
            value = value.reshape(*value.shape, *(1 for _ in range(value.ndim, 5)))  # as their loader does
        if name in theirs:
            raise WeightsError(f"two blobs both mean {name!r}, the second is {blob!r}: keep one of them")
        theirs[name] = value
        if name.endswith(".running_mean"):
            counter = torch.zeros((), dtype=torch.long, device=value.device)
            theirs[name.replace("running_mean", "num_batches_tracked")] = counter
    return from_pyslowfast(theirs)


def _renamed(blob: str) -> str | None:
    for pattern, layer, norm in _BLOBS:
        if found := pattern.fullmatch(blob):
            parts = found.groupdict()
            part = parts.get("norm") or blob.rpartition("_")[2]
            name = (norm if parts.get("norm") else layer).format(path=1 if parts.get("fast") else 0, **parts)
            return f"{name}.{_LEAVES[part]}"
    return None
