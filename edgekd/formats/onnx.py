"""ONNX: Protocol Buffers, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, whose field numbers stand below."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from edgekd.errors import ConfigError
from edgekd.formats import Format
from edgekd.formats._protobuf import Message, encode, read, signed
from edgekd.formats._reading import (
    Broken,
    Names,
    content,
    is_ours,
    layer_of,
    member,
    ordered,
    pick,
    refusing,
    resized,
)
from edgekd.programs import MOST_AXES, Node, Program, Value
from edgekd.specs import Graph, Operator, TensorSpec

MOST_NESTED: Final = 32
"""Graphs inside of graphs; parsers of Protocol Buffers stop at about as many."""

_MODEL: Final = frozenset({2, 3, 6, 7, 8, 14, 25})
_GRAPH: Final = frozenset({1, 5, 11, 12, 13, 15})
_NODE: Final = frozenset({1, 2, 3, 4, 5, 7})
_ATTRIBUTE: Final = frozenset({1, 3, 5, 6, 11})
_TENSOR: Final = frozenset({2, 8, 13, 14})
_FUNCTION: Final = frozenset({1, 7, 9, 10})
_PAIR: Final = frozenset({1, 2})

_DTYPES: Final = dict(
    enumerate(
        (
            "", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16", "float64",
            "uint32", "uint64", "complex64", "complex128", "bfloat16", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2",
            "float8e5m2fnuz", "uint4", "int4", "float4e2m1",
        )
    )
)  # fmt: skip
"""TensorProto.DataType."""


class _Onnx:
    suffixes: tuple[str, ...] = (".onnx",)

    def read(self, path: Path) -> Graph:
        data = content(path)
        with refusing(path, "ONNX"):
            return _Reader(data, path.parent).graph()

    def program(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Program:
        data = content(path)
        with refusing(path, "ONNX"):
            _Reader(data, path.parent).graph()  # refuses what onnx would stumble over
            return _program(data, shapes)

    def tap(self, path: Path, tensors: Sequence[str], out: Path) -> None:
        data = content(path)
        with refusing(path, "ONNX"):
            reader = _Reader(data, path.parent)
            graph = reader.graph()
        pick(tensors, reader.main.__contains__, path)
        present = {spec.name for spec in graph.outputs}
        added = b"".join(_output(tensor, tensor in present) for tensor in tensors)
        # Two messages of one kind behind each other are, to every parser, one message with the fields of both.
        out.write_bytes(data + encode(7, added))
        _copy(reader.files, path.parent, out.parent)


def _output(tensor: str, present: bool) -> bytes:
    """Fields of a graph that make a tensor an output; one that is an output already is passed through an Identity."""
    if not present:
        return encode(12, encode(1, tensor.encode()))
    twin = f"{tensor}:tap".encode()
    node = encode(1, tensor.encode()) + encode(2, twin) + encode(3, twin) + encode(4, b"Identity")
    return encode(1, node) + encode(12, encode(1, twin))


def _copy(files: set[Path], folder: Path, out: Path) -> None:
    """Bring a model's files of weights to its copy."""
    if folder.resolve() != out.resolve():
        for file in sorted(files):
            to = out / file.relative_to(folder.resolve())
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)


@dataclass
class _Scope:
    """A graph's own names, and those that it sees of the graph around it."""

    prefix: str
    outer: "_Scope | None" = None
    own: set[str] = field(default_factory=set)
    constants: set[str] = field(default_factory=set)
    dtypes: dict[str, str] = field(default_factory=dict)
    captured: set[str] = field(default_factory=set)
    """Tensors of the graph around it that it reads."""

    def activation(self, name: str) -> str:
        """What a tensor is called in the file as a whole; "" for a constant or none."""
        if name in self.own or not self.outer:
            return "" if name in self.constants or not name else self.prefix + name
        found = self.outer.activation(name)
        if found:
            self.captured.add(found)
        return found

    def dtype(self, name: str) -> str:
        if name in self.own or not self.outer:
            return self.dtypes.get(name, "")
        return self.outer.dtype(name)


