"""A network as Caffe2 named its blobs, for tests of what comes out of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_LEAVES = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def blobs(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From PySlowFast's keys of one pathway or two; counters of batches have no blob."""
    blocks = [re.match(r"s(\d)\.pathway1_res(\d+)\.", key) for key in weights]
    last = {
        stage: max(int(one[2]) for one in blocks if one and one[1] == stage) for stage in {b[1] for b in blocks if b}
    }
    named: dict[str, Tensor] = {}
    for key, value in weights.items():
        layer, _, leaf = key.rpartition(".")
        if leaf in _LEAVES:
            norm = layer.endswith("bn")
            named[f"{_named(layer, last)}_{_LEAVES[leaf] if norm or leaf == 'bias' else 'w'}"] = value
    return named


def _named(layer: str, last: Mapping[str, int]) -> str:
    """A lateral convolution is called after the last block in front of it."""
    if found := re.fullmatch(r"s(\d)_fuse\.(conv_f2s|bn)", layer):
        front = "t_pool1" if found[1] == "1" else f"t_res{found[1]}_{last[found[1]]}_branch2c_bn"
        return f"{front}_subsample{'_bn' if found[2] == 'bn' else ''}"
    fast = "t_" if "pathway1" in layer else ""
    name = re.sub(r"s(\d)\.pathway\d_res(\d+)\.", r"res\1_\2_", layer).replace("branch2.", "branch2")
    name = re.sub(r"s1\.pathway\d_stem\.conv", "conv1", name)
    name = re.sub(r"s1\.pathway\d_stem\.bn", "res_conv1_bn", name)
    return fast + name.replace("head.projection", "pred")
