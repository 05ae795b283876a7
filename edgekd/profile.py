"""How long each operator of an artifact takes: as its runtime's profiler says, or as the difference of prefixes.

A profiler speaks of what the runtime made of the model, where operators are fused, split and renamed; here its nodes
are brought back to the operators that stand in the file.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd import devices, engines, formats
from edgekd.devices import Connection
from edgekd.errors import ConfigError, MeasureError
from edgekd.plugins import find
from edgekd.specs import Graph, NonNegative, Operator, Provenance, Slower, Spec

How = Literal["profiled by the runtime", "difference of prefixes"]

MOST_PREFIXES: Final = 24
ROUNDS: Final = 3
"""Of timing all prefixes; the median counts, for a machine has other things to do."""
LOAD_TIMEOUT_S: Final = 120.0
RUN_TIMEOUT_S: Final = 600.0


class OperatorTime(Spec, frozen=True, kw_only=True):
    """Time of one node of a runtime, or of several that are one operator in the file."""

    operators: tuple[str, ...]
    """Names in the file's graph; none for what the runtime does of its own accord, such as reordering channels."""
    layer: str
    """Of the one that computes most."""
    kind: str
    """In the runtime's own words."""
    ms: NonNegative


class Profile(Spec, frozen=True, kw_only=True):
    """Where the time of one inference goes."""

    engine: str
    provenance: Provenance
    how: How
    total_ms: NonNegative
    """Median of whole inferences, without a profiler, which slows them down."""
    times: tuple[OperatorTime, ...]
    """In the order of execution."""

    @property
    def sum_ms(self) -> float:
        """Of all nodes."""
        return sum(one.ms for one in self.times)


@dataclass(frozen=True)
class Place:
    """Where timings are taken."""

    device: str
    engine: str
    scratch: Path
    threads: int

    @property
    def provenance(self) -> Provenance:
        """Of its times."""
        return devices.provenance(self.device)

    def start(self) -> AbstractContextManager[Connection]:
        """A fresh process of the engine."""
        return devices.start(self.device, engines.GUEST, engines.path(self.engine), self.scratch)


def profile(
    graph: Graph,
    path: Path,
    engine: str,
    inputs: Path,
    scratch: Path,
    *,
    device: str = "host",
    threads: int = 1,
    count: int = 30,
) -> Profile:
    """Profile a model file on a device; `inputs` is a .npz as engines take it, `scratch` a folder for files.

    Raises:
        MeasureError: the engine cannot execute the model, or neither profiles nor has a format that can be cut.
    """
    place = Place(device, engine, scratch, threads)
    with place.start() as connection:
        load = {"do": "load", "model": connection.put(path), "threads": threads}
        connection.ask(load, LOAD_TIMEOUT_S)
        total_ms = _median_ms(connection, inputs)
        request = {"do": "profile", "inputs": connection.put(inputs), "count": count}
        try:
            nodes = connection.ask(request, RUN_TIMEOUT_S)["nodes"]
        except MeasureError:  # a profiler may crash where the runtime does not
            nodes = None
    times = assign(nodes, graph) if nodes else None
    how: How = "profiled by the runtime"
    if times is None:
        how, times = "difference of prefixes", by_prefixes(graph, path, inputs, place)
    return Profile(engine=engine, provenance=place.provenance, how=how, total_ms=total_ms, times=times)


def by_layer(found: Profile) -> dict[str, float]:
    """Milliseconds of each layer, in the order of execution; what belongs to none is under ""."""
    sums: dict[str, float] = {}
    for one in found.times:
        sums[one.layer] = sums.get(one.layer, 0.0) + one.ms
    return sums


def _median_ms(connection: Connection, inputs: Path) -> float:
    request = {"do": "time", "inputs": connection.put(inputs), "warmup_count": 2, "warmup_s": 0.05}
    limits = {"min_count": 5, "min_s": 0.2, "max_s": 20.0}
    return float(np.median(connection.ask({**request, **limits}, RUN_TIMEOUT_S)["samples_ms"]))


# --- from a runtime's nodes to a file's operators


