"""The strict loader: weights fit a model exactly, except for the parts that the caller asked to replace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidzoo.errors import WeightsError

__all__ = ["LoadReport", "adapt_input_conv", "load_weights"]


@dataclass(frozen=True)
class LoadReport:
    """What a load did: how many tensors were taken as they are, which were adapted, which were left to the caller."""

    loaded: int
    adapted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def load_weights(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    source: str,
    first_conv: Iterable[str] = (),
    classifier: Iterable[str] = (),
    adapt_stem: bool = False,
    drop_head: bool = False,
    assign: bool = False,
) -> LoadReport:
    """Put ``state_dict`` into ``model``; nothing may be missing, left over, of another shape or not finite.

    Tensors take the dtype that the model has (embedded weights are half precision, models are built in single). A layer
    whose weights belong to a size of input may have a method ``adapt_weights(weights, prefix) -> keys``, which brings
    those of another size to its own in the mapping that it is given.

    Args:
        source: what the weights are called in messages (a path or a name).
        first_conv: modules whose input channels may be adapted, if ``adapt_stem``.
        classifier: modules that keep the model's own fresh values, if ``drop_head``.
        assign: replace the parameters instead of copying into them (for a model on the meta device).

    Raises:
        WeightsError: naming the keys that are missing, unexpected, of a wrong shape or kind, or not finite. The model
            is not touched then.
    """
    target = model.state_dict()
    dropped = tuple(key for key in target if drop_head and _belongs(key, classifier))
    weights = {key: value for key, value in state_dict.items() if not (drop_head and _belongs(key, classifier))}

    adapted = []
    if adapt_stem:
        # A unit may keep its filters in several tensors (branches) or as coefficients (STDCF), the input channels second.
        for key in (key for key in target if _belongs(key, first_conv) and key in weights):
            old, new = weights[key], target[key]
            if old.ndim == new.ndim > 2 and old.shape[1] != new.shape[1]:
                weights[key] = adapt_input_conv(old, new.shape[1])
                adapted.append(key)
    for name, module in model.named_modules():
        adapt = getattr(module, "adapt_weights", None)
        if adapt is not None:
            adapted += adapt(weights, f"{name}." if name else "")

    missing = [key for key in target if key not in weights and key not in dropped]
    unexpected = [key for key in weights if key not in target]
    wrong = [
        f"{key} is {tuple(weights[key].shape)}, the model has {tuple(target[key].shape)}"
        for key in target
        if key in weights and weights[key].shape != target[key].shape
    ]
    kinds = [
        f"{key} is {weights[key].dtype}, the model has {target[key].dtype}"
        for key in target
        if key in weights and weights[key].is_floating_point() != target[key].is_floating_point()
    ]
    faults = [
        f"{len(keys)} {what}: {', '.join(keys[:10])}{' ...' if len(keys) > 10 else ''}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", wrong),
            ("of another kind", kinds),
        )
        if keys
    ]
    if faults:
        raise WeightsError(f"the weights from {source} do not fit {type(model).__name__}: {'; '.join(faults)}")
    broken = [key for key, value in weights.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise WeightsError(f"the weights from {source} have NaN or infinite values in {', '.join(broken[:10])}")

    cast = {key: value.to(target[key].dtype) for key, value in weights.items()}
    model.load_state_dict(cast, strict=False, assign=assign)
    return LoadReport(loaded=len(cast) - len(adapted), adapted=tuple(adapted), dropped=dropped)


def adapt_input_conv(weight: Tensor, in_chans: int) -> Tensor:
    """A first convolution for another number of input channels, in any number of dimensions.

    ``(C_out, C, ...) -> (C_out, in_chans, ...)``. The sum over input channels is kept exactly, so a model fed with
    one gray clip in each of its ``in_chans`` channels answers as the original did to that clip in each of its ``C``:
    with more channels the filters repeat in turn, sharing their weight among the copies; with fewer the rest is
    spread evenly.
    """
    channels = weight.shape[1]
    if in_chans >= channels:
        index = torch.arange(in_chans) % channels
        copies = torch.bincount(index, minlength=channels)[index].to(weight.dtype)
        return weight[:, index] / copies.view(-1, *[1] * (weight.ndim - 2))
    return weight[:, :in_chans] + weight[:, in_chans:].sum(dim=1, keepdim=True) / in_chans


def _belongs(key: str, modules: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in modules)
