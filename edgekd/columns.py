"""An array in a .npy file that grows shard by shard: a killed writer goes on after its last shard, and a shard that the
disk has changed is found by its SHA-256 and written again, it alone.

`NAME.npy` is there once every shard is. Before that `NAME.part` holds what there is, and `NAME.sha256` has a line for
each shard that is whole: its number and its sum; the header of the file counts as one more.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekd.files import write_text
from edgekd.progress import tell
from edgekd.rows import Header, header_of

MOST_SHARDS: Final = 128
CHUNK_BYTES: Final = 2**20

_LINE = re.compile(r"([0-9]{1,6}) ([0-9a-f]{64})")


def shards_of(rows: int, at_least: int) -> list[range]:
    """The rows of each shard: multiples of `at_least`, and no more shards than 128."""
    size = at_least * max(1, -(-rows // (at_least * MOST_SHARDS)))
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]


class Column:
    """One array of shape (rows, ...); whoever writes it is alone with its folder."""

    def __init__(self, folder: Path, name: str, shards: Sequence[range]) -> None:
        self.path = folder / f"{name}.npy"
        self._part, self._sums = folder / f"{name}.part", folder / f"{name}.sha256"
        self._shards = shards
        self._head = len(shards)
        self._hash = hashlib.sha256()

    def intact(self) -> bool:
        """Whether all of it is there as it was written; a damaged one is taken apart, and its good shards are kept."""
        if not self.path.exists():
            return False
        sums = self._read_sums()
        header = self._header(self.path, sums)
        good = [n for n in range(len(self._shards)) if self._sum(n, header) == sums.get(n)] if header else []
        if len(good) == len(self._shards):
            return True
        if header and good:
            self._copy(good, header)
            kept = [f"{number} {sums[number]}\n" for number in (self._head, *good)]
            write_text(self._sums, "".join(kept))
        else:
            self._sums.unlink(missing_ok=True)
        self.path.unlink()
        return False

    def lacks(self) -> set[int]:
        """The shards that are still to be written."""
        if self.path.exists():
            return set()
        sums = self._read_sums()
        return set(range(len(self._shards))) - (set(sums) if self._header(self._part, sums) else set())

    def write(self, first_row: int, values: NDArray[Any]) -> None:
        """Rows of a shard, which come in their order."""
        header = self._header(self._part, self._read_sums()) or self._begin(values)
        assert header.dtype == values.dtype
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        with self._part.open("rb+") as opened:
            opened.seek(header.offset + first_row * header.row_bytes)
            opened.write(data.data)
        self._hash.update(data.data)

    def finish(self, shard: int) -> None:
        """Say that a shard is whole."""
        self._add(shard, self._hash.hexdigest())
        self._hash = hashlib.sha256()

    def complete(self, what: str, write: Callable[[range], None]) -> None:
        """Have the shards that are lacking written, and say that all are whole; `what` is being done, for progress."""
        for number in sorted(self.lacks()):
            tell(what, number, len(self._shards))
            write(self._shards[number])
            self.finish(number)
        tell(what, len(self._shards), len(self._shards))
        self.seal()

    def seal(self) -> None:
        """Say that all shards are whole."""
        with self._part.open("rb+") as opened:
            os.fsync(opened.fileno())
        self._part.chmod(0o444)  # runs may hold links to it
        self._part.replace(self.path)

    def _begin(self, values: NDArray[Any]) -> Header:
        shape = (self._shards[-1].stop, *values.shape[1:])
        kind = np.lib.format.dtype_to_descr(values.dtype)  # type: ignore[no-untyped-call]  # numpy
        header = {"descr": kind, "fortran_order": False, "shape": shape}
        self._sums.unlink(missing_ok=True)
        with self._part.open("wb+") as opened:
            np.lib.format.write_array_header_1_0(opened, header)  # type: ignore[no-untyped-call]  # numpy
            offset = opened.tell()
            opened.truncate(offset + values.dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
        self._add(self._head, _sum_of_header(self._part, offset))
        return Header(shape, values.dtype, offset)

    def _add(self, number: int, value: str) -> None:
        with self._sums.open("a", encoding="ascii") as opened:
            opened.write(f"\n{number} {value}\n")  # a killed writer may have left half a line

    def _copy(self, shards: Sequence[int], header: Header) -> None:
        with self.path.open("rb") as given, self._part.open("wb") as taken:
            taken.write(given.read(header.offset))
            taken.truncate(header.offset + self._shards[-1].stop * header.row_bytes)
            for number in shards:
                taken.seek(header.offset + self._shards[number].start * header.row_bytes)
                for chunk in self._chunks(number, header):
                    taken.write(chunk)

    def _sum(self, shard: int, header: Header) -> str:
        found = hashlib.sha256()
        for chunk in self._chunks(shard, header):
            found.update(chunk)
        return found.hexdigest()

    def _chunks(self, shard: int, header: Header) -> Iterator[bytes]:
        rows = self._shards[shard]
        left = len(rows) * header.row_bytes
        with self.path.open("rb") as opened:
            opened.seek(header.offset + rows.start * header.row_bytes)
            while left and (chunk := opened.read(min(left, CHUNK_BYTES))):
                left -= len(chunk)
                yield chunk

    def _header(self, path: Path, sums: dict[int, str]) -> Header | None:
        """None where there is none, or another one than was written."""
        try:
            found = header_of(path)
        except (ValueError, OSError):
            return None
        return found if _sum_of_header(path, found.offset) == sums.get(self._head) else None

    def _read_sums(self) -> dict[int, str]:
        if not self._sums.exists():
            return {}
        lines = self._sums.read_text(encoding="ascii", errors="replace").splitlines()
        return {int(found[1]): found[2] for line in lines if (found := _LINE.fullmatch(line))}


def _sum_of_header(path: Path, offset: int) -> str:
    with path.open("rb") as opened:
        return hashlib.sha256(opened.read(offset)).hexdigest()
