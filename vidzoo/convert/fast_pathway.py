"""The first layers of ``resnet3d_*`` from the fast pathway of ``slowfast_*``, both in our keys.

The stem (5x7x7 to 8 channels) and the first stage (bottlenecks of 3x1x1, 1x3x3, 1x1x1 from 8 to 32 channels) of
3DResNet (ATFR, CVPR 2021, Table A.1) are those of SlowFast's fast pathway (ICCV 2019, Table 1), and both see 32 frames with a
stride of 2. So up to there features and running statistics are the donor's own. Everything behind is wider than the fast
pathway and has no donor, the classifier included: the result is an initialisation.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vidzoo.errors import WeightsError

__all__ = ["from_fast_pathway"]

_PREFIX = "fast."


def from_fast_pathway(state_dict: Mapping[str, Tensor], *, blocks: int = 3) -> dict[str, Tensor]:
    """Weights for the stem and ``layer1`` of ``resnet3d_50``; the rest of the network keeps what it has.

    Args:
        blocks: how many blocks of ``layer1`` to take, from the first on: 3 for ``resnet3d_50``, 2 for ``resnet3d_18``. A
            SlowFast of R18 has two.

    Raises:
        WeightsError: this is no SlowFast in our keys, it has fewer blocks, or another width.
    """
    stem = f"{_PREFIX}conv1.weight"
    if stem not in state_dict or tuple(state_dict[stem].shape[::2]) != (8, 5, 7):
        found = tuple(state_dict[stem].shape) if stem in state_dict else "not there"
        raise WeightsError(
            f"this is no SlowFast of vidzoo with 8 fast channels: {stem!r} should be (8, channels, 5, 7, 7), it is {found}; "
            "convert a foreign file first"
        )
    wanted = ("conv1.", "bn1.", *(f"layer1.{number}." for number in range(blocks)))
    ours = {key.removeprefix(_PREFIX): value for key, value in state_dict.items() if key.startswith(_PREFIX)}
    taken = {key: value for key, value in ours.items() if key.startswith(wanted)}
    missing = [prefix for prefix in wanted if not any(key.startswith(prefix) for key in taken)]
    if missing:
        raise WeightsError(
            f"this SlowFast has no {_PREFIX}{missing[0]}*: ask for fewer than {blocks} blocks of its fast pathway"
        )
    return taken
