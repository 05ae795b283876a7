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
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta

from edgekd import caches
from edgekd.caches import MARKER, Site, cache
from edgekd.datasets import Arrays, Dataset
from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.files import decode_json, digest, file_digest, read_text
from edgekd.progress import tell
from edgekd.workers import call, cores, together

VERSION: Final = 2
"""Of what is drawn; another one makes new frames."""
CLASSES: Final = ("sky", "ground", "road", "marking", "vehicle", "pedestrian", "tree")
THINGS: Final = ("vehicle", "pedestrian")
"""Classes of boxes."""
MOST_THINGS: Final = 8
"""In one frame."""
LABEL_STRIDE: Final = 2
"""Pixels of an image, in each direction, for one of mask and depth."""

_SPLITS = ("train", "test")
_LABELS = ("mask", "depth", "steering", "obstacle", "boxes")
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
        if not self.here() and not _is_whole(folder):
            raise PluginUnavailable("pybullet, which draws the scenes, is not installed", hint=self.needs)
        caches.make(folder, "the scenes of the data set driving", partial(_draw, options), _is_whole)
        train, test = (
            {name: np.load(folder / f"{split}-{name}.npy", mmap_mode="r") for name in ("images", *_LABELS)}
            for split in _SPLITS
        )
        classes = {name: _CLASSES.get(name, ()) for name in _LABELS}
        return Arrays(train.pop("images"), train, test.pop("images"), test, classes, self.licence)


def _is_whole(folder: Path) -> bool:
    """True where all frames are as they were drawn."""
    try:
        kept = decode_json(dict[str, str], read_text(folder / MARKER), MARKER)
        return bool(kept) and all(file_digest(folder / name) == sha256 for name, sha256 in kept.items())
    except (ConfigError, OSError):
        return False


def _draw(options: Options, site: Site) -> dict[str, str]:
    """Fill the folder with an array a label and split; their SHA-256 by file name."""
    site.folder.mkdir()
    for split in _SPLITS:
        for path, kind, shape in _arrays(site.folder, options, split):
            np.lib.format.open_memmap(path, "w+", kind, shape).flush()  # type: ignore[no-untyped-call]  # numpy
    pieces = [(split, first) for split in _SPLITS for first in range(0, _count(options, split), _AT_ONCE)]
    told = iter(range(1, len(pieces) + 1))

    def draw(split: str, first: int) -> None:
        call(draw_piece, str(site.folder), options, split, first, threads=1, log=site.log)
        tell("drawing scenes", next(told), len(pieces))

    together([partial(draw, *piece) for piece in pieces], at_once=cores())
    return {path.name: file_digest(path) for path in sorted(site.folder.iterdir())}


def _count(options: Options, split: str) -> int:
    return options.frames if split == "train" else options.test_frames


def _arrays(folder: Path, options: Options, split: str) -> Iterator[tuple[Path, str, tuple[int, ...]]]:
    """Path, type and shape of what holds a split; the first are the images."""
    height, width = options.height, options.width
    labelled = (height // LABEL_STRIDE, width // LABEL_STRIDE)
    for name, kind, shape in (
        ("images", "u1", (3, height, width)),
        ("mask", "i1", labelled),
        ("depth", "<f4", labelled),
        ("steering", "<f4", ()),
        ("obstacle", "<f4", ()),
        ("boxes", "<f4", (MOST_THINGS, 5)),
    ):
        yield folder / f"{split}-{name}.npy", kind, (_count(options, split), *shape)


def draw_piece(folder: str, options: Options, split: str, first: int) -> int:
    """Draw the frames from `first` on into their places; how many these are.

    A frame's chance depends on seed, split and its number alone, so frames are the same in pieces of any size.
    """
    from edgekd.datasets._scenes import drawing

    arrays = [np.load(path, mmap_mode="r+") for path, _, _ in _arrays(Path(folder), options, split)]
    last = min(first + _AT_ONCE, _count(options, split))
    with drawing(options.height, options.width) as draw:
        for index in range(first, last):
            frame = draw(np.random.default_rng([options.seed, _SPLITS.index(split), index]))
            for array, value in zip(arrays, frame, strict=True):
                array[index] = value
    for array in arrays:
        array.flush()
    return last - first


PLUGIN: Final[Dataset] = _Driving()
