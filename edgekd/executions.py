"""What a net computes inside, tensor by tensor: a file executed by a runtime, or a torch module."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgekd import devices, engines, formats
from edgekd.devices import Device
from edgekd.errors import ConfigError, Disagreement
from edgekd.files import discard
from edgekd.nets import evaluating
from edgekd.plugins import find
from edgekd.specs import Graph, TensorSpec
from edgekd.tensors import write_inputs

AT_ONCE: Final = 48
"""Tensors that one copy of a file gives out."""
LOAD_TIMEOUT_S: Final = 120.0
RUN_TIMEOUT_S: Final = 600.0

Array = NDArray[Any]


@dataclass(frozen=True)
class FileSide:
    """A model file and the runtime that executes it."""

    path: Path
    engine: str
    graph: Graph

    @staticmethod
    def of(path: Path, engine: str = "") -> "FileSide":
        """A file, executed by the named engine, or by the first one that executes its format.

        Raises:
            ConfigError: as `formats.read`, or the engine does not execute it, or none does.
            UnknownPlugin, PluginUnavailable: there is no such engine, or not here.
        """
        graph = formats.read(path)
        if engine and path.suffix not in find(engines, engine).suffixes:
            raise ConfigError(f"{engine} does not execute {path.suffix} files")
        return FileSide(path, engine or engine_of(path), graph)


@dataclass(frozen=True)
class TorchSide:
    """A module in evaluation mode, which takes the inputs of one example at a time."""

    module: nn.Module


Side = FileSide | TorchSide


def engine_of(path: Path) -> str:
    """The first engine that executes files of this ending.

    Raises:
        ConfigError: there is none here.
    """
    able = engines.able(path.name)
    if not able:
        raise ConfigError(f"{path}: no engine here executes {path.suffix} files", hint="`edgekd engines` lists them")
    return able[0]


@dataclass
class Computed:
    """A tensor that was computed on the way."""

    name: str
    """Of the operator in the file; of the torch module or, outside of all, of torch's operator, numbered."""
    layer: str
    kind: str
    parents: tuple[int, ...]
    """Positions of the computed tensors that it was computed from."""
    dtype: str
    values: Array
    """Of shape (examples, *shape)."""


# --- files


def in_order(array: Array, spec: TensorSpec) -> Array:
    """An input of shape (examples, *shape) with its axes in the order that a model wants: NCHW as NHWC, or back.

    Raises:
        Disagreement: no order of its axes is the model's shape.
    """
    for axes in ((0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)) if array.ndim == 5 else (tuple(range(array.ndim - 1)),):
        turned = array.transpose(0, *(axis + 1 for axis in axes))
        if len(spec.shape) == turned.ndim - 1 and all(
            want in {-1, have} for want, have in zip(spec.shape, turned.shape[1:], strict=True)
        ):
            return np.ascontiguousarray(turned)
    raise Disagreement(f"input {spec.name!r} is of shape {spec.shape}, the inputs given are {array.shape[1:]}")


def prepared(graph: Graph, inputs: Sequence[Array]) -> list[Array]:
    """Inputs as a file takes them.

    Raises:
        Disagreement: their number or shapes are not the model's.
    """
    if len(inputs) != len(graph.inputs):
        raise Disagreement(f"the model takes {len(graph.inputs)} inputs, {len(inputs)} are given")
    return [in_order(array, spec) for array, spec in zip(inputs, graph.inputs, strict=True)]


QUANTIZING: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "FakeQuantize", "quantize", "dequantize"})
"""Operators behind a layer that make its output what the next one reads."""
_BIASING: Final = frozenset({"add", "biasadd", "mul", "multiply", "sub", "subtract"})
"""Of a kernel's output with a constant, they are the rest of its layer: a bias, or a batch norm."""
_KERNELS: Final = re.compile(r"conv(?!ert)|matmul|gemm|linear|fully", re.IGNORECASE)


