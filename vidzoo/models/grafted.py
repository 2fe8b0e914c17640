"""A network of another library with modules of the papers in it, built again from its source and the plan.

:func:`vidzoo.graft` makes such a model out of a trained network. This entrypoint makes the same one from what its
``config.json`` says: ``backbone``, where the network comes from, and ``plan``, what was done to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from vidzoo.grafting.graft import rebuild
from vidzoo.grafting.model import GraftedModel
from vidzoo.models.base import CommonOptions
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = ["GraftOptions", "graft"]

_CFG = VideoCfg(first_conv=("host.network.conv1",), classifier=("fc",))


class GraftOptions(CommonOptions, total=False):
    """Options of a grafted network. ``drop_rate``: left out, what the plan says.

    ``example``: shape of what the backbone is looked at with, one for each pathway, where the usual small one does not do.
    """

    example: Sequence[int] | Sequence[Sequence[int]]


@register_model(cfgs={"": _CFG})
def graft(
    *,
    backbone: str = "timm:resnet18",
    plan: str | Sequence[dict[str, Any]] = "gst",
    **options: Unpack[GraftOptions],
) -> GraftedModel:
    """A backbone, such as ``timm:resnet18``, and a plan: the name of one or the operations as dicts."""
    return rebuild(
        backbone,
        plan,
        num_classes=options.get("num_classes", 400),
        in_chans=options.get("in_chans", 3),
        num_frames=options.get("num_frames", 8),
        drop_rate=options.get("drop_rate"),
        example=options.get("example"),
    )