def assign(nodes: Sequence[dict[str, Any]], graph: Graph) -> tuple[OperatorTime, ...] | None:
    """Times of the operators that a profiler's nodes stand for; None where too many stand for nothing known."""
    if any(node["name"] for node in nodes):
        places = _with_the_nameless([_by_name(node["name"], graph) for node in nodes], nodes, graph.operators)
    else:
        found = _align(nodes, graph.operators)
        if found is None:
            return None
        places = found
    taken: set[int] = set()
    times: dict[int, OperatorTime] = {}
    makers = {tensor: index for index, one in enumerate(graph.operators) for tensor in one.outputs}
    for turn, (node, place) in enumerate(zip(nodes, places, strict=True)):
        if place is None:
            times[-1 - turn] = OperatorTime(operators=(), layer="", kind=node["kind"], ms=node["ms"])
        elif place in times:
            before = times[place]
            kind = max(before.kind, node["kind"], key=_is_heavy)
            times[place] = OperatorTime(
                operators=before.operators, layer=before.layer, kind=kind, ms=before.ms + node["ms"]
            )
        else:
            covered = _uncovered(place, graph.operators, makers, taken)
            layer = next((one.layer for one in reversed(covered) if _is_heavy(one.kind)), covered[-1].layer)
            names = tuple(one.name for one in covered)
            times[place] = OperatorTime(operators=names, layer=layer, kind=node["kind"], ms=node["ms"])
    return _with_the_rest(times, graph.operators, makers)


def _with_the_rest(
    times: dict[int, OperatorTime], operators: Sequence[Operator], makers: dict[str, int]
) -> tuple[OperatorTime, ...]:
    """Add what no node stands for to the operator that it follows: an activation, or the last addition."""
    group = {name: place for place, one in times.items() for name in one.operators}
    for one in operators:
        sources = [operators[makers[tensor]].name for tensor in one.inputs if tensor in makers]
        before = [group[name] for name in sources if name in group]
        if one.name not in group and before:
            group[one.name] = before[-1]
            found = times[before[-1]]
            times[before[-1]] = msgspec.structs.replace(found, operators=(*found.operators, one.name))
    return tuple(times.values())


def _uncovered(place: int, operators: Sequence[Operator], makers: dict[str, int], taken: set[int]) -> list[Operator]:
    """The operator and those before it that no node stood for yet: they were fused into it."""
    found, waiting = set(), [place]
    while waiting:
        index = waiting.pop()
        if index not in taken:
            taken.add(index)
            found.add(index)
            waiting += [makers[tensor] for tensor in operators[index].inputs if tensor in makers]
    return [operators[index] for index in sorted(found)] or [operators[place]]


_MADE_UP = re.compile(r"(_token_\d+|_nchwc|_nhwc|/Dequantization\w*)+$")


def _by_name(name: str, graph: Graph) -> int | None:
    """Position of the operator that a node is called after; nodes that were made up are called after their output."""
    for called in (name, _MADE_UP.sub("", name)):
        for index, one in enumerate(graph.operators):
            if called == one.name or called in one.outputs:
                return index
    return None


_KINDS: Final = {
    "convolution": ("conv2d", "depthwiseconv2d"),
    "fullyconnected": ("fullyconnected", "conv2d", "batchmatmul"),
    "batchmatrixmultiply": ("batchmatmul", "fullyconnected"),
    "deconvolution": ("transposeconv",),
    "subtract": ("sub",),
    "multiply": ("mul",),
    "divide": ("div",),
    "negate": ("neg",),
    "squareroot": ("sqrt",),
    "reciprocalsquareroot": ("rsqrt",),
    "clamp": ("relu", "relu6", "relun1to1", "relu0to1"),
    "sigmoid": ("logistic",),
    "averagepooling": ("averagepool2d", "mean"),
    "globalaveragepooling": ("averagepool2d", "mean"),
    "maxpooling": ("maxpool2d",),
    "staticmean": ("mean",),
    "staticsum": ("sum", "mean"),
    "reduce": ("mean", "sum"),
    "mean": ("mean",),
    "sum": ("sum", "mean"),
    "staticreshape": ("reshape", "expanddims", "squeeze"),
    "copy": ("reshape", "expanddims", "squeeze"),
    "constantpad": ("pad", "padv2"),
    "staticconstantpad": ("pad", "padv2"),
    "concatenate": ("concatenation",),
    "evensplit": ("split",),
    "slice": ("slice", "stridedslice"),
    "convert": ("quantize", "dequantize"),
}
"""What XNNPACK calls an operator -> the operators of TFLite that it comes from; others have the same name."""

_HEAVY = re.compile(r"conv(?!ert)|fully|gemm|matmul|matrix ?mul|linear|lstm|gru", re.IGNORECASE)
_MOST_PAIRS: Final = 4_000_000