class _Reader:
    """Reads one file."""

    def __init__(self, data: bytes, folder: Path) -> None:
        self.model = read(data, _MODEL)
        self.main: frozenset[str] = frozenset()
        """Tensors that operators of the main graph make."""
        self.files: set[Path] = set()
        """Of weights."""
        self._folder = folder
        self._unique = Names()
        self._versions = _versions(self.model, 8)
        self._properties = _properties(self.model)
        self._ours = is_ours(self._properties)
        if 7 not in self.model or not self._versions:
            raise Broken("it has no graph, or no operator set")

    def graph(self) -> Graph:
        main = self.model.message(7, _GRAPH)
        scope = _Scope("")
        found = list(self._operators(main, scope, 0))
        given = [value for value in main.messages(11, _PAIR) if value.text(1) not in scope.constants]
        made = {tensor for one in main.messages(1, frozenset({2})) for tensor in one.texts(2)}
        self.main = frozenset(made - scope.constants)
        for function in self.model.messages(25, _FUNCTION):
            found += self._function(function)
        return Graph(
            format="onnx",
            inputs=tuple(_spec(value, scope) for value in given),
            outputs=tuple(_spec(value, scope) for value in main.messages(12, _PAIR)),
            operators=ordered(found),
            properties=self._properties,
        )

    def _function(self, function: Message) -> list[Operator]:
        prefix = f"{function.text(10)}:{function.text(1)}/"
        scope = _Scope(prefix)
        outer, self._versions = self._versions, _versions(function, 9) or self._versions
        try:
            return list(self._nodes(function.messages(7, _NODE), scope, 1))
        finally:
            self._versions = outer

    def _operators(self, graph: Message, scope: _Scope, depth: int) -> Iterator[Operator]:
        if depth > MOST_NESTED:
            raise Broken("graphs are nested too deeply")
        for tensor in graph.messages(5, _TENSOR):
            self._constant(tensor.text(8), tensor, scope)
        for value in (*graph.messages(11, _PAIR), *graph.messages(13, _PAIR), *graph.messages(12, _PAIR)):
            scope.own.add(value.text(1))
            scope.dtypes.setdefault(value.text(1), _value_dtype(value))
        yield from self._nodes(graph.messages(1, _NODE), scope, depth)

    def _nodes(self, nodes: list[Message], scope: _Scope, depth: int) -> Iterator[Operator]:
        for node in nodes:
            scope.own.update(node.texts(2))
        for node in nodes:
            attributes = node.messages(5, _ATTRIBUTE)
            if node.text(4) == "Constant" and node.text(7) in {"", "ai.onnx"}:
                tensor = next((one.message(5, _TENSOR) for one in attributes if 5 in one), None)
                self._constant(next(iter(node.texts(2)), ""), tensor, scope)
                continue
            yield from self._node(node, attributes, scope, depth)

    def _node(self, node: Message, attributes: list[Message], scope: _Scope, depth: int) -> Iterator[Operator]:
        read, written = node.texts(1), [tensor for tensor in node.texts(2) if tensor]
        domain = "" if node.text(7) == "ai.onnx" else node.text(7)
        kind = f"{domain}:{node.text(4)}" if domain else node.text(4)
        name = self._unique.unique(scope.prefix + (node.text(3) or next(iter(written), kind)))
        inside: list[Operator] = []
        captured: set[str] = set()
        for graph in (span for one in attributes for span in (*one.messages(6, _GRAPH), *one.messages(11, _GRAPH))):
            inner = _Scope(f"{name}/", scope)
            inside += self._operators(graph, inner, depth + 1)
            captured |= inner.captured
        settled = _dtype_of(kind, read, attributes, scope)
        for tensor in written:
            if not scope.dtypes.get(tensor):
                scope.dtypes[tensor] = settled
        inputs = [found for tensor in read if (found := scope.activation(tensor))]
        yield Operator(
            kind=kind,
            name=name,
            layer=layer_of(name) if self._ours and depth == 0 else "",
            version=self._versions.get(domain, 1),
            inputs=(*inputs, *sorted(captured - set(inputs))),
            outputs=tuple(scope.prefix + tensor for tensor in written),
            dtype=scope.dtypes.get(written[0], "") if written else "",
        )
        yield from inside

    def _constant(self, name: str, tensor: Message | None, scope: _Scope) -> None:
        scope.own.add(name)
        scope.constants.add(name)
        if tensor is not None:
            scope.dtypes[name] = _DTYPES.get(tensor.number(2), "")
            if tensor.number(14) == 1:
                self.files.add(_external(tensor, self._folder))


