"""TFLite: a FlatBuffer, https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs.

Field numbers below are those of that schema, and of TFLite's metadata (metadata_schema.fbs, file identifier M001).
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from edgekd.formats import Format
from edgekd.formats._flatbuffer import Buffer, Changes, Table
from edgekd.formats._reading import Broken, Names, content, is_ours, layer_of, ordered, pick, refusing, resized
from edgekd.programs import MOST_AXES, Node, Program, Value
from edgekd.specs import Graph, Operator, TensorSpec

MOST_SCALAR_BYTES: Final = 8
MOST_LABEL_BYTES: Final = 2**20
"""Of a file of labels in a model's metadata."""


class _TFLite:
    suffixes: tuple[str, ...] = (".tflite",)

    def read(self, path: Path) -> Graph:
        data = content(path)
        with refusing(path, "TFLite"):
            return _graph(data)

    def program(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Program:
        data = content(path)
        with refusing(path, "TFLite"):
            return _program(_model(data), shapes)

    def tap(self, path: Path, tensors: Sequence[str], out: Path) -> None:
        data = content(path)
        with refusing(path, "TFLite"):
            model = _model(data)
            main = _Subgraph.of(model, 0)
            named = {name: index for index, name in enumerate(main.names)}
            pick(tensors, main.made.__contains__, path)
            added = [named[tensor] for tensor in tensors]
            changes = _with_outputs(data, model, main, (*main.outputs, *added), added, keep=True)
        out.write_bytes(changes.finish())

    def cut(self, path: Path, last: str, out: Path) -> None:
        """Write a copy that ends after an operator, by its name, and gives out what that one makes.

        Raises:
            ConfigError: as `read`, or there is no such operator.
        """
        data = content(path)
        with refusing(path, "TFLite"):
            model = _model(data)
            main = _Subgraph.of(model, 0)
            pick([last], main.made.__contains__, path)
            wanted = main.names.index(last)
            count = next(i for i, one in enumerate(main.operators, 1) if wanted in one.numbers(2, "i"))
            outputs = [index for index in main.operators[count - 1].numbers(2, "i") if index >= 0]
            changes = _with_outputs(data, model, main, outputs, outputs, keep=False)
            changes.count(main.table.vector(3)[0], count)
        out.write_bytes(changes.finish())


@dataclass(frozen=True)
class _Subgraph:
    """A subgraph, with a name of its own for every tensor."""

    table: Table
    tensors: list[Table]
    names: list[str]
    operators: list[Table]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    made: frozenset[str]
    """Tensors that an operator makes."""

    @staticmethod
    def of(model: Table, index: int) -> "_Subgraph":
        subgraphs = model.tables(2)
        if index >= len(subgraphs):
            raise Broken("it has no subgraph")
        table = subgraphs[index]
        prefix = f"{table.text(4) or 'subgraph'}.{index}/" if index else ""
        given = Names()
        tensors, operators = table.tables(0), table.tables(3)
        names = [given.unique(prefix + (tensor.text(3) or "tensor")) for tensor in tensors]
        inputs, outputs = table.numbers(1, "i"), table.numbers(2, "i")
        written = [number for one in operators for number in one.numbers(2, "i")]
        for number in (*inputs, *outputs, *written, *(number for one in operators for number in one.numbers(1, "i"))):
            if not -1 <= number < len(tensors):
                raise Broken("an operator reads or writes a tensor that is not there")
        made = frozenset(names[number] for number in written if number >= 0)
        return _Subgraph(table, tensors, names, operators, inputs, outputs, made)

    def spec(self, index: int) -> TensorSpec:
        tensor = self.tensors[index]
        shape = tensor.numbers(7, "i") or tensor.numbers(0, "i")
        scale, zero_point = _of_whole(tensor)
        return TensorSpec(name=self.names[index], shape=shape, dtype=_dtype(tensor), scale=scale, zero_point=zero_point)


def _model(data: bytes) -> Table:
    if data[4:8] != b"TFL3":
        raise Broken("the identifier TFL3 is missing")
    return Buffer(data).root()


def _graph(data: bytes) -> Graph:
    model = _model(data)
    properties = _properties(model, data)
    codes = [_kind_and_version(code) for code in model.tables(1)]
    subgraphs = [_Subgraph.of(model, index) for index in range(len(model.tables(2)))]
    unique = Names()
    ours = is_ours(properties)
    found = [one for subgraph in subgraphs for one in _operators(subgraph, codes, unique, ours)]
    main = subgraphs[0] if subgraphs else _Subgraph.of(model, 0)
    return Graph(
        format="tflite",
        inputs=tuple(main.spec(index) for index in main.inputs if index >= 0),
        outputs=tuple(main.spec(index) for index in main.outputs if index >= 0),
        operators=ordered(found),
        properties=properties,
    )


def _operators(subgraph: _Subgraph, codes: list[tuple[str, int]], unique: Names, ours: bool) -> list[Operator]:
    known = subgraph.made | {subgraph.names[index] for index in subgraph.inputs if index >= 0}

    def is_weight(index: int) -> bool:
        return subgraph.names[index] not in known and _scales(subgraph.tensors[index]) > 0

    found = []
    for position, operator in enumerate(subgraph.operators):
        code = operator.number(0, "I")
        if code >= len(codes):
            raise Broken("an operator has no code")
        kind, version = codes[code]
        given = [index for index in operator.numbers(1, "i") if index >= 0]
        read = [subgraph.names[index] for index in given]
        written = [index for index in operator.numbers(2, "i") if index >= 0]
        name = unique.unique(subgraph.names[written[0]] if written else f"{kind}@{position}")
        found.append(
            Operator(
                kind=kind,
                name=name,
                layer=layer_of(name) if ours else "",
                version=version,
                inputs=tuple(tensor for tensor in read if tensor in known),
                outputs=tuple(subgraph.names[index] for index in written),
                dtype=_dtype(subgraph.tensors[written[0]]) if written else "",
                by_channel=any(_scales(subgraph.tensors[index]) > 1 for index in given),
                weights=next((_dtype(subgraph.tensors[index]) for index in given if is_weight(index)), ""),
            )
        )
    return found


def _program(model: Table, shapes: Mapping[str, tuple[int, ...]]) -> Program:
    """The main subgraph; what its control flow calls is left out."""
    main = _Subgraph.of(model, 0)
    codes = [_kind_and_version(code)[0] for code in model.tables(1)]
    buffers = model.tables(4)
    inputs = tuple(main.names[index] for index in main.inputs if index >= 0)
    known = main.made | set(inputs)
    resized(shapes, inputs)
    values, unset = {}, []
    for index, (name, tensor) in enumerate(zip(main.names, main.tensors, strict=True)):
        shape = shapes.get(name) or tensor.numbers(0, "i")
        if name in inputs and name not in shapes and -1 in tensor.numbers(7, "i")[1:]:
            unset.append(name)
        constant = name not in known
        values[name] = Value(name, shape, _dtype(tensor), constant, constant and _is_zero(tensor, buffers))
        if min(shape, default=1) < -1 or len(shape) > MOST_AXES:
            raise Broken(f"tensor {index} is of no shape")
    nodes = []
    for position, operator in enumerate(main.operators):
        code = operator.number(0, "I")
        if code >= len(codes):
            raise Broken("an operator has no code")
        read = tuple(main.names[index] if index >= 0 else "" for index in operator.numbers(1, "i"))
        written = tuple(main.names[index] for index in operator.numbers(2, "i") if index >= 0)
        name = written[0] if written else f"{codes[code]}@{position}"
        nodes.append(Node(codes[code], name, read, written))
    outputs = tuple(main.names[index] for index in main.outputs if index >= 0)
    return Program("tflite", values, tuple(nodes), inputs, outputs, tuple(unset))


def _is_zero(tensor: Table, buffers: list[Table]) -> bool:
    """Whether it is a single number, and that is 0."""
    number = tensor.number(2, "I")
    if max(tensor.numbers(0, "i"), default=1) > 1 or number >= len(buffers):
        return False
    held = buffers[number].bytes(0)
    return 0 < len(held) <= MOST_SCALAR_BYTES and not any(held)


def _of_whole(tensor: Table) -> tuple[float, int]:
    """The one scale that all numbers of a tensor are multiplied by, and their zero point; (0, 0) where it has none."""
    quantization = tensor.table(4)
    if quantization is None or quantization.vector(2)[1] != 1 or quantization.vector(3)[1] != 1:
        return 0.0, 0
    (scale,), (zero_point,) = quantization.floats(2), quantization.numbers(3, "q")
    return (scale, zero_point) if math.isfinite(scale) and scale > 0 else (0.0, 0)


def _scales(tensor: Table) -> int:
    """How many scales its numbers are multiplied by."""
    quantization = tensor.table(4)
    return quantization.vector(2)[1] if quantization else 0


def _kind_and_version(code: Table) -> tuple[str, int]:
    """Files from before 2020 have the number in a field of one byte, newer ones in one of four."""
    number = max(code.number(0, "b"), code.number(3, "i"))
    kind = _kinds().get(number, f"BUILTIN_{number}")
    custom = code.text(1)
    return (f"CUSTOM:{custom}" if kind == "CUSTOM" else kind), max(0, code.number(2, "i", 1))


@cache
def _kinds() -> dict[int, str]:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    return {number: name for name, number in vars(BuiltinOperator).items() if isinstance(number, int)}


@cache
def _dtypes() -> dict[int, str]:
    from ai_edge_litert.schema_py_generated import TensorType

    return {number: name.lower() for name, number in vars(TensorType).items() if isinstance(number, int)}


def _dtype(tensor: Table) -> str:
    number = tensor.number(1, "b")
    return _dtypes().get(number, f"type {number}")


def _with_outputs(
    data: bytes, model: Table, main: _Subgraph, indices: Sequence[int], added: Sequence[int], *, keep: bool
) -> Changes:
    """A copy with these outputs; a signature calls those that are added as tensors are called, and may keep its own."""
    changes = Changes(data)
    if not main.table.slot(2):
        raise Broken("it has no outputs")
    changes.point(main.table.slot(2), changes.indices(indices))
    for signature in model.tables(7):
        if signature.number(4, "I") == 0 and signature.slot(1):
            names = Names()
            old = [(one.text(0), one.number(1, "I")) for one in signature.tables(1) if keep]
            pairs = [*old, *((main.names[index], index) for index in added)]
            changes.point(signature.slot(1), changes.named([(names.unique(name), index) for name, index in pairs]))
    return changes


# --- what the file says of itself


def _properties(model: Table, data: bytes) -> dict[str, str]:
    properties = {"description": model.text(3)} if model.text(3) else {}
    buffers = model.tables(4)
    for entry in model.tables(6):
        name, index = entry.text(0), entry.number(1, "I")
        if index >= len(buffers):
            raise Broken("metadata without content")
        held = bytes(buffers[index].bytes(0))
        if name == "TFLITE_METADATA":
            properties |= _described(held, data)
        elif name == "edgekd":
            properties |= _ours(held)
        elif name:
            properties[name] = _readable(held)
    return properties


def _ours(held: bytes) -> dict[str, str]:
    """What our converter keeps: a JSON object of strings."""
    try:
        found = json.loads(held)
    except (ValueError, RecursionError) as error:
        raise Broken("its metadata of edgekd are no JSON") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise Broken("its metadata of edgekd are no texts")
    return found


def _readable(held: bytes) -> str:
    """Text as text; of anything else how much there is."""
    text = held.rstrip(b"\0").decode(errors="replace")
    return text if "\N{REPLACEMENT CHARACTER}" not in text and "\0" not in text else f"{len(held)} bytes"


def _described(held: bytes, data: bytes) -> dict[str, str]:
    """What TFLite's own metadata say of the model, and the labels of its outputs from the .zip behind the model."""
    if held[4:8] != b"M001":
        return {"TFLITE_METADATA": f"{len(held)} bytes"}
    model = Buffer(held).root()
    fields = {"name": 0, "description": 1, "version": 2, "author": 4, "license": 5}
    found = {name: text for name, field in fields.items() if (text := model.text(field))}
    for subgraph in model.tables(3):
        for number, output in enumerate(subgraph.tables(3)):
            for file in output.tables(6):
                if file.number(2, "b") in _LABELS:
                    found[f"labels of output {number}"] = _labels(data, file.text(0))
    return found


_LABELS: Final = (2, 3)
"""AssociatedFileType: of a tensor's axis, and of its values."""


def _labels(data: bytes, name: str) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed, packed.open(name) as opened:
            return opened.read(MOST_LABEL_BYTES).decode(errors="replace")
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        raise Broken(f"its labels {name!r} cannot be read") from error


PLUGIN: Final[Format] = _TFLite()
