"""A .tflite file as objects, and the names in it.

Tensors are named by the torch module that makes them, "blocks.3.conv", then "blocks.3.conv:1": quantization finds
modules by these names, and so does whoever looks for the module that an operator came from.
"""

from collections.abc import Sequence
from typing import Any, Final

from edgekd.converters._modules import Names
from edgekd.specs import TensorSpec

OUTERMOST: Final = "model"
"""Stands for the outermost module, whose path is empty."""

WEIGHTED: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL")
"""Operators that activations and batch norms are fused into."""


def read(content: bytes) -> Any:
    """The model, as the schema's own ModelT; constants that lie behind the table are taken into it."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    for buffer in model.buffers:
        if buffer.offset > 1:  # 0: it lies in the table, 1: it is empty
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def write(model: Any) -> bytes:
    """The bytes of a model; its constants are aligned to 16 bytes, as the schema wants and Python's packing forgets."""
    import flatbuffers

    class Aligned(flatbuffers.Builder):  # type: ignore[misc]  # it ships no types
        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:
            return super().StartVector(elemSize, numElems, max(alignment, 16 if elemSize == 1 else alignment))

    builder = Aligned(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def kind(model: Any, operator: Any) -> str:
    """The name of an operator's kind: "CONV_2D"."""
    from ai_edge_litert import schema_py_generated as schema

    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    names: dict[int, str] = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    return names[number]


def name_by_modules(model: Any, weighted: frozenset[str], outputs: Sequence[str]) -> None:
    """Name tensors "module:number", by the torch modules that make them; `outputs` are those of the model's outputs.

    The converter calls tensors after all the modules that were fused into an operator: "stem.2;;stem.0;1". Where a
    module with weights, one of `weighted`, is among those of an operator with weights, that is the one.
    """
    graph = model.subgraphs[0]
    kinds = {index: kind(model, operator) for operator in graph.operators for index in operator.outputs}
    names = [_module(tensor.name.decode(), weighted, kinds.get(i, "")) for i, tensor in enumerate(graph.tensors)]
    for one in model.signatureDefs[0].outputs:
        names[one.tensorIndex] = outputs[_number(one.name)] or OUTERMOST
    for number, (tensor, name) in enumerate(zip(graph.tensors, names, strict=True)):
        tensor.name = f"{name}:{number}".encode()


def _module(name: str, weighted: frozenset[str], kind: str) -> str:
    """The torch module in a converter's name for a tensor.

    >>> _module("stem.1;;stem.0;2", frozenset({"stem.0"}), "CONV_2D")
    'stem.0'
    >>> _module("blocks.0;;blocks.0.project;", frozenset({"blocks.0.project"}), "ADD")
    'blocks.0'
    """
    paths = [part for part in name.split(";") if part and not part.isdecimal()]
    if kind in WEIGHTED:
        paths.sort(key=lambda path: path not in weighted)  # stable: the first of those that have weights
    return paths[0] if paths else OUTERMOST


def name_ends(model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Bring inputs and outputs into the order of their specs, and call them so, in the file and in its signature.

    Of all others, what operators with weights make is counted first, and constants last.
    """
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    fixed: dict[int, str] = {}
    for side, specs in (("inputs", inputs), ("outputs", outputs)):
        maps = sorted(getattr(signature, side), key=lambda one: _number(one.name))
        for one, spec in zip(maps, specs, strict=True):
            one.name = spec.name.encode()
            fixed.setdefault(one.tensorIndex, spec.name)  # a tensor may be two outputs, or an input as well
        setattr(signature, side, maps)
        setattr(graph, side, [one.tensorIndex for one in maps])
    unique = Names()
    operators = sorted(graph.operators, key=lambda operator: kind(model, operator) not in WEIGHTED)
    made = [index for operator in operators for index in operator.outputs]
    for index in dict.fromkeys([*fixed, *made, *range(len(graph.tensors))]):
        base = graph.tensors[index].name.decode().partition(":")[0]
        graph.tensors[index].name = unique.unique(fixed.get(index, base)).encode()


def module_of(model: Any, operator: Any) -> str:
    """The torch module of an operator in a named model."""
    name: str = model.subgraphs[0].tensors[operator.outputs[0]].name.decode().partition(":")[0]
    return name


def _number(name: bytes) -> int:
    """3 of "output_3": the converter counts a module's inputs and outputs."""
    return int(name.rpartition(b"_")[2])