def _external(tensor: Message, folder: Path) -> Path:
    """The file that holds a tensor's numbers, which is long enough."""
    entries = dict(_pair(one) for one in tensor.messages(13, _PAIR))
    file = member(folder, entries.get("location", ""))
    try:
        offset, length = int(entries.get("offset", "0")[:20]), int(entries.get("length", "0")[:20])
    except ValueError as error:
        raise Broken("external data without a place") from error
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise Broken(f"its file {file.name!r} is too short")
    return file


def _pair(entry: Message) -> tuple[str, str]:
    return entry.text(1), entry.text(2)


def _versions(message: Message, field: int) -> dict[str, int]:
    """Domain -> version of its operator set."""
    sets = message.messages(field, _PAIR)
    return {"" if one.text(1) == "ai.onnx" else one.text(1): max(0, signed(one.number(2))) for one in sets}


def _properties(model: Message) -> dict[str, str]:
    said = {"producer_name": model.text(2), "producer_version": model.text(3), "description": model.text(6)}
    found = {name: text for name, text in said.items() if text}
    return found | dict(_pair(one) for one in model.messages(14, _PAIR))


# --- types


def _spec(value: Message, scope: _Scope) -> TensorSpec:
    name = value.text(1)
    shape = []
    for tensor in _tensor_types(value, frozenset({2})):
        for dimension in tensor.message(2, frozenset({1})).messages(1, frozenset({1})) if 2 in tensor else ():
            shape.append(signed(dimension.number(1)) if 1 in dimension else -1)
    return TensorSpec(name=name, shape=tuple(shape), dtype=scope.dtype(name))


def _value_dtype(value: Message) -> str:
    return next((_DTYPES.get(tensor.number(1), "") for tensor in _tensor_types(value, frozenset({1}))), "")


def _tensor_types(value: Message, wanted: frozenset[int]) -> list[Message]:
    return [tensor for kind in value.messages(2, frozenset({1})) for tensor in kind.messages(1, wanted)]


_ALWAYS: Final = {
    **dict.fromkeys(("Shape", "Size", "ArgMax", "ArgMin", "NonZero"), "int64"),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Xor"), "bool"),
    **dict.fromkeys(("IsNaN", "IsInf"), "bool"),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), "int32"),
    **dict.fromkeys(("If", "Loop", "Scan"), ""),
    "DynamicQuantizeLinear": "uint8",
}
_LIKE: Final = {"QuantizeLinear": 2, "DequantizeLinear": 1, "Where": 1, "QLinearConv": 7, "QLinearMatMul": 7}
"""Kind -> the input whose type the output has; the first of any other."""


def _dtype_of(kind: str, read: list[str], attributes: list[Message], scope: _Scope) -> str:
    """Type of a first output, as far as the operator settles it; asked where the file does not say."""
    if kind == "Cast":
        return next((_DTYPES.get(one.number(3), "") for one in attributes if one.text(1) == "to"), "")
    if kind in _ALWAYS:
        return _ALWAYS[kind]
    like = _LIKE.get(kind, 0)
    if like >= len(read):
        return "uint8" if kind == "QuantizeLinear" else ""
    return scope.dtype(read[like])


# --- sizes, which onnx infers where the file does not say

MOST_KEPT_BYTES: Final = 1024
"""Of a constant whose numbers may matter for shapes."""


