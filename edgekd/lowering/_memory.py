"""Where tensors lie in an arena, as TFLite plans it: largest first, each in the smallest gap among those alive with it.

tensorflow/lite/arena_planner.cc and simple_memory_arena.cc; Pisarchyk and Lee 2020, arXiv:2001.03288, "greedy by size".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ALIGNED: Final = 64
"""Bytes that the start of every tensor is a multiple of."""


MOST_PLACED: Final = 4000
"""Tensors; of more it is told how much is alive at once, which is nearly that."""


@dataclass(frozen=True)
class Life:
    """A tensor of so many bytes, alive from a moment to a moment."""

    size: int
    first: int
    last: int


def plan(lives: Sequence[Life]) -> int:
    """Bytes of the arena that holds all of them.

    >>> plan([Life(100, 0, 1), Life(50, 1, 2), Life(100, 2, 3)])
    178
    """
    if len(lives) > MOST_PLACED:
        return _peak(lives)
    end = max((life.last for life in lives), default=0)
    ordered = sorted(lives, key=lambda life: (not (life.first == 0 and life.last == end), -life.size, life.first))
    placed: list[tuple[int, Life]] = []
    highest = 0
    for life in ordered:
        if not life.size:
            continue
        at = _gap(life, placed)
        placed.append((at, life))
        placed.sort(key=lambda one: one[0])
        highest = max(highest, at + life.size)
    return highest


def _peak(lives: Sequence[Life]) -> int:
    """Most bytes alive at once."""
    changes = sorted([(life.first, life.size) for life in lives] + [(life.last + 1, -life.size) for life in lives])
    alive = most = 0
    for _, size in changes:
        alive += size
        most = max(most, alive)
    return most


def _gap(life: Life, placed: list[tuple[int, Life]]) -> int:
    best, smallest, current = -1, 0, 0
    for at, other in placed:
        if other.last < life.first or life.last < other.first:
            continue
        start = -(-current // ALIGNED) * ALIGNED
        if start + life.size <= at and (best < 0 or at - current < smallest):
            best, smallest = start, at - current
        current = max(current, at + other.size)
    return best if best >= 0 else -(-current // ALIGNED) * ALIGNED
