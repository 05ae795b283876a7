"""Ranges of activations for integers, out of histograms that are filled example by example."""

import math
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Rule = Literal["full", "percentile", "mse", "entropy"]

BINS: Final = 8192
"""Of a histogram, half of them below zero."""
LARGEST: Final = 3e38
"""Values beyond stand for infinity, as masks and paddings have it, and are not counted."""
PERCENTILE: Final = 99.99
"""Percentage of the values that the rule "percentile" keeps."""
_CANDIDATES: Final = 128


class Histogram:
    """Counts of a tensor's values; the same values give the same histogram, in whatever order and parts they come.

    Bins are a power of two wide, the smallest that all values fit into, so that growing is adding neighbours up. Zeros
    are counted apart, for every range represents them exactly.
    """

    def __init__(self) -> None:
        self.low = 0.0
        """The least value, or 0."""
        self.high = 0.0
        """The largest value, or 0."""
        self._zeros = 0
        self._exponent: int | None = None
        self._counts: NDArray[np.int64] = np.zeros(BINS, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Count the values of an array of any shape; what is not finite is left out."""
        flat = np.asarray(values, np.float64).reshape(-1)
        flat = flat[np.abs(flat) < LARGEST]  # false for what is not a number
        nonzero = flat[flat != 0]
        self._zeros += len(flat) - len(nonzero)
        if not len(nonzero):
            return
        self.low = min(self.low, float(nonzero.min()))
        self.high = max(self.high, float(nonzero.max()))
        self._widen()
        indices = np.floor(nonzero / self._width).astype(np.int64)
        self._counts += np.bincount(indices + BINS // 2, minlength=BINS)

    def range(self, rule: Rule, levels: int = 256, symmetric: bool = False) -> tuple[float, float]:
        """The lowest and the highest value to represent; they hold zero, and lie within what was seen.

        full: everything. percentile: all but 0.01% of the values, half of that on each side. mse: the least expected
        square of rounding and clipping. entropy: the least Kullback-Leibler divergence of the values from what integers
        keep of them, clipped at one magnitude (Migacz 2017, "8-bit Inference with TensorRT", GTC). `levels` is how
        many integers there are; a symmetric range is (-t, t).
        """
        if self._exponent is None:
            return 0.0, 0.0
        if rule == "percentile":
            low, high = self._percentile(symmetric)
        elif rule == "mse":
            low, high = self._least_squares(levels, symmetric)
        elif rule == "entropy":
            low, high = self._least_divergence(levels, symmetric)
        else:
            low, high = self.low, self.high
        if symmetric:
            high = max(-low, high)
            low = -high
        return low, high

    @property
    def _width(self) -> float:
        return math.ldexp(2 / BINS, self._exponent or 0)

    @property
    def _largest(self) -> float:
        return max(-self.low, self.high)

    def _widen(self) -> None:
        """Make bins as wide as the largest value needs."""
        needed = math.frexp(self._largest)[1]
        if self._exponent is not None and needed > self._exponent:
            shift = min(needed - self._exponent, 62)
            indices = (np.arange(-BINS // 2, BINS // 2) >> shift) + BINS // 2
            grown = np.zeros(BINS, np.int64)
            np.add.at(grown, indices, self._counts)
            self._counts = grown
        self._exponent = max(needed, needed if self._exponent is None else self._exponent)

    def _magnitudes(self) -> NDArray[np.int64]:
        """Counts of absolute values, in bins of the same width."""
        return self._counts[BINS // 2 :] + self._counts[: BINS // 2][::-1]

    def _percentile(self, symmetric: bool) -> tuple[float, float]:
        cut = (1 - PERCENTILE / 100) * (int(self._counts.sum()) + self._zeros)
        if symmetric:
            return 0.0, min(self._largest, self._width * _kept(self._magnitudes(), cut))
        low = -self._width * _kept(self._counts[: BINS // 2][::-1], cut / 2)
        return max(self.low, low), min(self.high, self._width * _kept(self._counts[BINS // 2 :], cut / 2))

    def _least_squares(self, levels: int, symmetric: bool) -> tuple[float, float]:
        """Rounding costs a twelfth of the squared step for each value inside (Bennett 1948), clipping its square."""
        shares = 2.0 ** (-np.arange(_CANDIDATES) / 16)
        if symmetric:
            tops = self._largest * shares
            clipped, outside = _clipping(self._magnitudes(), self._width, tops)
            inside = self._counts.sum() - outside
            errors = inside * (2 * tops / (levels - 1)) ** 2 / 12 + clipped
            return 0.0, float(tops[np.argmin(errors)])
        lows, highs = -self.low * shares, self.high * shares
        clipped_low, outside_low = _clipping(self._counts[: BINS // 2][::-1], self._width, lows)
        clipped_high, outside_high = _clipping(self._counts[BINS // 2 :], self._width, highs)
        inside = self._counts.sum() - outside_low[:, None] - outside_high
        steps = (lows[:, None] + highs) / (levels - 1)
        errors = inside * steps**2 / 12 + clipped_low[:, None] + clipped_high
        row, column = np.unravel_index(np.argmin(errors), errors.shape)
        return -float(lows[row]), float(highs[column])

    def _least_divergence(self, levels: int, symmetric: bool) -> tuple[float, float]:
        """One threshold for both signs: what lies between -t and t is kept."""
        counts = self._counts.reshape(-1, 2).sum(1)  # half as fine: more takes longer and finds no better
        middle, width = len(counts) // 2, 2 * self._width
        below, above = math.ceil(-self.low / width), math.floor(self.high / width) + 1
        if symmetric:
            below = above = max(below, above)
        least = min(max(below, above), max(1, levels * max(below, above) // (below + above)))
        ends = np.unique(np.linspace(least, max(below, above), _CANDIDATES).round().astype(int))[::-1]
        divergences = [
            _divergence(counts, middle - min(end, below), middle + min(end, above), levels) for end in ends.tolist()
        ]
        threshold = width * int(ends[int(np.argmin(divergences))])
        return max(self.low, -threshold), min(self.high, threshold)


def _kept(counts: NDArray[np.int64], cut: float) -> float:
    """How many bins, counted from zero, hold all but `cut` of the values; a bin's values lie evenly in it."""
    beyond = np.cumsum(counts[::-1])[::-1]  # values in this bin and those after it
    last = int(np.count_nonzero(beyond > cut))
    if last == 0:
        return 0.0
    after = beyond[last] if last < len(counts) else 0
    return last - float((cut - after) / counts[last - 1])


def _clipping(
    counts: NDArray[np.int64], width: float, tops: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each top the sum of squares by which values are beyond it, and how many are."""
    centres = (np.arange(len(counts)) + 0.5) * width
    sums = [np.append(np.cumsum((counts * centres**power)[::-1])[::-1], 0.0) for power in range(3)]
    first = np.searchsorted(centres, tops, side="right")
    none, one, two = (part[first] for part in sums)
    return np.maximum(two - 2 * tops * one + tops**2 * none, 0.0), none


def _divergence(counts: NDArray[np.int64], first: int, last: int, levels: int) -> float:
    """Kullback-Leibler divergence of counts clipped to bins [first, last) from what so many integers keep of them."""
    kept = counts[first:last].astype(np.float64)
    clipped = kept.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last:].sum()
    level = np.arange(len(kept)) * levels // len(kept) if levels < len(kept) else np.arange(len(kept))
    seen = kept > 0
    sizes = np.maximum(np.bincount(level, seen), 1)
    spread = np.where(seen, (np.bincount(level, kept) / sizes)[level], 0.0)
    if spread.sum() == 0:
        return math.inf
    before = clipped[clipped > 0] / clipped.sum()
    after = np.maximum(spread[clipped > 0] / spread.sum(), 1e-12)
    return float(np.sum(before * np.log(before / after)))
