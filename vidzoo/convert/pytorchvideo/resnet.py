"""State dicts of pytorchvideo's single-pathway ResNets (Apache-2.0) to ours, and back.

Their networks are a list of blocks: stem, res2, a pooling without weights where there is one (``c2d_r50``, ``i3d_r50``),
res3 to res5, head. So res3 is ``blocks.2`` in ``slow_r50`` and ``r2plus1d_r50``, and ``blocks.3`` in the other two. Ours
have torchvision's names, and the two convolutions of a (2+1)D one inside a unit. Their hub files hold this state dict
under ``model_state``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vidzoo.convert.pytorchvideo.keys import BOTTLENECK, LEAVES
from vidzoo.errors import WeightsError

__all__ = ["from_resnet", "to_resnet"]

# Inside a residual block: theirs, ours.
_PARTS = {
    "branch2.conv_b.conv_t": "conv2.temporal",
    "branch2.conv_b.norm": "conv2.norm.0",
    "branch2.conv_b.conv_xy": "conv2.spatial",
    **BOTTLENECK,
}
_BACK = {ours: theirs for theirs, ours in _PARTS.items()}
_PLAIN = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}
_FACTORED = (_PLAIN - {"conv2"}) | {"conv2.temporal", "conv2.norm.0", "conv2.spatial"}
_LEAF = "|".join(LEAVES)
_THEIRS = re.compile(rf"blocks\.(\d+)\.res_blocks\.(\d+)\.({'|'.join(map(re.escape, _PARTS))})\.({_LEAF})")
_OURS = re.compile(rf"layer([1-4])\.(\d+)\.({'|'.join(map(re.escape, _BACK))})\.({_LEAF})")
_ENDS = {"conv1": "blocks.0.conv", "bn1": "blocks.0.norm"}


def from_resnet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of ``slow_r50``, ``c2d_r50``, ``i3d_r50`` or ``r2plus1d_r50`` to ours; the tensors are the same objects.

    Raises:
        WeightsError: a key that these networks do not have, or another number of stages than four.
    """
    stages = sorted({int(found[1]) for key in state_dict if (found := _THEIRS.fullmatch(key))})
    if stages not in ([1, 2, 3, 4], [1, 3, 4, 5]):
        raise WeightsError(
            "this is not the state dict of a single-pathway ResNet of pytorchvideo: its residual blocks lie in blocks 1 to 4, "
            f"or in 1 and 3 to 5 where a pooling is between them; here they lie in {stages or 'none'}"
        )
    layers = {block: f"layer{number}" for number, block in enumerate(stages, start=1)}
    ends = {theirs: ours for ours, theirs in _ENDS.items()} | {f"blocks.{stages[-1] + 1}.proj": "fc"}
    ours: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        stem, _, leaf = key.rpartition(".")
        if found := _THEIRS.fullmatch(key):
            ours[f"{layers[int(found[1])]}.{found[2]}.{_PARTS[found[3]]}.{found[4]}"] = value
        elif stem in ends and leaf in LEAVES:
            ours[f"{ends[stem]}.{leaf}"] = value
        else:
            raise WeightsError(
                f"the single-pathway ResNets of pytorchvideo have no {key!r}: give the state dict of slow_r50, c2d_r50, "
                "i3d_r50 or r2plus1d_r50 as it is"
            )
    return ours


def to_resnet(state_dict: Mapping[str, Tensor], *, temporal_pool: bool) -> dict[str, Tensor]:
    """Our keys to theirs; the tensors are the same objects.

    Keys tell neither the order of a (2+1)D convolution nor the strides: what comes out fits the network of theirs that
    is ours by its topology.

    Args:
        temporal_pool: the network pools pairs of frames after the first stage (``c2d_pool_*``, ``i3d_3x1x1_*``), which
            moves all later blocks by one; the weights do not tell.

    Raises:
        WeightsError: a key that these networks do not have, or a block that is not one of their bottlenecks.
    """
    shift = int(temporal_pool)
    ends = _ENDS | {"fc": f"blocks.{5 + shift}.proj"}
    theirs: dict[str, Tensor] = {}
    blocks: dict[str, set[str]] = {}
    for key, value in state_dict.items():
        stem, _, leaf = key.rpartition(".")
        if found := _OURS.fullmatch(key):
            stage = int(found[1])
            block = stage + (shift if stage > 1 else 0)
            theirs[f"blocks.{block}.res_blocks.{found[2]}.{_BACK[found[3]]}.{found[4]}"] = value
            blocks.setdefault(f"layer{stage}.{found[2]}", set()).add(found[3])
        elif stem in ends and leaf in LEAVES:
            theirs[f"{ends[stem]}.{leaf}"] = value
        else:
            raise WeightsError(f"the single-pathway ResNets of pytorchvideo have no place for {key!r}")
    for name, parts in blocks.items():
        if parts - {"downsample.0", "downsample.1"} not in (_PLAIN, _FACTORED):
            raise WeightsError(
                f"{name} has {', '.join(sorted(parts))}: pytorchvideo's ResNets have bottlenecks with a plain or a (2+1)D "
                "convolution in the middle"
            )
    return theirs
