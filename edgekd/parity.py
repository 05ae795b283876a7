"""How close two executions of a net are, and how close their precisions let one expect them to be. Plain numpy."""

import math
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekd.errors import MeasureError
from edgekd.specs import Graph, Spec, TensorSpec

Array = NDArray[Any]

HIGHEST_SQNR_DB = 200.0
LARGEST_DIFFERENCE = 3.4e38
MOST_OUTPUTS_TO_TRY = 6
"""Outputs of one shape whose every order is tried where no names tell them apart."""

LEAST_SQNR_DB = {
    "fp32": 80.0,
    "fp16": 55.0,
    "bf16": 35.0,
    "int16": 30.0,
    "dynamic": 15.0,
    "int8": 10.0,
    "w8a8": 10.0,
    "palette6": 10.0,
    "palette4": 5.0,
}
"""What a precision explains; whatever stands here not at all is held to 10 dB."""
MOST_METRIC_DROP = {"fp32": 0.001, "fp16": 0.005, "bf16": 0.01}
"""0.01 for every other precision."""


class Closeness(Spec, frozen=True, kw_only=True):
    """Two executions on the same examples, over all outputs; the worst output counts."""

    max_abs: float
    """Largest difference of any value; 3.4e38 where one is not a number."""
    sqnr_db: float
    """10 log10(sum x^2 / sum (x - y)^2), -200 to 200; -200 where a value is not a number."""
    top1_agreement: float | None
    """Share of equal winners along the last axis; None where no output has more than one value there."""


def least_db(*precisions: str) -> float:
    """The SQNR in decibels that two executions of these precisions must reach: the coarser one's."""
    return min(LEAST_SQNR_DB.get(precision, 10.0) for precision in precisions)


def most_drop(precision: str, examples: int = 1000) -> float:
    """By how much the task's metric may drop; what rounds may lose one of the examples, however few they are."""
    return MOST_METRIC_DROP.get(precision, max(0.01, 1 / examples))


def closeness(expected: Sequence[Array], found: Sequence[Array]) -> Closeness:
    """Hold outputs against outputs: lists of arrays of equal shapes, the examples first.

    Raises:
        MeasureError: their number or shapes differ.
    """
    shapes, others = [tuple(one.shape) for one in expected], [tuple(one.shape) for one in found]
    if shapes != others:
        raise MeasureError(f"outputs of shapes {_listed(others)} stand against {_listed(shapes)}")
    agreements = [top for one, other in zip(expected, found, strict=True) if (top := _top1(one, other)) is not None]
    pairs = list(zip(expected, found, strict=True))
    return Closeness(
        max_abs=max((_largest_difference(one, other) for one, other in pairs), default=0.0),
        sqnr_db=min((sqnr_db(one, other) for one, other in pairs), default=HIGHEST_SQNR_DB),
        top1_agreement=min(agreements, default=None),
    )


