"""State dicts of R(2+1)D-34 trained on IG-65M (moabitcoin/ig65m-pytorch, MIT) to ours.

The weights are those of facebookresearch/VMZ (Apache-2.0). Their network is torchvision's with the middle widths of the
paper, which has the keys and shapes of ``r2plus1d_34``. Only its norms divide by ``sqrt(var + 1e-3)``, as Caffe2 has it, where
ours divide by ``sqrt(var + 1e-5)``: the difference goes into the variances, so in evaluation the outputs are theirs. Norms
that are trained on measure variances anew, and then add 1e-5. Keys do not tell these files from those of a ``r2plus1d_34``
trained here, which need no conversion.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vidzoo.errors import WeightsError

__all__ = ["from_ig65m"]

_DIFFERENCE = 1e-3 - 1e-5  # their eps, less ours
# The fourth block of layer2 is in no R(2+1)D-18, whose files in these keys have the eps of torchvision; shapes of the stem
# and of the layer where torchvision's middle is narrower.
_SHAPES = {
    "stem.0.weight": (45, 3, 1, 7, 7),
    "stem.3.weight": (64, 45, 3, 1, 1),
    "layer2.0.conv2.0.0.weight": (288, 128, 1, 3, 3),
    "layer2.3.conv1.0.0.weight": (288, 128, 1, 3, 3),
    "layer4.2.conv2.0.3.weight": (512, 1152, 3, 1, 1),
}


def from_ig65m(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same keys, with variances for our norms; all other tensors are the same objects.

    Raises:
        WeightsError: this is not their R(2+1)D-34.
    """
    for key, shape in _SHAPES.items():
        found = tuple(state_dict[key].shape) if key in state_dict else "not there"
        if found != shape:
            raise WeightsError(f"this is not an R(2+1)D-34 of IG-65M: {key!r} should be {shape}, it is {found}")
    return {
        key: (value.double() + _DIFFERENCE).to(value.dtype) if key.endswith(".running_var") else value
        for key, value in state_dict.items()
    }
