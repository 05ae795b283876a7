"""What Keras files and SavedModels have in common: a graph, its inputs and outputs, and the weights that it reads."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from edgekd.errors import ConfigError, UnsupportedOperator
from edgekd.sources import Model
from edgekd.sources._description import describe
from edgekd.sources._failures import clean
from edgekd.sources._graphs import Builder
from edgekd.sources._tensorflow_graphs import Array, Interpreter, Variable, dtype_of, tensor_of
from edgekd.sources._tensorflow_operators import table

if TYPE_CHECKING:
    from tensorflow.core.framework.graph_pb2 import GraphDef

STATISTICS = ("moving_mean", "moving_variance")
"""Weights of such names are not trained."""


@dataclass(frozen=True)
class Weight:
    """A stored weight and its name, with slashes."""

    name: str
    array: Any
    """A numpy array, or a function that reads one: weights of optimizers are never asked for."""


@dataclass(frozen=True)
class Program:
    """A graph with what belongs to it."""

    graph: "GraphDef"
    inputs: Mapping[str, tuple[str, tuple[int, ...], int]]
    """Name -> the graph's tensor, its concrete shape, its DataType."""
    outputs: Mapping[str, str]
    """Name -> the graph's tensor."""
    handles: Mapping[str, Weight] = field(default_factory=dict)
    """Nodes that are handles of weights."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Nodes that stand for arrays."""


def import_tensorflow() -> Any:
    """TensorFlow, without its talk and without a GPU."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import tensorflow

    return tensorflow


def module_of(program: Program, properties: dict[str, str]) -> Model:
    """The graph as a torch module.

    Raises:
        ConfigError: the graph is not whole.
        UnsupportedOperator: it has an operator that cannot be expressed.
    """
    if not program.outputs:
        raise ConfigError("it has no outputs")
    interpreter = Interpreter(program.graph, table())
    builder, inputs = interpreter.builder, []
    for name, (tensor, shape, kind) in program.inputs.items():
        value = builder.input(name, shape, dtype_of(kind, f"input {clean(name)!r}"))
        interpreter.bind(tensor.partition(":")[0], [Array(builder, last=value)])
        inputs.append(value)
    for node, weight in program.handles.items():
        interpreter.bind(node, [Variable(cache(partial(_stored, builder, weight)))])
    for node, array in program.values.items():
        interpreter.bind(node, [Array(builder, last=builder.constant(tensor_of(array, node), node))])
    outputs = []
    for name, thing in zip(program.outputs, interpreter.evaluate(list(program.outputs.values())), strict=True):
        if not isinstance(thing, Array):
            raise UnsupportedOperator(f"output {clean(name)!r} is not a tensor", hint="save a model of tensors alone")
        outputs.append(thing.plain())
    module = builder.module(inputs, outputs)
    given, made = describe(module, list(program.inputs), [value.meta for value in inputs], list(program.outputs))
    return Model(module, given, made, properties)


def _stored(builder: Builder, weight: Weight) -> Array:
    array = weight.array() if callable(weight.array) else weight.array
    tensor = tensor_of(array, f"weight {clean(weight.name)!r}")
    name = weight.name.replace(".", "_").replace("/", ".")
    trained = tensor.is_floating_point() and not name.rpartition(".")[2].startswith(STATISTICS)
    return Array(builder, last=builder.constant(tensor, name, name if trained else ""))


def concrete(name: str, stored: Sequence[int | None] | None, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Sizes of an input: as asked for, as in the file, or one where it leaves them open (None or -1).

    Raises:
        ConfigError: what is asked for contradicts the file, or the file does not know how many axes there are.
    """
    asked = shapes.get(name)
    if stored is None:
        if asked is None:
            raise ConfigError(f"input {clean(name)!r} has no shape in the file", hint="give its shape, batch included")
        return asked
    fixed = tuple(None if size is None or size < 0 else size for size in stored)
    if asked is None:
        return tuple(1 if size is None else size for size in fixed)
    if len(asked) != len(fixed) or any(size not in {None, new} for size, new in zip(fixed, asked, strict=True)):
        shown = ", ".join("?" if size is None else str(size) for size in fixed)
        raise ConfigError(f"input {clean(name)!r} is of shape ({shown}), not {asked}")
    return asked


def check_names(shapes: Mapping[str, tuple[int, ...]], names: Iterable[str]) -> None:
    """Refuse shapes of inputs that are not there."""
    known = list(names)
    unknown = sorted(set(shapes) - set(known))
    if unknown:
        raise ConfigError(f"it has no input {unknown[0]!r}", hint=f"its inputs: {', '.join(map(clean, known))}")
