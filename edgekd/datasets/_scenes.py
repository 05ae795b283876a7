"""Draws frames for `driving`: a world from random numbers, one look into it, and what there is to know about it.

pybullet keeps one world a process, so whoever draws does it in a process of its own.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import pybullet
from numpy.typing import NDArray

from edgekd.datasets.driving import CLASSES, LABEL_STRIDE, MOST_THINGS

SKY, GROUND, ROAD, MARKING, VEHICLE, PEDESTRIAN, TREE = range(len(CLASSES))

NEAREST_M, FARTHEST_M = 0.3, 150.0
FIELD_OF_VIEW_DEGREES: Final = 50.0
"""From the lower to the upper edge."""
CAMERA_HEIGHT_M: Final = 1.3
FINER: Final = 2
"""A world is drawn at so many times the image's size, then averaged: a camera's edges are soft."""
SMALLEST_OBSTACLE: Final = 8
"""Pixels as drawn; what shows fewer is not in sight."""
SMALLEST_BOXED: Final = 80
"""Pixels as drawn, 20 of the image; a box around fewer counts neither for nor against who finds it."""

LANE_M: Final = 3.5
STEP_M: Final = 2.0
"""Between two points of the road's middle line."""
POINTS: Final = 90
STARTS: Final = 4
"""The camera stands at one of so many first points."""
LOOKAHEAD: Final = 6
"""Points from the camera to the one that it steers for."""
WHEELBASE_M: Final = 2.7

_EARTH = np.array([[0.2, 0.4, 0.15], [0.5, 0.45, 0.3], [0.35, 0.35, 0.2], [0.7, 0.7, 0.72]])
"""Grass, sand, scrub, snow."""
_SKY = np.array([100.0, 150.0, 220.0])
_YELLOW = np.array([1.0, 0.85, 0.25])
_TWO_TRIANGLES = (0, 1, 2, 1, 3, 2)

Random = np.random.Generator
Array = NDArray[Any]


class Frame(NamedTuple):
    """An image and its labels."""

    image: NDArray[np.uint8]
    """(3, height, width)."""
    mask: NDArray[np.int8]
    """(height / 2, width / 2), index of a class."""
    depth: NDArray[np.float32]
    """Of the same shape: metres along the camera's axis, NaN in the sky."""
    steering: float
    """Degrees of the front wheels to the left that lead to the middle of the lane (pure pursuit: R. C. Coulter 1992,
    "Implementation of the Pure Pursuit Path Tracking Algorithm", CMU-RI-TR-92-01)."""
    obstacle: float
    """Metres to the nearest vehicle or pedestrian in sight, NaN where there is none."""
    boxes: NDArray[np.float32]
    """(8, 5): see `edgekd/tasks/detection.py`."""


@contextmanager
def drawing(height: int, width: int) -> Iterator[Callable[[Random], Frame]]:
    """A function that draws a frame of this size from random numbers."""
    client = pybullet.connect(pybullet.DIRECT)
    try:
        yield partial(_frame, height, width)
    finally:
        pybullet.disconnect(client)