def _is_heavy(kind: str) -> bool:
    return bool(_HEAVY.search(kind))


def _plain(kind: str) -> str:
    return re.sub(r"[^a-z0-9]", "", kind.partition("(")[0].lower())


def _weight(node: dict[str, Any], operator: Operator, place: int) -> int:
    """How well a node fits an operator; 0 where it does not."""
    if node["index"] >= 0:
        return 1000 if node["index"] == place else 0
    called, kind = _plain(node["kind"]), _plain(operator.kind)
    fits = called == kind or _family(node["kind"]) == _family(operator.kind)
    fits |= any(called.startswith(key) and kind in made for key, made in _KINDS.items())
    return (10 if _is_heavy(operator.kind) else 1) if fits else 0


def _align(nodes: Sequence[dict[str, Any]], operators: Sequence[Operator]) -> list[int | None] | None:
    """For each node the position of its operator: the best pairing of both that keeps the order.

    Nodes that are paired with none belong to a neighbour: a clamp to the operator before it. None where a node that
    computes much is paired with no operator.
    """
    places = _pairing(nodes, operators)
    if any(place is None and _is_heavy(node["kind"]) for node, place in zip(nodes, places, strict=True)):
        return None
    return _with_neighbours(places, nodes)


def _with_the_nameless(
    places: list[int | None], nodes: Sequence[dict[str, Any]], operators: Sequence[Operator]
) -> list[int | None]:
    """With nodes that a runtime left without a name, such as two fused ones, paired with what no other node is."""
    open_nodes = [turn for turn, place in enumerate(places) if place is None and _is_heavy(nodes[turn]["kind"])]
    open_operators = [index for index in range(len(operators)) if index not in set(places)]
    found = _pairing([nodes[turn] for turn in open_nodes], [operators[index] for index in open_operators])
    filled = list(places)
    for turn, place in zip(open_nodes, found, strict=True):
        filled[turn] = None if place is None else open_operators[place]
    return filled


def _pairing(nodes: Sequence[dict[str, Any]], operators: Sequence[Operator]) -> list[int | None]:
    """For each node the position of an operator of its kind, or None; the heaviest pairing that keeps both orders."""
    places: list[int | None] = [None] * len(nodes)
    if not nodes or not operators or len(nodes) * len(operators) > _MOST_PAIRS:
        return places
    best = np.zeros((len(nodes) + 1, len(operators) + 1), np.int64)
    weights = np.array([[_weight(node, one, place) for place, one in enumerate(operators)] for node in nodes])
    for i in range(len(nodes)):
        row = np.maximum(best[i, 1:], np.where(weights[i] > 0, best[i, :-1] + weights[i], 0))
        best[i + 1, 1:] = np.maximum.accumulate(row)
    i, j = len(nodes), len(operators)
    while i and j:
        if weights[i - 1, j - 1] and best[i, j] == best[i - 1, j - 1] + weights[i - 1, j - 1]:
            i, j = i - 1, j - 1
            places[i] = j
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i -= 1
    return places


_AHEAD: Final = ("convert", "staticreshape", "copy", "transpose", "constantpad", "staticconstantpad")
"""What is done for the operator that comes next; anything else belongs to the one before it."""


def _with_neighbours(places: list[int | None], nodes: Sequence[dict[str, Any]]) -> list[int | None]:
    known = [place for place in places if place is not None]
    filled, done = [], 0
    for place, node in zip(places, nodes, strict=True):
        done += place is not None
        ahead = _plain(node["kind"]).startswith(_AHEAD) and done < len(known) or not done
        filled.append(place if place is not None else known[done if ahead else done - 1] if known else None)
    return filled


# --- difference of prefixes


