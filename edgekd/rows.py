"""Rows of a .npy file, read when they are asked for: however large the file is, what was read does not stay resident.

A memory map would be as quick, but each page that it touches counts as resident until the system needs it back.
"""

import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import CorruptStep

Array = NDArray[Any]


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
    """The array of a file, of shape (rows, ...); `rows[indices]` reads those and nothing else."""

    def __init__(self, path: Path) -> None:
        header = header_of(path)
        self.shape, self.dtype = header.shape, header.dtype
        self._path, self._start, self._row_bytes = path, header.offset, header.row_bytes
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: NDArray[np.int64]) -> Array:
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise IndexError(f"rows {indices.min()} to {indices.max()} of {len(self)}")
        found = np.empty((len(indices), *self.shape[1:]), self.dtype)
        into, size = found.reshape(-1).view(np.uint8), self._row_bytes
        ends = [*(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
        first = 0
        for end in ends:  # of rows that follow each other in the file
            if end > first:
                self._read(into[first * size : end * size], self._start + int(indices[first]) * size)
            first = end
        return found

    def _read(self, into: NDArray[np.uint8], offset: int) -> None:
        done = 0
        while done < len(into):
            read = os.preadv(self._descriptor, [into[done:].data], offset + done)
            if not read:
                raise CorruptStep(f"{self._path} ends too early", hint="delete its folder to redo the step")
            done += read
