"""Clips of different length in one batch: the lengths travel with the features.

A sampler that keeps as many frames as a clip needs (ATFR, CVPR 2021) leaves a batch whose clips end at different
frames. The map is padded with zeros to its longest clip, and :class:`RaggedClips` carries the lengths through every
operation that treats frames alike. Norms and pools have forms here that look at real frames only, so that no clip's
output depends on its batch mates; an operation whose effect on the lengths is unknown is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from vidzoo.errors import ModelInputError

__all__ = [
    "RaggedBatchNorm3d",
    "RaggedClips",
    "RaggedMaxPool3d",
    "RaggedMeanPool3d",
    "honour_lengths",
    "lengths_of",
    "mean_over_clip",
    "mean_over_space",
    "mean_over_time",
    "plain",
    "time_mask",
    "with_lengths",
]

# By the names under which torch reports them. Under the first group a zero stays zero; under the second it may not.
_ZERO_STAYS = {
    *("relu", "relu_", "silu", "silu_", "gelu", "leaky_relu", "leaky_relu_", "hardswish", "tanh", "neg"),
    *("dropout", "dropout3d", "feature_dropout", "mul", "__mul__", "__rmul__", "mul_", "__imul__"),
    *("clone", "detach", "contiguous", "to", "cpu", "cuda", "float", "half", "bfloat16", "double", "requires_grad_"),
}
_SUMS = {"add", "__add__", "__radd__", "add_", "__iadd__", "sub", "__sub__", "sub_", "__isub__"}
_FRAME_BY_FRAME = {*_SUMS, "sigmoid", "batch_norm"}
_KNOWN = _ZERO_STAYS | _FRAME_BY_FRAME
_CHANNELS = {"split", "split_with_sizes", "chunk"}
# They change the map or lead out of torch: refused before they run.
_REFUSED = {"__setitem__", "numpy", "__array__", "tolist"}


class RaggedClips(Tensor):
    """``(B, C, T, H, W)`` of which clip i has ``lengths[i] <= T`` frames; the frames behind them are zero.

    Elementwise operations and eval-mode norms keep the lengths, ``conv3d`` and ``cat`` over channels work them out. A
    clip shorter than a window that is not padded for it has no frames left, where torch would refuse it alone.

    Raises:
        ModelInputError: an operation that does not say what becomes of the lengths (take :func:`plain` to leave
            them behind), or a training-mode norm that would count the padding.
    """

    lengths: Tensor

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__")
        if name in _REFUSED or (in_place and name not in _KNOWN):
            raise _unknown(name)
        if name == "batch_norm" and _argument(args, given, 5, "training", False):
            raise ModelInputError(
                "a batch norm in training mode would count the padding of shorter clips: use RaggedBatchNorm3d "
                "(vidzoo.layers.ragged.honour_lengths swaps it in for BatchNorm3d; SyncBatchNorm has no such form)"
            )
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **given)
        several = isinstance(result, (tuple, list)) and any(isinstance(value, Tensor) for value in result)
        attribute = name == "__get__" and getattr(getattr(func, "__self__", None), "__name__", "") not in ("mT", "mH")
        if attribute or not (several or isinstance(result, Tensor)):
            return result
        ragged = [value for value in _flat((*args, *given.values())) if isinstance(value, RaggedClips)]
        if not ragged:
            return result
        # Of two maps the longer: there are zeros behind both ends.
        lengths = reduce(torch.maximum, (value.lengths for value in ragged))
        if name in _CHANNELS and _argument(args, given, 2, "dim", 0) in (1, -4):
            return tuple(_wrap(part, lengths) for part in result)
        if name in _ZERO_STAYS:
            clean = True
        elif name in _FRAME_BY_FRAME:
            clean = name in _SUMS and len(ragged) > 1
        elif name == "cat" and _argument(args, given, 1, "dim", 0) in (1, -4):
            clean = len(ragged) == len(_argument(args, given, 0, "tensors", ()))
        elif name == "where" and _is_zero(_argument(args, given, 2, "other", None)):
            clean = True
        elif name == "conv3d":
            lengths, clean = _conv_lengths(lengths, args, given)
        else:
            raise _unknown(name)
        if several or result.ndim != 5:
            raise _unknown(name)
        if result is ragged[0]:
            ragged[0].lengths = lengths
            if not clean:
                _blank_(ragged[0])
            return ragged[0]  # not ``result``, which torch.compile sees as an ordinary tensor
        return _wrap(result if clean else _blank(result, lengths), lengths)

    def __deepcopy__(self, memo: dict[int, Any]) -> RaggedClips:
        return _wrap(copy.deepcopy(plain(self), memo), copy.deepcopy(self.lengths, memo))


def with_lengths(x: Tensor, lengths: Tensor) -> Tensor:
    """``x`` with the lengths of its clips, zero behind their ends; an ordinary tensor when every clip fills it.

    Args:
        x: ``(B, C, T, H, W)``.
        lengths: ``(B,)`` whole numbers, at most T.

    Raises:
        ModelInputError: the lengths do not belong to this map.
    """
    if x.ndim != 5 or lengths.shape != (x.shape[0],) or lengths.is_floating_point() or x.shape[0] == 0:
        raise ModelInputError(
            f"lengths {tuple(lengths.shape)} of {lengths.dtype} do not belong to a map of shape {tuple(x.shape)}: give "
            "one whole number per clip of (B, C, T, H, W)"
        )
    shortest, longest = torch.stack(lengths.aminmax()).tolist()  # at once: each number waits for the device
    if longest > x.shape[2] or shortest < 0:
        raise ModelInputError(f"clips of {shortest} to {longest} frames do not fit into a map of {x.shape[2]}")
    return plain(x) if shortest == x.shape[2] else _wrap(_blank(plain(x), lengths), lengths.clone())


def lengths_of(x: Tensor) -> Tensor | None:
    """``(B,)`` frames of each clip, or None for an ordinary tensor, whose clips all have T."""
    return x.lengths if isinstance(x, RaggedClips) else None


def plain(x: Tensor) -> Tensor:
    """The same numbers as an ordinary tensor, padding included."""
    return x.as_subclass(Tensor) if isinstance(x, RaggedClips) else x


def time_mask(x: Tensor) -> Tensor | None:
    """``(B, 1, T, 1, 1)``, True on real frames; None for an ordinary tensor."""
    return _mask(x.lengths, x.shape[2]) if isinstance(x, RaggedClips) else None


def mean_over_clip(x: Tensor) -> Tensor:
    """``(B, C, T, H, W) -> (B, C)``: the mean over the real frames of each clip."""
    return mean_over_time(mean_over_space(x), lengths_of(x))


def mean_over_space(x: Tensor) -> Tensor:
    """``(B, C, T, H, W) -> (B, C, T)``: the mean of every frame, zero behind a clip's end."""
    # Frames before channels: on channels_last_3d maps torch's reduction is many times faster that way (CPU).
    return plain(x).transpose(1, 2).mean(dim=(3, 4)).transpose(1, 2)


