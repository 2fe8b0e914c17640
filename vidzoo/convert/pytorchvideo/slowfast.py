"""State dicts of pytorchvideo's SlowFast (Apache-2.0) to ours, and back.

Their network is a list of blocks: stems, res2 to res5, a pooling without weights, head. Each of the first five holds the
slow pathway as ``multipathway_blocks.0``, the fast one as ``multipathway_blocks.1``, and what leads from the fast one to
the next slow stage as ``multipathway_fusion``. Ours have torchvision's names below ``slow`` and ``fast``, and ``fuse1`` to
``fuse4`` are named after the stage that they lead into. Their hub files hold this state dict under ``model_state``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vidzoo.convert.pytorchvideo.keys import BOTTLENECK, LEAVES, check_ends
from vidzoo.errors import WeightsError

__all__ = ["from_slowfast", "to_slowfast"]

_PATHWAYS = ("slow", "fast")
# Outside the stages: theirs, ours.
_ENDS = {
    **{f"blocks.0.multipathway_blocks.{i}.conv": f"{path}.conv1" for i, path in enumerate(_PATHWAYS)},
    **{f"blocks.0.multipathway_blocks.{i}.norm": f"{path}.bn1" for i, path in enumerate(_PATHWAYS)},
    **{f"blocks.{i}.multipathway_fusion.conv_fast_to_slow": f"fuse{i + 1}.conv" for i in range(4)},
    **{f"blocks.{i}.multipathway_fusion.norm": f"fuse{i + 1}.bn" for i in range(4)},
    "blocks.6.proj": "fc",
}
_ENDS_BACK = {ours: theirs for theirs, ours in _ENDS.items()}
_PARTS_BACK = {ours: theirs for theirs, ours in BOTTLENECK.items()}
_LEAF = f"({'|'.join(LEAVES)})"
_THEIRS = re.compile(rf"blocks\.([1-4])\.multipathway_blocks\.([01])\.res_blocks\.(\d+)\.(.+)\.{_LEAF}")
_OURS = re.compile(rf"(slow|fast)\.layer([1-4])\.(\d+)\.(.+)\.{_LEAF}")
_END = re.compile(rf"(.+)\.{_LEAF}")


def from_slowfast(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their keys to ours; the tensors are the same objects.

    Raises:
        WeightsError: a key that their SlowFast does not have, or one that it always has is missing.
    """
    ours: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        inside, end = _THEIRS.fullmatch(key), _END.fullmatch(key)
        if inside and inside[4] in BOTTLENECK:
            path = _PATHWAYS[int(inside[2])]
            ours[f"{path}.layer{inside[1]}.{inside[3]}.{BOTTLENECK[inside[4]]}.{inside[5]}"] = value
        elif end and end[1] in _ENDS:
            ours[f"{_ENDS[end[1]]}.{end[2]}"] = value
        else:
            raise WeightsError(
                f"pytorchvideo's SlowFast has no {key!r}: give the state dict of slowfast_r50, slowfast_r101 or "
                "slowfast_16x8_r101_50_50 as it is"
            )
    check_ends(state_dict, _ENDS, "a state dict of pytorchvideo's SlowFast")
    return ours


def to_slowfast(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys to theirs; the tensors are the same objects.

    Keys do not tell alpha: what comes out fits the network of theirs whose lateral convolutions have our stride.

    Raises:
        WeightsError: a key that they have no place for, such as a sampler's, or one that they need is missing.
    """
    theirs: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        inside, end = _OURS.fullmatch(key), _END.fullmatch(key)
        if inside and inside[4] in _PARTS_BACK:
            path, stage, position, part, leaf = inside.groups()
            pathway = f"blocks.{stage}.multipathway_blocks.{_PATHWAYS.index(path)}"
            theirs[f"{pathway}.res_blocks.{position}.{_PARTS_BACK[part]}.{leaf}"] = value
        elif end and end[1] in _ENDS_BACK:
            theirs[f"{_ENDS_BACK[end[1]]}.{end[2]}"] = value
        else:
            raise WeightsError(f"pytorchvideo's SlowFast has no place for {key!r}")
    check_ends(state_dict, _ENDS_BACK, "a state dict of a SlowFast of vidzoo")
    return theirs