class Ratio:
    """Signal and noise, summed up over as many arrays as come."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0
        self._finite = True

    def add(self, expected: NDArray[Any], found: NDArray[Any]) -> "Ratio":
        """Take what was expected and what was found instead, of one shape; this ratio."""
        self._finite &= bool(np.isfinite(found).all() and np.isfinite(expected).all())
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


def _largest_difference(expected: Array, found: Array) -> float:
    with np.errstate(all="ignore"):
        difference = np.abs(expected.astype(np.float64) - found)
    bound = LARGEST_DIFFERENCE
    return float(np.nan_to_num(difference, nan=bound, posinf=bound).max(initial=0.0))


def _top1(expected: Array, found: Array) -> float | None:
    if expected.ndim < 2 or expected.shape[-1] < 2:
        return None
    return float(np.mean(expected.argmax(axis=-1) == found.argmax(axis=-1)))


def drop_interval(
    score: Callable[[tuple[Array, ...]], float],
    expected: tuple[Array, ...],
    found: tuple[Array, ...],
    resamples: int = 400,
) -> tuple[float, float]:
    """95% bootstrap interval of score(expected) - score(found), over the examples.

    `score` maps the counts of each output, (examples, numbers), to a number: see `edgekd.heads.counts`.
    """
    random = np.random.default_rng(0)
    count = len(expected[0])
    drops = []
    for _ in range(resamples):
        some = random.integers(0, count, count)
        ours, theirs = (tuple(one[some] for one in counts) for counts in (expected, found))
        drops.append(score(ours) - score(theirs))
    low, high = np.percentile(drops, [2.5, 97.5])
    return float(low), float(high)


# --- which tensor is which


def paired(mine: Sequence[TensorSpec], theirs: Sequence[TensorSpec]) -> tuple[int, ...] | None:
    """For each of mine the index of theirs: by name, else by shape in their order; None where they do not match."""
    if len(mine) != len(theirs):
        return None
    names = [one.name for one in theirs]
    if len(set(names)) == len(names) and {one.name for one in mine} == set(names):
        return tuple(names.index(one.name) for one in mine)
    left = list(range(len(theirs)))
    found = []
    for one in mine:
        fitting = [index for index in left if arranged_axes(theirs[index].shape, one.shape) is not None]
        if not fitting:
            return None
        found.append(fitting[0])
        left.remove(fitting[0])
    return tuple(found)


def arranged(array: Array, shape: Sequence[int]) -> Array | None:
    """An array of (examples, *shape) in another order of axes, or with axes of length 1 more or less.

    -1 in `shape` stands for any length; None where the shapes have nothing to do with each other.
    """
    axes = arranged_axes(array.shape[1:], shape)
    if axes is None:
        return None
    moved = array.transpose(0, *(axis + 1 for axis in axes)) if axes else array
    wanted = tuple(shape)
    if len(moved.shape) - 1 == len(wanted):
        return moved
    return moved.reshape(len(array), *_without_unknown(moved.shape[1:], wanted))


def arranged_axes(given: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...] | None:
    """The order of axes that turns one shape into the other, () where none must move; None where nothing does.

    >>> arranged_axes((1, 8, 8, 3), (1, 3, 8, 8)), arranged_axes((1, 3), (3,)), arranged_axes((2, 3), (3, 2))
    ((0, 3, 1, 2), (), None)
    """
    if _fits(given, wanted):
        return ()
    if len(given) == len(wanted) and len(given) in {3, 4, 5}:
        last = len(given) - 1
        to_first, to_last = (0, last, *range(1, last)), (0, *range(2, last + 1), 1)
        for axes in (to_first, to_last):
            if _fits([given[axis] for axis in axes], wanted):
                return axes
    long, short = [size for size in given if size != 1], [size for size in wanted if size != 1]
    return () if len(given) != len(wanted) and _fits(long, short) else None


def _fits(given: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(given) == len(wanted) and all(a == b or -1 in {a, b} for a, b in zip(given, wanted, strict=True))


def _without_unknown(given: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    sizes = iter([size for size in given if size != 1])
    return tuple(1 if size == 1 else next(sizes, 1) for size in wanted)


def by_content(expected: Sequence[Array], found: Sequence[Array]) -> tuple[int, ...]:
    """For each expected output the index of the found one, among those of its shape, that makes all agree best."""
    best = list(range(len(found)))
    for group in _of_one_shape(expected, found):
        if 1 < len(group) <= MOST_OUTPUTS_TO_TRY:
            orders = permutations([best[index] for index in group])
            chosen = max(orders, key=lambda order: _agreement(expected, found, group, order))
            for index, other in zip(group, chosen, strict=True):
                best[index] = other
    return tuple(best)


def _of_one_shape(expected: Sequence[Array], found: Sequence[Array]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, array in enumerate(expected):
        if found[index].shape == array.shape:
            groups.setdefault(array.shape, []).append(index)
    return list(groups.values())


def _agreement(expected: Sequence[Array], found: Sequence[Array], group: Sequence[int], order: Sequence[int]) -> float:
    return sum(sqnr_db(expected[index], found[other]) for index, other in zip(group, order, strict=True))


# --- what precision a file has


def precision_of(graph: Graph) -> str:
    """The precision that a file's own metadata names, else what the types of its operators suggest."""
    if "edgekd.precision" in graph.properties:
        return graph.properties["edgekd.precision"]
    kinds = {operator.kind.lower() for operator in graph.operators}
    types = {operator.dtype for operator in graph.operators}
    if kinds & _PALETTES:
        return "palette6"
    if kinds & _INTEGER_KINDS or any(kind.startswith(_INTEGER_PREFIXES) for kind in kinds) or types & {"int8", "uint8"}:
        return "int8"
    if "int16" in types:
        return "int16"
    if any(operator.weights and operator.dtype == "float32" for operator in graph.operators):
        return "dynamic"
    return "fp16" if "float16" in types or "dequantize" in kinds else "fp32"


_PALETTES = {"constexpr_lut_to_dense"}
_INTEGER_KINDS = {"fakequantize", "matmulinteger", "convinteger", "constexpr_affine_dequantize", "quantize"}
_INTEGER_PREFIXES = ("quantizelinear", "dynamicquantize", "qlinear", "constexpr_blockwise")


def _listed(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes)) or "none"
