"""TFLite through LiteRT Torch, quantized by AI Edge Quantizer; images are NHWC, as TFLite's kernels want them.

"dynamic" has int8 weights and float activations, "int8" and "int16" have activations of that size as well; where the
runtimes have no integer kernel for an operator, it computes in float between them.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgekd.converters import Converter, Source, _tflite_metadata, _tflite_model, _tflite_quantize
from edgekd.converters._advice import advice
from edgekd.converters._modules import check_in_float, fingerprint, fold_norms
from edgekd.converters._unsupported import (
    FAILURES,
    blame_operator,
    export_program,
    first_in_module,
    module_of,
    name_of,
    place_of,
    refuse_sizes_from_data,
)
from edgekd.errors import ConvertError, UnsupportedOperator
from edgekd.specs import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

NAME: Final = "TFLite"


class _TFLite:
    suffix = ".tflite"
    precisions: tuple[str, ...] = ("fp32", "fp16", "dynamic", "int8", "int16")
    packages: tuple[str, ...] = ("litert-torch", "ai-edge-quantizer", "ai-edge-litert", "torch")
    family = "tflite"

    def convert(
        self, source: Source, precision: str, out: Path
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        check_in_float(source)
        content = _float_model(source.module, source.inputs, fingerprint(source.module))
        if precision != "fp32":
            content = _quantized(content, precision, source)
        model = _tflite_model.read(content)
        _tflite_model.name_ends(model, source.inputs, source.outputs)
        inputs, outputs = _described(_tflite_model.write(model), precision, source)
        _tflite_metadata.describe(model, source.properties, inputs, outputs)
        out.write_bytes(_tflite_metadata.append_labels(_tflite_model.write(model), source.properties))
        return inputs, outputs


# --- float


@lru_cache(maxsize=1)  # precisions and rules of one model are made one after the other, and this is what takes long
def _float_model(module: "nn.Module", inputs: tuple[TensorSpec, ...], weights: str) -> bytes:
    """The file in float32, its tensors named by torch modules; `weights` is their fingerprint, for the cache."""
    del weights
    examples = tuple(_zeros(given) for given in inputs)
    with _taking_nhwc(module, inputs):
        program = export_program(module, examples, NAME)
    refuse_sizes_from_data(program, NAME)
    fold_norms(program)
    outputs = _output_modules(program)
    weighted = frozenset(module_of(node) for node in program.graph.nodes if _has_weights(node))
    model = _tflite_model.read(_lower(program, examples))
    _tflite_model.take_means_in_place(model)
    _tflite_model.name_by_modules(model, weighted, outputs)
    content = _tflite_model.write(model)
    _check_kernels(content, program)
    return content


def _zeros(given: TensorSpec) -> "Tensor":
    import torch

    if min(given.shape, default=1) < 1:
        raise ConvertError(f"{NAME} needs sizes that are fixed, {given.name!r} has {given.shape}")
    return _nhwc(given, torch.zeros(given.shape, dtype=getattr(torch, given.dtype)))


def _nhwc(given: TensorSpec, tensor: "Tensor") -> "Tensor":
    return tensor.permute(0, 2, 3, 1).contiguous() if given.layout == "NCHW" else tensor


@contextmanager
def _taking_nhwc(module: "nn.Module", inputs: tuple[TensorSpec, ...]) -> Iterator[None]:
    """The module takes images in the file's layout; a hook, since a module around it would change all names."""

    def permute(_: "nn.Module", given: "tuple[Tensor, ...]") -> "tuple[Tensor, ...]":
        return tuple(
            tensor.permute(0, 3, 1, 2) if spec.layout == "NCHW" else tensor
            for spec, tensor in zip(inputs, given, strict=True)
        )

    hook = module.register_forward_pre_hook(permute, prepend=True)
    try:
        yield
    finally:
        hook.remove()


def _output_modules(program: "ExportedProgram") -> list[str]:
    """For each output the path of the module that makes it."""
    nodes = {node.name: node for node in program.graph.nodes}
    return [module_of(nodes[name]) for name in program.graph_signature.user_outputs]


def _has_weights(node: Any) -> bool:
    return node.op == "call_function" and bool(re.search(r"conv|linear|matmul|mm\b", str(node.target)))


