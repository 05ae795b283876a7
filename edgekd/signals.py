"""How far two signals are apart."""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

HIGHEST_SQNR_DB: Final = 200.0


def sqnr_db(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """Signal to quantization noise ratio in decibels, -200 to 200; -200 where an output is not a number.

    >>> x = np.ones(4, np.float32)
    >>> round(sqnr_db(x, x * np.float32(0.9)), 1)
    20.0
    """
    if not np.isfinite(found).all():
        return -HIGHEST_SQNR_DB
    signal = float(np.sum(np.square(expected, dtype=np.float64)))
    noise = float(np.sum(np.square(expected.astype(np.float64) - found)))
    if noise == 0:
        return HIGHEST_SQNR_DB
    if signal == 0:
        return -HIGHEST_SQNR_DB
    return float(np.clip(10 * math.log10(signal / noise), -HIGHEST_SQNR_DB, HIGHEST_SQNR_DB))
