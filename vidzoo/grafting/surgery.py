"""A host on the table: what an operation needs to look at it, to exchange and add layers, and to note what it did."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from vidzoo.errors import ConfigError
from vidzoo.grafting.folded import FrameCount, Host2D, OverTime
from vidzoo.grafting.places import Around, Host, Place, Places, places_of
from vidzoo.grafting.swap import is_plain_norm
from vidzoo.grafting.traced import Call, record, same

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
        """The plain batch norm that gets what the convolution gives, and is alone in that."""
        calls = self.places.calls
        conv = calls[f"network.{place.path}"]
        takers = [call for call in calls.values() if call.start > conv.end and same(call.given, conv.gave)]
        if len(takers) != 1 or not is_plain_norm(self.layer(takers[0].name.removeprefix("network."))):
            return None
        return next((other for other in self.places if f"network.{other.path}" == takers[0].name), None)

    def settle(self) -> None:
        """An operation is done: what was found before is looked for again."""
        self._places, self._real = None, None

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
