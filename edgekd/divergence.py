"""The first operator at which two executions of one net part, and how far apart they are at each.

Operators of the two are paired by what they compute: among tensors of equal sizes, those of the same layer first, the
one that is nearest. A pair whose inputs already differ says so: a wrong activation is blamed on the operator that has
it, not on the next convolution.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.errors import Disagreement
from edgekd.executions import (
    Computed,
    FileSide,
    Followed,
    Side,
    TorchSide,
    execute,
    follow_file,
    follow_torch,
    prepared,
)
from edgekd.parity import HIGHEST_SQNR_DB, Ratio, least_db, precision_of, sqnr_db
from edgekd.progress import tell
from edgekd.specs import Graph, Spec

AT_FIRST: Final = 8
"""Examples by which two executions are told apart."""
AT_ONCE: Final = 32
"""Examples that are followed through a torch module at a time."""
MOST_BYTES: Final = 1_000_000_000
"""Of tensors that a torch module computed and that are kept."""
SAMPLE: Final = 65_536
"""Elements by which pairs are found."""
LAYER_DB: Final = 20.0
"""How much nearer a tensor of another layer must be, for files may name an operator after its neighbour."""

Array = NDArray[Any]


class LayerError(Spec, frozen=True, kw_only=True):
    """How far an operator's output is from its counterpart's."""

    operator: str
    """Name in the artifact's graph."""
    kind: str
    layer: str
    dtype: str
    counterpart: str
    """Name in the reference; "" where none has the same size."""
    module: str = ""
    """The torch module that the counterpart is of, or that an activation outside of modules follows."""
    before_db: float
    """SQNR of the input that is furthest off; 200 at the net's own inputs."""
    sqnr_db: float | None
    """SQNR of the output, both executed from the net's inputs on; None without a counterpart."""
    local_db: float | None = None
    """SQNR of the output where the reference is given the artifact's own inputs: what this operator alone does."""
    output_db: float | None = None
    """SQNR of the net's outputs when the reference has only this operator's error."""
    metric_drop: float | None = None
    """Metric of the reference, minus that of the reference with only this operator's error."""


class Divergence(Spec, frozen=True, kw_only=True):
    """Where two executions part."""

    layer: str
    kind: str
    name: str
    """Of the operator, in the artifact."""
    before_db: float
    sqnr_db: float
    least_db: float
    """What the artifact's precision explains."""


def first(
    artifact: FileSide, reference: Side, inputs: Sequence[Array], scratch: Path, *, least_db: float | None = None
) -> Divergence | None:
    """The first operator, in the order of execution, that is further off than the precision explains; None if none is.

    `inputs` are arrays of shape (examples, *input shape), in the reference's order of axes.

    Raises:
        MeasureError: an engine cannot execute its file.
        Disagreement: the inputs fit one of the two alone, or no tensors of the two can be compared.
    """
    least = explained_db(artifact.graph) if least_db is None else least_db
    compared = False
    for pair in _pairs(artifact, reference, inputs, scratch):
        compared |= pair.error.sqnr_db is not None
        if pair.error.sqnr_db is not None and pair.error.sqnr_db < least:
            return _culprit(pair, least)
    if not compared:
        raise Disagreement("no tensor of the artifact has the size of one of the reference")
    return None


