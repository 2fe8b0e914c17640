"""Names of the classes of public data sets, in the order of the outputs of networks that were trained on them.

- ``k400``: Kinetics-400 (annotations under CC BY 4.0), alphabetical. Read from torchvision's video weights (BSD-3-Clause);
  mmaction2's list (Apache-2.0) is the same.
- ``ssv2``: Something-Something V2, alphabetical as its ``labels.json``: the templates without the brackets around
  "something". Read from mmaction2 (Apache-2.0); GluonCV's list (Apache-2.0) is the same.
- ``imagenet``: ImageNet-1k (ILSVRC 2012), by WordNet id. Read from torchvision's image weights (BSD-3-Clause).

Weights for Kinetics-600 and mmaction2's for Something-Something V1 have other orders.
"""

from __future__ import annotations

import importlib.resources
from functools import cache

from vidzoo.errors import ConfigError, nearest

__all__ = ["SSV2_FLIP_PAIRS", "class_names"]

_DATASETS = ("imagenet", "k400", "ssv2")

SSV2_FLIP_PAIRS = ((86, 87), (93, 94), (166, 167))
"""Classes of Something-Something V2 that a mirrored video exchanges: pulling and pushing from left to right or back, and
the camera turning left or right (the same pairs as in the GST authors' code)."""


@cache
def class_names(dataset: str) -> tuple[str, ...]:
    """The names of the classes of ``"k400"``, ``"ssv2"`` or ``"imagenet"``; the index is that of the output.

    Raises:
        ConfigError: no list of that name, with the nearest that exist.
    """
    if dataset not in _DATASETS:
        raise ConfigError(f"there are no class names for the data set {dataset!r}: {nearest(dataset, _DATASETS)}")
    file = importlib.resources.files("vidzoo.labels") / f"{dataset}.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines())
