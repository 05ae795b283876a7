"""Scenes of a road as a car's camera sees them, drawn by pybullet's software renderer, with labels of every kind.

Each frame is a world of its own: a winding road of two lanes with its markings, ground of some colour, vehicles,
pedestrians and trees, some light, some noise of the camera; so no road of the test split was ever learned from. What
is known of a frame:

    mask      class of each pixel
    depth     metres to what each pixel shows, along the camera's axis; NaN in the sky
    steering  degrees of the front wheels to the left that lead to the middle of the lane
    obstacle  metres to the nearest vehicle or pedestrian in sight; NaN where there is none
    boxes     of vehicles and pedestrians in sight, as the task `detection` has them; each is around what is to be seen

Mask and depth have a value for every second pixel in each direction. Frames are drawn once, on all cores, and kept in
the user's cache.
"""

import importlib.util
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta

from edgekd.caches import cache, is_whole
from edgekd.datasets import Arrays, Dataset
from edgekd.datasets._drawn import SPLITS, Kinds, drawn, places
from edgekd.errors import PluginUnavailable
from edgekd.files import digest

VERSION: Final = 2
"""Of what is drawn; another one makes new frames."""
CLASSES: Final = ("sky", "ground", "road", "marking", "vehicle", "pedestrian", "tree")
THINGS: Final = ("vehicle", "pedestrian")
"""Classes of boxes."""
MOST_THINGS: Final = 8
"""In one frame."""
LABEL_STRIDE: Final = 2
"""Pixels of an image, in each direction, for one of mask and depth."""

_CLASSES = {"mask": CLASSES, "boxes": THINGS}
_AT_ONCE = 250
"""Frames that a process draws: it starts in half a second, and draws forty a second."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many frames of which size."""

    frames: Annotated[int, Meta(ge=1, le=1_000_000)] = 3000
    """To learn from."""
    test_frames: Annotated[int, Meta(ge=1, le=1_000_000)] = 500
    height: Annotated[int, Meta(ge=16, le=1024, multiple_of=LABEL_STRIDE)] = 96
    width: Annotated[int, Meta(ge=16, le=1024, multiple_of=LABEL_STRIDE)] = 160
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0


class _Driving:
    Options = Options
    licence = "CC0-1.0 (drawn by edgekd)"
    needs = "pip install 'edgekd[driving]'"

    def here(self) -> bool:
        return importlib.util.find_spec("pybullet") is not None

    def load(self, options: Any) -> Arrays:
        folder = cache() / "driving" / digest([VERSION, options])
        if not self.here() and not is_whole(folder):
            raise PluginUnavailable("pybullet, which draws the scenes, is not installed", hint=self.needs)
        counts = {"train": options.frames, "test": options.test_frames}
        train, test = drawn(
            folder, "the scenes of the data set driving", _kinds(options), counts, draw_piece, options, _AT_ONCE
        )
        images, test_images = train.pop("images"), test.pop("images")
        classes = {name: _CLASSES.get(name, ()) for name in train}
        return Arrays(images, train, test_images, test, classes, self.licence)


def _kinds(options: Options) -> Kinds:
    height, width = options.height, options.width
    labelled = (height // LABEL_STRIDE, width // LABEL_STRIDE)
    return (
        ("images", "u1", (3, height, width)),
        ("mask", "i1", labelled),
        ("depth", "<f4", labelled),
        ("steering", "<f4", ()),
        ("obstacle", "<f4", ()),
        ("boxes", "<f4", (MOST_THINGS, 5)),
    )


def draw_piece(folder: str, options: Options, split: str, first: int, last: int) -> None:
    """Draw some frames into their places.

    A frame's chance depends on seed, split and its number alone, so frames are the same in pieces of any size.
    """
    from edgekd.datasets._scenes import drawing

    arrays = list(places(folder, _kinds(options), split))
    with drawing(options.height, options.width) as draw:
        for index in range(first, last):
            frame = draw(np.random.default_rng([options.seed, SPLITS.index(split), index]))
            for array, value in zip(arrays, frame, strict=True):
                array[index] = value
    for array in arrays:
        array.flush()


PLUGIN: Final[Dataset] = _Driving()