def _frame(height: int, width: int, random: Random) -> Frame:
    """One look into a world of its own."""
    world = _World(random)
    start = int(random.integers(STARTS))
    x, y, along = _beside(world.road, start, random.uniform(-1.2, 1.2) - LANE_M / 2)
    heading = along + random.normal(0, 0.1)
    colours, depth, bodies = _look(world, (x, y), heading, FINER * height, FINER * width)
    mask = _known(bodies, world.classes, SKY)
    seen = depth[(mask == VEHICLE) | (mask == PEDESTRIAN)]
    middle = slice(FINER * LABEL_STRIDE // 2, None, FINER * LABEL_STRIDE)
    return Frame(
        image=_photograph(colours, mask, random),
        mask=mask[middle, middle],
        depth=np.where(mask == SKY, np.nan, depth).astype(np.float32)[middle, middle],
        steering=_steering(_beside(world.road, start + LOOKAHEAD, -LANE_M / 2), (x, y), heading),
        obstacle=float(seen.min()) if len(seen) >= SMALLEST_OBSTACLE else math.nan,
        boxes=_boxes(mask, _known(bodies, world.things, 0)),
    )


class _World:
    """The bodies of pybullet's world, each of a class; making one clears the one before it."""

    def __init__(self, random: Random) -> None:
        pybullet.resetSimulation()
        self.road = _winding(random)
        """Points of the middle line: x, y in metres, direction in radians."""
        self.classes: dict[int, int] = {}
        """By body."""
        self.things: dict[int, int] = {}
        """Body -> number of the vehicle or pedestrian that it is a part of, from 1."""
        self.made = 0
        """Vehicles and pedestrians."""
        self.random = random
        self._ground_and_road()
        for make in (self._vehicle, self._pedestrian):
            for _ in range(random.integers(MOST_THINGS // 2 + 1)):
                self.made += 1
                make()
        for _ in range(random.integers(4, 16)):
            self._tree()

    def _ground_and_road(self) -> None:
        random = self.random
        earth = _EARTH[random.integers(len(_EARTH))] + random.uniform(-0.08, 0.08, 3)
        asphalt = random.uniform(0.2, 0.45) + random.uniform(-0.03, 0.03, 3)
        paint = random.uniform(0.75, 0.95) * np.ones(3)
        self._box(GROUND, (60, 0, -0.06), 0, earth, (200, 200, 0.01))
        self._strips(ROAD, [(self.road, LANE_M, -LANE_M)], 0, asphalt)
        for _ in range(random.integers(5)):  # mended asphalt, which is no marking
            first, right = random.integers(3, 60), random.uniform(-3, 1.5)
            piece = self.road[first : first + random.integers(2, 6)]
            self._strips(
                ROAD, [(piece, right + random.uniform(0.8, 2), right)], 0.015, asphalt + random.uniform(-0.12, 0.12)
            )
        edge = LANE_M - 0.2
        self._strips(MARKING, [(self.road, side + 0.09, side - 0.09) for side in (-edge, edge)], 0.03, paint)
        dashes = [self.road[first : first + 3] for first in range(random.integers(3), POINTS - 2, 4)]
        yellow = paint * _YELLOW if random.random() < 0.4 else paint
        self._strips(MARKING, [(dash, 0.08, -0.08) for dash in dashes], 0.03, yellow)

    def _vehicle(self) -> None:
        random = self.random
        lane = random.choice((-1, 1))  # to the right they drive as we do
        x, y, along = _beside(self.road, random.integers(7, 26), lane * LANE_M / 2 + random.normal(0, 0.25))
        turn = along + random.normal(0, 0.05) + (math.pi if lane > 0 else 0)
        half_length, height, colour = random.uniform(1.8, 2.6), random.uniform(0.6, 1.2), random.random(3)
        forward = np.array([math.cos(turn), math.sin(turn), 0])
        base = np.array([x, y, 0.35])
        self._box(VEHICLE, base + [0, 0, height / 2], turn, colour, (half_length, 0.9, height / 2))
        cabin = base - 0.3 * forward + [0, 0, height + 0.25]
        self._box(VEHICLE, cabin, turn, np.array([0.1, 0.1, 0.14]), (0.55 * half_length, 0.78, 0.28))
        for place in (-0.6, 0.6):
            axle = base + place * half_length * forward - [0, 0, 0.05]
            self._box(VEHICLE, axle, turn, np.full(3, 0.05), (0.3, 0.91, 0.3))

    def _pedestrian(self) -> None:
        random = self.random
        x, y, _ = _beside(self.road, random.integers(4, 20), random.uniform(-6, 6))
        shoulders = random.uniform(1.1, 1.5)
        self._post(PEDESTRIAN, (x, y), shoulders, 0.25, random.random(3))
        skin = np.array([0.8, 0.6, 0.45]) * random.uniform(0.4, 1.2)
        self._ball(PEDESTRIAN, (x, y, shoulders + 0.12), 0.17, skin)

    def _tree(self) -> None:
        random = self.random
        x, y, _ = _beside(self.road, random.integers(5, 45), random.choice((-1, 1)) * random.uniform(6, 25))
        trunk = random.uniform(2, 5)
        self._post(TREE, (x, y), trunk, random.uniform(0.12, 0.3), np.array([0.3, 0.2, 0.1]))
        leaves = np.array([0.15, 0.35, 0.1]) + random.uniform(-0.1, 0.15, 3)
        self._ball(TREE, (x, y, trunk + 0.8), random.uniform(0.9, 2.2), leaves)

    def _strips(self, kind: int, strips: Sequence[tuple[Array, float, float]], height: float, colour: Array) -> None:
        """Flat strips, each along a line, from `left` to `right` metres to the left of it."""
        corners = np.concatenate([_corners(line, left, right, height) for line, left, right in strips])
        ends = np.cumsum([2 * len(line) for line, _, _ in strips])
        firsts = np.setdiff1d(np.arange(0, ends[-1], 2), ends - 2)
        self._add(
            kind,
            pybullet.GEOM_MESH,
            (0, 0, 0),
            0,
            colour,
            vertices=corners.tolist(),
            indices=(firsts[:, None] + _TWO_TRIANGLES).ravel().tolist(),
            normals=[[0, 0, 1]] * len(corners),
        )

    def _box(self, kind: int, middle: Any, turn: float, colour: Array, halves: tuple[float, float, float]) -> None:
        self._add(kind, pybullet.GEOM_BOX, middle, turn, colour, halfExtents=halves)

    def _post(self, kind: int, foot: tuple[float, float], height: float, radius: float, colour: Array) -> None:
        self._add(kind, pybullet.GEOM_CYLINDER, (*foot, height / 2), 0, colour, radius=radius, length=height)

    def _ball(self, kind: int, middle: tuple[float, float, float], radius: float, colour: Array) -> None:
        self._add(kind, pybullet.GEOM_SPHERE, middle, 0, colour, radius=radius)

    def _add(self, kind: int, form: int, middle: Any, turn: float, colour: Array, **sizes: Any) -> None:
        shape = pybullet.createVisualShape(form, rgbaColor=[*colour, 1], **sizes)
        turned = pybullet.getQuaternionFromEuler((0, 0, turn))
        body = pybullet.createMultiBody(0, -1, shape, list(middle), turned)
        self.classes[body] = kind
        if kind in {VEHICLE, PEDESTRIAN}:
            self.things[body] = self.made


def _winding(random: Random) -> Array:
    """Points of a road's middle, the camera's near the origin and the road there along x."""
    curvature = np.clip(np.cumsum(random.normal(0, 0.006, POINTS)), -0.03, 0.03)
    along = np.cumsum(curvature * STEP_M)
    along -= along[STARTS]
    steps = STEP_M * np.stack([np.cos(along), np.sin(along)])
    x, y = np.cumsum(steps, axis=1) - steps[:, : STARTS + 1].sum(axis=1, keepdims=True)
    return np.stack([x, y, along], axis=1)


def _beside(road: Array, point: Any, left: float) -> tuple[float, float, float]:
    """x, y and the road's direction, `left` metres to the left of a point of its middle."""
    x, y, along = road[point].tolist()
    return x - left * math.sin(along), y + left * math.cos(along), along


def _corners(line: Array, left: float, right: float, height: float) -> Array:
    """Two a point of the line, shape (2 * points, 3)."""
    x, y, along = line.T
    sides = [(x - side * np.sin(along), y + side * np.cos(along), np.full_like(x, height)) for side in (left, right)]
    return np.array(sides).transpose(2, 0, 1).reshape(-1, 3)


def _look(
    world: _World, place: tuple[float, float], heading: float, height: int, width: int
) -> tuple[Array, Array, Array]:
    """Colours (height, width, 3) in 0..255, metres and body of each pixel as drawn; no body is -1."""
    random = world.random
    ahead = (place[0] + 10 * math.cos(heading), place[1] + 10 * math.sin(heading), random.normal(0.4, 0.1))
    _, _, colours, buffer, bodies = pybullet.getCameraImage(
        width,
        height,
        pybullet.computeViewMatrix((*place, CAMERA_HEIGHT_M), ahead, (0, 0, 1)),
        pybullet.computeProjectionMatrixFOV(FIELD_OF_VIEW_DEGREES, width / height, NEAREST_M, FARTHEST_M),
        renderer=pybullet.ER_TINY_RENDERER,
        shadow=0,
        lightDirection=[*random.normal(0, 1, 2), random.uniform(0.8, 2)],
        lightAmbientCoeff=random.uniform(0.4, 0.7),
        lightDiffuseCoeff=random.uniform(0.3, 0.6),
        lightSpecularCoeff=0.05,
    )
    size = (height, width)
    nearness = np.reshape(buffer, size)
    depth = FARTHEST_M * NEAREST_M / (FARTHEST_M - (FARTHEST_M - NEAREST_M) * nearness)
    return np.reshape(colours, (*size, 4))[..., :3].astype(np.float32), depth, np.reshape(bodies, size)


def _known(bodies: Array, known: dict[int, int], other: int) -> NDArray[np.int8]:
    """What is known of the body of each pixel; `other` where it is not among these."""
    table = np.full(max(bodies.max(), *known, 0) + 2, other, np.int8)  # the last one is for -1: no body
    table[list(known)] = list(known.values())
    return table[bodies]


def _boxes(mask: Array, things: Array) -> NDArray[np.float32]:
    """Class, centre x and y, width and height of what shows of each thing, in shares of the image."""
    found = np.full((MOST_THINGS, 5), np.nan, np.float32)
    found[0, 0] = -1  # the frame was looked at, and may be empty
    height, width = mask.shape
    for row, number in enumerate(np.setdiff1d(things, 0)):
        rows, columns = np.nonzero(things == number)
        first, last = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1
        counts = len(rows) >= SMALLEST_BOXED
        found[row, 0] = (mask[rows[0], columns[0]] == PEDESTRIAN) if counts else -1
        found[row, 1:] = [*(first + last) / 2 / (width, height), *(last - first) / (width, height)]
    return found


def _photograph(colours: Array, mask: Array, random: Random) -> NDArray[np.uint8]:
    """The image (3, height, width): a sky behind what was drawn, averaged, well or badly exposed, with noise."""
    height, width = mask.shape[0] // FINER, mask.shape[1] // FINER
    lower = np.linspace(0, 1, len(mask))[:, None, None]
    sky = (_SKY + random.uniform(-40, 40)) * (1 - lower) + random.uniform(170, 240) * lower
    light = np.where((mask == SKY)[..., None], sky, colours).reshape(height, FINER, width, FINER, 3).mean((1, 3))
    exposed = light * random.uniform(0.7, 1.25) + random.normal(0, random.uniform(2, 9), light.shape)
    image: NDArray[np.uint8] = exposed.clip(0, 255).astype(np.uint8).transpose(2, 0, 1)
    return image


def _steering(goal: tuple[float, float, float], place: tuple[float, float], heading: float) -> float:
    x, y = goal[0] - place[0], goal[1] - place[1]
    aside = math.sin(math.atan2(y, x) - heading)
    return math.degrees(math.atan2(2 * WHEELBASE_M * aside, math.hypot(x, y)))
