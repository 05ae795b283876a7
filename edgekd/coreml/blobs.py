"""Reads weight files: a header, and blobs of which each has a record of its type and size before it.

The format is MILBlob's of apple/coremltools (mlmodel/src/MILBlob/Blob/StorageFormat.hpp). All is little-endian, and
records and data start at multiples of 64. The writer puts one blob behind the other, and this reader asks for just
that: every byte of a file is then of a record, of data, or of padding, and the padding is zero.
"""

import struct
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgekd.coreml.program import DTYPE_BITS
from edgekd.errors import ConvertError

_ALIGNMENT: Final = 64
_VERSION: Final = 2
_SENTINEL: Final = 0xDEADBEEF
_HEADER: Final = struct.Struct("<II56x")
_RECORD: Final = struct.Struct("<IIQQQ32x")
"""Sentinel, type, size, offset, bits of padding; old writers left the last of these and what is behind it unset."""

_DTYPES: Final = {
    1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1", 10: "uint2",
    11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32",
}  # fmt: skip


class Weights:
    """A weight file in memory."""

    def __init__(self, raw: NDArray[np.uint8], where: str) -> None:
        self._raw, self._where = raw, where
        self._blobs: dict[int, tuple[str, int, int]] = {}
        self._unpacked: dict[tuple[int, int], NDArray[np.generic]] = {}
        self._scan()

    def read(self, offset: int, dtype: str, count: int) -> NDArray[np.generic]:
        """The `count` numbers of the blob whose record is at `offset`, flat; a byte each where they are smaller.

        Raises:
            ConvertError: there is no blob, or one of another type or size.
        """
        if offset not in self._blobs:
            self._fail(f"no blob at {offset}")
        found, size_bytes, padding_bits = self._blobs[offset]
        bits = DTYPE_BITS[dtype]
        if found != dtype:
            self._fail(f"the blob at {offset} holds {found}, the program says {dtype}")
        if size_bytes * 8 != count * bits + (padding_bits if bits < 8 else 0):
            self._fail(f"the blob at {offset} has {size_bytes} bytes, the program says {count} of {dtype}")
        data = self._raw[offset + _ALIGNMENT : offset + _ALIGNMENT + size_bytes]
        if bits >= 8:
            return data.view(np.dtype(dtype).newbyteorder("<"))
        if (offset, count) not in self._unpacked:
            self._unpacked[offset, count] = self._unpack(data, dtype, count, offset)
        return self._unpacked[offset, count]

    def _scan(self) -> None:
        if self._raw.size < _HEADER.size:
            self._fail("shorter than its header")
        count, version = _HEADER.unpack_from(self._raw.data)
        if version != _VERSION or self._raw[8 : _HEADER.size].any():
            self._fail(f"not a weight file of version {_VERSION}")
        at = _HEADER.size
        for _ in range(count):
            at = self._record(at)
        if at < self._raw.size:
            self._fail(f"{self._raw.size - at} bytes behind the last blob")

    def _record(self, at: int) -> int:
        """Note the blob whose record is at `at`; where the next record is."""
        if at + _RECORD.size > self._raw.size:
            self._fail("shorter than its header says")
        sentinel, code, size_bytes, offset, padding_bits = _RECORD.unpack_from(self._raw.data, at)
        if sentinel != _SENTINEL or offset != at + _RECORD.size:
            self._fail(f"no record of a blob at {at}")
        if code not in _DTYPES:
            self._fail(f"the blob at {at} is of an unknown type, {code}")
        end = offset + size_bytes
        if end > self._raw.size:
            self._fail(f"the blob at {at} is cut off")
        following: int = -(-end // _ALIGNMENT) * _ALIGNMENT
        if self._raw[end:following].any():
            self._fail(f"the padding behind the blob at {at} is not zero")
        self._blobs[at] = (_DTYPES[code], size_bytes, padding_bits)
        return following

    def _unpack(self, data: NDArray[np.uint8], dtype: str, count: int, offset: int) -> NDArray[np.generic]:
        numbers, rest = unpack(data, dtype, count)
        if rest.any():
            self._fail(f"the last byte of the blob at {offset} has bits that belong to no number")
        return numbers

    def _fail(self, what: str) -> NoReturn:
        raise ConvertError(f"{self._where}: {what}", hint="the file is damaged; write the package again")


def unpack(data: NDArray[np.uint8], dtype: str, count: int) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
    """Numbers of less than eight bits, packed from the lowest bit of each byte on, as a byte each; and the bits left.

    >>> unpack(np.frombuffer(b"\\xe4", np.uint8), "uint2", 4)[0]
    array([0, 1, 2, 3], dtype=uint8)
    """
    width = DTYPE_BITS[dtype]
    bits = np.unpackbits(data, bitorder="little")
    used, rest = bits[: count * width].reshape(count, width), bits[count * width :]
    numbers = np.zeros(count, np.uint8)
    for place in range(width):
        numbers |= used[:, place] << np.uint8(place)
    if dtype.startswith("int"):
        sign = np.uint8(1 << (width - 1))
        return ((numbers ^ sign).astype(np.int16) - sign).astype(np.int8), rest
    return numbers, rest
