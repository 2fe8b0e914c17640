"""Three layers for KTH: a small 3D CNN with plain, rank-1 or STDCF convolutions.

Paper: Miao et al., "Spatiotemporal Joint Filter Decomposition in 3D Convolutional Neural Networks", NeurIPS 2021, section
3.1: "a simple three-layer 3D CNN" over clips of 16 x 60 x 80, whose convolutions are replaced by each other's. Its Table B
is not at hand, so everything else is this project's: 3x3x3 convolutions of 32, 64 and 128 channels, batch norm and
ReLU behind each, a maximum over 2x2x2, and a linear classifier of the mean over the clip. No accuracy of the paper is
claimed for these networks, and of its memory only ratios between sizes of clip.

Section 2.1.1's rank-1 convolution, 1 x k x k to C_out channels and then t x 1 x 1, nothing between, is
:class:`~vidzoo.layers.p3d.P3DConv3d` without norm.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.layers.conv import FullConv3d
from vidzoo.layers.p3d import P3DConv3d
from vidzoo.layers.ragged import mean_over_clip
from vidzoo.layers.unit import UnitFactory
from vidzoo.models.base import CommonOptions, FeatureInfo, VideoModel, check_rates
from vidzoo.models.stdcf import AtomOptions, atom_unit, without_atoms
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import register_model

__all__ = ["ThreeLayerNet", "c3d_c3", "rank1_c3", "stdcf_c3"]

# Section 3.1: clips of 16 frames at 25 per second, 60 x 80 pixels (half of KTH's 120 x 160), six actions. The paper
# leaves the distance of the frames, the clips per video and grey or colour open: neighbours, one, colour (in_chans=1 for
# grey, which KTH is).
_BASE = VideoCfg(
    num_frames=16,
    sampling="dense",
    temporal_stride=1,
    fps=25.0,
    short_side=60,
    crop_size=(60, 80),
    num_classes=6,
    paper="Spatiotemporal Joint Filter Decomposition in 3D Convolutional Neural Networks, NeurIPS 2021",
    source="Miao et al., NeurIPS 2021, section 3.1",
)


_DONOR = _BASE.replace(
    dataset="AVA-ActiveSpeaker",
    is_classifier=False,
    donor="https://raw.githubusercontent.com/Junhua-Liao/LR-ASD/1b6dcd2d8fc2895683de6508ec6294ec47d388ca"
    "/weight/pretrain_AVA.model",
    donor_layout="lr-asd",
    donor_sha256="85e6c77fc981595234790d1e128ebb60352d37726b2445e0ef8891e2512fe9e3",
    source="LR-ASD's visual encoder, Junhua-Liao/LR-ASD",
    license="mit",
    origin_url="https://github.com/Junhua-Liao/LR-ASD",
)


def _cfgs(first_conv: str, taken: str) -> dict[str, VideoCfg]:
    told = f"Filters of a network that tells whether a face is speaking: {taken} The rest is random, from a fixed seed."
    cfgs = {"": _BASE, "ava": _DONOR.replace(description=told)}
    return {tag: cfg.replace(first_conv=(first_conv,)) for tag, cfg in cfgs.items()}


class _Layer(nn.Module):
    """A unit, batch norm, ReLU, and a maximum over 2x2x2; the last of an odd number stays alone."""

    def __init__(self, in_channels: int, out_channels: int, unit: UnitFactory, dilation: tuple[int, int, int]) -> None:
        super().__init__()
        # A kernel of three taps keeps the size when it is padded by its dilation.
        self.conv = unit(in_channels, out_channels, 3, 1, dilation, dilation, bias=False)
        self.bn = nn.BatchNorm3d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool3d(2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(self.bn(self.conv(x))))


class ThreeLayerNet(VideoModel):
    """Three convolutions over ``(B, in_chans, T, H, W)``, any T, H and W; logits ``(B, num_classes)``.

    Args:
        unit: the convolution, a class of :mod:`vidzoo.layers` or a partial of it.
        num_frames: the length of clip that the model is meant for; the topology takes any.
        drop_rate: dropout before the classifier.
        spatial_dilation: of all convolutions, as the paper sets it for clips of another size (Table 1).
        temporal_dilation: of all convolutions.
    """

    widths = (32, 64, 128)

    def __init__(
        self,
        unit: UnitFactory,
        *,
        num_classes: int = 6,
        in_chans: int = 3,
        num_frames: int = 16,
        drop_rate: float = 0.0,
        spatial_dilation: int = 1,
        temporal_dilation: int = 1,
    ) -> None:
        super().__init__(num_classes=num_classes, in_chans=in_chans)
        check_rates(drop_rate)
        if min(spatial_dilation, temporal_dilation) < 1:
            raise ConfigError(f"a dilation is at least 1, got {spatial_dilation=} and {temporal_dilation=}")
        self.num_frames = num_frames
        self.num_features = self.widths[-1]
        self.feature_info = tuple(
            FeatureInfo(width, 2**index, 2**index, f"layer{index}") for index, width in enumerate(self.widths, start=1)
        )
        inputs, dilation = in_chans, (temporal_dilation, spatial_dilation, spatial_dilation)
        for info in self.feature_info:
            setattr(self, info.module, nn.Sequential(_Layer(inputs, info.num_chs, unit, dilation)))
            inputs = info.num_chs
        self.dropout = nn.Dropout(drop_rate)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.fc = self.make_head(num_classes)

    def _stages(self) -> Iterable[tuple[str, nn.Module]]:
        for info in self.feature_info:
            yield info.module, self.get_submodule(info.module)

    def _pool(self, features: Tensor) -> Tensor:
        return self.dropout(mean_over_clip(features))  # (B, 128)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """One group per layer; the head comes last by itself."""
        return {"layers": r"^layer(\d+)"}


class PlainOptions(CommonOptions, total=False):
    """Options of the networks without atoms; their convolutions are dilated as the others' atoms are."""

    spatial_dilation: int
    temporal_dilation: int


class AtomicOptions(CommonOptions, AtomOptions, total=False):
    """Options of the network of atoms."""


@register_model(cfgs=_cfgs("layer1.0.conv", "the products of its spatial and temporal ones in layers 2 and 3."))
def c3d_c3(**options: Unpack[PlainOptions]) -> ThreeLayerNet:
    """Three dense 3x3x3 convolutions, "Reg. 3D" in Table 2."""
    return ThreeLayerNet(FullConv3d, **options)


@register_model(cfgs=_cfgs("layer1.0.conv.spatial", "all temporal ones, and the spatial ones of layers 2 and 3."))
def rank1_c3(**options: Unpack[PlainOptions]) -> ThreeLayerNet:
    """Three convolutions, each a spatial and a temporal one, "Rank-1 3D" in Table 2."""
    return ThreeLayerNet(P3DConv3d, **options)


@register_model(
    cfgs=_cfgs(
        "layer1.0.conv", "the products of its spatial and temporal ones in layers 2 and 3, decomposed into atoms."
    )
)
def stdcf_c3(**options: Unpack[AtomicOptions]) -> ThreeLayerNet:
    """Three STDCF convolutions; M and N are those of the paper's ResNet, it does not give those of this network."""
    return ThreeLayerNet(atom_unit(options), **without_atoms(options))
