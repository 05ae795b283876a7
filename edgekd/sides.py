"""Anything that answers here for a net: a model file on one of its engines, or a model in PyTorch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekd import devices, engines, formats, parity, sources
from edgekd.devices import Connection
from edgekd.errors import ConfigError, MeasureError
from edgekd.runs import Work
from edgekd.specs import Provenance, Spec, TensorSpec
from edgekd.tensors import Tensors, drawn, fitted, listed, read_arrays, specs_of, write_inputs
from edgekd.workers import call

Array = NDArray[Any]

TORCH = "torch"
TIMEOUT_S = 600.0


class Side(Spec, frozen=True, kw_only=True):
    """One that answers."""

    name: str
    """"model.tflite@litert"."""
    model: str
    """A path, or `module:function`."""
    engine: str
    """A file of edgekd/engines, or "torch"."""
    precision: str
    """What its answers are as exact as."""
    shapes: dict[str, tuple[int, ...]] = {}
    """Of inputs that a torch module leaves open."""
    doubt: str = ""
    """Why a file is not as it was written."""
    device: str = "host"
    """Where it is executed."""


class Described(Spec, frozen=True, kw_only=True):
    """Inputs and outputs as one that answers has them."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def sides_of(
    model: str,
    wanted: Sequence[str] = (),
    title: str = "",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    on: str = "",
) -> list[Side]:
    """A model on every engine that is installed here and executes it, or on those of `wanted` alone; with `on`, a file
    also on the usual engine, or those of `wanted`, of that device.

    Raises:
        ConfigError: no such file, damaged, or none of the engines executes it.
    """
    title = title or model.rstrip("/").rpartition("/")[2]
    if not is_artifact(model):
        return [Side(name=title, model=model, engine=TORCH, precision="fp32", shapes=dict(shapes or {}))]
    graph = formats.read(Path(model))
    precision = parity.precision_of(graph)
    places = [("host", name) for name in able(model) if not wanted or name in wanted]
    if on:
        there = engines.fitting(model)
        places += [(on, name) for name in ([one for one in there if one in wanted] if wanted else there[:1])]
    if not places:
        raise ConfigError(f"{model}: no engine here executes it", hint="`edgekd engines` lists them")
    return [
        Side(
            name=f"{title}@{engine}" + (f"@{device}" if device != "host" else ""),
            model=str(Path(model).resolve()),
            engine=engine,
            precision=_coarser(precision, engines.arithmetic(engine)),
            doubt=graph.doubt,
            device=device,
        )
        for device, engine in places
    ]


def able(model: str) -> tuple[str, ...]:
    """Names of the engines that are installed here and execute a file."""
    return engines.able(model)


def is_artifact(model: str) -> bool:
    """True for a file of a device's format, false for what becomes a torch module."""
    if ":" in model and not Path(model).exists():
        return False
    try:
        formats.format_of(Path(model))
    except ConfigError:
        if not Path(model).exists():
            raise
        return False
    return True


def _coarser(precision: str, arithmetic: str) -> str:
    return min((precision, arithmetic or precision), key=parity.least_db)


class Executed(NamedTuple):
    """What a side was given, and what it answered."""

    given: Tensors
    answered: Tensors
    provenance: Provenance = "host"


def execute(side: Side, inputs: Tensors | None, examples: int, scratch: Path) -> Executed:
    """What a side is given and what it answers; without `inputs`, seeded random ones of its own shapes.

    Raises:
        EdgekdError: it cannot be loaded or executed, or takes other inputs.
    """
    if side.engine == TORCH:
        return Executed(*_execute_torch(side, inputs, examples, scratch))
    with devices.start(side.device, engines.GUEST, engines.path(side.engine), scratch) as connection:
        loaded = connection.ask({"do": "load", "model": connection.put(Path(side.model)), "threads": 1}, TIMEOUT_S)
        taken = fitted(inputs, specs_of(loaded["inputs"]), side.name) if inputs else drawn(loaded["inputs"], examples)
        provenance: Provenance = "emulated" if loaded["emulated"] else devices.provenance(side.device)
        return Executed(taken, _ask(connection, taken, loaded, scratch), provenance)


