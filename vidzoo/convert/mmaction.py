"""State dicts of mmaction2 (Apache-2.0) to ours, and back: TSN, C2D, SlowOnly, SlowFast and X3D.

Their convolutions hold their norm (``conv1.conv``, ``conv1.bn``); ours have torchvision's names. Besides the names:

- TSN, and C2D without pooling over time, are 2D networks: to ``c2d_*`` their filters get a time axis of length 1.
- SlowOnly becomes ``slow_r50``.
- SlowFast becomes ``slowfast_*``; its classifier has the fast features in front, ours behind. Only their files with
  ``lateral_norm=True`` have the norm and the ReLU that ours (and PySlowFast's) have behind a lateral convolution. Keys
  do not tell which frames the slow pathway sees: theirs takes every alpha-th from the first, ours spreads them to the last.
- X3D becomes ``x3d_*``. Its first shortcut has a norm, which is folded into the convolution and into the last norm of
  the block; its 1x1x1 convolutions of pooled maps are linear layers here.

Their I3D, R(2+1)D and OmniSource networks are not ours and are refused. One that keys do not tell from TSN: C2D with
pooling over time, which is no network of ours either, because its stem pools without padding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vidzoo.convert.pytorchvideo.keys import LEAVES, check_ends
from vidzoo.errors import WeightsError

__all__ = ["from_mmaction", "to_mmaction"]

# Outside the stages: theirs, ours.
_RESNET = {"backbone.conv1.conv": "conv1", "backbone.conv1.bn": "bn1", "cls_head.fc_cls": "fc"}
_SLOWFAST = {
    **{f"backbone.{path}_path.conv1.conv": f"{path}.conv1" for path in ("slow", "fast")},
    **{f"backbone.{path}_path.conv1.bn": f"{path}.bn1" for path in ("slow", "fast")},
    **{
        f"backbone.slow_path.{after}_lateral.{part}": f"fuse{number}.{part}"
        for number, after in enumerate(("conv1", "layer1", "layer2", "layer3"), start=1)
        for part in ("conv", "bn")
    },
    "cls_head.fc_cls": "fc",
}
_X3D = {
    "backbone.conv1_s.conv": "stem.spatial",
    "backbone.conv1_t.conv": "stem.temporal",
    "backbone.conv1_t.bn": "stem.bn",
    "backbone.conv5.conv": "conv5",
    "backbone.conv5.bn": "bn5",
    "cls_head.fc1": "conv6",
    "cls_head.fc2": "fc",
}
# Inside a residual block: theirs, ours.
_PARTS = {
    **{f"conv{i}.conv": f"conv{i}" for i in (1, 2, 3)},
    **{f"conv{i}.bn": f"bn{i}" for i in (1, 2, 3)},
    "downsample.conv": "downsample.0",
    "downsample.bn": "downsample.1",
    "se_module.fc1": "se.reduce",
    "se_module.fc2": "se.expand",
}
_PARTS_BACK = {ours: theirs for theirs, ours in _PARTS.items()}
_LEAF = f"({'|'.join(LEAVES)})"
_THEIRS = re.compile(rf"backbone\.(?:(slow|fast)_path\.)?(layer[1-4]\.\d+)\.(.+)\.{_LEAF}")
_OURS = re.compile(rf"(?:(slow|fast)\.)?(layer[1-4]\.\d+)\.(.+)\.{_LEAF}")
_SQUEEZE = re.compile(r"layer\d\.\d+\.se\.(?:reduce|expand)\.weight")
_KERNEL = re.compile(r"layer\d\.\d+\.(?:conv\d|downsample\.0)\.weight")

# What marks a network that looks like one of ours and is not.
_OTHERS = (
    (re.compile(r".*\.non_local_block\..+"), "it has non-local blocks, no network of ours has"),
    (
        re.compile(r".*\.downsample\.conv\.conv_s\..+"),
        "the shortcuts of mmaction2's R(2+1)D are (2+1)D convolutions with a norm and a ReLU inside, those of r2plus1d_34 "
        "are plain 1x1x1 convolutions",
    ),
    (re.compile(r"cls_head\.fc3d\..+"), "the head of OmniSource has two linear layers with a norm between them"),
)


def from_mmaction(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their keys to ours; the tensors are the same objects or views of them, but for X3D's folded norm.

    The mean and deviation of their preprocessor, ``data_preprocessor.*``, are dropped.

    Raises:
        WeightsError: a network that is not one of ours, with the difference, or a key that theirs do not have.
    """
    weights = {key: value for key, value in state_dict.items() if not key.startswith("data_preprocessor.")}
    for key in weights:
        for pattern, difference in _OTHERS:
            if pattern.fullmatch(key):
                raise WeightsError(f"{difference} (found {key!r})")
    ends = _ends(weights, theirs=True)
    if ends is _SLOWFAST and "backbone.slow_path.conv1_lateral.bn.weight" not in weights:
        raise WeightsError(
            "the lateral convolutions of this SlowFast have neither norm nor ReLU behind them, ours have both: of "
            "mmaction2's files only those trained with lateral_norm=True fit"
        )
    check_ends(weights, ends, "a state dict of mmaction2's TSN, C2D, SlowOnly, SlowFast or X3D")
    ours: dict[str, Tensor] = {}
    for key, value in weights.items():
        found = _THEIRS.fullmatch(key)
        stem, _, leaf = key.rpartition(".")
        if found and found[3] in _PARTS:
            path = f"{found[1]}." if found[1] else ""
            ours[f"{path}{found[2]}.{_PARTS[found[3]]}.{found[4]}"] = value
        elif stem in ends and leaf in LEAVES:
            ours[f"{ends[stem]}.{leaf}"] = value
        else:
            raise WeightsError(
                f"mmaction2's TSN, C2D, SlowOnly, SlowFast and X3D have no {key!r}: give the state dict of one of these as "
                "it is, trained on a ResNet of mmaction2"
            )
    if ends is _X3D:
        _fold_shortcut_norms(ours)
        return {key: value.flatten(1) if _SQUEEZE.fullmatch(key) else value for key, value in ours.items()}
    if ends is _SLOWFAST:
        ours["fc.weight"] = torch.roll(ours["fc.weight"], -_fast_width(ours), 1)  # fast in front -> fast behind
        return ours
    ours = {key: value[:, :, None] if value.ndim == 4 else value for key, value in ours.items()}  # (O, I, 1, H, W)
    _check_lengths(ours)
    return ours


