"""A TensorFlow graph as torch steps: only what the outputs need is looked at, functions and loops are unrolled.

Images keep channels first between operators that slide over them, and are permuted only where the order is seen.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from edgekd.errors import ConfigError, EdgekdError, UnsupportedOperator
from edgekd.sources._failures import FAILURES, clean, one_line
from edgekd.sources._graphs import Builder, Function, Maker, Value

if TYPE_CHECKING:
    from tensorflow.core.framework.attr_value_pb2 import AttrValue
    from tensorflow.core.framework.function_pb2 import FunctionDef
    from tensorflow.core.framework.graph_pb2 import GraphDef
    from tensorflow.core.framework.node_def_pb2 import NodeDef

DEEPEST: Final = 48
"""Functions in each other."""
MOST_VISITS: Final = 500_000
"""Nodes that are looked at, those of functions and loops as often as they are called."""


def to_first(rank: int) -> list[int]:
    """The permutation that moves channels behind the batch."""
    return [0, rank - 1, *range(1, rank - 1)]


def to_last(rank: int) -> list[int]:
    """The permutation that moves channels to the end."""
    return [0, *range(2, rank), 1]


class Array:
    """A tensor of the graph in the order of its axes there, or with channels first, or both."""

    def __init__(self, builder: Builder, *, last: Value | None = None, first: Value | None = None) -> None:
        self._builder, self._last, self._first = builder, last, first
        self.note: Any = None
        """What a translator leaves for the one that comes behind it."""
        self.is_first: Final = last is None
        """Whether it was made with channels first, so that this order costs nothing."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes in the graph's order."""
        if self._last is not None:
            return self._last.shape
        assert self._first is not None
        shape = self._first.shape
        return tuple(shape[axis] for axis in to_last(len(shape)))

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Its type."""
        one = self._first if self._last is None else self._last
        assert one is not None
        return one.meta.dtype

    @property
    def constant(self) -> Tensor | None:
        """What it holds, where that is known."""
        one = self._first if self._last is None else self._last
        assert one is not None
        return None if one.tensor is None else self.plain().tensor

    def plain(self) -> Value:
        """In the graph's order."""
        if self._last is None:
            assert self._first is not None
            self._last = self._permuted(self._first, to_last(self.rank))
        return self._last

    def channels_first(self) -> Value:
        """With channels behind the batch."""
        if self._first is None:
            assert self._last is not None
            self._first = self._permuted(self._last, to_first(self.rank))
        return self._first

    def spread(self, rank: int) -> Value:
        """With channels first, and as many axes as that, ones in front."""
        if self.rank == rank:
            return self.channels_first()
        if self.rank == 0:
            return self.plain()
        sizes = [1] * (rank - self.rank) + list(self.shape)
        order = to_first(rank)
        (value,) = self._builder.apply(
            lambda data: data.reshape(sizes).permute(order), [self.plain()], [self.plain().name]
        )
        return value

    def _permuted(self, value: Value, order: list[int]) -> Value:
        return self._builder.apply(lambda data: data.permute(order), [value], [value.name])[0]


@dataclass(frozen=True)
class Variable:
    """A handle of a stored weight."""

    read: Callable[[], Array]


@dataclass(frozen=True)
class Sequence_:
    """A TensorList, whose length is known."""

    items: tuple[Array | None, ...]
    shape: tuple[int, ...] = ()
    """Of an item, where nothing was written yet."""
    dtype: torch.dtype = torch.float32


Thing = Array | Variable | Sequence_
Things = list[Thing]


@dataclass(frozen=True)
class Made:
    """What made a value, for those who look for patterns."""

    operator: str
    inputs: tuple[Value | None, ...]
    function: Function