def finishing(graph: Graph) -> dict[int, int]:
    """Operators that finish what another one computes -> position of that one.

    What they read is never there when the file is executed, for runtimes fuse the two, and no other net has it.
    """
    live = {one.name for one in formats.live(graph)}
    moving = {spec.name for spec in graph.inputs}
    moving |= {tensor for one in graph.operators if one.name in live for tensor in one.outputs}
    ends = {spec.name for spec in graph.outputs}
    readers: dict[str, list[str]] = {}
    for one in graph.operators:
        for tensor in one.inputs:
            readers.setdefault(tensor, []).append(one.kind)
    makers: dict[str, int] = {}
    found: dict[int, int] = {}
    for index, one in enumerate(graph.operators):
        read = [tensor for tensor in one.inputs if tensor in moving]
        if len(read) == 1 and read[0] in makers and read[0] not in ends:
            source, kinds = makers[read[0]], readers[read[0]]
            quantizes = all(kind in QUANTIZING for kind in kinds)
            kernel = _KERNELS.search(graph.operators[source].kind)
            if quantizes or (kernel and one.kind.lower() in _BIASING and len(kinds) == 1):
                found[index] = source
        makers |= dict.fromkeys(one.outputs, found.get(index, index))
    return found


def observed(graph: Graph) -> list[tuple[int, str]]:
    """Position of each operator to look at, and the tensor that shows its output: the finished one."""
    live = {one.name for one in formats.live(graph)}
    finished = finishing(graph)
    shown: dict[int, str] = {}
    for index, one in enumerate(graph.operators):
        if one.name in live and one.outputs and (index not in finished or finished[index] in shown):
            shown[finished.get(index, index)] = one.outputs[0]
    return sorted((index, tensor) for index, tensor in shown.items() if graph.operators[index].kind not in QUANTIZING)


def follow_file(side: FileSide, inputs: Sequence[Array], scratch: Path) -> Iterator[tuple[int, Computed]]:
    """The operators of a file with what they computed, in the order of execution, some at a time.

    Yields the position of the operator in the graph; `parents` are such positions.

    Raises:
        MeasureError: the engine cannot execute the file.
        Disagreement: the inputs are not the model's.
    """
    graph = side.graph
    places = observed(graph)
    makers = makers_of(graph)
    ready = prepared(graph, inputs)
    for start in range(0, len(places), AT_ONCE):
        chunk = places[start : start + AT_ONCE]
        values = execute(side, ready, scratch, [tensor for _, tensor in chunk])[len(graph.outputs) :]
        for (index, _), array in zip(chunk, values, strict=True):
            one = graph.operators[index]
            parents = tuple(dict.fromkeys(makers[tensor] for tensor in one.inputs if tensor in makers))
            yield index, Computed(one.name, one.layer, one.kind, parents, one.dtype, array)


def makers_of(graph: Graph) -> dict[str, int]:
    """Tensor -> position of the operator that made its values, in front of all that finishes them."""
    finished = finishing(graph)
    return {tensor: finished.get(index, index) for index, one in enumerate(graph.operators) for tensor in one.outputs}


def execute(side: FileSide, inputs: Sequence[Array], scratch: Path, tensors: Sequence[str] = ()) -> list[Array]:
    """Outputs of a file, each of shape (examples, *shape), and behind them the tensors that are asked for.

    Raises:
        MeasureError: the engine cannot execute it.
    """
    given, answered = scratch / "inputs.npz", scratch / "outputs.npz"
    copy = scratch / f"tapped{side.path.suffix}"
    host: Device = find(devices, "host")
    try:
        if tensors:
            formats.tap(side.path, tensors, copy)
        write_inputs(given, *inputs)
        with host.start("", engines.GUEST, engines.path(side.engine), scratch) as connection:
            model = connection.put(copy if tensors else side.path)
            connection.ask({"do": "load", "model": model, "threads": 1}, LOAD_TIMEOUT_S)
            request = {"do": "run", "inputs": connection.put(given), "outputs": str(answered)}
            connection.ask(request, RUN_TIMEOUT_S)
            with np.load(answered, allow_pickle=False) as outputs:
                return [outputs[str(index)] for index in range(len(outputs.files))]
    finally:
        discard(copy)
        given.unlink(missing_ok=True)
        answered.unlink(missing_ok=True)


