"""Spatio-temporal units (drop-in replacements for ``nn.Conv3d``), blocks and samplers, one paper's idea per file."""

from vidzoo.layers.attention import TemporalAttention
from vidzoo.layers.conv import FrameConv3d, FullConv3d, GroupedConv3d
from vidzoo.layers.ctm import CTMBlock
from vidzoo.layers.gst import GSTConv3d
from vidzoo.layers.p3d import P3DConv3d
from vidzoo.layers.ragged import RaggedClips, honour_lengths, lengths_of, with_lengths
from vidzoo.layers.reparam import ReparamConv3d
from vidzoo.layers.sgs import SimilarityGuidedSampling
from vidzoo.layers.squeeze import SqueezeExcite
from vidzoo.layers.stdcf import STDCFConv3d
from vidzoo.layers.unit import SpatioTemporalUnit, UnitFactory

__all__ = [
    "CTMBlock",
    "FrameConv3d",
    "FullConv3d",
    "GSTConv3d",
    "GroupedConv3d",
    "P3DConv3d",
    "RaggedClips",
    "ReparamConv3d",
    "STDCFConv3d",
    "SimilarityGuidedSampling",
    "SpatioTemporalUnit",
    "SqueezeExcite",
    "TemporalAttention",
    "UnitFactory",
    "honour_lengths",
    "lengths_of",
    "with_lengths",
]