def mean_over_time(frames: Tensor, lengths: Tensor | None) -> Tensor:
    """``(B, C, T) -> (B, C)``: the mean over the first ``lengths[i]`` frames, the others being zero."""
    mean = frames.mean(dim=2)
    if lengths is None:
        return mean
    counted = lengths.clamp(min=1).to(torch.promote_types(mean.dtype, torch.float32))
    return mean * (frames.shape[2] / counted).to(mean.dtype)[:, None]


class RaggedBatchNorm3d(nn.BatchNorm3d):
    """``nn.BatchNorm3d`` over real frames: they alone make the statistics, the padding stays zero. Same state dict."""

    def forward(self, input: Tensor) -> Tensor:
        lengths = lengths_of(input)
        if lengths is None or not (self.training or self.running_mean is None):
            return super().forward(input)
        real = _mask(lengths, input.shape[2])[:, 0, :, 0, 0]  # (B, T)
        frames = plain(input).permute(0, 2, 3, 4, 1)[real]  # (N, H, W, C), N real frames
        normed = super().forward(frames.permute(0, 3, 1, 2).unsqueeze(2))  # (N, C, 1, H, W)
        out = frames.new_zeros(*real.shape, *frames.shape[1:], dtype=normed.dtype)  # (B, T, H, W, C)
        out[real] = normed.squeeze(2).permute(0, 2, 3, 1)
        return _wrap(out.permute(0, 4, 1, 2, 3), lengths)


