"""What each layer of an artifact costs: the error it makes, what that does to the outputs and to accuracy, and time."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from edgekd import formats
from edgekd.cases import Case, Request, find_case
from edgekd.divergence import Divergence, LayerError, first, layers, output_sqnr_db
from edgekd.errors import MeasureError
from edgekd.executions import QUANTIZING, makers_of, prepared
from edgekd.profile import How, OperatorTime, Profile, profile, slower_operators
from edgekd.specs import Graph, NonNegative, Operator, Provenance, Share, Slower, Spec
from edgekd.tensors import write_inputs
from edgekd.workers import call

TIMED: Final = 4
"""Examples that a profile takes in turn."""
TIMEOUT_S: Final = 3600.0


class LayerBlame(Spec, frozen=True, kw_only=True):
    """A layer, or an operator where the file names no layers."""

    layer: str
    operators: tuple[str, ...]
    kinds: tuple[str, ...]
    dtype: str
    """Of what the layer gives on."""
    sqnr_db: float | None = None
    """Of the layer's output against the float net's, both executed from the net's inputs on."""
    local_db: float | None = None
    """The same where the float net is given the artifact's own inputs to the layer: what the layer alone does."""
    output_db: float | None = None
    """SQNR of the net's outputs if only this layer made its errors."""
    metric_drop: float | None = None
    """What that costs of the task's metric."""
    latency_ms: NonNegative | None = None
    share: Share | None = None
    """Of the time of all layers."""


class Blame(Spec, frozen=True, kw_only=True):
    """What each layer of an artifact costs; numbers are of this machine."""

    artifact: str
    format: str
    engine: str
    provenance: Provenance = "host"
    against: str = ""
    """The float net: a file, or the run's student; "" where there was none."""
    inputs: str
    """What both were executed on."""
    examples: int
    metric: str = ""
    total_ms: NonNegative | None = None
    how: How | None = None
    """The times of layers were had."""
    outputs_db: tuple[float | None, ...] = ()
    """SQNR of each output."""
    least_db: float | None = None
    divergence: Divergence | None = None
    """Where the two part, if they do."""
    slower: tuple[Slower, ...] = ()
    """What takes longer than in the float file."""
    layers: tuple[LayerBlame, ...]
    """In the order of execution."""
    notes: tuple[str, ...] = ()
    """What could not be had, and why."""


