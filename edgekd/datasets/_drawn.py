"""Data sets that are drawn once, in pieces on all cores, and kept in the user's cache."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgekd import caches
from edgekd.caches import Site
from edgekd.files import file_digest
from edgekd.progress import tell
from edgekd.workers import call, cores, together

SPLITS: Final = ("train", "test")

Kinds = Sequence[tuple[str, str, tuple[int, ...]]]
"""Name, type and shape of what is kept of each example; the first are the images."""
Piece = Callable[[str, Any, str, int, int], None]
"""Draws some examples into their places: (folder, options, split, first, last)."""


def drawn(
    folder: Path, what: str, kinds: Kinds, counts: Mapping[str, int], draw: Piece, options: Any, at_once: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of train and test by name, drawn where they are not there or not whole.

    `counts` are the examples of each split; `draw` is a function of a module, called in processes of its own.
    """
    caches.make(folder, what, partial(_fill, kinds, counts, draw, options, at_once), caches.is_whole)
    train, test = (
        {name: np.load(folder / f"{split}-{name}.npy", mmap_mode="r") for name, _, _ in kinds} for split in SPLITS
    )
    return train, test


def places(folder: str, kinds: Kinds, split: str) -> Iterator[Any]:
    """The arrays of a split, to be written to."""
    for name, _, _ in kinds:
        yield np.load(Path(folder) / f"{split}-{name}.npy", mmap_mode="r+")


def _fill(
    kinds: Kinds, counts: Mapping[str, int], draw: Piece, options: Any, at_once: int, site: Site
) -> dict[str, str]:
    """Fill the folder with an array a kind and split; their SHA-256 by file name."""
    site.folder.mkdir()
    for split, count in counts.items():
        for name, kind, shape in kinds:
            path = site.folder / f"{split}-{name}.npy"
            np.lib.format.open_memmap(path, "w+", kind, (count, *shape)).flush()  # type: ignore[no-untyped-call]  # numpy
    pieces = [
        (split, first, min(first + at_once, count))
        for split, count in counts.items()
        for first in range(0, count, at_once)
    ]
    told = iter(range(1, len(pieces) + 1))

    def one(split: str, first: int, last: int) -> None:
        call(draw, str(site.folder), options, split, first, last, threads=1, log=site.log)
        tell(f"drawing {site.folder.parent.name}", next(told), len(pieces))

    together([partial(one, *piece) for piece in pieces], at_once=cores())
    return {path.name: file_digest(path) for path in sorted(site.folder.iterdir())}