def layers(
    artifact: FileSide,
    reference: Side,
    inputs: Sequence[Array],
    scratch: Path,
    *,
    score: Callable[[list[Array]], float] | None = None,
) -> tuple[LayerError, ...]:
    """Every operator that an input reaches, in the order of execution, over all examples.

    A reference that is a torch module is computed again from each operator on: this says what the operator does on its
    own, what that costs at the outputs, and, where a metric of the outputs is given as `score`, in accuracy.

    Raises:
        MeasureError, Disagreement: as `first`.
    """
    tallies: dict[str, _Tally] = {}
    count = len(inputs[0])
    done = 0
    while done < count:
        batch = [array[done:] for array in inputs]
        examples = 0
        for pair in _pairs(
            artifact, reference, batch, scratch, AT_ONCE if isinstance(reference, TorchSide) else AT_FIRST
        ):
            tell("comparing operators", done * len(artifact.graph.operators) // count, len(artifact.graph.operators))
            tallies.setdefault(pair.own.name, _Tally(pair)).add(pair, scored=score is not None)
            examples = len(pair.own.values)
        if not examples:
            break
        done += examples
    tell("comparing operators", len(artifact.graph.operators), len(artifact.graph.operators))
    return tuple(tally.error(tallies, score) for tally in tallies.values())


class _Tally:
    """What is summed up of one operator over all examples."""

    def __init__(self, pair: "_Pair") -> None:
        self._first = pair.error
        self._before = [one.own.name for one in pair.before]
        self._whole, self._local = Ratio(), Ratio()
        self._ends: list[Ratio] = []
        self._outputs: list[list[Array]] = []
        """Of each of the net's outputs a row an example: of the reference with only this error ..."""
        self._true: list[list[Array]] = []
        """... and as it is."""

    def add(self, pair: "_Pair", *, scored: bool) -> None:
        """Take another batch."""
        followed, index = pair.reference.followed, pair.counterpart
        if index is None or pair.turned is None:
            return
        true = pair.reference.computed[index].values
        self._whole.add(true, pair.turned)
        if followed is None:
            return
        expected = _expected(pair, followed, index)
        self._local.add(expected, pair.turned)
        ends = followed.output_of({index: (true + (pair.turned - expected)).astype(true.dtype)})
        self._ends = self._ends or [Ratio() for _ in ends]
        for ratio, one, other in zip(self._ends, followed.outputs, ends, strict=True):
            ratio.add(one, other)
        if scored:
            self._outputs.append(ends)
            self._true.append(followed.outputs)

    def error(self, tallies: dict[str, "_Tally"], score: Callable[[list[Array]], float] | None) -> LayerError:
        """The sums as numbers."""
        if self._first.sqnr_db is None:
            return self._first
        before = [one.db for name in self._before if (one := tallies[name]._whole)]
        alone = bool(self._ends)
        drop = None
        if score is not None and self._outputs:
            true, changed = (
                [np.concatenate(column) for column in zip(*rows, strict=True)] for rows in (self._true, self._outputs)
            )
            drop = score(true) - score(changed)
        return msgspec.structs.replace(
            self._first,
            before_db=min(before, default=HIGHEST_SQNR_DB),
            sqnr_db=self._whole.db,
            local_db=self._local.db if alone else None,
            output_db=min(one.db for one in self._ends) if alone else None,
            metric_drop=drop,
        )


def _expected(pair: "_Pair", followed: Followed, index: int) -> Array:
    """What the reference makes of the artifact's own inputs to an operator."""
    given = {}
    for one in pair.before:
        if one.counterpart is not None and one.turned is not None:
            given[one.counterpart] = one.turned.astype(followed.computed[one.counterpart].values.dtype)
    if index in given:  # the operator only turns axes, or the like
        return given[index]
    return followed.again(given, [index])[index] if given else followed.computed[index].values


def explained_db(graph: Graph) -> float:
    """SQNR that the precision of a file explains; what it does not say of itself is told by its operators' types."""
    return least_db(precision_of(graph))


def output_sqnr_db(
    artifact: FileSide, reference: Side, inputs: Sequence[Array], scratch: Path
) -> tuple[float | None, ...]:
    """SQNR of each of the artifact's outputs; None for one that no output of the reference has the size of."""
    found = execute(artifact, prepared(artifact.graph, inputs), scratch)
    if isinstance(reference, FileSide):
        expected = execute(reference, prepared(reference.graph, inputs), scratch)
    else:
        expected = follow_torch(reference, inputs).outputs
    ratios: list[float | None] = []
    for index, array in enumerate(found):
        ordered = [*expected[index : index + 1], *expected]
        turned = next((best for one in ordered if (best := nearest(one, array)) is not None), None)
        ratios.append(None if turned is None else turned[0])
    return tuple(ratios)


# --- pairs


@dataclass
class _Reference:
    """What the reference computed."""

    computed: list[Computed]
    followed: Followed | None
    """Where it is a torch module."""
    by_size: dict[tuple[int, ...], list[int]]
    """Sorted sizes of a tensor's axes, without ones -> positions of such tensors."""
    homes: list[str]
    """Of each tensor the layer whose operator computes it in a file: norms and activations fold into convolutions."""

    @staticmethod
    def of(side: Side, inputs: Sequence[Array], scratch: Path) -> "_Reference":
        followed = None
        if isinstance(side, TorchSide):
            followed = follow_torch(side, inputs)
            computed = followed.computed
        else:
            places = list(follow_file(side, inputs, scratch))
            number = {index: position for position, (index, _) in enumerate(places)}
            computed = [one for _, one in places]
            for one in computed:
                one.parents = tuple(number[parent] for parent in one.parents if parent in number)
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, one in enumerate(computed):
            if np.issubdtype(one.values.dtype, np.floating):
                by_size.setdefault(_size(one.values), []).append(index)
        return _Reference(computed, followed, by_size, _homes(computed))


@dataclass
class _Pair:
    """An operator of the artifact with its counterpart."""

    error: LayerError
    own: Computed
    reference: _Reference
    counterpart: int | None
    before: list["_Pair"]
    """Of the operators that it reads; all have counterparts."""
    turned: Array | None = None
    """Its output with the axes in the order of the counterpart's."""


def _pairs(
    artifact: FileSide, reference: Side, inputs: Sequence[Array], scratch: Path, examples: int = AT_FIRST
) -> Iterator[_Pair]:
    """The operators of the artifact with what they computed from the first examples, as many as there is memory for."""
    prepared(artifact.graph, inputs)
    inputs = [array[:examples] for array in inputs]
    known = _Reference.of(reference, _fewer(reference, inputs), scratch)
    examples = len(known.computed[0].values) if known.computed else 0
    layered = _common_layers(artifact, known)
    done: dict[int, _Pair] = {}
    for index, own in follow_file(artifact, [array[:examples] for array in inputs], scratch):
        before = [pair for parent in own.parents if parent in done for pair in _paired(done[parent])]
        done[index] = _pair(own, before, known, layered)
        yield done[index]


def _paired(pair: _Pair) -> list[_Pair]:
    """The pair, or those before it where there is no counterpart: a torch module may pad within a convolution."""
    return [pair] if pair.counterpart is not None else pair.before


def _fewer(reference: Side, inputs: list[Array]) -> list[Array]:
    """As many examples as there is memory for what a torch module computes from them."""
    if isinstance(reference, FileSide):
        return inputs
    one = follow_torch(reference, [array[:1] for array in inputs])
    each = sum(computed.values.nbytes for computed in one.computed)
    return [array[: max(1, int(MOST_BYTES / max(1, each)))] for array in inputs]


def _common_layers(artifact: FileSide, known: _Reference) -> bool:
    """Whether layers are called the same on both sides."""
    ours = {one.layer for one in artifact.graph.operators if one.layer}
    return bool(ours & {one.layer for one in known.computed if one.layer})


def _pair(own: Computed, before: list[_Pair], known: _Reference, layered: bool) -> _Pair:
    candidates = [] if own.dtype in _COUNTS else known.by_size.get(_size(own.values), [])
    same = [index for index in candidates if _is_within(known.homes[index], own.layer)] if layered else []
    best, other = _best(own, same, known), _best(own, candidates, known)
    if best is None or (other is not None and other[0] > best[0] + LAYER_DB):
        best = other
    ratios = [pair.error.sqnr_db for pair in before if pair.error.sqnr_db is not None]
    before_db = min(ratios, default=HIGHEST_SQNR_DB)
    made = LayerError(
        operator=own.name,
        kind=own.kind,
        layer=own.layer,
        dtype=own.dtype,
        counterpart="",
        before_db=before_db,
        sqnr_db=None,
    )
    if best is None:
        return _Pair(made, own, known, None, before)
    _, index = best
    whole = nearest(known.computed[index].values, own.values)
    assert whole is not None  # of a size
    ratio, turned = whole
    error = msgspec.structs.replace(
        made, counterpart=known.computed[index].name, module=known.computed[index].layer, sqnr_db=ratio
    )
    return _Pair(error, own, known, index, before, turned)


_FOLLOWING: Final = re.compile(r"relu|clamp|clip|hardtanh|sigmoid|swish|silu|mish|gelu|elu|batch_norm|dropout|hard")
"""Operators that belong to the layer before them where a net calls them by functions."""


def _homes(computed: Sequence[Computed]) -> list[str]:
    homes: list[str] = []
    for one in computed:
        folds = len(one.parents) == 1 and _FOLLOWING.search(one.kind.lower())
        homes.append(homes[one.parents[0]] if folds else one.layer)
    return homes


def _module_of(index: int, computed: Sequence[Computed]) -> str:
    one = computed[index]
    while not one.layer and len(one.parents) == 1 and _FOLLOWING.search(one.kind.lower()):
        one = computed[one.parents[0]]
    return one.layer


_COUNTS: Final = frozenset({"int32", "int64", "uint32", "uint64", "bool", "string"})
"""Types of sizes, positions and conditions, which are no signals."""


def _is_within(layer: str, outer: str) -> bool:
    return bool(outer) and (layer == outer or layer.startswith(f"{outer}."))


def _best(own: Computed, candidates: Sequence[int], known: _Reference) -> tuple[float, int] | None:
    """SQNR of a sample, and position, of the nearest tensor; of several that are equal, the namesake or the last."""
    found = []
    for index in candidates:
        one = nearest(known.computed[index].values[:1], own.values[:1], SAMPLE)
        if one is not None:
            found.append((one[0], known.computed[index].name == own.name, index))
    ratio, _, place = max(found, default=(0.0, False, -1))
    return None if place < 0 else (ratio, place)


def _size(values: Array) -> tuple[int, ...]:
    return tuple(sorted(size for size in values.shape[1:] if size > 1))


def nearest(expected: Array, found: Array, sample: int = 0) -> tuple[float, Array] | None:
    """SQNR, and `found` in the shape of `expected`, by the order of axes that makes it largest; None if none fits.

    Both are of shape (examples, *shape); axes of size one may stand anywhere. `sample` limits the elements compared.

    >>> x = np.arange(24.0).reshape(1, 2, 3, 4)
    >>> nearest(x, x.transpose(0, 2, 3, 1))[0]
    200.0
    """
    bare = found.reshape([len(found), *(size for size in found.shape[1:] if size > 1)])
    wanted = [size for size in expected.shape[1:] if size > 1]
    best: tuple[float, Array] | None = None
    for axes in permutations(range(1, bare.ndim)):
        if [bare.shape[axis] for axis in axes] != wanted:
            continue
        turned = bare.transpose(0, *axes).reshape(expected.shape)
        ours, theirs = turned.reshape(-1), expected.reshape(-1)
        step = max(1, ours.size // sample) if sample else 1
        ratio = sqnr_db(theirs[::step], ours[::step])
        if best is None or ratio > best[0]:
            best = ratio, turned
    return best


# --- who is to blame


def _culprit(pair: _Pair, least: float) -> Divergence:
    """The operator of a bad pair, or the one that gave it an input that the counterpart is not given."""
    blamed = [_worst_input(kernel, pair) for kernel in _kernels_behind(pair)]
    if blamed and all(ratio < least for ratio, _ in blamed):
        ratio, before = max(blamed, key=lambda one: one[0])
        return _divergence(before, ratio, least)
    assert pair.error.sqnr_db is not None  # it is bad
    return _divergence(pair, pair.error.sqnr_db, least)


def _divergence(pair: _Pair, ratio: float, least: float) -> Divergence:
    error = pair.error
    return Divergence(
        layer=error.layer,
        kind=error.kind,
        name=error.operator,
        before_db=error.before_db,
        sqnr_db=ratio,
        least_db=least,
    )


_BETWEEN: Final = 6
"""Operators of the reference that may be one in the artifact: a convolution, its bias, batch norm, activation ..."""
_KERNEL: Final = re.compile(r"conv(?!ert)|mm|matmul|gemm|linear|fully", re.IGNORECASE)


def _is_kernel(one: Computed) -> bool:
    return bool(_KERNEL.search(one.kind)) or len(one.parents) > 1


def _kernels_behind(pair: _Pair) -> list[int]:
    """Positions of what may be the pair's kernel in the reference: reads what its inputs' counterparts lead to."""
    computed = pair.reference.computed
    reached = {before.counterpart for before in pair.before}
    steps = dict.fromkeys(reached, 0)
    found = []
    for index, one in enumerate(computed):
        distance = min((steps[parent] for parent in one.parents if parent in steps), default=_BETWEEN)
        if distance < _BETWEEN and _is_kernel(one):
            found.append(index)
        elif distance < _BETWEEN:
            steps.setdefault(index, distance + 1)
    size = _size(pair.own.values)
    return [index for index in found if _size(computed[index].values) == size]


def _worst_input(kernel: int, pair: _Pair) -> tuple[float, _Pair]:
    """The input of the artifact's operator that is furthest from what a kernel of the reference reads."""
    return min(((_read_db(kernel, before), before) for before in pair.before), key=lambda one: one[0])


def _read_db(kernel: int, before: _Pair) -> float:
    """SQNR of an input against what a kernel reads, or what that is a view of; 200 where nothing has its size."""
    computed, size = before.reference.computed, _size(before.own.values)
    level = list(computed[kernel].parents)
    for _ in range(_BETWEEN):
        fitting = [index for index in level if _size(computed[index].values) == size]
        ratios = [one[0] for index in fitting if (one := nearest(computed[index].values, before.own.values))]
        if ratios:
            return max(ratios)
        level = [parent for index in level for parent in computed[index].parents]
    return HIGHEST_SQNR_DB
