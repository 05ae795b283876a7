"""Messages of Protocol Buffers read field by field, and only the fields that are asked for: weights are passed over.

The encoding is that of https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Callable
from typing import Final

from edgekd.formats._reading import Broken

MOST_FIELDS: Final = 1_000_000
"""Of a file; a model of 10,000 operators has a third of that."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Limit:
    """Counts the fields of a file."""

    def __init__(self) -> None:
        self.left = MOST_FIELDS


class Message:
    """The fields of a message that are asked for, by number; any may be there several times, or not at all."""

    def __init__(self, data: memoryview, wanted: frozenset[int], limit: Limit) -> None:
        self._limit = limit
        self._found: dict[int, list[int | memoryview]] = {}
        at = 0
        while at < len(data):
            limit.left -= 1
            if limit.left < 0:
                raise Broken(f"more than {MOST_FIELDS} fields")
            tag, at = _varint(data, at)
            value, at = _value(data, at, tag & 7)
            if tag >> 3 in wanted:
                self._found.setdefault(tag >> 3, []).append(value)

    def __contains__(self, field: int) -> bool:
        return field in self._found

    def number(self, field: int, default: int = 0) -> int:
        """A number; the last where there are several."""
        found = self._found.get(field, [default])[-1]
        if not isinstance(found, int):
            raise Broken("a number is no number")
        return found

    def numbers(self, field: int) -> list[int]:
        """Numbers, packed or not, as 64 bits with a sign."""
        found: list[int] = []
        for value in self._found.get(field, []):
            found += [value] if isinstance(value, int) else _packed(value, self._limit)
        return [signed(number) for number in found]

    def spans(self, field: int) -> list[memoryview]:
        """The bytes of each of a repeated field's values."""
        found = self._found.get(field, [])
        spans = [value for value in found if isinstance(value, memoryview)]
        if len(spans) < len(found):
            raise Broken("a message is no message")
        return spans

    def texts(self, field: int) -> list[str]:
        """Strings."""
        return [str(span, "utf-8", "replace") for span in self.spans(field)]

    def text(self, field: int) -> str:
        """A string; the last where there are several."""
        return next(reversed(self.texts(field)), "")

    def messages(self, field: int, wanted: frozenset[int]) -> list["Message"]:
        """Messages."""
        return [Message(span, wanted, self._limit) for span in self.spans(field)]

    def message(self, field: int, wanted: frozenset[int]) -> "Message":
        """A message; several are merged, which is what reading them one behind the other does."""
        spans = self.spans(field)
        whole = spans[0] if len(spans) == 1 else memoryview(b"".join(spans))
        return Message(whole, wanted, self._limit)


def read(data: bytes, wanted: frozenset[int]) -> Message:
    """The message that a file is."""
    return Message(memoryview(data), wanted, Limit())


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    if at < len(data) and data[at] < 128:  # nearly all of them
        return data[at], at + 1
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise Broken("it ends in the midst of a number")
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value & (2**64 - 1), at
        shift += 7
    raise Broken("a number is too long")


def _value(data: memoryview, at: int, wire: int) -> tuple[int | memoryview, int]:
    if wire == _VARINT:
        return _varint(data, at)
    if wire not in (_FIXED64, _BYTES, _FIXED32):
        raise Broken("a field of no known kind")
    size, at = _varint(data, at) if wire == _BYTES else (8 if wire == _FIXED64 else 4, at)
    if at + size > len(data):
        raise Broken("a field is longer than what it is in")
    span = data[at : at + size]
    return (span if wire == _BYTES else int.from_bytes(span, "little")), at + size


def _packed(data: memoryview, limit: Limit) -> list[int]:
    numbers, at = [], 0
    while at < len(data):
        limit.left -= 1
        if limit.left < 0:
            raise Broken(f"more than {MOST_FIELDS} fields")
        number, at = _varint(data, at)
        numbers.append(number)
    return numbers


def signed(number: int) -> int:
    """A varint as the number of 64 bits with a sign that it stands for."""
    return number - 2**64 if number >= 2**63 else number


def encode(field: int, content: bytes) -> bytes:
    """A field that holds bytes, a string or a message."""
    return _encode_varint(field << 3 | _BYTES) + _encode_varint(len(content)) + content


def encode_number(field: int, number: int) -> bytes:
    """A field that holds a number."""
    return _encode_varint(field << 3 | _VARINT) + _encode_varint(number)


def replaced(data: bytes, field: int, change: Callable[[bytes], bytes]) -> bytes:
    """A message in which each value of a field is changed, and all else stays byte for byte."""
    view, parts, at = memoryview(data), [], 0
    while at < len(view):
        start = at
        tag, at = _varint(view, at)
        value, at = _value(view, at, tag & 7)
        if tag >> 3 == field and isinstance(value, memoryview):
            parts.append(encode(field, change(bytes(value))))
        else:
            parts.append(bytes(view[start:at]))
    return b"".join(parts)


def _encode_varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])