@dataclass(eq=False)
class Node:
    """What a translator sees of a node."""

    operator: str
    name: str
    attributes: Mapping[str, "AttrValue"]
    inputs: Things
    interpreter: "Interpreter"

    # --- inputs

    def array(self, position: int = 0) -> Array:
        """An input that is a tensor."""
        thing = self._thing(position)
        if not isinstance(thing, Array):
            raise self.refusal(f"input {position} is a {type(thing).__name__.strip('_').lower()}, not a tensor")
        return thing

    def _thing(self, position: int) -> Thing:
        if not -len(self.inputs) <= position < len(self.inputs):
            raise ConfigError(f"{self}: input {position} is missing")
        return self.inputs[position]

    def arrays(self) -> list[Array]:
        """All inputs."""
        return [self.array(position) for position in range(len(self.inputs))]

    def plain(self, position: int = 0) -> Value:
        """An input in the graph's order of axes."""
        return self.array(position).plain()

    def sequence(self, position: int = 0) -> Sequence_:
        """An input that is a TensorList."""
        thing = self._thing(position)
        if not isinstance(thing, Sequence_):
            raise self.refusal(f"input {position} is not a list of tensors")
        return thing

    def static(self, position: int, what: str = "") -> Tensor:
        """An input that must be known now.

        Raises:
            UnsupportedOperator: it is computed from the model's inputs.
        """
        tensor = self.array(position).constant
        if tensor is None:
            raise self.refusal(
                f"its {what or f'input {position}'} depends on the data",
                hint="write the model so that shapes, axes and indices of slices are constants",
            )
        return tensor

    def integers(self, position: int, what: str = "") -> list[int]:
        """A static input as integers."""
        return [int(number) for number in self.static(position, what).reshape(-1).tolist()]

    def axis(self, position: int, what: str = "axis") -> int:
        """A static input as an axis of the first input, counted from the front."""
        return self.normal(self.integers(position, what)[0])

    def normal(self, axis: int, rank: int | None = None) -> int:
        """An axis counted from the front."""
        rank = self.array(0).rank if rank is None else rank
        if not -rank <= axis < max(rank, 1):
            raise ConfigError(f"{self}: axis {axis} of a tensor with {rank} axes")
        return axis % rank if rank else 0

    # --- attributes

    def has(self, name: str) -> bool:
        """Whether the attribute is there."""
        return name in self.attributes

    def int_of(self, name: str, default: int = 0) -> int:
        """An attribute."""
        return int(self.attributes[name].i) if name in self.attributes else default

    def ints_of(self, name: str) -> list[int]:
        """An attribute; empty where it is not there."""
        return [int(number) for number in self.attributes[name].list.i] if name in self.attributes else []

    def float_of(self, name: str, default: float) -> float:
        """An attribute."""
        return float(self.attributes[name].f) if name in self.attributes else default

    def bool_of(self, name: str, default: bool = False) -> bool:
        """An attribute."""
        return bool(self.attributes[name].b) if name in self.attributes else default

    def text_of(self, name: str, default: str = "") -> str:
        """An attribute."""
        return self.attributes[name].s.decode("utf-8", "replace") if name in self.attributes else default

    def dtype_of(self, name: str) -> torch.dtype:
        """An attribute."""
        return dtype_of(self.attributes[name].type if name in self.attributes else 0, str(self))

    # --- results

    def make(
        self, function: Function, values: Sequence[Value | None], *, first: bool = False, frozen: Iterable[int] = ()
    ) -> Array:
        """The one result of a function, with channels first or in the graph's order."""
        return self.make_all(function, values, first=first, frozen=frozen)[0]

    def make_all(
        self, function: Function, values: Sequence[Value | None], *, first: bool = False, frozen: Iterable[int] = ()
    ) -> list[Array]:
        """All results of a function."""
        builder = self.interpreter.builder
        maker: Maker = Made(PATTERNS.get(self.operator, self.operator), tuple(values), function)
        made = builder.apply(function, values, [self.name], frozen=frozen, maker=maker)
        return [Array(builder, first=value) if first else Array(builder, last=value) for value in made]

    def constant(self, tensor: Tensor, name: str = "") -> Array:
        """A result that is known now."""
        builder = self.interpreter.builder
        return Array(builder, last=builder.constant(tensor, name or self.name))

    def refusal(self, what: str, hint: str = "") -> UnsupportedOperator:
        """The error to raise where the node cannot be expressed."""
        return UnsupportedOperator(f"{self}: {what}", hint=hint)

    def __str__(self) -> str:
        return f"{clean(self.operator)} {clean(self.name)!r} (TensorFlow)"


