"""CTM: a 2D ResNet with a few blocks for time alone between its residual blocks.

Paper: Liu et al., "CTM: Collaborative Temporal Modeling for Action Recognition", ICIP 2020; no code was published.
The backbone looks at single frames (keys of torchvision's ResNet, so ImageNet weights start it), a CTM block stands
behind some residual blocks of one stage: ``layer3.ctm_4`` behind ``layer3.4``. Fresh CTM blocks are the identity, the
network starts as the 2D one. The paper has ResNet-50 and -101; ResNet-18 is this project's, for little data.
"""

from __future__ import annotations

from typing import Literal, Unpack

from torch import nn

from vidzoo.errors import ConfigError
from vidzoo.layers.conv import FrameConv3d
from vidzoo.layers.ctm import CTMBlock
from vidzoo.models.donors import imagenet
from vidzoo.models.resnet import ResNetOptions, VideoResNet
from vidzoo.pretrained import VideoCfg
from vidzoo.registry import is_model, register_model

__all__ = ["CTMResNet", "ctm_r18", "ctm_r50", "ctm_r101"]

Stage = Literal["res2", "res3", "res4", "res5"]
Paths = Literal["both", "tccm", "shared"]

# Section 4.2: 8 frames at a fixed interval out of 64, 224 x 224. It follows the test protocol of Non-local networks
# (CVPR 2018), whose 10 clips and 3 crops are taken from there; the short side is theirs too.
_BASE = VideoCfg(
    num_frames=8,
    sampling="dense",
    temporal_stride=8,
    num_clips=10,
    num_crops=3,
    short_side=256,
    crop_size=(224, 224),
    paper="CTM: Collaborative Temporal Modeling for Action Recognition, ICIP 2020",
    source="Liu et al., ICIP 2020",
)


def _cfgs(depth: int) -> dict[str, VideoCfg]:
    over_time = "the blocks over time start as the identity."
    return {"": _BASE, **imagenet(_BASE, depth, over_time)}


class CTMOptions(ResNetOptions, total=False):
    """Options of the CTM networks. The paper leaves dropout open: none by default.

    ``stage``: where the blocks stand (Table 2). ``paths``: both paths of the block or one of them (Table 1).
    ``reduction``: by how much a path is narrower than the map, see :class:`~vidzoo.layers.ctm.CTMBlock`. ``img_size``:
    side or (height, width) of the pictures that the kernels of the positions are made for.
    """

    stage: Stage
    paths: Paths
    reduction: int
    img_size: int | tuple[int, int]


class CTMResNet(VideoResNet):
    """2D ResNet with CTM blocks: ``(B, in_chans, T, H, W)``, any T, H and W, logits ``(B, num_classes)``.

    Pictures of another size than ``img_size`` work, the tables of kernels are then interpolated in every call. To have
    that once, build the network for the new size: weights that are loaded adapt to it.

    Args:
        blocks: how many CTM blocks. One stands before the last residual block of the stage (Table 1), several are
            spread evenly: behind the 1st, 3rd and 5th of 6 or the 6th, 12th and 18th of 23 (section 4.4).

    Raises:
        ConfigError: more CTM blocks than the stage has residual ones, or an option that does not exist.
    """

    def __init__(
        self,
        depth: int,
        *,
        blocks: int = 3,
        stage: Stage = "res4",
        paths: Paths = "both",
        reduction: int = 8,
        img_size: int | tuple[int, int] = 224,
        **options: Unpack[ResNetOptions],
    ) -> None:
        super().__init__(depth, FrameConv3d, **options)
        names = {f"res{i + 1}": info for i, info in enumerate(self.feature_info) if i}
        if stage not in names:
            raise ConfigError(f"CTM blocks stand in one of the stages {', '.join(names)}, got {stage!r}")
        info = names[stage]
        residual = list(self.get_submodule(info.module).children())
        places, size = ctm_places(len(residual), blocks), _map_size(img_size, info.reduction)
        chain = nn.Sequential()
        for index, block in enumerate(residual):
            chain.add_module(str(index), block)
            if index + 1 in places:
                chain.add_module(f"ctm_{index}", CTMBlock(info.num_chs, reduction, size=size, paths=paths))
        setattr(self, info.module, chain)

    def set_img_size(self, img_size: int | tuple[int, int]) -> None:
        """Make the tables of kernels fit pictures of another size for good, in place; ``model_args`` follow.

        The tables are new parameters: build the optimiser afterwards. The crop of ``pretrained_cfg`` stays as it is.

        Raises:
            ConfigError: not a side or (height, width) in pixels.
        """
        for info in self.feature_info:
            for module in self.get_submodule(info.module).modules():
                if isinstance(module, CTMBlock):
                    module.resize(_map_size(img_size, info.reduction))
        if is_model(self.pretrained_cfg.architecture):
            self.model_args["img_size"] = img_size

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """As for a ResNet; a CTM block shares the group of the residual block before it."""
        return {"stem": r"^(?:conv1|bn1)", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(?:ctm_)?(\d+)"}


def ctm_places(residual: int, blocks: int) -> list[int]:
    """Behind which residual blocks of a stage, counted from 1, the CTM blocks stand.

    Sections 4.3 and 4.4: 6 residual blocks take 1 after the 5th, 3 after the 1st, 3rd and 5th, 6 after every one; 23
    take 3 after the 6th, 12th and 18th. Other numbers follow the same rule: one before the last, several evenly.

    Raises:
        ConfigError: no block, or more than there are residual ones.
    """
    if isinstance(blocks, bool) or not isinstance(blocks, int) or not 1 <= blocks <= residual:
        raise ConfigError(
            f"a stage of {residual} residual blocks takes 1 to {residual} CTM blocks, got blocks={blocks!r}"
        )
    if blocks == 1:
        return [max(residual - 1, 1)]
    return [k * (residual + 1) // (blocks + 1) for k in range(1, blocks + 1)]


def _map_size(img_size: int | tuple[int, int], reduction: int) -> tuple[int, int]:
    sides = tuple(img_size) if isinstance(img_size, (tuple, list)) else (img_size, img_size)
    if len(sides) != 2 or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sides):
        raise ConfigError(f"img_size is a side or (height, width) in pixels, got {img_size!r}")
    return -(-sides[0] // reduction), -(-sides[1] // reduction)


@register_model(cfgs=_cfgs(18))
def ctm_r18(*, blocks: int = 1, **options: Unpack[CTMOptions]) -> CTMResNet:
    """CTM on ResNet-18, which the paper does not have: one block between the two residual blocks of res4."""
    return CTMResNet(18, blocks=blocks, **options)


@register_model(cfgs=_cfgs(50))
def ctm_r50(*, blocks: int = 3, **options: Unpack[CTMOptions]) -> CTMResNet:
    """CTM on ResNet-50: three blocks in res4, behind the 1st, 3rd and 5th residual block."""
    return CTMResNet(50, blocks=blocks, **options)


@register_model(cfgs=_cfgs(101))
def ctm_r101(*, blocks: int = 3, **options: Unpack[CTMOptions]) -> CTMResNet:
    """CTM on ResNet-101: three blocks in res4, behind the 6th, 12th and 18th residual block."""
    return CTMResNet(101, blocks=blocks, **options)
