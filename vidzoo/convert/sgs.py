"""State dicts of the SGS authors' code (SimilarityGuidedSampling/Similarity-Guided-Sampling, Apache-2.0) to ours, and back.

Their 3DResNet and SlowFast have PySlowFast's keys, see :mod:`vidzoo.convert.pyslowfast`, and a sampler inside one stage:
``s2.ts_layer``, in SlowFast one for each pathway, ``s2.pathway0_ts_layer``. Ours is ``sampler`` of ``resnet3d_*_atfr``, and
``sampler.slow`` and ``sampler.fast`` of ``slowfast_*_atfr``, built with ``released=True``; which stage it stands behind is
the option ``after`` there. The two layers of its embedding are linear in theirs and convolutions over single frames in ours.

Names and values are all that is carried over. Their code samples in front of the last ReLU of the stage, ours behind it as
the paper has it, and where SlowFast's pathways differ in length theirs is padded at both ends, ours at the end. So a sampled
network with their weights does not give their scores; without a sampler it does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vidzoo.convert.pyslowfast import from_pyslowfast, to_pyslowfast
from vidzoo.errors import WeightsError

__all__ = ["from_sgs", "to_sgs"]

# Inside a sampler: theirs, ours.
_PARTS = {"fc.0": "embedding.conv1", "fc.2": "embedding.conv2", "bn": "embedding.norm"}
_PATHWAYS = {"pathway0_": "slow.", "pathway1_": "fast.", "": ""}
_THEIRS = re.compile(r"s(\d)\.(pathway[01]_|)ts_layer\.(fc\.[02]|bn)\.(\w+)")
_OURS = re.compile(r"sampler\.(slow\.|fast\.|)(embedding\.(?:conv[12]|norm))\.(\w+)")


def from_sgs(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their keys to ours; the tensors are the same objects, or views where a linear layer becomes a convolution.

    Without a sampler they are those of ``resnet3d_*`` or ``slowfast_*``.

    Raises:
        WeightsError: a key that these networks do not have, or samplers in more than one stage.
    """
    stages = {found[1] for key in state_dict if (found := _THEIRS.fullmatch(key))}
    if len(stages) > 1:
        raise WeightsError(
            f"there are samplers in the stages {', '.join(sorted(stages))}: ours has one behind one stage"
        )
    samplers: dict[str, Tensor] = {}
    host: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        found = _THEIRS.fullmatch(key)
        if found is None:
            host[key] = value
            continue
        _, path, part, leaf = found.groups()
        layer = part != "bn" and leaf == "weight"
        samplers[f"sampler.{_PATHWAYS[path]}{_PARTS[part]}.{leaf}"] = (
            value.unsqueeze(2) if layer else value
        )  # (out, in, 1)
    return from_pyslowfast(host) | samplers


def to_sgs(state_dict: Mapping[str, Tensor], *, stage: int = 2) -> dict[str, Tensor]:
    """Our keys to theirs; the tensors are the same objects, or views where a convolution becomes a linear layer.

    Args:
        stage: the stage that the sampler stands behind, 2 for res2; the weights do not tell.

    Raises:
        WeightsError: a key that these networks do not have.
    """
    parts = {ours: theirs for theirs, ours in _PARTS.items()}
    pathways = {ours: theirs for theirs, ours in _PATHWAYS.items()}
    samplers: dict[str, Tensor] = {}
    host: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        found = _OURS.fullmatch(key)
        if found is None:
            host[key] = value
            continue
        path, part, leaf = found.groups()
        layer = part != "embedding.norm" and leaf == "weight"
        samplers[f"s{stage}.{pathways[path]}ts_layer.{parts[part]}.{leaf}"] = value.squeeze(2) if layer else value
    return to_pyslowfast(host) | samplers
