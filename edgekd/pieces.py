"""Text as the pieces of a byte-level vocabulary spell it (Radford et al. 2019, GPT-2; Whisper has the same).

A byte that is no printable character stands there as another one: a space is "Ġ".
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

END: Final = "<|endoftext|>"
"""The piece behind a text."""
FIRST_SUBSTITUTE: Final = 0x100


def spelled(pieces: Iterable[str]) -> str:
    """The text; marks such as <|endoftext|> are left out, and bytes that are no text become U+FFFD.

    >>> spelled(["ĠPlay", "Ġjazz", ".", "<|endoftext|>"])
    ' Play jazz.'
    """
    letters = "".join(piece for piece in pieces if not is_mark(piece))
    return bytes(byte_of()[letter] for letter in letters if letter in byte_of()).decode("utf-8", errors="replace")


def is_mark(piece: str) -> bool:
    """Whether a piece stands for no text."""
    return piece.startswith("<|") and piece.endswith("|>")


@lru_cache(maxsize=1)
def byte_of() -> dict[str, int]:
    """The byte that each character of a piece stands for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(0x100)) - set(printable))
    found = {chr(byte): byte for byte in printable}
    return found | {chr(FIRST_SUBSTITUTE + index): byte for index, byte in enumerate(others)}
