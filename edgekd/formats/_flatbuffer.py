"""FlatBuffers read with every offset checked, and changed in place; generated code trusts the offsets of a file.

After https://flatbuffers.dev/internals: a table starts with the signed distance back to its vtable, which has the place
of each field; strings, vectors and other tables are reached by unsigned distances forward.
"""

import struct
from collections.abc import Sequence
from typing import Any, Final

from edgekd.formats._reading import Broken

_U16: Final = struct.Struct("<H")
_I32: Final = struct.Struct("<i")
_U32: Final = struct.Struct("<I")

NUMBERS: Final = {name: struct.Struct(f"<{code}") for name, code in zip("bBhHiIqQ", "bBhHiIqQ", strict=True)}


MOST_TABLES: Final = 2**20
MOST_BYTES: Final = 2**26
"""Of strings and vectors. Models have a tenth of either, and offsets may let every table share one huge vector."""


class Buffer:
    """The bytes of a file."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._left = min(4 * len(data) + 4096, MOST_BYTES)
        self._tables = 0

    def number(self, at: int, kind: struct.Struct) -> Any:
        """The number at a place."""
        if at < 0 or at + kind.size > len(self.data):
            raise Broken("an offset points outside of the file")
        return kind.unpack_from(self.data, at)[0]

    def span(self, at: int, size: int) -> memoryview:
        """So many bytes from a place on."""
        if at < 0 or size < 0 or at + size > len(self.data):
            raise Broken("a vector is longer than the file")
        self._left -= size
        if self._left < 0:
            raise Broken("it refers to the same bytes over and over")
        return memoryview(self.data)[at : at + size]

    def table(self, slot: int) -> "Table":
        """The table that a place points to."""
        self._tables += 1
        if self._tables > MOST_TABLES:
            raise Broken(f"more than {MOST_TABLES} tables")
        return Table(self, slot + self.number(slot, _U32))

    def root(self) -> "Table":
        """The outermost table."""
        return self.table(0)


class Table:
    """A table; a field that it has not reads as its default."""

    __slots__ = ("_buffer", "_size", "_vtable", "at")

    def __init__(self, buffer: Buffer, at: int) -> None:
        self.at = at
        self._buffer = buffer
        self._vtable = at - buffer.number(at, _I32)
        self._size = buffer.number(self._vtable, _U16)

    def slot(self, field: int) -> int:
        """Where a field is in the file; 0 where the table has none."""
        entry = 4 + 2 * field
        offset = self._buffer.number(self._vtable + entry, _U16) if entry + 2 <= self._size else 0
        return self.at + offset if offset else 0

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """A number; `kind` is its code in `struct`."""
        at = self.slot(field)
        return int(self._buffer.number(at, NUMBERS[kind])) if at else default

    def table(self, field: int) -> "Table | None":
        """A table."""
        at = self.slot(field)
        return self._buffer.table(at) if at else None

    def tables(self, field: int) -> list["Table"]:
        """A vector of tables."""
        start, count = self.vector(field)
        self._buffer.span(start, 4 * count)
        return [self._buffer.table(start + 4 * index) for index in range(count)]

    def numbers(self, field: int, kind: str) -> tuple[int, ...]:
        """A vector of numbers."""
        start, count = self.vector(field)
        span = self._buffer.span(start, NUMBERS[kind].size * count)
        return struct.unpack(f"<{count}{kind}", span)

    def floats(self, field: int) -> tuple[float, ...]:
        """A vector of numbers of single precision."""
        start, count = self.vector(field)
        return struct.unpack(f"<{count}f", self._buffer.span(start, 4 * count))

    def bytes(self, field: int) -> memoryview:
        """A vector of bytes."""
        return self._buffer.span(*self.vector(field))

    def text(self, field: int) -> str:
        """A string."""
        return str(self.bytes(field), "utf-8", "replace")

    def vector(self, field: int) -> tuple[int, int]:
        """Where the elements of a vector start, and how many there are."""
        at = self.slot(field)
        if not at:
            return 0, 0
        place = at + self._buffer.number(at, _U32)
        return place + 4, self._buffer.number(place, _U32)


class Changes:
    """A copy of a file in which fields point to something new at its end; all else stays byte for byte."""

    def __init__(self, data: bytes) -> None:
        self._data = bytearray(data)

    def finish(self) -> bytes:
        """The changed file."""
        return bytes(self._data)

    def count(self, vector: int, count: int) -> None:
        """Let a vector, by where its elements start, end sooner."""
        _U32.pack_into(self._data, vector - 4, count)

    def point(self, slot: int, place: int) -> None:
        """Let a field point to a place behind it."""
        _U32.pack_into(self._data, slot, place - slot)

    def indices(self, values: Sequence[int]) -> int:
        """Add a vector of 32-bit numbers; where it is."""
        self._align()
        place = len(self._data)
        self._data += struct.pack(f"<I{len(values)}I", len(values), *values)
        return place

    def named(self, pairs: Sequence[tuple[str, int]]) -> int:
        """Add a vector of tables that have a string and a 32-bit number; where it is."""
        vector = self.indices([0] * len(pairs))
        vtable = len(self._data)
        self._data += struct.pack("<4H", 8, 12, 4, 8)
        for index, (name, number) in enumerate(pairs):
            self._align()
            table = len(self._data)
            self._data += struct.pack("<i2I", table - vtable, 8, number)
            text = name.encode()
            self._data += _U32.pack(len(text)) + text + b"\0"
            self.point(vector + 4 + 4 * index, table)
        return vector

    def _align(self) -> None:
        self._data += bytes(-len(self._data) % 4)