def blame(request: Request) -> Blame:
    """Blame an artifact's layers, in a process of its own.

    Raises:
        ConfigError: there is no such artifact, it is damaged, or the inputs do not fit.
        MeasureError: no engine executes it.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-blame-") as scratch:
        log = Path(scratch) / "worker.log"
        return call(examine, request, scratch, threads=1, log=log, timeout_s=TIMEOUT_S)


def examine(request: Request, scratch: str) -> Blame:
    """As `blame`, in this process; `scratch` is a folder for files."""
    folder = Path(scratch)
    case = find_case(request, folder)
    notes: list[str] = list(case.notes)
    errors: tuple[LayerError, ...] = ()
    outputs: tuple[float | None, ...] = ()
    parted = None
    least = None
    if case.reference is not None:
        least = case.least_db
        errors = layers(case.side, case.reference, case.inputs, folder, score=case.score)
        outputs = output_sqnr_db(case.side, case.reference, case.inputs, folder)
        parted = first(case.side, case.reference, case.inputs, folder, least_db=least)
    timed, slower = _timed(case, folder, notes) if request.timed else (None, ())
    return Blame(
        artifact=case.name,
        format=case.side.graph.format,
        engine=case.side.engine,
        against=case.against,
        inputs=case.told,
        examples=len(case.inputs[0]) if case.inputs else 0,
        metric=case.metric,
        total_ms=timed.total_ms if timed else None,
        how=timed.how if timed else None,
        outputs_db=outputs,
        least_db=least,
        divergence=parted,
        slower=slower,
        layers=tuple(rows(case.side.graph, errors, timed)),
        notes=tuple(notes),
    )


def _timed(case: Case, folder: Path, notes: list[str]) -> tuple[Profile | None, tuple[Slower, ...]]:
    """Profiles of the artifact and of its float twin; a file that cannot be timed is a note."""
    found = []
    for side in filter(None, (case.side, case.twin)):
        inputs = folder / "timed.npz"
        write_inputs(inputs, *(array[:TIMED] for array in prepared(side.graph, case.inputs)))
        try:
            found.append(profile(side.graph, side.path, side.engine, inputs, folder))
        except MeasureError as error:
            notes.append(f"{side.path.name}: {error}")
            break
    if not found:
        return None, ()
    return found[0], slower_operators(*found) if len(found) > 1 else ()


# --- rows


def rows(graph: Graph, errors: Sequence[LayerError], timed: Profile | None) -> list[LayerBlame]:
    """A row for each layer, in the order of execution; for each operator where neither side names layers."""
    told = {one.operator: one for one in errors}
    live = formats.live(graph)
    names = _layers_of(graph, live, {one.operator: one.module for one in errors})
    members: dict[str, list[str]] = {}
    for one in live:
        members.setdefault(names[one.name], []).append(one.name)
    times = _times(timed, members, names)
    whole = sum(times.values())
    kinds = {one.name: one.kind for one in live}
    dtypes = {one.name: one.dtype for one in live}
    made = []
    for layer, operators in members.items():
        found = [told[name] for name in operators if name in told]
        ms = times.get(layer, 0.0) if timed else None
        made.append(
            LayerBlame(
                layer=layer,
                operators=tuple(operators),
                kinds=tuple(dict.fromkeys(kinds[name] for name in operators)),
                dtype=next((dtypes[name] for name in operators if kinds[name] not in QUANTIZING), dtypes[operators[0]]),
                sqnr_db=next((one.sqnr_db for one in reversed(found) if one.sqnr_db is not None), None),
                local_db=_joined(one.local_db for one in found),
                output_db=_joined(one.output_db for one in found),
                metric_drop=max((one.metric_drop for one in found if one.metric_drop is not None), default=None),
                latency_ms=ms,
                share=None if ms is None else ms / whole if whole else 0.0,
            )
        )
    if rest := times.get("", 0.0):
        made.append(_rest(timed, rest, whole))
    return made


def _layers_of(graph: Graph, live: Sequence[Operator], modules: dict[str, str]) -> dict[str, str]:
    """Operator -> the layer that it belongs to: as the file says, or the reference, or else its own name.

    What quantizes belongs to what it quantizes.
    """
    makers = makers_of(graph)
    names: dict[str, str] = {}
    for one in live:
        source = graph.operators[makers[one.outputs[0]]].name if one.outputs else one.name
        names[one.name] = one.layer or modules.get(one.name) or names.get(source) or one.name
    return names


def _times(timed: Profile | None, members: dict[str, list[str]], names: dict[str, str]) -> dict[str, float]:
    """Layer -> milliseconds; "" for what the runtime does of its own accord."""
    sums: dict[str, float] = {}
    for one in timed.times if timed else ():
        layer = _layer_of(one, members, names)
        sums[layer] = sums.get(layer, 0.0) + one.ms
    return sums


def _layer_of(one: OperatorTime, members: dict[str, list[str]], names: dict[str, str]) -> str:
    if one.layer in members:
        return one.layer
    return next((names[name] for name in reversed(one.operators) if names.get(name) in members), "")


def _rest(timed: Profile | None, ms: float, whole: float) -> LayerBlame:
    kinds = [one.kind for one in timed.times if not one.operators] if timed else []
    return LayerBlame(
        layer="", operators=(), kinds=tuple(dict.fromkeys(kinds)), dtype="", latency_ms=ms, share=ms / whole
    )


def _joined(ratios: Iterable[float | None]) -> float | None:
    """The SQNR of all noise together, for operators of one layer; None where none is known."""
    known = [ratio for ratio in ratios if ratio is not None]
    noise = sum(10 ** (-ratio / 10) for ratio in known)
    return None if not known else float(-10 * np.log10(max(noise, 1e-20)))