class RaggedMaxPool3d(nn.MaxPool3d):
    """``nn.MaxPool3d`` to which the padding behind a clip's end is as far away as that around the map."""

    def forward(self, input: Tensor) -> Tensor:
        lengths = lengths_of(input)
        if lengths is None:
            return super().forward(input)
        real = _mask(lengths, input.shape[2])
        pooled = super().forward(plain(input).masked_fill(~real, float("-inf")))
        k, s, p, d = (_time(value) for value in (self.kernel_size, self.stride, self.padding, self.dilation))
        span = lengths + 2 * p - d * (k - 1) - 1
        shorter = (torch.div(span + (s - 1 if self.ceil_mode else 0), s, rounding_mode="floor") + 1).clamp(min=0)
        if self.ceil_mode:  # as torch does: a window must begin inside the clip or in front of it
            shorter = torch.where((shorter - 1) * s >= lengths + p, shorter - 1, shorter)
        return _wrap(_blank(pooled, shorter), shorter)


class RaggedMeanPool3d(nn.Module):
    """``nn.AdaptiveAvgPool3d(1)`` over the real frames of each clip: ``(B, C, T, H, W) -> (B, C, 1, 1, 1)``."""

    def forward(self, x: Tensor) -> Tensor:
        return mean_over_clip(x)[:, :, None, None, None]


def honour_lengths(module: nn.Module) -> nn.Module:
    """Let norms and pools below ``module`` look at real frames only, in place; parameters and keys stay as they are."""
    for name, child in module.named_children():
        twin = _twin(child)
        if twin is None:
            honour_lengths(child)
        else:
            setattr(module, name, twin.train(child.training))
    return module


def _twin(module: nn.Module) -> nn.Module | None:
    if type(module) is nn.BatchNorm3d:
        norm = RaggedBatchNorm3d(
            module.num_features,
            module.eps,
            module.momentum,
            affine=module.affine,
            track_running_stats=module.track_running_stats,
            device="meta",
        )
        norm._parameters.update(module._parameters)
        norm._buffers.update(module._buffers)
        return norm
    if type(module) is nn.MaxPool3d:
        return RaggedMaxPool3d(
            module.kernel_size, module.stride, module.padding, module.dilation, ceil_mode=module.ceil_mode
        )
    if type(module) is nn.AdaptiveAvgPool3d and module.output_size in (1, (1, 1, 1)):
        return RaggedMeanPool3d()
    return None


def _mask(lengths: Tensor, frames: int) -> Tensor:
    return (torch.arange(frames, device=lengths.device) < lengths[:, None])[:, None, :, None, None]


def _wrap(x: Tensor, lengths: Tensor) -> RaggedClips:
    clips = x.as_subclass(RaggedClips)
    clips.lengths = lengths.to(x.device)
    return clips


def _unknown(name: str) -> ModelInputError:
    return ModelInputError(
        f"clips of different length met {name!r}, which does not say what becomes of their lengths: use "
        "vidzoo.layers.ragged.plain(x) and put the lengths back with with_lengths"
    )


def _argument(args: Sequence[Any], given: Mapping[str, Any], position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else given.get(name, default)


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0


def _blank(x: Tensor, lengths: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return torch.where(_mask(lengths, x.shape[2]), x, 0)


def _blank_(x: RaggedClips) -> RaggedClips:
    with torch._C.DisableTorchFunctionSubclass():
        x.masked_fill_(~_mask(x.lengths, x.shape[2]), 0)
    return x


def _conv_lengths(lengths: Tensor, args: Sequence[Any], given: Mapping[str, Any]) -> tuple[Tensor, bool]:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    call: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0, "dilation": 1}
    call.update(zip(names, args, strict=False))
    call.update(given)
    k, s, d = call["weight"].shape[2], _time(call["stride"]), _time(call["dilation"])
    if call["padding"] == "same":
        return lengths, k == 1 and call["bias"] is None
    p = 0 if call["padding"] == "valid" else _time(call["padding"])
    if s == 1 and 2 * p == d * (k - 1):  # every clip keeps its frames
        return lengths, k == 1 and call["bias"] is None
    shorter = (torch.div(lengths + 2 * p - d * (k - 1) - 1, s, rounding_mode="floor") + 1).clamp(min=0)
    return shorter, k == 1 and call["bias"] is None


def _time(value: Any) -> int:
    return int(value[0]) if isinstance(value, (tuple, list)) else int(value)


def _flat(args: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in args:
        found += list(value) if isinstance(value, (tuple, list)) else [value]
    return found
