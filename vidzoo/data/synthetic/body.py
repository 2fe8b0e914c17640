"""The figure: its proportions, its clothes, and the capsules that a pose gives (forward kinematics in 3D).

Axes of the figure: x forward, y to its left, z up; the unit is its stature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidzoo.data.synthetic.motion import Motion

__all__ = ["Body", "Capsules", "capsules", "random_body"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Body:
    """Lengths and radii in statures, colours in 0..1 RGB."""

    shank: float
    thigh: float
    foot: float
    trunk: float
    hip: float  # half the distance of the hip joints
    shoulder: float  # half the distance of the shoulder joints
    upper_arm: float
    forearm: float
    girth: float  # multiplies every radius but the head's
    head: float
    hair_back: float  # how far the hair falls behind the head
    shirt: Array  # (3,)
    sleeve: Array
    trousers: Array
    shin: Array
    skin: Array
    hair: Array
    shoe: Array
    thing: Array  # the object that is picked up, the stool that is sat on
    thing_radius: float


@dataclass(frozen=True)
class Capsules:
    """P round-ended cones in T frames: ends (T, P, 3), radii (P,), colours (P, 3)."""

    start: Array
    end: Array
    start_radius: Array
    end_radius: Array
    colour: Array


def random_body(rng: np.random.Generator) -> Body:
    """Random proportions, build and clothes."""
    leg = rng.uniform(0.94, 1.05)
    skin = np.array([0.87, 0.67, 0.55]) * rng.uniform(0.4, 1.08)
    hair = np.array([0.3, 0.22, 0.15]) * rng.uniform(0.15, 1.6) + rng.choice([0.0, 0.0, 0.0, 0.35])
    shirt, trousers = _cloth(rng, 0.7), _cloth(rng, 0.35)
    return Body(
        shank=0.235 * leg,
        thigh=0.245 * leg,
        foot=float(rng.uniform(0.11, 0.135)),
        trunk=float(rng.uniform(0.28, 0.31)),
        hip=float(rng.uniform(0.042, 0.056)),
        shoulder=float(rng.uniform(0.085, 0.115)),
        upper_arm=float(rng.uniform(0.15, 0.175)),
        forearm=float(rng.uniform(0.13, 0.15)),
        girth=float(rng.uniform(0.82, 1.25)),
        head=float(rng.uniform(0.048, 0.058)),
        hair_back=float(rng.choice([0.0, 0.0, 0.03, 0.09])),
        shirt=shirt,
        sleeve=shirt if rng.random() < 0.6 else skin,
        trousers=trousers,
        shin=trousers if rng.random() < 0.85 else skin,
        skin=skin,
        hair=np.clip(hair, 0, 1),
        shoe=_cloth(rng, 0.3) * 0.8,
        thing=rng.uniform(0.1, 0.95, size=3),
        thing_radius=float(rng.uniform(0.045, 0.075)),
    )


def _cloth(rng: np.random.Generator, colourful: float) -> Array:
    grey = rng.uniform(0.08, 0.85)
    tint = rng.uniform(-0.5, 0.5, size=3) * colourful * rng.uniform(0.0, 1.0)
    return np.clip(grey + tint, 0.03, 0.97)


def _limb(forward: Array, out: Array, side: int) -> Array:
    """The unit vector of a hanging limb swung ``out`` to its side and then ``forward``: (T, 3)."""
    sign = 1.0 if side == 0 else -1.0
    return np.stack([np.sin(forward) * np.cos(out), sign * np.sin(out), -np.cos(forward) * np.cos(out)], axis=-1)


def _tilt(forward: Array, left: Array) -> Array:
    return np.stack([np.sin(forward) * np.cos(left), np.sin(left), np.cos(forward) * np.cos(left)], axis=-1)


def capsules(body: Body, pose: Motion) -> Capsules:
    """The capsules of every frame, standing on the ground (z = 0) plus the pose's lift."""
    count = pose.count
    zero = np.zeros((count, 3))
    rows: list[tuple[Array, Array, float, float, Array]] = []
    g = body.girth
    up = _tilt(pose.lean, pose.roll)
    across = np.stack([-np.sin(pose.twist), np.cos(pose.twist), np.zeros(count)], axis=-1)
    chest = up * body.trunk
    soles: list[Array] = []
    ankles: list[Array] = []
    hips: list[Array] = []
    for side in range(2):
        sign = 1.0 if side == 0 else -1.0
        hip = zero + np.array([0.0, sign * body.hip, 0.0])
        out = pose.thigh_out[:, side]
        knee = hip + body.thigh * _limb(pose.thigh[:, side], out, side)
        ankle = knee + body.shank * _limb(pose.thigh[:, side] - pose.knee[:, side], out, side)
        pitch = pose.toe[:, side] - 0.35 * np.maximum(pose.knee[:, side] - pose.thigh[:, side], 0.0)
        along = np.stack([np.cos(pitch), np.full(count, sign * 0.2), np.sin(pitch)], axis=-1)
        below = np.stack([np.sin(pitch), np.zeros(count), -np.cos(pitch)], axis=-1)
        heel = ankle + 0.028 * below - 0.02 * along
        toe = heel + body.foot * along
        soles += [heel[:, 2], toe[:, 2]]
        ankles.append(ankle)
        hips.append(hip)
        rows.append((heel, toe, 0.02, 0.016, body.shoe))
        rows.append((knee, ankle, 0.036 * g, 0.026 * g, body.shin))
        rows.append((hip, knee, 0.052 * g, 0.038 * g, body.trousers))
    rows.append((hips[0], hips[1], 0.058 * g, 0.058 * g, body.trousers))
    shoulders = [chest + sign * body.shoulder * across for sign in (1.0, -1.0)]
    for side in range(2):
        sign = 1.0 if side == 0 else -1.0
        low = hips[side] * 0.75 + up * 0.02
        high = chest + sign * (body.shoulder - 0.035) * across - up * 0.01
        rows.append((low, high, 0.058 * g, 0.055 * g, body.shirt))
    rows.append((up * 0.03, chest - up * 0.02, 0.06 * g, 0.058 * g, body.shirt))
    rows.append((shoulders[0] - up * 0.012, shoulders[1] - up * 0.012, 0.034 * g, 0.034 * g, body.shirt))
    hands: list[Array] = []
    for side in range(2):
        forward, out = pose.arm[:, side], pose.arm_out[:, side]
        elbow = shoulders[side] + body.upper_arm * _limb(forward, out, side)
        bent = _limb(forward + pose.elbow[:, side], out + pose.elbow_out[:, side], side)
        wrist = elbow + body.forearm * bent
        hand = wrist + 0.045 * bent
        hands.append(hand)
        rows.append((shoulders[side], elbow, 0.031 * g, 0.026 * g, body.shirt))
        rows.append((elbow, wrist, 0.025 * g, 0.02 * g, body.sleeve))
        rows.append((wrist, hand, 0.02, 0.022, body.skin))
    head_up = _tilt(0.65 * pose.lean + pose.nod, 0.6 * pose.roll)
    ahead = np.stack([head_up[:, 2], np.zeros(count), -head_up[:, 0]], axis=-1)
    chin = chest + up * 0.02 + head_up * 0.055 + ahead * 0.012
    crown = chin + head_up * 0.055
    rows.append((chest, chin, 0.03, 0.03, body.skin))
    rows.append((chin, crown, body.head * 0.85, body.head, body.skin))
    hair = crown - ahead * 0.018 + head_up * 0.012
    rows.append((hair, hair - head_up * (0.02 + body.hair_back) - ahead * 0.012, body.head, body.head * 0.9, body.hair))
    if pose.has_object:
        held = (hands[0] + hands[1]) * 0.5 + np.array([0.02, 0.0, -0.3 * body.thing_radius])
        rows.append((held, held + np.array([0.0, 0.03, 0.0]), body.thing_radius, body.thing_radius, body.thing))
    if pose.has_seat:
        rows += [(zero, zero, 0.018, 0.018, body.thing)] * 3
    start = np.stack([row[0] for row in rows], axis=1)  # (T, P, 3)
    end = np.stack([row[1] for row in rows], axis=1)
    shift = np.zeros((count, 1, 3))
    shift[:, 0, 2] = pose.lift + 0.018 - np.minimum.reduce(soles)
    if pose.planted:
        shift[:, 0, :2] = -(ankles[0] + ankles[1])[:, :2] * 0.5
    start, end = start + shift, end + shift
    if pose.has_object:
        _lay_down(start, end, pose.held, body.thing_radius)
    if pose.has_seat:
        _stand_stool(start, end, np.mean(hips, axis=0) + shift[:, 0], 0.07 * g)
    return Capsules(
        start=start,
        end=end,
        start_radius=np.array([row[2] for row in rows]),
        end_radius=np.array([row[3] for row in rows]),
        colour=np.stack([row[4] for row in rows]),
    )


def _lay_down(start: Array, end: Array, held: Array, radius: float) -> None:
    """Puts the object (the last capsule) on the ground under the place where the hands take it."""
    taken = int(np.argmin(np.abs(held - 0.5)))
    spot = start[taken, -1].copy()
    spot[2] = radius
    offset = end[:, -1] - start[:, -1]
    start[:, -1] += (1 - held)[:, None] * (spot - start[:, -1])
    end[:, -1] = start[:, -1] + offset


def _stand_stool(start: Array, end: Array, hips: Array, below: float) -> None:
    """Puts the stool (the last three capsules) where the hips (T, 3) are lowest; it never moves."""
    seat = hips[int(np.argmin(hips[:, 2]))] - np.array([0.0, 0.0, below])
    ground = seat * np.array([1.0, 1.0, 0.0])
    start[:, -1], end[:, -1] = seat - np.array([0.08, 0.0, 0.0]), seat + np.array([0.05, 0.0, 0.0])
    for row, ahead in ((-2, 0.045), (-3, -0.075)):
        leg = np.array([ahead, 0.0, 0.0])
        start[:, row], end[:, row] = seat + leg, ground + leg
