"""Core ML packages of ML programs, read by `edgekd.coreml`; field numbers are of Model.proto and MIL.proto."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from edgekd.errors import ConfigError, ConvertError
from edgekd.files import file_digest, read_text
from edgekd.formats import Format
from edgekd.formats._protobuf import encode, encode_number, read, replaced
from edgekd.formats._reading import Broken, Names, ordered, pick, refusing, resized
from edgekd.programs import Node, Value
from edgekd.programs import Program as Sized
from edgekd.specs import Graph, Operator

_TYPES: Final = {"float16": (65552, 10), "float32": (65568, 11), "float64": (65600, 12), "int32": (131104, 23)}
"""What an output may be: ArrayFeatureType.ArrayDataType, and MIL's DataType."""


class _CoreML:
    suffixes: tuple[str, ...] = (".mlpackage",)

    def read(self, path: Path) -> Graph:
        with refusing(path, "a Core ML package"):
            graph = _Reader(_opened(path)).graph()
            return msgspec.structs.replace(graph, doubt=_doubt(path, graph.properties))

    def program(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Sized:
        with refusing(path, "a Core ML package"):
            return _program(_opened(path), shapes)

    def tap(self, path: Path, tensors: Sequence[str], out: Path) -> None:
        with refusing(path, "a Core ML package"):
            program = _opened(path)
            made = {output.name: output.type for operation in program.operations for output in operation.outputs}
            constants = {one.name for each in program.operations if each.kind == "const" for one in each.outputs}
            pick(tensors, lambda tensor: tensor in made and tensor not in constants, path)
            model = _model_file(path)
            added = [(tensor, made[tensor], tensor in program.block.outputs) for tensor in tensors]
            changed = _with_outputs(model.read_bytes(), program.opset, added)
        _copy(path, out)
        (out / model.relative_to(path)).write_bytes(changed)


def _doubt(path: Path, properties: Mapping[str, str]) -> str:
    """A single weight of a small net in integers may change without a trace in what the net answers."""
    from edgekd.coreml import CONSTANTS

    told = properties.get(CONSTANTS)
    if told is None:
        return ""
    found = [file_digest(one) for one in sorted((path / "Data").rglob("weight.bin"))]
    return "" if found == [told] else "its weights are not those that were exported"


def _opened(path: Path) -> Any:
    from edgekd.coreml import open_package

    try:
        return open_package(path)
    except ConvertError as error:
        raise ConfigError(str(error), hint=error.hint) from error


def _model_file(path: Path) -> Path:
    """Where the package keeps its program; the manifest was checked when it was opened."""
    manifest = json.loads(read_text(path / "Manifest.json"))
    return path / "Data" / str(manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"])


def _copy(path: Path, out: Path) -> None:
    """Copy a package; links in it are not followed."""
    for one in sorted(path.rglob("*")):
        if one.is_symlink():
            raise ConfigError(f"{one}: a link in a package")
        if one.is_file():
            to = out / one.relative_to(path)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one, to)


class _Reader:
    """Makes a Graph of a program."""

    def __init__(self, program: Any) -> None:
        from edgekd.coreml import layers

        self._program = program
        self._layers = layers(program)
        self._names = Names()

    def graph(self) -> Graph:
        program = self._program
        return Graph(
            format="coreml",
            inputs=program.inputs,
            outputs=program.outputs,
            operators=ordered(list(self._operators(program.block, "", {}))),
            properties=program.metadata,
        )

    def _operators(self, block: Any, prefix: str, outer: dict[str, str]) -> Iterator[Operator]:
        """Of a block; `outer` has what the values that it sees are called in the file as a whole, "" for constants."""
        known = outer | {value.name: prefix + value.name for value in block.inputs}
        for operation in block.operations:
            called = "" if operation.kind == "const" else prefix
            known |= {one.name: called + one.name if operation.kind != "const" else "" for one in operation.outputs}
            if operation.kind != "const":
                yield from self._operation(operation, prefix, known)

    def _operation(self, operation: Any, prefix: str, known: dict[str, str]) -> Iterator[Operator]:
        first = operation.outputs[0] if operation.outputs else None
        name = self._names.unique(prefix + (first.name if first else operation.name or operation.kind))
        read = [value for values in operation.inputs.values() for value in values if isinstance(value, str)]
        inside = [one for block in operation.blocks for one in self._operators(block, f"{name}/", known)]
        own = {tensor for one in inside for tensor in one.outputs}
        captured = {tensor for one in inside for tensor in one.inputs} - own
        inputs = dict.fromkeys(known[value] for value in read if known.get(value))
        inputs |= dict.fromkeys(sorted(tensor for tensor in captured if not tensor.startswith(f"{name}/")))
        yield Operator(
            kind=operation.kind,
            name=name,
            layer=self._layers.get(first.name, "") if first and not prefix else "",
            version=self._program.ios,
            inputs=tuple(inputs),
            outputs=tuple(prefix + one.name for one in operation.outputs),
            dtype=first.type.dtype if first else "",
        )
        yield from inside


# --- sizes


def _program(program: Any, shapes: Mapping[str, tuple[int, ...]]) -> Sized:
    """The default function; what `cond` and `while_loop` execute is left out."""
    inputs = tuple(value.name for value in program.block.inputs)
    resized(shapes, inputs)
    values = {
        one.name: Value(one.name, shapes.get(one.name, one.type.shape), one.type.dtype) for one in program.block.inputs
    }
    nodes, names = [], Names()
    for operation in program.operations:
        constant = operation.kind == "const"
        for one in operation.outputs:
            values[one.name] = Value(
                one.name, one.type.shape, one.type.dtype, constant, constant and _is_zero(operation)
            )
        if constant:
            continue
        read = []
        for parameter in _FIRST.get(operation.kind, ()):
            read += _read(operation, parameter, values, names)
        for parameter in operation.inputs:
            if parameter not in _FIRST.get(operation.kind, ()):
                read += _read(operation, parameter, values, names)
        name = names.unique(operation.outputs[0].name if operation.outputs else operation.kind)
        transposed = _flag(operation, "transpose_x")
        outputs = tuple(one.name for one in operation.outputs)
        nodes.append(Node(operation.kind, name, tuple(read), outputs, {"transpose_a": transposed}))
    unset = tuple(name for name in inputs if -1 in values[name].shape[1:])
    return Sized("coreml", values, tuple(nodes), inputs, tuple(program.block.outputs), unset)


_FIRST: Final = {
    **dict.fromkeys(("conv", "conv_transpose", "linear"), ("x", "weight", "bias")),
    **dict.fromkeys(("matmul", "add", "sub", "mul", "real_div"), ("x", "y")),
}
"""Parameters whose order matters here."""


def _read(operation: Any, parameter: str, values: dict[str, Value], names: Names) -> list[str]:
    """The tensors of a parameter; a constant that stands in the operation gets a name."""
    found = []
    for one in operation.inputs.get(parameter, ()):
        if isinstance(one, str):
            found.append(one)
        elif one.type.kind == "tensor" and one.type.dtype != "str":
            name = names.unique(f"{operation.outputs[0].name if operation.outputs else operation.kind}.{parameter}")
            values[name] = Value(name, one.type.shape, one.type.dtype, constant=True)
            found.append(name)
    return found


def _is_zero(operation: Any) -> bool:
    held = [one for many in operation.inputs.values() for one in many if not isinstance(one, str)]
    return len(held) == 1 and held[0].type.kind == "tensor" and _single(held[0].data) == 0


def _single(data: Any) -> float | None:
    return float(data.reshape(-1)[0]) if getattr(data, "size", 0) == 1 and data.dtype.kind in "fiu" else None


def _flag(operation: Any, parameter: str) -> bool:
    held = operation.inputs.get(parameter, ())
    return any(not isinstance(one, str) and bool(getattr(one.data, "any", lambda: False)()) for one in held)


# --- a copy with more outputs

_Added = tuple[str, Any, bool]
"""A value, its type, and whether it is an output already: then it is passed through an identity."""


def _with_outputs(data: bytes, opset: str, added: Sequence[_Added]) -> bytes:
    """The model with values as outputs of the default function and of its description."""
    description = read(data, frozenset({2})).message(2, frozenset({20, 21}))
    several = 20 in description
    function = (description.text(21) if several else "") or "main"
    twins = b"".join(encode(3, _identity(name, type_)) for name, type_, present in added if present)
    names = b"".join(encode(2, _called(one).encode()) for one in added)

    def describe(content: bytes) -> bytes:
        if not several:
            return content + _features(10, added)
        return replaced(content, 20, lambda one: one + _features(3, added) if _name(one) == function else one)

    def specialise(content: bytes) -> bytes:
        return _in_map(content, 3, opset, lambda block: block + twins + names)

    data = replaced(data, 2, describe)
    return replaced(data, 502, lambda program: _in_map(program, 2, function, specialise))


def _called(one: _Added) -> str:
    name, _, present = one
    return f"{name}_tap" if present else name


def _features(field: int, added: Sequence[_Added]) -> bytes:
    """A FeatureDescription of each."""
    found = b""
    for one in added:
        name, type_, _ = one
        if type_.kind != "tensor" or type_.dtype not in _TYPES:
            raise Broken(f"{name!r} is of a type that no output may have")
        fixed = min(type_.shape, default=1) > 0
        shape = b"".join(encode_number(1, size) for size in type_.shape) if fixed else b""
        array = shape + encode_number(2, _TYPES[type_.dtype][0])
        found += encode(field, encode(1, _called(one).encode()) + encode(3, encode(5, array)))
    return found


def _identity(name: str, type_: Any) -> bytes:
    """An operation that gives a value a second name."""
    unknown, known = encode(2, b""), [encode(1, encode_number(1, size)) for size in type_.shape]
    sizes = b"".join(encode(3, one if size > 0 else unknown) for size, one in zip(type_.shape, known, strict=True))
    tensor = encode_number(1, _TYPES[type_.dtype][1]) + encode_number(2, len(type_.shape)) + sizes
    output = encode(1, f"{name}_tap".encode()) + encode(2, encode(1, tensor))
    argument = encode(1, encode(1, name.encode()))
    return encode(1, b"identity") + encode(2, encode(1, b"x") + encode(2, argument)) + encode(3, output)


def _name(message: bytes) -> str:
    return read(message, frozenset({1})).text(1)


def _in_map(content: bytes, field: int, key: str, change: Callable[[bytes], bytes]) -> bytes:
    """A message in which the value of one key of a map is changed."""
    return replaced(content, field, lambda entry: replaced(entry, 2, change) if _name(entry) == key else entry)


PLUGIN: Final[Format] = _CoreML()
