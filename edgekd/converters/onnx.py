"""ONNX through torch.export; fp16 has float32 inputs and outputs, int8 is QDQ by ONNX Runtime (see _onnx_quantize.py).

Nodes are named by the torch modules that they come from: "blocks.3.conv", then "blocks.3.conv:1".
"""

import ast
import logging
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekd.converters import Converter, Source, _onnx_quantize
from edgekd.converters._modules import Names, check_in_float, fingerprint, fold_norms, lies_below
from edgekd.converters._unsupported import FAILURES, blame_operator, export_program
from edgekd.errors import ConvertError
from edgekd.specs import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto
    from torch import nn

NAME: Final = "ONNX"
SETS: Final = (20, 18)
"""Operator sets that are written: the first that a device reads. 18 has no GELU, which costs an encoder 8% of time."""
OUTERMOST: Final = "model"
"""Stands for the outermost module, whose path is empty."""


class _Onnx:
    suffix = ".onnx"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    packages: tuple[str, ...] = ("onnx", "onnxscript", "onnxruntime", "torch")
    family = "onnx"

    def convert(
        self, source: Source, precision: str, out: Path
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        import onnx

        check_in_float(source)
        outputs = tuple(given.name for given in source.outputs)
        content = _float_model(source.module, source.inputs, outputs, _set(source), fingerprint(source.module))
        model = onnx.load_from_string(content)
        modules = _modules(model)
        _name_nodes(model, modules)
        if precision == "fp16":
            model = _halved(model, modules)
        elif precision == "int8":
            model = _quantized(model, modules, source, out.parent)
        _tidy(model, source.properties)
        onnx.checker.check_model(model)
        out.write_bytes(model.SerializeToString(deterministic=True))
        return source.inputs, source.outputs


def _set(source: Source) -> int:
    """The operator set to write.

    Raises:
        ConvertError: the device reads older ones only.
    """
    newest = source.newest_set or SETS[0]
    for number in SETS:
        if number <= newest:
            return number
    raise ConvertError(
        f"the device's runtime reads operator sets up to {newest}, and none below {SETS[-1]} is written",
        hint="install a newer ONNX Runtime there",
    )


@lru_cache(maxsize=1)  # precisions and rules of one model are made one after the other, and this is what takes long
def _float_model(
    module: "nn.Module", inputs: tuple[TensorSpec, ...], outputs: tuple[str, ...], newest_set: int, weights: str
) -> bytes:
    """The model in float32, as the exporter makes it; `weights` is their fingerprint, for the cache."""
    import torch

    del weights
    for given in inputs:
        if min(given.shape, default=1) < 1:
            raise ConvertError(f"{NAME} is exported with sizes that are fixed, {given.name!r} has {given.shape}")
    zeros = [torch.zeros(given.shape, dtype=getattr(torch, given.dtype)) for given in inputs]
    program = export_program(module, zeros, NAME)
    fold_norms(program)
    try:
        with _quiet():
            made: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=newest_set,
                input_names=[given.name for given in inputs],
                output_names=outputs,
                verbose=False,
            )
    except (*FAILURES, torch.onnx.OnnxExporterError) as error:
        raise blame_operator(program, error, NAME) from error
    return bytes(made.model_proto.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of torchvision that is not there, and of deprecations inside of PyTorch."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# --- precisions


def _halved(model: "ModelProto", modules: dict[str, str]) -> "ModelProto":
    """The model in float16; operators that ONNX Runtime knows to need float32 keep it."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    given = {node.name for node in model.graph.node}
    _free_outputs(model)
    halved = _sorted(convert_float_to_float16(model, keep_io_types=True))
    _name_nodes(halved, modules, given)
    return halved


def _free_outputs(model: "ModelProto") -> None:
    """Put a node between a constant and an output that it is, for a type cannot change between the two otherwise."""
    from onnx import helper

    outputs = {value.name for value in model.graph.output}
    for constant in model.graph.initializer:
        if constant.name in outputs:
            name = constant.name
            constant.name = f"{name}_constant"
            model.graph.node.append(helper.make_node("Identity", [constant.name], [name]))


def _quantized(model: "ModelProto", modules: dict[str, str], source: Source, folder: Path) -> "ModelProto":
    prepared = _onnx_quantize.prepare(model, folder)
    _name_nodes(prepared, modules)
    given = {node.name for node in prepared.graph.node}
    in_float = [node.name for node in prepared.graph.node if lies_below(node.name, source.quantization.in_float)]
    made = _sorted(_onnx_quantize.quantize(prepared, source.quantization.ranges, in_float, _examples(source)))
    _name_nodes(made, modules, given)
    return made


def _sorted(model: "ModelProto") -> "ModelProto":
    """The model with each node behind those whose tensors it reads, as the format wants; precisions add at the end."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    wrapped = ONNXModel(model)
    wrapped.topological_sort()
    made: ModelProto = wrapped.model
    return made


def _examples(source: Source) -> Iterator[dict[str, NDArray[Any]]]:
    for arrays in zip(*source.calibration, strict=True):
        yield {
            given.name: np.ascontiguousarray(array, given.dtype)
            for given, array in zip(source.inputs, arrays, strict=True)
        }


# --- names and metadata


def _modules(model: "ModelProto") -> dict[str, str]:
    """For each tensor the torch module that makes it, as the exporter noted it."""
    return {name: _module(node) for node in model.graph.node for name in node.output}


def _module(node: "NodeProto") -> str:
    noted = {entry.key: entry.value for entry in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "[]")
    scopes: list[str] = ast.literal_eval(noted)  # the modules from the outermost on, then the operator
    return scopes[-2] if len(scopes) > 1 else ""


_ADDED: Final = re.compile(r"_(QuantizeLinear|DequantizeLinear)_(In|Out)put$|_cast_to_fp(16|32)$")
"""What precisions put behind a tensor's name for one that they add."""


def _name_nodes(model: "ModelProto", modules: dict[str, str], given: Collection[str] = ()) -> None:
    """Name nodes by the module that makes their tensors, or else by that of the node that reads them.

    A node of a name that is `given` has it from here, and keeps its module: activations may have been taken into it.
    """
    readers = {name: node for node in reversed(model.graph.node) for name in node.input}
    found: dict[str, str] = {}
    for node in reversed(model.graph.node):
        made = _made(node)
        module = node.name.partition(":")[0] if node.name in given else modules.get(_ADDED.sub("", made))
        if module is None:
            module = found[_made(readers[made])] if made in readers else ""
        found[made] = module
    unique = Names()
    for node in sorted(model.graph.node, key=_rank):
        node.name = unique.unique(found[_made(node)] or OUTERMOST)


def _rank(node: "NodeProto") -> int:
    """What a module is about comes first, then what helps it, then what a precision puts between."""
    if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU"}:
        return 0
    return 2 if node.op_type in {"Cast", "QuantizeLinear", "DequantizeLinear"} else 1


def _made(node: "NodeProto") -> str:
    """The first tensor that a node makes; some leave the first of several out."""
    made: str = next(name for name in node.output if name)
    return made


def _tidy(model: "ModelProto", properties: dict[str, str]) -> None:
    """Take out what the exporter says of this machine's source files and what no node needs, and put in what a reader
    wants to know.
    """
    from onnx import helper

    domains = {node.domain for node in model.graph.node}
    imports = [one for one in model.opset_import if one.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(imports)
    model.ir_version = helper.find_min_ir_version_for(imports, ignore_unknown=True)
    del model.metadata_props[:]
    for key, value in sorted(properties.items()):
        model.metadata_props.add(key=key, value=value)
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]


PLUGIN: Final[Converter] = _Onnx()