@contextmanager
def _named_by_modules(program: "ExportedProgram") -> Iterator[None]:
    """What the converter names a tensor by is the whole path of its module, rather than the types on the way to it."""
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    stacks = [node.meta.get("nn_module_stack") for node in nodes]
    for node in nodes:
        node.meta["nn_module_stack"] = {"": ("", module_of(node) or _tflite_model.OUTERMOST)}
    try:
        yield
    finally:
        for node, stack in zip(nodes, stacks, strict=True):
            node.meta["nn_module_stack"] = stack


def _lower(program: "ExportedProgram", examples: "tuple[Tensor, ...]") -> bytes:
    import litert_torch
    from litert_converter.mlir import ir
    from litert_torch import _config

    _config.config.show_progress = False
    try:
        with _named_by_modules(program), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecations between torch, JAX and this library
            module = program.module()
            module.training = False  # else it warns of a mode that a graph no longer has
            return bytes(litert_torch.convert(module, examples).model_content())
    except (*FAILURES, ir.MLIRError) as error:
        raise blame_operator(program, error, NAME) from error


def _check_kernels(content: bytes, program: "ExportedProgram") -> None:
    """Raise unless the runtime has all operators that the converter made."""
    try:
        _execute(content)
    except (RuntimeError, ValueError) as error:
        kind, module = _blamed(content, error)
        node = first_in_module(program, module) if kind else None
        if node is None:
            raise UnsupportedOperator(f"{NAME}'s runtimes cannot execute this model: {_line(error)}") from error
        operator = name_of(node.target)
        raise UnsupportedOperator(
            f"{NAME} cannot express {operator} of {place_of(node)}: runtimes have no {kind}", hint=advice(operator)
        ) from error


def _blamed(content: bytes, error: Exception) -> tuple[str, str]:
    """Kind and module of the operator that a runtime's error names; empty where it names none."""
    named = {name for pattern in (r"'(\w+)'", r"\((\w+)\)") for name in re.findall(pattern, str(error))}
    model = _tflite_model.read(content)
    for operator in model.subgraphs[0].operators:
        if _tflite_model.kind(model, operator) in named:
            return _tflite_model.kind(model, operator), _tflite_model.module_of(model, operator)
    return "", ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _execute(content: bytes) -> Any:
    """An interpreter that has executed the model once, on zeros."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    interpreter.invoke()
    return interpreter


# --- integers


def _quantized(content: bytes, precision: str, source: Source) -> bytes:
    try:
        return _tflite_quantize.quantize(content, precision, source.quantization, _examples(source))
    except FAILURES as error:
        raise ConvertError(
            f"{NAME} cannot be quantized to {precision}: {_line(error) or type(error).__name__}",
            hint="try another precision",
        ) from error


def _examples(source: Source) -> Iterator[list[NDArray[Any]]]:
    """Calibration examples in the file's layout and types."""
    import torch

    narrow = {"int64": np.int32, "float64": np.float32}
    for arrays in zip(*source.calibration, strict=True):
        yield [
            _nhwc(given, torch.from_numpy(array)).numpy().astype(narrow.get(given.dtype, given.dtype))
            for given, array in zip(source.inputs, arrays, strict=True)
        ]


def _described(content: bytes, precision: str, source: Source) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the file has them.

    Raises:
        ConvertError: runtimes have no kernels for this precision of the model.
    """
    try:
        interpreter = _execute(content)
    except (RuntimeError, ValueError) as error:
        kind, module = _blamed(content, error)
        raise ConvertError(
            f"{NAME}'s runtimes have no {precision} kernel for {kind or 'an operator'} of this model: {_line(error)}",
            hint=f"leave module {module!r} in float" if module else "try another precision",
        ) from error
    inputs = [
        _spec(given, detail, "NHWC" if given.layout == "NCHW" else given.layout)
        for given, detail in zip(source.inputs, interpreter.get_input_details(), strict=True)
    ]
    outputs = [
        _spec(given, detail, "") for given, detail in zip(source.outputs, interpreter.get_output_details(), strict=True)
    ]
    return tuple(inputs), tuple(outputs)


def _spec(given: TensorSpec, detail: dict[str, Any], layout: Literal["", "NCHW", "NHWC"]) -> TensorSpec:
    shape = tuple(int(size) for size in detail["shape"])
    return TensorSpec(name=given.name, shape=shape, dtype=np.dtype(detail["dtype"]).name, layout=layout)


PLUGIN: Final[Converter] = _TFLite()