def _program(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Program:
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        open_inputs = _resize(model, shapes)
        _drop_numbers(model)
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (DecodeError, onnx.shape_inference.InferenceError, ValueError, RuntimeError, TypeError) as error:
        raise Broken(f"its shapes cannot be told: {error}") from error
    known = [one for one in (*graph.value_info, *graph.output, *graph.input) if one.type.tensor_type.HasField("shape")]
    values = {info.name: _value(info) for info in known}
    values |= {one.name: _constant(one.name, one) for one in graph.initializer}
    nodes, given = [], Names()
    for node in graph.node:
        domain = "" if node.domain in {"", "ai.onnx"} else f"{node.domain}:"
        tensor = next((one.t for one in node.attribute if one.name == "value"), None)
        if node.op_type == "Constant" and not domain:
            name = next(iter(node.output), "")
            values[name] = _constant(name, tensor) if tensor is not None else Value(name, (), constant=True)
            continue
        outer = tuple(name for one in node.attribute for name in _captured(one.g) if name in values)
        name = given.unique(node.name or next(iter(node.output), node.op_type))
        kind, outputs = domain + node.op_type, tuple(filter(None, node.output))
        attributes = {"transpose_a": True} if any(one.name == "transA" and one.i for one in node.attribute) else {}
        nodes.append(Node(kind, name, (*node.input, *outer), outputs, attributes))
    constants = {one.name for one in graph.initializer}
    inputs = tuple(one.name for one in graph.input if one.name not in constants)
    return Program("onnx", values, tuple(nodes), inputs, tuple(one.name for one in graph.output), open_inputs)


def _resize(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Give inputs their sizes, and 1 where nobody does; the inputs of which that is true."""
    constants = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    resized(shapes, [one.name for one in inputs])
    unset, named, changed = [], {}, False
    for one in inputs:
        dims = one.type.tensor_type.shape.dim
        wanted = shapes.get(one.name)
        if wanted and len(wanted) != len(dims):
            raise ConfigError(f"input {one.name} has {len(dims)} axes, and not {len(wanted)}")
        for axis, dim in enumerate(dims):
            size = wanted[axis] if wanted else max(1, dim.dim_value)
            changed |= 0 < dim.dim_value != size
            if dim.dim_value < 1 and not wanted and axis:
                unset.append(one.name)  # a batch of 1 is what everybody means
            if dim.dim_param:
                named[dim.dim_param] = size
            dim.dim_value = size
    _settle(model.graph, named, changed)
    return tuple(dict.fromkeys(unset))


def _settle(graph: Any, named: Mapping[str, int], changed: bool) -> None:
    """Give sizes that have names their numbers; forget what the file says of sizes that follow from changed ones."""
    if changed:
        del graph.value_info[:]
    for one in (*graph.value_info, *graph.output):
        shape = one.type.tensor_type.shape
        for dim in shape.dim:
            if dim.dim_param in named:
                dim.dim_value = named[dim.dim_param]
        if changed or any(dim.dim_value < 1 for dim in shape.dim):
            one.type.tensor_type.ClearField("shape")


def _drop_numbers(model: Any) -> None:
    """Weights are not needed, and would be copied several times."""
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > MOST_KEPT_BYTES:
            tensor.raw_data = b""
        if len(tensor.float_data) > MOST_KEPT_BYTES:
            del tensor.float_data[:]
        del tensor.external_data[:]
        tensor.data_location = 0


def _value(info: Any) -> Value:
    kind = info.type.tensor_type
    shape = tuple(int(dim.dim_value) if dim.dim_value > 0 else -1 for dim in kind.shape.dim)
    if len(shape) > MOST_AXES:
        raise Broken("a tensor has too many axes")
    return Value(info.name, shape, _DTYPES.get(kind.elem_type, ""))


def _constant(name: str, tensor: Any) -> Value:
    shape = tuple(map(int, tensor.dims))
    if min(shape, default=1) < 0 or len(shape) > MOST_AXES:
        raise Broken("a constant is of no shape")
    numbers = list(tensor.float_data) + list(tensor.int32_data) + list(tensor.int64_data)
    single = max(shape, default=1) <= 1 and (tensor.raw_data or numbers)
    zero = bool(single) and not any(tensor.raw_data) and not any(numbers)
    return Value(name, shape, _DTYPES.get(tensor.data_type, ""), constant=True, zero=zero)


def _captured(graph: Any) -> set[str]:
    """What a graph inside of a node may read of the one around it."""
    return {name for node in graph.node for name in node.input}


PLUGIN: Final[Format] = _Onnx()