def _ask(connection: Connection, taken: Tensors, loaded: Mapping[str, Any], scratch: Path) -> Tensors:
    given, answered = scratch / "inputs.npz", scratch / "outputs.npz"
    try:
        write_inputs(given, *taken.arrays)
        connection.ask({"do": "run", "inputs": connection.put(given), "outputs": str(answered)}, TIMEOUT_S)
        connection.get(str(answered), answered)
        return Tensors(specs_of(loaded["outputs"]), read_arrays(answered))
    finally:
        given.unlink(missing_ok=True)
        answered.unlink(missing_ok=True)


def _execute_torch(side: Side, inputs: Tensors | None, examples: int, scratch: Path) -> tuple[Tensors, Tensors]:
    given, answered = scratch / "inputs.npz", scratch / "outputs.npz"
    given.unlink(missing_ok=True)
    if inputs:
        write_inputs(given, *inputs.arrays)
    specs = inputs.specs if inputs else ()
    work = Work(run_folder=str(scratch), name="", out_folder=str(scratch))
    try:
        found = call(_answer, work, side, specs, examples, threads=1, log=scratch / "worker.log", timeout_s=TIMEOUT_S)
        return Tensors(found.inputs, read_arrays(given)), Tensors(found.outputs, read_arrays(answered))
    finally:
        given.unlink(missing_ok=True)
        answered.unlink(missing_ok=True)


def _answer(work: Work, side: Side, given: tuple[TensorSpec, ...], examples: int) -> Described:
    """Executes a source's torch module; the arrays travel in files."""
    import torch

    model = sources.open_model(side.model, side.shapes)
    path = work.out / "inputs.npz"
    if given:
        taken = fitted(Tensors(given, read_arrays(path)), model.inputs, side.name)
    else:
        taken = drawn([{"name": one.name, "shape": one.shape, "dtype": one.dtype} for one in model.inputs], examples)
    write_inputs(path, *taken.arrays)
    answers = []
    with torch.no_grad():
        for example in zip(*taken.arrays, strict=True):
            found = model.module(*(torch.from_numpy(np.ascontiguousarray(one)) for one in example))
            answers.append([one.numpy() for one in (found if isinstance(found, tuple | list) else [found])])
    write_inputs(work.out / "outputs.npz", *(np.stack(one) for one in zip(*answers, strict=True)))
    return Described(inputs=model.inputs, outputs=model.outputs)


def same_order(expected: Tensors, found: Tensors, who: str) -> tuple[tuple[Array, ...], str]:
    """Found outputs in the order and the axes of the expected ones, and how they were matched: "" for by name.

    Raises:
        MeasureError: their number or shapes differ.
    """
    given = [
        TensorSpec(name=one.name, shape=array.shape[1:]) for one, array in zip(found.specs, found.arrays, strict=True)
    ]
    wanted = [
        TensorSpec(name=one.name, shape=array.shape[1:])
        for one, array in zip(expected.specs, expected.arrays, strict=True)
    ]
    order = parity.paired(wanted, given)
    arrays = [
        parity.arranged(found.arrays[index], spec.shape) for spec, index in zip(wanted, order or (), strict=False)
    ]
    if order is None or any(array is None for array in arrays):
        raise MeasureError(f"{who} answers {listed(given)}, not {listed(wanted)}")
    ordered = tuple(array for array in arrays if array is not None)
    if {one.name for one in wanted} == {one.name for one in given}:
        return ordered, ""
    best = parity.by_content(expected.arrays, ordered)
    how = "outputs matched by shape and order" if best == tuple(range(len(best))) else "outputs matched by their values"
    return tuple(ordered[index] for index in best), how
