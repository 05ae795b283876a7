"""Rows of a .npy file, read when they are asked for: however large the file is, little of it stays resident."""

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import CorruptStep

Array = NDArray[Any]

RESIDENT_BYTES: Final = 128 * 2**20
"""Of one file, about."""
AROUND_BYTES: Final = 64 * 2**10
"""What Linux maps around a page that is touched."""


@dataclass(frozen=True)
class Header:
    """Where the rows of a .npy are, and what they are."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))


def header_of(path: Path) -> Header:
    """The header of a .npy that `numpy.save` or a Column wrote.

    Raises:
        ValueError: it is none, or has no rows.
    """
    with path.open("rb") as opened:
        version = np.lib.format.read_magic(opened)  # type: ignore[no-untyped-call]  # numpy
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(opened)  # type: ignore[no-untyped-call]  # numpy
        if not shape or by_columns or dtype.hasobject:
            raise ValueError(f"{path} has no rows")
        return Header(shape, dtype, opened.tell())


class Rows:
    """The array of a file, of shape (rows, ...); `rows[indices]` copies those and nothing else.

    The file is mapped into memory. Pages that were touched count as resident until the system needs them back, so those
    of a large file are given back from time to time; they stay in the system's own cache.

    Raises:
        CorruptStep: the file is no array, or a part of it is lost.
    """

    def __init__(self, path: Path) -> None:
        try:
            header = header_of(path)
            with path.open("rb") as opened:
                self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            self._array = np.ndarray(header.shape, header.dtype, self._map, header.offset)
        except (ValueError, TypeError) as error:
            raise CorruptStep(f"{path}: {error}", hint="delete its folder to redo the step") from error
        self.shape, self.dtype = header.shape, header.dtype
        self._around = header.row_bytes + AROUND_BYTES
        self._touched = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: NDArray[np.int64]) -> Array:
        found: Array = self._array[indices]
        if len(self._map) > RESIDENT_BYTES:
            self._touched += len(indices) * self._around
            if self._touched > RESIDENT_BYTES:
                self._map.madvise(mmap.MADV_DONTNEED)
                self._touched = 0
        return found
