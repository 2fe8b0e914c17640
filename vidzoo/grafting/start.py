"""A grafted model started from the weights of its backbone, as somebody else's file has them.

The backbone is built again, takes the weights strictly, and the plan is carried out on it: every unit then starts from a
trained kernel as its paper says. What comes out has the structure of the model, and its values go into it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vidzoo.errors import WeightsError
from vidzoo.grafting.model import GraftedModel
from vidzoo.layers.ctm import CTMBlock
from vidzoo.layers.unit import SpatioTemporalUnit
from vidzoo.loading import load_weights
from vidzoo.models.inflation import StartReport

__all__ = ["start_from_backbone"]

_CHANGED = 1e-5


@torch.no_grad()
def start_from_backbone(model: GraftedModel, weights: Mapping[str, Tensor]) -> StartReport:
    """Start ``model`` from the state dict of the network that its source builds, in place.

    The first convolution adapts to the model's input channels. The classifier is loaded where its shape fits.

    Returns:
        a report whose ``approximated`` has the relative change of the outputs of every layer that moved.

    Raises:
        WeightsError: they are not the weights of that network. The model is not touched then.
    """
    from vidzoo.grafting.graft import regraft

    origin = model.origin
    if origin is None or not origin.source:
        raise WeightsError(
            "this grafted model does not know the source of its backbone, which its weights would go through"
        )
    device = next(model.parameters()).device
    classifier = model.host.classifier_name.removeprefix("network.")
    head = weights.get(f"{classifier}.weight")
    classes = None if head is None else len(head)

    def load(network: torch.nn.Module) -> None:
        own = network.state_dict()
        values = {key: _shaped(value, own.get(key)) for key, value in weights.items()}
        stem = [name.removeprefix("host.network.") for name in model.pretrained_cfg.first_conv]
        counters = {
            key: value for key, value in own.items() if key.endswith("num_batches_tracked") and key not in values
        }
        load_weights(network, {**values, **counters}, source=origin.source, first_conv=stem, adapt_stem=True)

    started, rows = regraft(origin, load, in_chans=model.in_chans, num_classes=classes)
    values = started.to(device).state_dict()
    own = model.state_dict()
    fresh = [f"{name}.{part}" for name, unit in started.named_modules() for part in _drawn(unit)]
    if any(key not in own or (own[key].shape != value.shape and not _in_head(key)) for key, value in values.items()):
        raise WeightsError("the plan of this grafted model gives another network on these weights")
    for key, value in values.items():
        if own[key].shape == value.shape:
            own[key].copy_(value)
        else:
            fresh.append(key)
    approximated = tuple((row.name, row.change) for row in rows if row.change is not None and row.change > _CHANGED)
    return StartReport(len(weights), tuple(fresh), approximated)


def _drawn(unit: torch.nn.Module) -> tuple[str, ...]:
    if isinstance(unit, SpatioTemporalUnit):
        return unit.random_after_load
    return tuple(name for name, _ in unit.named_parameters()) if isinstance(unit, CTMBlock) else ()


def _in_head(key: str) -> bool:
    return key.startswith("fc.")


def _shaped(value: Tensor, own: Tensor | None) -> Tensor:
    """A classifier saved as a linear layer where the network has a 1x1 convolution, or the other way round."""
    flat = own is not None and value.ndim != own.ndim and min(value.ndim, own.ndim) == 2
    return value.reshape(own.shape) if flat and own is not None and value.numel() == own.numel() else value
