"""Spatio-temporal units: drop-in replacements for ``nn.Conv3d``, one paper's idea per file."""

from vidzoo.layers.conv import FrameConv3d, FullConv3d, GroupedConv3d
from vidzoo.layers.gst import GSTConv3d
from vidzoo.layers.p3d import P3DConv3d
from vidzoo.layers.unit import SpatioTemporalUnit, UnitFactory

__all__ = [
    "FrameConv3d",
    "FullConv3d",
    "GSTConv3d",
    "GroupedConv3d",
    "P3DConv3d",
    "SpatioTemporalUnit",
    "UnitFactory",
]
