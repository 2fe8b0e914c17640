"""What the networks of pytorchvideo name alike: the layers of a bottleneck, and what a layer holds."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vidzoo.errors import WeightsError

__all__ = ["BOTTLENECK", "LEAVES", "check_ends"]

# Theirs, ours.
BOTTLENECK = {
    "branch1_conv": "downsample.0",
    "branch1_norm": "downsample.1",
    "branch2.conv_a": "conv1",
    "branch2.norm_a": "bn1",
    "branch2.conv_b": "conv2",
    "branch2.norm_b": "bn2",
    "branch2.conv_c": "conv3",
    "branch2.norm_c": "bn3",
}
LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def check_ends(state_dict: Mapping[str, Tensor], ends: Mapping[str, str], what: str) -> None:
    """Refuse a state dict without the layers outside the stages.

    Raises:
        WeightsError: naming the weights that are missing.
    """
    missing = [f"{name}.weight" for name in ends if f"{name}.weight" not in state_dict]
    if missing:
        raise WeightsError(f"this is not {what}: it lacks {', '.join(missing)}")
