"""Trained weights of a relative in a network of this zoo: its host without a sampler, a plain ResNet, the same network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from vidzoo.errors import WeightsError
from vidzoo.grafting.model import GraftedModel
from vidzoo.grafting.start import start_from_backbone
from vidzoo.layers.ctm import CTMBlock
from vidzoo.layers.unit import Inflation
from vidzoo.loading import load_weights
from vidzoo.models.base import VideoModel
from vidzoo.models.inflation import PlainTwin, StartReport, list_faults
from vidzoo.models.kth import ThreeLayerNet
from vidzoo.models.resnet import VideoResNet

__all__ = ["StartReport", "start_from"]


@torch.no_grad()
def start_from(
    model: VideoModel, weights: Mapping[str, Tensor], *, partial: bool = False, mode: Inflation | None = None
) -> StartReport:
    """Start ``model`` from trained weights of a network of its kin, in the keys of this zoo, in place.

    A grafted model takes the weights of its backbone, see :mod:`vidzoo.grafting.start`. For every other: weights in the
    model's own keys are loaded as they are; a sampler and CTM blocks that they do not have keep their values.
    For a ResNet or a network of three layers they may also be those of a plain one with the same skeleton, 2D or of dense
    3D kernels of any length: every unit then takes its kernel as its paper does, see :class:`StartReport` for what differs.
    The first convolution adapts to the model's input channels. The classifier is loaded where its shape fits.

    Args:
        partial: the weights are known to be those of a part of the model: what they do not have stays fresh.
        mode: how 2D kernels are inflated, see :func:`vidzoo.models.inflation.init_from_2d`.

    Raises:
        WeightsError: a tensor has no place, a place got nothing, shapes differ, or values are not finite. The model is
            not touched then.
        ConfigError: a mode that does not exist, or that a unit cannot take. No weight is changed then.
    """
    broken = [key for key, value in weights.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise WeightsError(f"the trained weights have NaN or infinite values in {', '.join(broken[:10])}")
    if isinstance(model, GraftedModel) and not all(key in model.state_dict() for key in weights):
        return start_from_backbone(model, weights)
    target = model.state_dict()
    classifier = [key for key in target if _inside(key, [model.head_name])]
    body = {key: value for key, value in weights.items() if not _inside(key, [model.head_name])}
    head = {key: weights[key] for key in classifier if key in weights and weights[key].shape == target[key].shape}
    if len(head) < len(classifier):
        head = {}
    if not body:
        raise WeightsError(f"there are no trained weights here for {type(model).__name__}, the classifier apart")

    kept = _kept(model, body, target, partial)
    unexpected, wrong = _strangers(model, body, target)
    if isinstance(model, (VideoResNet, ThreeLayerNet)) and (unexpected or wrong):
        twin = PlainTwin(model)
        body = twin.adapted(body)
        faults = twin.faults(body, partial=partial)
    else:
        twin = None
        missing = [key for key in target if key not in body and key not in kept]
        faults = list_faults(missing, unexpected, wrong)
    if faults:
        raise WeightsError(f"the trained weights do not fit {type(model).__name__}: {'; '.join(faults)}")
    report = twin.take_(body, mode=mode) if twin else _load_own(model, body, kept)
    for key, value in head.items():
        target[key].copy_(value)
    fresh = report.fresh if head else (*report.fresh, *classifier)
    return StartReport(report.loaded + len(head), fresh, report.approximated)


def _kept(
    model: VideoModel, body: Mapping[str, Tensor], target: Mapping[str, Tensor], partial: bool
) -> dict[str, Tensor]:
    """The model's own values of what the weights may lack: classifier, sampler, CTM blocks, counters of batches."""
    added = _names(model, lambda name, module: name == "sampler" or isinstance(module, CTMBlock))
    spared = [model.head_name, *(name for name in added if not any(_inside(key, [name]) for key in body))]
    return {
        key: value
        for key, value in target.items()
        if key not in body and (partial or _inside(key, spared) or key.endswith("num_batches_tracked"))
    }


def _strangers(
    model: VideoModel, body: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """Keys that are not the model's, and tensors of shapes that the strict loader cannot adapt."""
    adaptable = [*model.pretrained_cfg.first_conv, *_names(model, lambda _, module: hasattr(module, "adapt_weights"))]
    unexpected, wrong = [], []
    for key, value in body.items():
        if key not in target:
            unexpected.append(key)
            continue
        own = target[key]
        # Input channels and sizes of tables adapt, lengths over time do not.
        adapts = _inside(key, adaptable) and value.ndim == own.ndim and value.shape[2:3] == own.shape[2:3]
        table = value.ndim == own.ndim == 3 and _inside(key, adaptable)
        if value.shape != own.shape and not adapts and not table:
            wrong.append(f"{key} is {tuple(value.shape)}, the model has {tuple(own.shape)}")
    return unexpected, wrong


def _load_own(model: VideoModel, body: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> StartReport:
    first = model.pretrained_cfg.first_conv
    load_weights(model, {**body, **kept}, source="a trained network", first_conv=first, adapt_stem=True)
    fresh = (key for key in kept if not key.endswith("num_batches_tracked") and not _inside(key, [model.head_name]))
    return StartReport(loaded=len(body), fresh=tuple(fresh))


def _names(model: nn.Module, wanted: Callable[[str, nn.Module], bool]) -> list[str]:
    return [name for name, module in model.named_modules() if wanted(name, module)]


def _inside(key: str, modules: Iterable[str]) -> bool:
    return any(key.startswith(f"{name}.") for name in modules)
