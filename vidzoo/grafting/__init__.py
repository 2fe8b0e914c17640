"""Surgery: the papers' modules in a network that somebody already has, of timm, torchvision, pytorchvideo or this zoo."""

from vidzoo.grafting.graft import graft
from vidzoo.grafting.model import GraftedModel
from vidzoo.grafting.places import Place, Places, Stage, find_places
from vidzoo.grafting.plan import (
    PLANS,
    Inflate,
    InsertCTM,
    InsertSGS,
    InsertShift,
    Operation,
    ReplaceHead,
    SwapConv,
    Where,
    read_plan,
    write_plan,
)

__all__ = [
    "PLANS",
    "GraftedModel",
    "Inflate",
    "InsertCTM",
    "InsertSGS",
    "InsertShift",
    "Operation",
    "Place",
    "Places",
    "ReplaceHead",
    "Stage",
    "SwapConv",
    "Where",
    "find_places",
    "graft",
    "read_plan",
    "write_plan",
]
