"""A host on the table: what an operation needs to look at it, to exchange and add layers, and to note what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.grafting.folded import FrameCount, Host2D, OverTime
from vidzoo.grafting.places import Around, Host, Place, Places, places_of
from vidzoo.grafting.plan import Where
from vidzoo.grafting.swap import is_plain_norm
from vidzoo.grafting.traced import Call, record, same, twin_of
from vidzoo.grafting.values import matches

if TYPE_CHECKING:
    from vidzoo.grafting.report import Row

__all__ = ["Surgery"]


@dataclass
class Surgery:
    """A host and what was done to it.

    ``clip``: what it is looked at with. ``img_size``: height and width of the pictures that the network is made for.
    ``measure``: write a report, which runs every layer that is exchanged. ``num_classes``, ``drop_rate`` and
    ``consensus``: what the plan says of the head.
    """

    host: Host
    clip: Tensor
    img_size: tuple[int, int]
    measure: bool
    rows: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    num_classes: int | None = None
    drop_rate: float = 0.0
    consensus: Literal["logits", "features"] = "logits"
    _places: Places | None = None
    _real: dict[str, Call] | None = None
    _norms: dict[str, Place] | None = None

    def __post_init__(self) -> None:
        self.clip = self.clip.to(next(self.host.network.parameters()))

    @property
    def count(self) -> FrameCount | None:
        """Set where frames are folded into the batch."""
        return self.host.count if isinstance(self.host, Host2D) else None

    @property
    def places(self) -> Places:
        """What the host offers now."""
        if self._places is None:
            self._places = places_of(self.host, self.clip, self.done)
        return self._places

    def convolutions(self, where: Where) -> list[Place]:
        """The convolutions that are meant; a pattern that matches none is told in the report.

        Raises:
            ConfigError: a stage that there is not.
        """
        count = len(self.places.stages)
        for stage in where.stages or ():
            if not -count <= stage < count:
                raise ConfigError(f"{self.host.name} has the stages 0 to {count - 1}, there is no stage {stage}")
        names = [*self.done, *(place.name for place in self.places if place.kind in ("conv2d", "conv3d"))]
        for pattern in (*(where.names or ()), *(where.exclude or ())):
            if not any(matches(name, (pattern,)) for name in names):
                self.warnings.append(f"{pattern!r} in the plan matches no convolution of {self.host.name}")
        return self.places.convolutions(where)

    def layer(self, path: str) -> nn.Module:
        """The module at ``path`` of the network."""
        return self.host.network.get_submodule(path)

    def over_time(self, layer: nn.Module) -> nn.Module:
        """A layer over clips, as it stands in this host."""
        return layer if self.count is None else OverTime(layer, self.count)

    def exchange(self, place: Place, unit: nn.Module, *, norm: Place | None = None, note: str = "") -> None:
        """Put a unit over clips in the place of a convolution, and of the norm behind it where the unit holds one.

        What was found before stays valid: further places of the same operation may follow.
        """
        old = self.layer(place.path)
        if self.measure:
            from vidzoo.grafting.report import describe, replaced

            given = self._given(place.path)
            whole = old if norm is None else nn.Sequential(old, self.layer(norm.path)).train(old.training)
            self.rows.append(replace(replaced(place.name, whole, unit, given, note=note), before=describe(old)))
        self.host.replace(place.path, self.over_time(unit).train(old.training))
        self.done.append(place.name)
        if norm is not None:
            self.host.replace(norm.path, nn.Identity())
            self.done.append(norm.name)

    def keep(self, place: Place, reason: str) -> None:
        """Note that a place that was meant stays what it is."""
        if self.measure:
            from vidzoo.grafting.report import kept

            self.rows.append(kept(place.name, self.layer(place.path), self._given(place.path), note=reason))

    def add(
        self, name: str, path: str, layer: nn.Module, *, behind: bool, over_time: bool = True, note: str = ""
    ) -> None:
        """Put a layer behind the module at ``path``, or in front of it.

        Args:
            over_time: it works on clips; otherwise on what the network has.
        """
        old = self.layer(path)
        like = next(self.host.network.parameters())
        layer = layer.to(like).train(old.training)
        if self.measure:
            from vidzoo.grafting.report import added

            call = self._calls()[f"network.{path}"]
            x = call.gave if behind else call.given
            if over_time and isinstance(x, Tensor) and x.ndim == 4:
                x = x.transpose(0, 1)[None]
            self.rows.append(added(name, layer, x if isinstance(x, Tensor) else None, note=note))
        layer = self.over_time(layer) if over_time else layer
        self.host.replace(path, Around(old, after=layer) if behind else Around(old, before=layer))

    def norm_behind(self, place: Place) -> Place | None:
        """The plain batch norm that gets what the convolution gives, where all of that goes there and nothing else does."""
        if self._norms is None:
            norms = {one.path: one for one in self.places if one.kind == "norm"}
            pairs = {one.path: norm for one in self.places if (norm := self._taker(one, norms)) is not None}
            claims = Counter(norm.path for norm in pairs.values())
            pairs = {path: norm for path, norm in pairs.items() if claims[norm.path] == 1}
            if not self._may_move(pairs):
                pairs = {path: norm for path, norm in pairs.items() if self._may_move({path: norm})}
            self._norms = pairs
        return self._norms.get(place.path)

    def settle(self) -> None:
        """An operation is done: what was found before is looked for again.

        Raises:
            ConfigError: behind a sampler it put something that mixes up clips of different length.
        """
        self._places, self._real, self._norms = None, None, None
        if not isinstance(self.host, Host2D):
            self.host.check()

    def _taker(self, place: Place, norms: Mapping[str, Place]) -> Place | None:
        if place.kind not in ("conv2d", "conv3d"):
            return None
        calls = self.places.calls
        conv = calls[f"network.{place.path}"]
        takers = [call for call in calls.values() if call.start > conv.end and same(call.given, conv.gave)]
        # What only hands it on to a part of its own is no other taker.
        takers = [call for call in takers if not any(same(part.given, conv.gave) for part in call.parts)]
        norm = norms.get(takers[0].name.removeprefix("network.")) if len(takers) == 1 else None
        return norm if norm is not None and is_plain_norm(self.layer(norm.path)) else None

    @torch.no_grad()
    def _may_move(self, pairs: Mapping[str, Place]) -> bool:
        """Whether the network says the same with each norm as the end of its convolution, wherever that is called.

        It does not where the convolution or the norm is called in a second place, or a function uses what lies between.
        """
        twin: Any = twin_of(self.host).float().eval()
        clip = self.clip.float()
        expected = twin(clip)
        for path, norm in pairs.items():
            own = twin.network.get_submodule(norm.path)
            twin.network.get_submodule(path).register_forward_hook(lambda _, args, out, own=own: own.forward(out))
            own.register_forward_hook(lambda _, args, out: args[0])
        return same(twin(clip), expected)

    def _calls(self) -> dict[str, Call]:
        if self._real is None:
            whole = record(self.host, self.clip)
            self._real = {call.name: call for call in reversed(list(whole))}
        return self._real

    def _given(self, path: str) -> Tensor:
        given = self._calls()[f"network.{path}"].given
        if not isinstance(given, Tensor):
            raise ConfigError(f"{path} gets more than one tensor: nothing can be grafted there")
        return given
