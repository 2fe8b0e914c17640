"""Joint angles over time for every synthetic action: what moves, how far and when.

Angles are radians in the world, not relative to the parent: a limb hangs straight down at 0, ``*_out`` swings it
sideways away from the body, the plain angle swings it forward. Lengths are in statures (1 = the height of the figure).
Index 0 of the last axis is the left side, 1 the right side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["ACTIONS", "PAIRS", "PAIR_ACTIONS", "Motion", "base_action", "is_reversed", "motion"]

Array = NDArray[np.float64]

ACTIONS: tuple[str, ...] = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")
PAIRS: tuple[tuple[str, str], ...] = (
    ("sit_down", "stand_up"),
    ("raise_arms", "lower_arms"),
    ("pick_up", "put_down"),
    ("come_nearer", "go_away"),
)
PAIR_ACTIONS: tuple[str, ...] = tuple(name for pair in PAIRS for name in pair)

_LEG = 0.49  # hip to sole: turns the swing of a leg into the length of a step
_SIDES = np.array([0.0, np.pi])


@dataclass
class Motion:
    """The pose of the figure in T frames; every array is (T,) or (T, 2) float64."""

    count: int
    travel: Array = field(init=False)  # statures covered since the first frame, along the direction of travel
    lift: Array = field(init=False)  # height of the lowest sole above the ground
    nearer: Array = field(init=False)  # 0 at the far end of an approach, 1 at the near end
    lean: Array = field(init=False)  # of the trunk, forward
    roll: Array = field(init=False)  # of the trunk, to the left
    twist: Array = field(init=False)  # of the shoulders against the hips
    nod: Array = field(init=False)  # of the head, forward
    held: Array = field(init=False)  # 0 the object lies on the ground, 1 it is in the hands
    thigh: Array = field(init=False)
    thigh_out: Array = field(init=False)
    knee: Array = field(init=False)  # flexion, 0 = straight
    toe: Array = field(init=False)  # pitch of the foot, up positive
    arm: Array = field(init=False)
    arm_out: Array = field(init=False)
    elbow: Array = field(init=False)  # flexion, forward
    elbow_out: Array = field(init=False)  # bend of the forearm in the plane of the body
    view: str = "side"  # "side" (facing along the image) or "front" (facing the camera)
    sideways: bool = False  # travels along its own left-right axis
    planted: bool = False  # the feet stay where they are and the hips move instead
    has_object: bool = False  # something to pick up
    has_seat: bool = False  # something to sit on

    def __post_init__(self) -> None:
        for name in ("travel", "lift", "nearer", "lean", "roll", "twist", "nod", "held"):
            setattr(self, name, np.zeros(self.count))
        for name in ("thigh", "thigh_out", "knee", "toe", "arm", "arm_out", "elbow", "elbow_out"):
            setattr(self, name, np.zeros((self.count, 2)))
        self.arm_out += 0.12
        self.elbow += 0.15


def base_action(action: str) -> str:
    """The action whose process makes ``action``: the first of its pair, or itself."""
    return next((first for first, second in PAIRS if second == action), action)


def is_reversed(action: str) -> bool:
    """Whether ``action`` is the second of a pair, that is its first one played backwards."""
    return any(second == action for _, second in PAIRS)


def motion(action: str, rng: np.random.Generator, seconds: Array) -> Motion:
    """The motion of one base action at the times ``seconds`` (T,), with random cadence, phase and amplitude."""
    made = _MAKERS[action](rng, seconds)
    for name, size in (("lean", 0.02), ("roll", 0.015), ("nod", 0.05), ("twist", 0.03)):
        getattr(made, name)[:] += _drift(rng, seconds, size)
    for name, size in (("arm", 0.05), ("arm_out", 0.04), ("elbow", 0.06), ("thigh", 0.015), ("knee", 0.02)):
        for side in range(2):
            getattr(made, name)[:, side] += _drift(rng, seconds, size)
    np.maximum(made.knee, 0.0, out=made.knee)
    return made


def _drift(rng: np.random.Generator, seconds: Array, size: float) -> Array:
    """A slow wander of standard deviation about ``size``: people never repeat a pose exactly."""
    rate = rng.uniform(0.15, 1.1, size=(3, 1)) * 2 * np.pi
    phase = rng.uniform(0, 2 * np.pi, size=(3, 1))
    return size * 0.8 * np.sin(rate * seconds + phase).sum(axis=0) * rng.uniform(0.4, 1.4)


def _phase(rng: np.random.Generator, seconds: Array, period: tuple[float, float]) -> Array:
    """The angle through a cycle at every time, with a slightly uneven beat; ``period`` bounds its length in seconds."""
    length = float(rng.uniform(*period))
    return 2 * np.pi * seconds / length + rng.uniform(0, 2 * np.pi) + _drift(rng, seconds, 0.12)


def _bump(x: Array, sharpness: float) -> Array:
    """A periodic pulse of height 1 at 0."""
    return np.exp(sharpness * (np.cos(x) - 1.0))


def _once(rng: np.random.Generator, seconds: Array) -> Array:
    """0 to 1, once, smoothly, at a random time that lies inside the clip."""
    total = float(seconds[-1] - seconds[0]) if len(seconds) > 1 else 1.0
    length = min(float(rng.uniform(0.4, 0.75)) * total, float(rng.uniform(0.9, 2.4)))
    start = float(rng.uniform(0.05, 0.95)) * (total - length)
    return _smooth((seconds - seconds[0] - start) / max(length, 1e-6))


def _smooth(x: Array) -> Array:
    x = np.clip(x, 0.0, 1.0)
    return x * x * x * (x * (6 * x - 15) + 10)


def _walk_legs(pose: Motion, phase: Array, *, swing: float, lift_knee: float, rng: np.random.Generator) -> None:
    each = phase[:, None] + _SIDES
    pose.thigh += swing * np.cos(each) + 0.05
    pose.knee += 0.1 + 0.16 * _bump(each - 0.25 * np.pi, 4) + lift_knee * _bump(each - 1.45 * np.pi, 2.6)
    pose.toe += 0.3 * _bump(each, 5) - 0.75 * _bump(each - 1.2 * np.pi, 3)
    arms = float(rng.uniform(0.25, 0.6))
    pose.arm -= arms * np.cos(each - 0.1)
    pose.elbow += float(rng.uniform(0.05, 0.4)) + 0.2 * arms * (1 - np.cos(each))
    pose.twist += 0.12 * np.cos(phase)


def _walk(rng: np.random.Generator, seconds: Array) -> Motion:
    pose = Motion(len(seconds))
    phase = _phase(rng, seconds, (0.92, 1.3))
    swing = float(rng.uniform(0.34, 0.5))
    _walk_legs(pose, phase, swing=swing, lift_knee=float(rng.uniform(0.8, 1.1)), rng=rng)
    pose.lean += rng.uniform(-0.02, 0.08)
    pose.travel = 4 * _LEG * np.sin(swing) * 0.92 * (phase - phase[0]) / (2 * np.pi)
    return pose


def _run(rng: np.random.Generator, seconds: Array) -> Motion:
    pose = Motion(len(seconds))
    phase = _phase(rng, seconds, (0.6, 0.82))
    each = phase[:, None] + _SIDES
    swing = float(rng.uniform(0.55, 0.8))
    pose.thigh += swing * np.cos(each) + 0.15
    pose.knee += 0.3 + 0.15 * _bump(each - 0.4 * np.pi, 3) + rng.uniform(1.3, 1.8) * _bump(each - 1.4 * np.pi, 2)
    pose.toe += 0.15 * _bump(each, 4) - 1.1 * _bump(each - 1.25 * np.pi, 2)
    arms = float(rng.uniform(0.45, 0.8))
    pose.arm -= arms * np.cos(each - 0.1) + 0.1
    pose.elbow += rng.uniform(1.1, 1.6) - 0.25 * np.cos(each)
    pose.twist += 0.2 * np.cos(phase)
    pose.lean += rng.uniform(0.08, 0.25)
    pose.lift += rng.uniform(0.025, 0.06) * np.maximum(np.cos(2 * phase), 0.0)
    pose.travel = 4 * _LEG * np.sin(swing) * rng.uniform(0.7, 0.9) * (phase - phase[0]) / (2 * np.pi)
    return pose


def _hop(phase: Array, flight: float) -> tuple[Array, Array, Array]:
    """Of a hop: the parabola of the flight (0 to 1), the crouch on the ground (0 to 1), the tuck in the air."""
    u = (phase / (2 * np.pi)) % 1.0
    air = np.clip(u / flight, 0.0, 1.0)
    ground = np.clip((u - flight) / (1 - flight), 0.0, 1.0)
    return 4 * air * (1 - air), np.sin(np.pi * ground) ** 2, np.sin(np.pi * air) ** 2


def _hopping(
    rng: np.random.Generator, seconds: Array, *, period: tuple[float, float], height: float
) -> tuple[Motion, Array, Array, Array, Array]:
    pose = Motion(len(seconds))
    phase = _phase(rng, seconds, period)
    flight, crouch, tuck = _hop(phase, float(rng.uniform(0.42, 0.58)))
    pose.lift += height * rng.uniform(0.75, 1.3) * flight
    pose.toe -= 0.5 * tuck[:, None]
    return pose, phase, flight, crouch, tuck


def _hop_travel(phase: Array, length: float) -> Array:
    covered = length * (phase - 0.55 * np.cos(phase)) / (2 * np.pi)  # fastest in the middle of the flight
    return covered - covered[0]


def _jump(rng: np.random.Generator, seconds: Array) -> Motion:
    pose, phase, _, crouch, tuck = _hopping(rng, seconds, period=(0.5, 0.72), height=0.1)
    bend = rng.uniform(0.8, 1.35) * crouch + rng.uniform(0.2, 0.7) * tuck + 0.12
    pose.knee += bend[:, None]
    pose.thigh += (0.5 * bend + 0.15 * tuck - 0.2 * np.cos(phase))[:, None]
    pose.lean += 0.08 + 0.3 * crouch
    arms = float(rng.choice([0.15, 0.5, 0.8]))
    pose.arm += (arms * np.sin(phase) + 0.1)[:, None]
    pose.elbow += rng.uniform(0.2, 1.2)
    pose.travel = _hop_travel(phase, float(rng.uniform(0.42, 0.68)))
    return pose


def _pjump(rng: np.random.Generator, seconds: Array) -> Motion:
    pose, _, _, crouch, tuck = _hopping(rng, seconds, period=(0.55, 0.85), height=0.14)
    bend = rng.uniform(0.6, 1.1) * crouch + 0.15 * tuck + 0.06
    pose.knee += bend[:, None]
    pose.thigh += (0.52 * bend)[:, None]
    pose.lean += 0.2 * crouch
    pose.thigh_out += rng.uniform(0.0, 0.06)
    pose.arm_out += rng.uniform(0.0, 0.12) + (rng.uniform(0.0, 0.25) * tuck)[:, None]
    pose.arm += (rng.uniform(0.0, 0.3) * crouch)[:, None]
    pose.view, pose.planted = "front", True
    return pose


def _skip(rng: np.random.Generator, seconds: Array) -> Motion:
    pose, phase, _, crouch, tuck = _hopping(rng, seconds, period=(0.42, 0.62), height=0.085)
    stands = int(rng.integers(2))
    other = 1 - stands
    bend = rng.uniform(0.5, 0.8) * crouch + 0.3 * tuck + 0.12
    pose.knee[:, stands] += bend
    pose.thigh[:, stands] += 0.5 * bend - 0.28 * np.cos(phase - 0.3)
    pose.knee[:, other] += rng.uniform(1.2, 1.7) + 0.15 * np.sin(phase)
    pose.thigh[:, other] += rng.uniform(0.1, 0.6) + 0.2 * np.cos(phase)
    pose.toe[:, other] -= 0.9
    pose.lean += 0.1 + 0.15 * crouch
    pose.arm += (rng.uniform(0.1, 0.6) * np.sin(phase))[:, None]
    pose.elbow += rng.uniform(0.5, 1.5)
    pose.travel = _hop_travel(phase, float(rng.uniform(0.4, 0.62)))
    return pose


def _side(rng: np.random.Generator, seconds: Array) -> Motion:
    pose = Motion(len(seconds), view="front", sideways=True)
    phase = _phase(rng, seconds, (0.5, 0.75))
    opened = 0.5 - 0.5 * np.cos(phase)
    spread = float(rng.uniform(0.34, 0.52))
    pose.thigh_out += (spread * opened)[:, None] - 0.03
    pose.knee += (0.12 + 0.25 * (1 - opened) ** 2)[:, None]
    pose.thigh += (0.06 + 0.13 * (1 - opened) ** 2)[:, None]
    pose.lift += rng.uniform(0.02, 0.06) * np.maximum(np.cos(phase + 0.5), 0.0)
    pose.arm_out += rng.uniform(0.0, 0.25) + (rng.uniform(0.0, 0.3) * opened)[:, None]
    pose.elbow += rng.uniform(0.0, 0.5)
    covered = 4 * _LEG * np.sin(spread) * 0.95 * (phase / (2 * np.pi) - 0.08 * np.sin(phase))
    pose.travel = covered - covered[0]
    return pose


def _wave(rng: np.random.Generator, seconds: Array, sides: tuple[int, ...]) -> Motion:
    pose = Motion(len(seconds), view="front", planted=True)
    phase = _phase(rng, seconds, (0.8, 1.5))
    low, high = float(rng.uniform(1.25, 1.75)), float(rng.uniform(2.5, 3.05))
    bend, lag = float(rng.uniform(0.0, 0.8)), float(rng.uniform(0.2, 0.7))
    forward = float(rng.uniform(-0.1, 0.25))
    for side in sides:
        own = phase + (rng.normal(0, 0.12) if side else 0.0)
        pose.arm_out[:, side] = low + (high - low) * (0.5 - 0.5 * np.cos(own))
        pose.elbow_out[:, side] = bend * (0.4 - 0.6 * np.cos(own - lag))
        pose.elbow[:, side] = forward
    pose.roll += 0.03 * np.cos(phase) * (len(sides) == 1)
    return pose


def _wave1(rng: np.random.Generator, seconds: Array) -> Motion:
    return _wave(rng, seconds, (int(rng.integers(2)),))


def _wave2(rng: np.random.Generator, seconds: Array) -> Motion:
    return _wave(rng, seconds, (0, 1))


def _jack(rng: np.random.Generator, seconds: Array) -> Motion:
    pose = Motion(len(seconds), view="front", planted=True)
    phase = _phase(rng, seconds, (0.85, 1.35))
    opened = _smooth(0.5 - 0.5 * np.cos(phase))
    pose.thigh_out += (rng.uniform(0.32, 0.55) * opened)[:, None]
    arms = 0.12 + (rng.uniform(2.5, 3.0) - 0.12) * (0.5 - 0.5 * np.cos(phase - 0.15))
    pose.arm_out = np.repeat(arms[:, None], 2, axis=1)
    pose.elbow_out += (rng.uniform(0.0, 0.35) * np.sin(phase))[:, None]
    pose.lift += rng.uniform(0.03, 0.075) * np.abs(np.sin(phase)) ** 1.5
    pose.knee += (0.1 + 0.3 * np.abs(np.cos(phase)) ** 3)[:, None]
    pose.thigh += (0.05 + 0.15 * np.abs(np.cos(phase)) ** 3)[:, None]
    return pose


def _stoop(pose: Motion, depth: Array, *, lean: float, squat: float, reach: float) -> None:
    """Leans over (and squats) as ``depth`` goes from 0 to 1; the hands go to the ground."""
    pose.lean += lean * depth
    pose.knee += (squat * depth)[:, None]
    pose.thigh += ((0.62 * squat + 0.1 * lean) * depth)[:, None]
    pose.nod += 0.15 * depth
    pose.arm += (reach * depth)[:, None]
    pose.arm_out -= (0.1 * depth)[:, None]
    pose.planted = True


def _bend(rng: np.random.Generator, seconds: Array) -> Motion:
    pose = Motion(len(seconds))
    total = float(seconds[-1] - seconds[0]) if len(seconds) > 1 else 1.0
    length = min(float(rng.uniform(1.8, 3.2)), 1.05 * total)
    period = length * float(rng.uniform(1.1, 1.4))
    middle = min(total, period) * float(rng.uniform(0.4, 0.6))
    away = np.abs((seconds - middle + period / 2) % period - period / 2) / (length / 2)
    depth = _smooth(1.12 * (1 - away))
    _stoop(pose, depth, lean=float(rng.uniform(1.6, 2.15)), squat=float(rng.uniform(0.0, 0.5)), reach=0.15)
    return pose


def _sit_down(rng: np.random.Generator, seconds: Array) -> Motion:
    pose = Motion(len(seconds), planted=True, has_seat=True)
    down = _once(rng, seconds)
    pose.thigh += (rng.uniform(1.3, 1.6) * down)[:, None]
    pose.knee += (rng.uniform(1.3, 1.7) * down)[:, None]
    pose.lean += rng.uniform(0.5, 0.9) * 4 * down * (1 - down) + rng.uniform(-0.05, 0.15) * down
    pose.arm += (rng.uniform(0.2, 0.6) * down)[:, None]
    pose.elbow += (rng.uniform(0.3, 1.0) * down)[:, None]
    return pose


def _raise_arms(rng: np.random.Generator, seconds: Array) -> Motion:
    pose = Motion(len(seconds), view="front", planted=True)
    up = _once(rng, seconds) * float(rng.uniform(2.2, 2.9))
    if rng.random() < 0.35:
        pose.arm += up[:, None]
        pose.view = "side"
    else:
        pose.arm_out += up[:, None]
    pose.elbow_out += rng.uniform(0.0, 0.2)
    return pose


def _pick_up(rng: np.random.Generator, seconds: Array) -> Motion:
    pose = Motion(len(seconds), has_object=True)
    whole = _once(rng, seconds)
    _stoop(
        pose,
        4 * whole * (1 - whole),
        lean=float(rng.uniform(1.5, 1.8)),
        squat=float(rng.uniform(0.9, 1.5)),
        reach=0.1,
    )
    pose.held = _smooth((whole - 0.47) / 0.06)
    pose.elbow += (rng.uniform(0.4, 1.3) * _smooth(2 * whole - 1))[:, None]
    return pose


def _come_nearer(rng: np.random.Generator, seconds: Array) -> Motion:
    pose = Motion(len(seconds), view="front")
    phase = _phase(rng, seconds, (0.92, 1.3))
    _walk_legs(pose, phase, swing=float(rng.uniform(0.32, 0.45)), lift_knee=float(rng.uniform(0.8, 1.0)), rng=rng)
    pose.nearer = (phase - phase[0]) / max(float(phase[-1] - phase[0]), 1e-6)
    return pose


_MAKERS: dict[str, Callable[[np.random.Generator, Array], Motion]] = {
    "bend": _bend,
    "jack": _jack,
    "jump": _jump,
    "pjump": _pjump,
    "run": _run,
    "side": _side,
    "skip": _skip,
    "walk": _walk,
    "wave1": _wave1,
    "wave2": _wave2,
    "sit_down": _sit_down,
    "raise_arms": _raise_arms,
    "pick_up": _pick_up,
    "come_nearer": _come_nearer,
}