def by_prefixes(graph: Graph, path: Path, inputs: Path, place: Place) -> tuple[OperatorTime, ...]:
    """Time the model cut off after more and more operators; what a cut adds is the time of the operators in between.

    Raises:
        MeasureError: as `profile`.
    """
    format_plugin = find(formats, graph.format)
    if not hasattr(format_plugin, "cut"):
        raise MeasureError(f"{place.engine} does not say how long operators take")
    operators = [one for one in formats.live(graph) if one.outputs]
    ends = _ends(operators)
    cuts = [place.scratch / f"prefix-{end}{path.suffix}" for end in ends[:-1]]
    try:
        for end, cut in zip(ends, cuts, strict=False):
            format_plugin.cut(path, operators[end - 1].name, cut)
        samples = [_time_all([*cuts, path], inputs, place) for _ in range(ROUNDS)]
    finally:
        for cut in cuts:
            cut.unlink(missing_ok=True)
    totals = rising(np.median(samples, axis=0))
    times, start, before = [], 0, 0.0
    for end, total in zip(ends, totals.tolist(), strict=True):
        covered = operators[start:end]
        heavy = next((one for one in reversed(covered) if _is_heavy(one.kind)), covered[-1])
        names = tuple(one.name for one in covered)
        times.append(OperatorTime(operators=names, layer=heavy.layer, kind=heavy.kind, ms=total - before))
        start, before = end, total
    return tuple(times)


def _ends(operators: Sequence[Operator]) -> list[int]:
    """Where to cut: in front of each operator that computes much, and after the last one; not more than are timed."""
    ends = [index for index, one in enumerate(operators) if index and _is_heavy(one.kind)]
    if len(ends) >= MOST_PREFIXES:
        kept = np.linspace(0, len(ends) - 1, MOST_PREFIXES - 1).round().astype(int)
        ends = [ends[index] for index in dict.fromkeys(kept.tolist())]
    return [*ends, len(operators)]


def _time_all(cuts: Iterable[Path], inputs: Path, place: Place) -> list[float]:
    medians = []
    with place.start() as connection:
        for cut in cuts:
            connection.ask({"do": "load", "model": connection.put(cut), "threads": place.threads}, LOAD_TIMEOUT_S)
            medians.append(_median_ms(connection, inputs))
    return medians


def rising(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rising sequence nearest to the values, by pooling neighbours that fall (Ayer et al. 1955).

    >>> rising(np.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    pools: list[tuple[float, int]] = []
    for value in values.tolist():
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (high, many), (low, few) = pools[-2:]
            pools[-2:] = [((high * many + low * few) / (many + few), many + few)]
    return np.repeat([value for value, _ in pools], [count for _, count in pools])


# --- slower than float


LEAST_SHARE: Final = 0.01
"""Of the float twin's whole time that a difference must be to count."""
LEAST_RATIO: Final = 1.1


def slower_operators(quantized: Profile, float_twin: Profile) -> tuple[Slower, ...]:
    """What takes longer quantized than in float, most first.

    Layers are compared where both files name those, else operators that have one name in both, else kinds of operators.
    A difference counts from a tenth of the float time, and a hundredth of the whole net's, on.

    Raises:
        ConfigError: the profiles are not of one provenance.
    """
    if quantized.provenance != float_twin.provenance:
        raise ConfigError("times of different provenance cannot be compared")
    layered = all(any(one.layer for one in found.times) for found in (quantized, float_twin))
    ours, theirs = _keyed(quantized, layered, float_twin), _keyed(float_twin, layered, quantized)
    least = LEAST_SHARE * max(float_twin.sum_ms, 1e-9)
    found = []
    for what, (ms, kinds) in ours.items():
        twin_ms = theirs.get(what, (0.0, ()))[0]
        if ms > LEAST_RATIO * twin_ms and ms - twin_ms > least:
            found.append(Slower(what=what, kinds=kinds, quantized_ms=ms, float_ms=twin_ms))
    return tuple(sorted(found, key=lambda one: one.float_ms - one.quantized_ms))


def _keyed(found: Profile, layered: bool, other: Profile) -> dict[str, tuple[float, tuple[str, ...]]]:
    """Layer, operator or kind -> milliseconds and the kinds of its nodes."""
    theirs = {name for one in other.times for name in one.operators}
    sums: dict[str, tuple[float, tuple[str, ...]]] = {}
    for one in found.times:
        shared = next((name for name in reversed(one.operators) if name in theirs), "")
        what = (one.layer if layered else shared) or _family(one.kind)
        ms, kinds = sums.get(what, (0.0, ()))
        sums[what] = ms + one.ms, tuple(dict.fromkeys((*kinds, one.kind)))
    return sums


def _family(kind: str) -> str:
    """A kind without what a runtime adds to it for the type of its numbers: "QLinearConv" is a "conv".

    >>> _family("Convolution (NHWC, QC8) IGEMM"), _family("QLinearConv"), _family("CONV_2D")
    ('convolution', 'conv', 'conv2d')
    """
    return re.sub("^(qlinear|fused|nhwc|dynamicquantize)+", "", _plain(kind))
