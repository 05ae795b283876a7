"""How far two signals are apart."""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

HIGHEST_SQNR_DB: Final = 200.0


class Ratio:
    """Signal and noise, summed up over as many arrays as come."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0
        self._finite = True

    def add(self, expected: NDArray[Any], found: NDArray[Any]) -> "Ratio":
        """Take what was expected and what was found instead, of one shape; this ratio."""
        self._finite &= bool(np.isfinite(found).all())
        if self._finite:
            self._signal += float(np.sum(np.square(expected, dtype=np.float64)))
            self._noise += float(np.sum(np.square(expected.astype(np.float64) - found)))
        return self

    @property
    def db(self) -> float:
        """Signal to quantization noise ratio in decibels, -200 to 200; -200 where something is not a number."""
        if not self._finite:
            return -HIGHEST_SQNR_DB
        if self._noise == 0:
            return HIGHEST_SQNR_DB
        if self._signal == 0:
            return -HIGHEST_SQNR_DB
        return float(np.clip(10 * math.log10(self._signal / self._noise), -HIGHEST_SQNR_DB, HIGHEST_SQNR_DB))


def sqnr_db(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Signal to quantization noise ratio in decibels, -200 to 200; -200 where an output is not a number.

    >>> x = np.ones(4, np.float32)
    >>> round(sqnr_db(x, x * np.float32(0.9)), 1)
    20.0
    """
    return Ratio().add(expected, found).db
