"""The largest logits of many classes, and the rest as one number: what is kept of a vocabulary.

Of a position with logits z and its k largest classes K, what is kept is z_i for i in K, and the log-mass of the others,
r = log sum_{i not in K} exp(z_i). Dense logits again are z_i for K and r - log(C - k) for each of the others: the
normalizer, and so the probability of every class in K, is what it was; the others share theirs evenly.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

TOP_K_ABOVE: Final = 1000
"""Outputs of no more classes are kept whole."""
LARGEST: Final = 65504.0
"""Of float16."""


def applies(k: int, classes: int) -> bool:
    """Whether an output is kept by its k largest logits."""
    return bool(k) and classes > max(TOP_K_ABOVE, k)


def pack(logits: NDArray[np.float32], k: int) -> NDArray[Any]:
    """Of logits (batch, C, ...) a record an example: `values` (k, ...) in float16, `indices` (k, ...), `rest` (...)."""
    batch, classes, *more = logits.shape
    logits = np.clip(logits, -LARGEST, LARGEST)
    indices = np.sort(np.argpartition(logits, classes - k, axis=1)[:, classes - k :], axis=1)
    others = logits.astype(np.float64)
    np.put_along_axis(others, indices, -np.inf, axis=1)
    peak = others.max(axis=1, keepdims=True)
    rest = peak[:, 0] + np.log(np.exp(others - peak).sum(axis=1))
    packed = np.zeros(batch, _record(k, classes, tuple(more)))
    packed["values"] = np.take_along_axis(logits, indices, axis=1)
    packed["indices"], packed["rest"] = indices, rest
    return packed


def unpack(packed: NDArray[Any], classes: int) -> NDArray[np.float32]:
    """Dense logits of shape (batch, C, ...)."""
    indices = packed["indices"].astype(np.int64)
    each = packed["rest"] - np.float32(np.log(classes - indices.shape[1]))
    dense = np.repeat(each[:, None], classes, axis=1)
    np.put_along_axis(dense, indices, packed["values"].astype(np.float32), axis=1)
    return dense


def record_bytes(k: int, shape: tuple[int, ...]) -> int:
    """Of one example of an output of `shape`, which has the classes first."""
    return _record(k, shape[0], shape[1:]).itemsize


def _record(k: int, classes: int, more: tuple[int, ...]) -> np.dtype[Any]:
    index = "<u2" if classes <= 2**16 else "<u4"
    return np.dtype([("values", "<f2", (k, *more)), ("indices", index, (k, *more)), ("rest", "<f4", more)])
