"""Blocks and layers that are put between those of a network: CTM, the temporal shift, Similarity Guided Sampling.

The shift: Lin et al., "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019, section 3: part of the
channels moves one frame on, part one frame back, zeros come in at the ends. In front of the first convolution of a
residual block, "residual shift", the shortcut keeps what the frame itself showed; 1/8 of the channels each way.
"""

from __future__ import annotations

import fnmatch
from dataclasses import replace

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError, nearest
from vidzoo.grafting.places import Place
from vidzoo.grafting.plan import InsertCTM, InsertSGS, InsertShift, ReplaceHead
from vidzoo.grafting.surgery import Surgery
from vidzoo.grafting.traced import is_map, same, turned
from vidzoo.layers.ctm import CTMBlock
from vidzoo.layers.ragged import lengths_of, plain, with_lengths
from vidzoo.models.ctm import ctm_places

__all__ = ["TemporalShift", "insert_ctm", "insert_sgs", "insert_shift", "replace_head"]


class TemporalShift(nn.Module):
    """``(B, C, T, H, W)`` to the same shape: C / fold channels of the next frame, as many of the one before, the rest as it is.

    Zeros come in at the ends of each clip, whatever its length.

    Raises:
        ConfigError: fewer channels than ``fold``.
    """

    def __init__(self, channels: int, fold: int = 8) -> None:
        super().__init__()
        self.moved = channels // fold
        if self.moved < 1:
            raise ConfigError(f"a shift of 1/{fold} of {channels} channels moves none: give a smaller fold")

    def forward(self, x: Tensor) -> Tensor:
        lengths, x = lengths_of(x), plain(x)
        later, earlier, same_frame = x.split([self.moved, self.moved, x.shape[1] - 2 * self.moved], dim=1)
        none = torch.zeros_like(later[:, :, :1])
        moved = torch.cat(
            [torch.cat([later[:, :, 1:], none], 2), torch.cat([none, earlier[:, :, :-1]], 2), same_frame], dim=1
        )
        return moved if lengths is None else with_lengths(moved, lengths)

    def extra_repr(self) -> str:
        return f"moved={self.moved}"


def insert_ctm(surgery: Surgery, op: InsertCTM) -> InsertCTM:
    """Put CTM blocks behind modules; the operation with the size of picture that it took is given back.

    Raises:
        ConfigError: no such module or stage, or one that does not put out a map.
    """
    op = replace(op, img_size=surgery.img_size if op.img_size is None else op.img_size)
    sides = op.img_size if isinstance(op.img_size, tuple) else (op.img_size, op.img_size)
    for name, path in _behind(surgery, op):
        gave = surgery.places.calls[f"network.{path}"].gave
        if not isinstance(gave, Tensor) or not is_map(gave):
            raise ConfigError(
                f"{name} of {surgery.host.name} does not put out one map: no CTM block can stand behind it"
            )
        if turned(gave, surgery.clip.shape[-2:]):
            raise ConfigError(f"{name} of {surgery.host.name} puts its channels last: no CTM block can stand behind it")
        size = tuple(
            -(-int(side or 1) // max(round(whole / part), 1))
            for side, whole, part in zip(sides, surgery.clip.shape[-2:], gave.shape[-2:], strict=True)
        )
        block = CTMBlock(gave.shape[1], op.reduction, size=(size[0], size[1]), paths=op.paths)
        surgery.add(f"{name} (behind)", path, block, behind=True, note="the identity at first")
    return op


def insert_shift(surgery: Surgery, op: InsertShift) -> InsertShift:
    """Put the temporal shift in front of convolutions.

    Raises:
        ConfigError: there is no such convolution, or it gets too few channels.
    """
    if op.where is not None:
        meant = surgery.convolutions(op.where)
    else:
        blocks = [name for stage in surgery.places.stages for name in stage.blocks]
        meant = [place for name in blocks for place in [_first(surgery, name)] if place is not None]
    if not meant:
        raise ConfigError(f"{surgery.host.name} has no convolution that this shift could stand in front of: {op}")
    for place in meant:
        given = surgery.places.calls[f"network.{place.path}"].given
        channels = given.shape[1] if isinstance(given, Tensor) else 0
        shift = TemporalShift(channels, op.fold)
        surgery.add(f"{place.name} (in front)", place.path, shift, behind=False)
    return op


def insert_sgs(surgery: Surgery, op: InsertSGS) -> InsertSGS:
    """Put a sampler behind a stage of a network over clips.

    Raises:
        ConfigError: a network over pictures, or as :meth:`vidzoo.grafting.hosts3d.Host3D.sample`.
    """
    from vidzoo.grafting.hosts3d import Host3D, Sampled

    host = surgery.host
    if not isinstance(host, Host3D):
        raise ConfigError(
            f"{host.name} takes single pictures: it runs on every frame, and a sampler that leaves fewer of them needs a "
            "network that takes clips"
        )
    for name in host.sample(op.after, op.options):
        sampled = surgery.layer(name)
        if surgery.measure and isinstance(sampled, Sampled):
            from vidzoo.grafting.report import added

            note = "what follows runs on as many frames as a clip has different ones"
            surgery.rows.append(added(f"{name} (behind)", sampled.sampler, note=note))
    return op


def replace_head(surgery: Surgery, op: ReplaceHead) -> ReplaceHead:
    """Note what the plan says of the head; the model is built with it."""
    surgery.num_classes, surgery.drop_rate, surgery.consensus = op.num_classes, op.drop_rate, op.consensus
    return op


def _behind(surgery: Surgery, op: InsertCTM) -> list[tuple[str, str]]:
    """Names and paths of the modules behind which blocks are to stand."""
    places, host = surgery.places, surgery.host
    names = {place.name: place.path for place in places if place.kind == "block"}
    if op.after is not None:
        maps = {path.removeprefix("network."): path.removeprefix("network.") for path in places.calls}
        found: dict[str, str] = {}
        for pattern in op.after:
            hits = {name: path for name, path in names.items() if fnmatch.fnmatchcase(name, pattern)}
            hits = hits or {name: path for name, path in maps.items() if name == pattern}
            if not hits:
                raise ConfigError(f"{host.name} has no module {pattern!r} to stand behind: {nearest(pattern, names)}")
            found |= hits
        return list(found.items())
    if not -len(places.stages) <= op.stage < len(places.stages):
        raise ConfigError(f"{host.name} has the stages 0 to {len(places.stages) - 1}, there is no stage {op.stage}")
    blocks = places.stages[op.stage].blocks
    if not blocks:
        raise ConfigError(
            f"stage {op.stage} of {host.name} has no blocks that follow each other: say where the CTM blocks go with after=..."
        )
    count = max(min(3, len(blocks) // 2), 1) if op.blocks is None else op.blocks
    return [(blocks[k - 1], names[blocks[k - 1]]) for k in ctm_places(len(blocks), count)]


def _first(surgery: Surgery, block: str) -> Place | None:
    """The first convolution of a block on its way beside the shortcut."""
    places = surgery.places
    path = next(place.path for place in places if place.name == block and place.kind == "block")
    call = places.calls[f"network.{path}"]
    inside = {part.name.removeprefix("network."): part for part in call}
    convs = [place for place in places if place.kind in ("conv2d", "conv3d") and place.path in inside]
    direct = [place for place in convs if same(inside[place.path].given, call.given)]

    def order(place: Place) -> tuple[int, int]:
        # A shortcut's convolution sees the block's input too: it is 1x1, and as wide as the block.
        return -place.kernel[-1], inside[place.path].module.out_channels  # type: ignore[return-value]

    return min(direct, key=order) if direct else next(iter(convs), None)
