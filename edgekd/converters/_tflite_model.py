"""A .tflite file as objects, and the names in it.

Tensors are named by the torch module that makes them, "blocks.3.conv", then "blocks.3.conv:1": quantization finds
modules by these names, and so does whoever looks for the module that an operator came from.
"""

from collections.abc import Sequence
from functools import cache
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
    code = model.operatorCodes[operator.opcodeIndex]
    return _kinds()[max(code.builtinCode, code.deprecatedBuiltinCode)]


@cache
def _kinds() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(schema.BuiltinOperator).items()}


def name_by_modules(model: Any, weighted: frozenset[str], outputs: Sequence[str]) -> None:
    """Name tensors "module:number", by the torch modules that make them; `outputs` are those of the model's outputs.

    Inputs and outputs are brought into the order of the module's.
    The converter calls tensors after all the modules that were fused into an operator: "stem.2;;stem.0;1". Where a
    module with weights, one of `weighted`, is among those of an operator with weights, that is the one.
    """
    graph = model.subgraphs[0]
    _order_ends(model)
    kinds = {index: kind(model, operator) for operator in graph.operators for index in operator.outputs}
    names = [_module(tensor.name.decode(), weighted, kinds.get(i, "")) for i, tensor in enumerate(graph.tensors)]
    for one in model.signatureDefs[0].outputs:
        names[one.tensorIndex] = outputs[_number(one.name)] or OUTERMOST
    for number, (tensor, name) in enumerate(zip(graph.tensors, names, strict=True)):
        tensor.name = f"{name}:{number}".encode()


def take_means_in_place(model: Any) -> None:
    """Let an average over an image's places read the image as it lies, where the converter transposes it first.

    torch's images are channels first and TFLite's last; a neural processor (Ethos-U) averages over height and width,
    and not over the last two axes of what was transposed.
    """
    import numpy as np

    graph = model.subgraphs[0]
    readers = [index for operator in graph.operators for index in operator.inputs]
    makers = {operator.outputs[0]: operator for operator in graph.operators if kind(model, operator) == "TRANSPOSE"}
    for mean in [one for one in graph.operators if kind(model, one) == "MEAN"]:
        transpose = makers.get(mean.inputs[0])
        if transpose is None or mean.builtinOptions.keepDims or mean.inputs[0] in graph.outputs:
            continue
        moved, axes = _constant(model, transpose.inputs[1]), _constant(model, mean.inputs[1])
        if moved is None or axes is None or readers.count(mean.inputs[0]) > 1 or readers.count(mean.inputs[1]) > 1:
            continue
        axes = [axis % len(moved) for axis in axes]
        if (kept := [one for axis, one in enumerate(moved) if axis not in axes]) != sorted(kept):
            continue  # the rest would come out in another order
        there = np.array(sorted(moved[axis] for axis in axes), np.int32)
        model.buffers[graph.tensors[mean.inputs[1]].buffer].data = np.frombuffer(there.tobytes(), np.uint8)
        mean.inputs = [transpose.inputs[0], mean.inputs[1]]
        graph.operators = [one for one in graph.operators if one is not transpose]


def _constant(model: Any, index: int) -> list[int] | None:
    """The 32-bit integers of a constant tensor; None where it is none."""
    import numpy as np

    data = model.buffers[model.subgraphs[0].tensors[index].buffer].data
    return None if data is None or not len(data) else np.frombuffer(bytes(data), np.int32).tolist()


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
    """Call inputs and outputs as their specs do, in the file and in its signature, which has the last word on them.

    Of all others, what operators with weights make is counted first, and constants last.
    """
    _order_ends(model)
    graph, signature, fixed = model.subgraphs[0], model.signatureDefs[0], dict[int, str]()
    for maps, specs in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for one, spec in zip(maps, specs, strict=True):
            one.name = spec.name.encode()
            fixed.setdefault(one.tensorIndex, spec.name)  # a tensor may be two outputs, or an input as well
    unique = Names()
    operators = sorted(graph.operators, key=lambda operator: kind(model, operator) not in WEIGHTED)
    made = [index for operator in operators for index in operator.outputs]
    for index in dict.fromkeys([*fixed, *made, *range(len(graph.tensors))]):
        base = graph.tensors[index].name.decode().partition(":")[0]
        graph.tensors[index].name = unique.unique(fixed.get(index, base)).encode()


def _order_ends(model: Any) -> None:
    """Put inputs and outputs into the module's order, in which ten comes after two, and take them from the signature.

    Where an output is read by an operator of another range as well, quantization lets the graph end in a copy with that
    range, and leaves the signature at the finer one.
    """
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    for maps in (signature.inputs, signature.outputs):
        maps.sort(key=lambda one: _number(one.name))
    graph.inputs = [one.tensorIndex for one in signature.inputs]
    graph.outputs = [one.tensorIndex for one in signature.outputs]


def module_of(model: Any, operator: Any) -> str:
    """The torch module of an operator in a named model."""
    name: str = model.subgraphs[0].tensors[operator.outputs[0]].name.decode().partition(":")[0]
    return name


def _number(name: bytes) -> int:
    """3 of "output_3": the converter counts a module's inputs and outputs."""
    return int(name.rpartition(b"_")[2])
