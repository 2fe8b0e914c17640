"""Filters of LR-ASD, a detector of active speakers (Junhua-Liao/LR-ASD, MIT), as a start for the three-layer networks.

Each of their visual blocks is four convolutions, each with norm and ReLU behind it: over 5x5 positions (``s_1``), 3x3
(``s_2``), 5 frames (``t_1``) and 3 frames (``t_2``). ``s_2`` and ``t_2`` have the shapes of a rank-1 layer's spatial and
temporal filter, and ``t_norm_2`` those of the norm behind it. What stood between them is lost, ``t_1`` included, whose
outputs ``t_2`` was trained on: the result is an initialisation and no network that has learnt anything. The first spatial
filter has no donor (theirs sees grey), the classifier neither; nor have the norms' running statistics, which are of other maps.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vidzoo.errors import WeightsError

__all__ = ["from_lr_asd"]

_WIDTHS = {1: 32, 2: 64, 3: 128}


def from_lr_asd(state_dict: Mapping[str, Tensor], *, dense: bool = False) -> dict[str, Tensor]:
    """Weights for some keys of ``rank1_c3``; the rest of the network keeps what it has.

    Args:
        dense: for ``c3d_c3`` instead, layers 2 and 3: the products ``W[o, i, t, u] = sum over m of T[o, m, t] S[m, i, u]``,
            ``(C_out, C_in, 3, 3, 3)``, which are what the pairs compute, and norms. STDCF's ``load_conv_`` takes them.

    Raises:
        WeightsError: this is not a state dict of LR-ASD.
    """
    given = {key.removeprefix("model."): value for key, value in state_dict.items()}
    ours: dict[str, Tensor] = {}
    for number, width in _WIDTHS.items():
        temporal = _taken(given, number, "t_2.weight", (width, width, 3, 1, 1))
        norm = {leaf: _taken(given, number, f"t_norm_2.{leaf}", (width,)) for leaf in ("weight", "bias")}
        layer, filters = f"layer{number}.0", {"conv.temporal": temporal}
        if number > 1:
            spatial = _taken(given, number, "s_2.weight", (width, _WIDTHS[number - 1], 1, 3, 3))
            filters = {"conv": _product(spatial, temporal)} if dense else {"conv.spatial": spatial, **filters}
        elif dense:
            continue
        ours.update({f"{layer}.{name}.weight": value for name, value in filters.items()})
        ours.update({f"{layer}.bn.{leaf}": value for leaf, value in norm.items()})
    return ours


def _taken(given: Mapping[str, Tensor], number: int, name: str, shape: tuple[int, ...]) -> Tensor:
    key = f"visualEncoder.block{number}.{name}"
    found = tuple(given[key].shape) if key in given else "not there"
    if found != shape:
        raise WeightsError(f"this is not a state dict of LR-ASD: {key!r} should be {shape}, it is {found}")
    return given[key]


def _product(spatial: Tensor, temporal: Tensor) -> Tensor:
    """``(M, C_in, 1, 3, 3)`` and ``(C_out, M, 3, 1, 1)`` -> ``(C_out, C_in, 3, 3, 3)``."""
    return torch.einsum("mixy,omt->oitxy", spatial[:, :, 0], temporal[..., 0, 0])