PATTERNS: Final[Mapping[str, str]] = {"AddV2": "Add", "RealDiv": "Div"}
"""Operators by the names that patterns know them by."""

Translator = Callable[[Node], Thing | Sequence[Thing]]


@dataclass(eq=False)
class Scope:
    """A graph or a function's body, and what is known of its nodes."""

    nodes: dict[str, "NodeDef"]
    known: dict[str, Things] = field(default_factory=dict)


class Interpreter:
    """Walks from the wanted tensors back to what makes them."""

    def __init__(self, graph: "GraphDef", table: Mapping[str, Translator]) -> None:
        self.builder = Builder()
        self._table = table
        self._functions: dict[str, FunctionDef] = {one.signature.name: one for one in graph.library.function}
        self._bodies: dict[str, dict[str, NodeDef]] = {}
        self._top = Scope(_by_name(graph.node))
        self._depth = self._visits = 0

    def bind(self, name: str, things: Things) -> None:
        """Say what a node of the graph stands for."""
        self._top.known[name] = things

    def evaluate(self, tensors: Sequence[str]) -> Things:
        """What tensors such as "node:0" stand for."""
        return self._evaluate(self._top, tensors)

    def call(self, function: str, arguments: Sequence[Thing]) -> Things:
        """What a function of the graph's library returns."""
        definition = self._functions.get(function)
        if definition is None:
            raise ConfigError(f"function {clean(function)!r} is not in the file")
        if self._depth >= DEEPEST:
            raise ConfigError("its functions are nested too deeply, or call themselves")
        names = [argument.name for argument in definition.signature.input_arg]
        if len(names) != len(arguments):
            raise ConfigError(f"function {clean(function)!r} takes {len(names)} arguments, and gets {len(arguments)}")
        if function not in self._bodies:
            self._bodies[function] = _by_name(definition.node_def)
        scope = Scope(self._bodies[function], {name: [thing] for name, thing in zip(names, arguments, strict=True)})
        returned = [definition.ret[output.name] for output in definition.signature.output_arg]
        self._depth += 1
        found = self._evaluate(scope, returned)
        self._depth -= 1
        return found

    def _evaluate(self, scope: Scope, tensors: Sequence[str]) -> Things:
        for tensor in tensors:
            self._visit(scope, node_of(tensor))
        return [_output(scope, tensor) for tensor in tensors]

    def _visit(self, scope: Scope, wanted: str) -> None:
        """Work out a node and all that it needs, without recursion: graphs are deep."""
        waiting, opened = [wanted], set()
        while waiting:
            name = waiting[-1]
            if name in scope.known:
                waiting.pop()
                continue
            node = scope.nodes.get(name)
            if node is None:
                raise ConfigError(f"node {clean(name)!r} is not in the file")
            needed = [node_of(given) for given in node.input if not given.startswith("^")]
            missing = [one for one in needed if one not in scope.known]
            if not missing:
                scope.known[name] = self._run(scope, node)
                waiting.pop()
                continue
            if name in opened:
                raise ConfigError(f"node {clean(name)!r} waits for itself")
            opened.add(name)
            waiting.extend(missing)

    def _run(self, scope: Scope, proto: "NodeDef") -> Things:
        self._visits += 1
        if self._visits > MOST_VISITS:
            raise ConfigError(f"the graph has more than {MOST_VISITS} nodes when its loops are unrolled")
        inputs = [_output(scope, name) for name in proto.input if not name.startswith("^")]
        node = Node(proto.op, proto.name, dict(proto.attr), inputs, self)
        translator = self._table.get(proto.op)
        if translator is None:
            raise node.refusal("it is not known", hint=HINTS.get(proto.op, "write it with operators that there are"))
        try:
            made = translator(node)
        except EdgekdError:
            raise
        except NotImplementedError as error:
            raise node.refusal(one_line(error), hint="use float32 or int32 here") from error
        except FAILURES as error:
            shapes = ", ".join(str(thing.shape) for thing in inputs if isinstance(thing, Array))
            raise ConfigError(
                f"{node}: {one_line(error)}", hint=f"its inputs are of shapes {shapes}; `shapes` sets what is left open"
            ) from error
        return list(made) if isinstance(made, list | tuple) else [made]  # type: ignore[list-item]  # a Sequence is one


HINTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("Switch", "Merge", "Enter", "Exit", "NextIteration"), "save it with TensorFlow 2, where loops are functions"
    ),
    **dict.fromkeys(
        ("RandomUniform", "RandomStandardNormal", "StatelessRandomUniformV2", "StatelessRandomNormalV2"),
        "make the noise an input of the model",
    ),
    **dict.fromkeys(
        ("RFFT", "IRFFT", "FFT", "RFFT2D"), "compute the spectrum in the application, or by a matrix of sines"
    ),
    **dict.fromkeys(
        ("LookupTableFindV2", "HashTableV2", "StringSplitV2", "StaticRegexReplace"),
        "texts are turned to numbers by the application: save the model behind this step",
    ),
    **dict.fromkeys(
        ("NonMaxSuppressionV3", "NonMaxSuppressionV4", "NonMaxSuppressionV5", "CombinedNonMaxSuppression"),
        "save the model before this step, and do it in the application",
    ),
}


def _by_name(nodes: Iterable["NodeDef"]) -> dict[str, "NodeDef"]:
    return {node.name: node for node in nodes}


def node_of(tensor: str) -> str:
    """The node in a tensor's name.

    >>> node_of("a/b"), node_of("a/b:1"), node_of("a/b:tensors:1")
    ('a/b', 'a/b', 'a/b')
    """
    return tensor.partition(":")[0]


def _output(scope: Scope, tensor: str) -> Thing:
    """What a tensor's name stands for: "node", "node:1" or, in functions, "node:name of the output:1"."""
    name, *rest = tensor.split(":")
    if rest and (len(rest) > 2 or not rest[-1].isdecimal() or len(rest[-1]) > 6):
        raise ConfigError(f"{clean(tensor)!r} is not the name of a tensor")
    index = int(rest[-1]) if rest else 0
    if len(rest) == 2 and name in scope.nodes:
        index += _first_output(scope.nodes[name], rest[0])
    things = scope.known[name]
    if index >= len(things):
        raise ConfigError(f"node {clean(name)!r} has no output {index}")
    return things[index]


def _first_output(node: "NodeDef", argument: str) -> int:
    """The number of the first output that an operator's definition gives this name to."""
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(node.op)
    passed = 0
    for one in definition.output_arg if definition is not None else ():
        if one.name == argument:
            return passed
        if one.number_attr:
            passed += int(node.attr[one.number_attr].i)
        elif one.type_list_attr:
            passed += len(node.attr[one.type_list_attr].list.type)
        else:
            passed += 1
    raise ConfigError(f"node {clean(node.name)!r} has no output {clean(argument)!r}")


# --- types and stored tensors

DTYPES: Final[Mapping[int, torch.dtype]] = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    19: torch.float16,
}
"""DataType of TensorFlow -> torch's."""


def dtype_of(number: int, where: str) -> torch.dtype:
    """torch's type for a DataType.

    Raises:
        UnsupportedOperator: torch computes with no such type.
    """
    if number not in DTYPES:
        from tensorflow.core.framework.types_pb2 import DataType

        name = DataType.Name(number) if number in DataType.values() else str(number)
        raise UnsupportedOperator(
            f"{where}: tensors of type {name} cannot be computed with", hint="use float32 or int32"
        )
    return DTYPES[number]


def tensor_of(array: Any, where: str) -> Tensor:
    """A numpy array of TensorFlow's as a tensor of its own.

    Raises:
        UnsupportedOperator: it holds texts, or numbers of a type that torch has not.
    """
    import numpy as np

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except TypeError as error:
        raise UnsupportedOperator(
            f"{where}: tensors of type {array.dtype} cannot be computed with", hint="use float32 or int32"
        ) from error
