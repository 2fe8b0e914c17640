"""The rasteriser: antialiased, shaded capsules painted back to front, all frames at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sprites", "paint"]

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Sprites:
    """P capsules in N frames as pixels; every array is float32. Coordinates are (y, x)."""

    start: Image  # (N, P, 2)
    end: Image  # (N, P, 2)
    start_radius: Image  # (N, P)
    end_radius: Image  # (N, P)
    colour: Image  # (N, P, 3) in 0..255
    opacity: Image  # (N, P)
    soft: Image  # (N, P) width of the edge in pixels
    order: NDArray[np.int64]  # (N, P) the capsules of a frame, farthest first
    light: tuple[float, float]  # brightness gained from one side of a limb to the other, (y, x)

    def take(self, frames: NDArray[np.int64]) -> Sprites:
        """The sprites of some frames, in that order."""
        return Sprites(
            self.start[frames],
            self.end[frames],
            self.start_radius[frames],
            self.end_radius[frames],
            self.colour[frames],
            self.opacity[frames],
            self.soft[frames],
            self.order[frames],
            self.light,
        )


def paint(canvas: Image, sprites: Sprites) -> None:
    """Paints the sprites onto ``canvas`` (N, H, W, 3) float32, in place.

    Only sums, products, quotients and roots are used, so that a frame is the same to the bit whichever others are
    painted with it.
    """
    count, height, width, _ = canvas.shape
    every = np.arange(count)
    light_y, light_x = np.float32(sprites.light[0]), np.float32(sprites.light[1])
    one, half = np.float32(1), np.float32(0.5)
    for rank in range(sprites.order.shape[1]):
        part = sprites.order[:, rank]
        a, b = sprites.start[every, part], sprites.end[every, part]  # (N, 2)
        ra, rb = sprites.start_radius[every, part], sprites.end_radius[every, part]  # (N,)
        soft = sprites.soft[every, part]
        reach = np.maximum(ra, rb) + soft
        low = np.floor(np.minimum(a, b) - reach[:, None])
        extent = np.ceil(np.maximum(a, b) + reach[:, None] - low).max(axis=0).astype(np.int64) + 1
        box_h, box_w = min(int(extent[0]), height), min(int(extent[1]), width)
        top = np.clip(low[:, 0], 0, height - box_h).astype(np.int64)
        left = np.clip(low[:, 1], 0, width - box_w).astype(np.int64)
        dy = (top[:, None] + np.arange(box_h)).astype(np.float32) - a[:, :1]  # (N, h)
        dx = (left[:, None] + np.arange(box_w)).astype(np.float32) - a[:, 1:]  # (N, w)
        span = b - a
        inverse = one / np.maximum(span[:, 0] * span[:, 0] + span[:, 1] * span[:, 1], np.float32(1e-6))
        along = span * inverse[:, None]  # (N, 2)
        place = (dy * along[:, :1])[:, :, None] + (dx * along[:, 1:])[:, None, :]
        np.clip(place, 0, 1, out=place)  # (N, h, w) where along the capsule
        off_y = dy[:, :, None] - place * span[:, 0, None, None]
        off_x = dx[:, None, :] - place * span[:, 1, None, None]
        radius = place * (rb - ra)[:, None, None]
        radius += ra[:, None, None]
        distance = np.sqrt(off_y * off_y + off_x * off_x)
        alpha = radius - distance
        alpha *= (one / soft)[:, None, None]
        alpha += half
        np.clip(alpha, 0, 1, out=alpha)
        alpha *= sprites.opacity[every, part][:, None, None]
        off_y *= light_y
        off_x *= light_x
        off_y += off_x
        off_y /= radius
        off_y += one  # the shade
        colour = sprites.colour[every, part]  # (N, 3)
        for n in range(count):
            window = canvas[n, top[n] : top[n] + box_h, left[n] : left[n] + box_w]
            target = off_y[n, :, :, None] * colour[n]
            target -= window
            target *= alpha[n, :, :, None]
            window += target