def to_mmaction(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys to theirs: ``c2d_*`` to TSN or C2D without pooling, ``slow_*`` to SlowOnly, ``slowfast_*``, ``x3d_*``.

    X3D's first shortcut gets a norm that changes nothing. ``c2d_pool_*`` has the keys of ``c2d_*``, but their network
    with pooling over time is another one.

    Raises:
        WeightsError: their code has no such network.
    """
    ends = _ends(state_dict, theirs=False)
    check_ends(
        state_dict, {ours: theirs for theirs, ours in ends.items()}, "a state dict of c2d, slow, slowfast or x3d"
    )
    weights = dict(state_dict)
    if ends is _X3D:
        _add_shortcut_norms(weights)
        weights = {
            key: value[..., None, None, None] if _SQUEEZE.fullmatch(key) else value for key, value in weights.items()
        }
    elif ends is _SLOWFAST:
        weights["fc.weight"] = torch.roll(weights["fc.weight"], _fast_width(weights), 1)
    elif not _check_lengths(weights):
        weights = {key: value.squeeze(2) if value.ndim == 5 else value for key, value in weights.items()}
    back = {ours: theirs for theirs, ours in ends.items()}
    theirs: dict[str, Tensor] = {}
    for key, value in weights.items():
        found = _OURS.fullmatch(key)
        stem, _, leaf = key.rpartition(".")
        if found and found[3] in _PARTS_BACK:
            path = f"{found[1]}_path." if found[1] else ""
            theirs[f"backbone.{path}{found[2]}.{_PARTS_BACK[found[3]]}.{found[4]}"] = value
        elif stem in back and leaf in LEAVES:
            theirs[f"{back[stem]}.{leaf}"] = value
        else:
            raise WeightsError(f"mmaction2's C2D, SlowOnly, SlowFast and X3D have no place for {key!r}")
    return theirs


def _ends(weights: Mapping[str, Tensor], *, theirs: bool) -> dict[str, str]:
    """The family, by its first convolution."""
    for ends in (_RESNET, _SLOWFAST, _X3D):
        first = next(iter(ends)) if theirs else next(iter(ends.values()))
        if f"{first}.weight" in weights:
            return ends
    raise WeightsError(
        "this is not a state dict of mmaction2's TSN, C2D, SlowOnly, SlowFast or X3D: it has none of their stems"
        if theirs
        else "this is not a state dict of c2d, slow, slowfast or x3d: it has none of their stems"
    )


def _fast_width(ours: Mapping[str, Tensor]) -> int:
    """Channels that leave the fast pathway."""
    last = "fast.layer4.0.bn3.weight"
    if last not in ours:
        raise WeightsError(f"this is not a SlowFast of bottlenecks: its weights, by our names, lack {last!r}")
    return ours[last].shape[0]


def _check_lengths(ours: Mapping[str, Tensor]) -> bool:
    """Whether this single-pathway network looks over time: False for C2D's kernels, True for Slow's.

    Raises:
        WeightsError: temporal kernels that neither has.
    """
    for key, value in ours.items():
        if (key == "conv1.weight" or _KERNEL.fullmatch(key)) and value.ndim != 5:
            raise WeightsError(f"{key!r} is no filter of a video network, its shape is {tuple(value.shape)}")
    stem = ours["conv1.weight"].shape[2]
    if stem != 1:
        raise WeightsError(
            f"the stem is {stem} frames long, as in mmaction2's I3D, which takes every second frame there and again in the "
            "pooling behind it, or (heavy) is 3x1x1 in every block: i3d_3x1x1 does neither"
        )
    lengths = {key: value.shape[2] for key, value in ours.items() if _KERNEL.fullmatch(key)}
    over_time = any(length != 1 for length in lengths.values())
    for key, length in lengths.items():
        late = key.startswith(("layer3.", "layer4.")) and key.endswith(".conv1.weight")
        if length != (3 if over_time and late else 1):
            raise WeightsError(
                f"{key!r} is {length} frames long: C2D has lengths of 1 only, Slow has 3 in the first convolutions of the last "
                "two stages and 1 elsewhere"
            )
    return over_time


_EPS = 1e-5  # of their norms and of ours


def _fold_shortcut_norms(ours: dict[str, Tensor]) -> None:
    """Take out the norms of shortcuts that keep their width.

    ``w' = s w``, and ``b - s mean`` on the shift of ``bn3``, which the shortcut is added to; ``s = weight / sqrt(var + eps)``.
    """
    for key in [key for key in ours if key.endswith("downsample.0.weight")]:
        conv, block = ours[key], key.removesuffix("downsample.0.weight")
        if conv.shape[0] != conv.shape[1]:
            continue
        shift = f"{block}bn3.bias"
        norm = {
            leaf: ours.pop(f"{block}downsample.1.{leaf}") for leaf in LEAVES if f"{block}downsample.1.{leaf}" in ours
        }
        if shift not in ours or not set(LEAVES[:4]) <= set(norm):
            raise WeightsError(
                f"this is not a state dict of mmaction2's X3D: the norms beside {key!r} are not complete"
            )
        weight, bias, mean, var = (norm[leaf].double() for leaf in LEAVES[:4])
        scale = weight / (var + _EPS).sqrt()
        ours[key] = (conv.double() * scale[:, None, None, None, None]).to(conv.dtype)
        ours[shift] = (ours[shift].double() + bias - scale * mean).to(ours[shift].dtype)


def _add_shortcut_norms(ours: dict[str, Tensor]) -> None:
    """A norm that changes nothing behind each shortcut that has none."""
    for key in [key for key in ours if key.endswith("downsample.0.weight")]:
        norm = key.removesuffix("0.weight") + "1"
        if f"{norm}.weight" not in ours:
            ones = torch.ones_like(ours[key][:, 0, 0, 0, 0])
            values = (ones, 0 * ones, 0 * ones, ones - _EPS, torch.zeros((), dtype=torch.long, device=ones.device))
            ours.update({f"{norm}.{leaf}": value for leaf, value in zip(LEAVES, values, strict=True)})
