"""State dicts of pytorchvideo's X3D (Apache-2.0) to ours, and back.

Their stem is built as a (2+1)D convolution with its two names exchanged: ``conv_t`` holds the spatial filter and
``conv_xy`` the temporal one. Their 1x1x1 convolutions of pooled maps (squeeze and excitation, ``post_conv``) are linear
layers here, so those weights change their shape. Their hub files hold this state dict under ``model_state``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vidzoo.convert.pytorchvideo.keys import BOTTLENECK, LEAVES, check_ends
from vidzoo.errors import WeightsError

__all__ = ["from_x3d", "to_x3d"]

# Outside the stages: theirs, ours.
_ENDS = {
    "blocks.0.conv.conv_t": "stem.spatial",
    "blocks.0.conv.conv_xy": "stem.temporal",
    "blocks.0.norm": "stem.bn",
    "blocks.5.pool.pre_conv": "conv5",
    "blocks.5.pool.pre_norm": "bn5",
    "blocks.5.pool.post_conv": "conv6",
    "blocks.5.proj": "fc",
}
# Inside a residual block: theirs, ours.
_PARTS = {
    **{theirs: ours for theirs, ours in BOTTLENECK.items() if ours != "bn2"},
    "branch2.norm_b.0": "bn2",
    "branch2.norm_b.1.block.0": "se.reduce",
    "branch2.norm_b.1.block.2": "se.expand",
}
_ENDS_BACK = {ours: theirs for theirs, ours in _ENDS.items()}
_PARTS_BACK = {ours: theirs for theirs, ours in _PARTS.items()}
_LINEAR = re.compile(r"(?:conv6|layer\d\.\d+\.se\.(?:reduce|expand))\.weight")
_LEAF = f"({'|'.join(LEAVES)})"
_THEIRS = re.compile(rf"(?:blocks\.([1-4])\.res_blocks\.(\d+)\.)?(.+)\.{_LEAF}")
_OURS = re.compile(rf"(?:layer([1-4])\.(\d+)\.)?(.+)\.{_LEAF}")


def from_x3d(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their keys to ours; the tensors are the same objects, or views of them where a convolution becomes linear.

    Raises:
        WeightsError: a key that their X3D does not have, one that it always has is missing, or a convolution over
            pooled maps that is not 1x1x1.
    """
    ours: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        name = _renamed(key, _THEIRS, "layer{}.{}.{}", _PARTS, _ENDS)
        if name is None:
            raise WeightsError(
                f"pytorchvideo's X3D has no {key!r}: give the state dict of one of its X3D networks as it is"
            )
        if _LINEAR.fullmatch(name):
            if value.ndim != 5 or value.shape[2:] != (1, 1, 1):
                raise WeightsError(
                    f"{key!r} must be the weight of a 1x1x1 convolution, its shape is {tuple(value.shape)}"
                )
            value = value.flatten(1)  # (C_out, C_in)
        ours[name] = value
    check_ends(state_dict, _ENDS, "a state dict of pytorchvideo's X3D")
    return ours


def to_x3d(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys to theirs; the tensors are the same objects, or views of them where a linear layer was a convolution.

    Raises:
        WeightsError: a key that their X3D has no place for, such as a sampler's, or one that it needs is missing.
    """
    theirs: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        name = _renamed(key, _OURS, "blocks.{}.res_blocks.{}.{}", _PARTS_BACK, _ENDS_BACK)
        if name is None:
            raise WeightsError(f"pytorchvideo's X3D has no place for {key!r}")
        theirs[name] = value[:, :, None, None, None] if _LINEAR.fullmatch(key) else value
    check_ends(state_dict, _ENDS_BACK, "a state dict of an X3D of vidzoo")
    return theirs


def _renamed(
    key: str, pattern: re.Pattern[str], block: str, parts: Mapping[str, str], ends: Mapping[str, str]
) -> str | None:
    found = pattern.fullmatch(key)
    if found is None:
        return None
    stage, position, module, leaf = found.groups()
    if stage is None:
        return f"{ends[module]}.{leaf}" if module in ends else None
    return f"{block.format(stage, position, parts[module])}.{leaf}" if module in parts else None