# --- torch


@dataclass
class _Step:
    """One operator of torch, with what it was given."""

    function: Any
    arguments: Any
    options: Any
    results: tuple[int, ...]
    """Positions of its tensors among all that were computed."""


@dataclass
class _Ref:
    """Stands in arguments for a tensor that was computed, or for an input by a position below zero."""

    index: int


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Keeps every operator of a forward pass that depends on an input."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.steps: list[_Step] = []
        self.computed: list[tuple[str, str, tuple[int, ...]]] = []
        """Module, kind and parents of each."""
        self.values: list[Tensor] = []
        self.stack: list[str] = []
        self._known = {id(tensor): -1 - index for index, tensor in enumerate(inputs)}
        self._kept: list[Any] = list(inputs)  # so that no id is given twice

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and only to say so torch would load its compiler for ten seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = self._referred((args, kwargs or {}))
        read = list(_refs(given))
        out = func(*args, **(kwargs or {}))
        if read:
            self._record(func, given, read, out)
        return out

    def _record(self, func: Any, given: Any, read: list[int], out: Any) -> None:
        results = []
        for tensor in (one for one in (out if isinstance(out, tuple | list) else (out,)) if isinstance(one, Tensor)):
            self._kept.append(tensor)
            self._known[id(tensor)] = len(self.values)
            results.append(len(self.values))
            self.values.append(tensor.detach().clone())
            parents = tuple(dict.fromkeys(index for index in read if index >= 0))
            self.computed.append((self.stack[-1] if self.stack else "", func.overloadpacket.__name__, parents))
        self.steps.append(_Step(func, given[0], given[1], tuple(results)))

    def place(self, tensor: Tensor) -> int:
        """Position of a tensor among all that were computed.

        Raises:
            Disagreement: it depends on no input.
        """
        index = self._known.get(id(tensor), -1)
        if index < 0:
            raise Disagreement("an output of the net depends on no input, or is one")
        return index

    def _referred(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return _Ref(self._known[id(value)]) if id(value) in self._known else value
        if isinstance(value, tuple | list):
            return type(value)(self._referred(one) for one in value)
        return {key: self._referred(one) for key, one in value.items()} if isinstance(value, dict) else value


def _refs(value: Any) -> Iterator[int]:
    if isinstance(value, _Ref):
        yield value.index
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _refs(one)
    elif isinstance(value, dict):
        yield from _refs(list(value.values()))


@dataclass
class Followed:
    """What a torch module computed; can be computed again from any point on."""

    computed: list[Computed]
    outputs: list[Array]
    """Of shape (examples, *shape)."""
    _inputs: list[Array]
    _steps: list[_Step]
    _ends: list[int] = field(default_factory=list)
    """Positions of the outputs."""

    def again(self, changed: Mapping[int, Array], wanted: Iterable[int]) -> dict[int, Array]:
        """Values of tensors, by position, of shape (examples, *shape), where others have the values given."""
        wanted = set(wanted)
        rows: dict[int, list[Array]] = {index: [] for index in wanted}
        for example in range(len(self._inputs[0])):
            found = self._one(example, changed, wanted)
            for index in wanted:
                rows[index].append(found[index])
        return {index: np.stack(row) for index, row in rows.items()}

    def useful(self) -> list[int]:
        """Positions of the tensors that outputs depend on: norms also give their statistics, which nothing reads."""
        found, waiting = set(self._ends), list(self._ends)
        while waiting:
            for parent in self.computed[waiting.pop()].parents:
                if parent not in found:
                    found.add(parent)
                    waiting.append(parent)
        return sorted(found)

    def output_of(self, changed: Mapping[int, Array]) -> list[Array]:
        """The outputs where some tensors have the values given."""
        found = self.again(changed, self._ends)
        return [found[index] for index in self._ends]

    def _one(self, example: int, changed: Mapping[int, Array], wanted: set[int]) -> dict[int, Array]:
        """Only what lies between the changed and the wanted is computed; all else is as it was."""
        fresh: dict[int, Tensor] = {index: torch.as_tensor(array[example]) for index, array in changed.items()}
        needed = self._needed(set(changed), wanted)

        def value(index: int) -> Tensor:
            if index < 0:
                return torch.as_tensor(self._inputs[-1 - index][example])
            return fresh[index] if index in fresh else torch.as_tensor(self.computed[index].values[example])

        with torch.no_grad():
            for number in needed:
                step = self._steps[number]
                out = step.function(*_filled(step.arguments, value), **_filled(step.options, value))
                made = [one for one in (out if isinstance(out, tuple | list) else (out,)) if isinstance(one, Tensor)]
                fresh |= {index: one for index, one in zip(step.results, made, strict=True) if index not in changed}
        return {index: value(index).numpy() for index in wanted}

    def _needed(self, changed: set[int], wanted: set[int]) -> list[int]:
        """Steps that depend on a changed tensor and that a wanted one depends on."""
        touched, forward = set(changed), []
        for number, step in enumerate(self._steps):
            if touched.intersection(_refs((step.arguments, step.options))):
                touched.update(step.results)
                forward.append(number)
        open_, found = set(wanted) - changed, []
        for number in reversed(forward):
            step = self._steps[number]
            if open_.intersection(step.results):
                open_.update(set(_refs((step.arguments, step.options))) - changed)
                found.append(number)
        return found[::-1]


def _filled(value: Any, get: Any) -> Any:
    if isinstance(value, _Ref):
        return get(value.index).clone()  # some operators write into what they read
    if isinstance(value, tuple | list):
        return type(value)(_filled(one, get) for one in value)
    return {key: _filled(one, get) for key, one in value.items()} if isinstance(value, dict) else value


def follow_torch(side: TorchSide, inputs: Sequence[Array]) -> Followed:
    """Everything that a module computes from inputs of shape (examples, *shape), each example for itself.

    Raises:
        Disagreement: the module does not take them, or does different things for different examples.
    """
    passes, ends = [], []
    for example in range(len(inputs[0])):
        recorder, last = _one_pass(side.module, [torch.as_tensor(array[example]) for array in inputs])
        passes.append(recorder)
        ends.append(last)
    first = passes[0]
    if any(one.computed != first.computed for one in passes):
        raise Disagreement("the net does different things for different examples, so that they cannot be compared")
    counts: dict[str, int] = {}
    computed = []
    for index, (layer, kind, parents) in enumerate(first.computed):
        called = layer or kind
        number = counts[called] = counts.get(called, -1) + 1
        name = f"{called}:{number}" if number else called
        values = np.stack([one.values[index].numpy() for one in passes])
        computed.append(Computed(name, layer, kind, parents, str(values.dtype), values))
    outputs = [computed[index].values for index in ends[0]]
    return Followed(computed, outputs, [np.asarray(array) for array in inputs], first.steps, ends[0])


def _one_pass(module: nn.Module, inputs: list[Tensor]) -> tuple[_Recorder, list[int]]:
    recorder = _Recorder(inputs)
    hooks = []
    for path, part in module.named_modules():
        if path:
            hooks.append(part.register_forward_pre_hook(lambda *_, path=path: recorder.stack.append(path)))
            hooks.append(part.register_forward_hook(lambda *_: recorder.stack.pop() and None, always_call=True))
    try:
        with evaluating(module), recorder:
            out = module(*inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        shapes = ", ".join(str(tuple(one.shape)) for one in inputs)
        raise Disagreement(f"the net does not take inputs of shape {shapes}: {line}") from error
    finally:
        for hook in hooks:
            hook.remove()
    outputs = [one for one in (out if isinstance(out, tuple | list) else (out,)) if isinstance(one, Tensor)]
    return recorder, [recorder.place(one) for one in outputs]
