"""Core ML programs by coremltools, from a trace of torch.jit, whose scopes tell the module of every operation.

int8, palette6 and palette4 are what weights are stored as; activations are computed in fp16. w8a8 also rounds what
goes into convolutions and linear layers to integers.
"""

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekd.converters import Converter, Source
from edgekd.converters._coreml_rounding import rounded
from edgekd.converters._modules import check_in_float, lies_below
from edgekd.converters._unsupported import FAILURES, blame_operator, export_program
from edgekd.errors import ConvertError
from edgekd.specs import TensorSpec

if TYPE_CHECKING:
    from torch import nn

NAME: Final = "Core ML"
LEAST_WEIGHTS: Final = 512
"""Tensors of fewer elements are not quantized: their scales and tables would take what is saved."""
NARROWER: Final = {"int64": "int32", "bool": "bool", "float64": "float32"}
LAYERS: Final = "edgekd.layers"
"""Key of the metadata that tells the torch module of every value."""


class _CoreML:
    suffix = ".mlpackage"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8", "palette6", "palette4", "w8a8")
    packages: tuple[str, ...] = ("coremltools", "torch")

    def convert(
        self, source: Source, precision: str, out: Path
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        check_in_float(source)
        module = rounded(source) if precision == "w8a8" else source.module
        with _quiet():
            model, names = _converted(module, source, precision)
            model = _smaller(model, names, precision, source.quantization.in_float)
            modules = {value: path for value, path in names.items() if path}
            _describe(model, {**source.properties, LAYERS: json.dumps(modules, sort_keys=True)})
            model.save(str(out))
        _settle(out)
        inputs = tuple(_narrowed(given) for given in source.inputs)
        return inputs, tuple(_narrowed(given) for given in source.outputs)


def _narrowed(given: TensorSpec) -> TensorSpec:
    dtype = NARROWER.get(given.dtype, given.dtype)
    return TensorSpec(name=given.name, shape=given.shape, dtype=dtype, layout=given.layout)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Converters warn of versions of torch that they were not tested with, and draw bars."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _converted(module: "nn.Module", source: Source, precision: str) -> tuple[Any, dict[str, str]]:
    """The package in float, and for each of its values the torch module that it comes from."""
    import coremltools
    import torch

    zeros = [torch.zeros(given.shape, dtype=getattr(torch, given.dtype)) for given in source.inputs]
    try:
        with torch.no_grad():
            traced = torch.jit.trace(module, tuple(zeros), check_trace=False)  # type: ignore[no-untyped-call]  # torch
        model = coremltools.convert(
            traced,
            inputs=[
                coremltools.TensorType(
                    name=given.name, shape=given.shape, dtype=np.dtype(NARROWER.get(given.dtype, given.dtype)).type
                )
                for given in source.inputs
            ],
            outputs=[coremltools.TensorType(name=given.name, **_output_type(given)) for given in source.outputs],
            convert_to="mlprogram",
            compute_precision=getattr(coremltools.precision, "FLOAT32" if precision == "fp32" else "FLOAT16"),
            minimum_deployment_target=coremltools.target.iOS17 if precision == "w8a8" else coremltools.target.iOS16,
            skip_model_load=True,
        )
    except (*FAILURES, NotImplementedError) as error:
        raise blame_operator(export_program(source.module, zeros, NAME), error, NAME) from error
    return model, _modules(model, traced)


def _output_type(given: TensorSpec) -> dict[str, Any]:
    """Outputs that are floats are float32 whatever the precision, so that applications read the same everywhere."""
    return {"dtype": np.float32} if given.dtype == "float32" else {}


def _modules(model: Any, traced: Any) -> dict[str, str]:
    """Value -> torch module; coremltools keeps a module's last name, the trace its whole path."""
    import torch
    from coremltools.converters.mil.mil.scope import ScopeSource

    graph = torch._C._jit_pass_canonicalize(traced.forward.graph)
    paths = {out.debugName(): node.scopeName().split("/")[-1] for node in graph.nodes() for out in node.outputs()}
    found = {}
    for operation in model._mil_program.functions["main"].operations:
        scope = operation.scopes.get(ScopeSource.TORCHSCRIPT_MODULE_NAME, [])
        path = paths.get(scope[-1], "") if scope else ""
        for output in operation.outputs:
            found[output.name] = path.removeprefix("__module.").removeprefix("__module")
    return found


def _smaller(model: Any, modules: dict[str, str], precision: str, in_float: tuple[str, ...]) -> Any:
    from coremltools.optimize import coreml as smaller

    if precision in {"fp32", "fp16"}:
        return model
    bits = {"palette6": 6, "palette4": 4}.get(precision)
    config: Any = (
        smaller.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=LEAST_WEIGHTS)
        if bits
        else smaller.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=LEAST_WEIGHTS)
    )
    whole = smaller.OptimizationConfig(global_config=config)
    for operation in model._mil_program.functions["main"].operations:
        if operation.op_type != "const" and lies_below(modules.get(operation.outputs[0].name, ""), in_float):
            whole.set_op_name(operation.name, None)
    return smaller.palettize_weights(model, whole) if bits else smaller.linear_quantize_weights(model, whole)


def _describe(model: Any, properties: dict[str, str]) -> None:
    model.license = properties.get("edgekd.licence", properties.get("edgekd.data_licence", ""))
    model.short_description = properties.get("edgekd.title", "")
    for key in list(model.user_defined_metadata):
        del model.user_defined_metadata[key]
    for key, value in properties.items():
        model.user_defined_metadata[key] = value


def _settle(out: Path) -> None:
    """Make equal packages equal files: names instead of random numbers, and maps in the order of their keys."""
    from coremltools.proto import Model_pb2

    manifest = json.loads((out / "Manifest.json").read_text(encoding="utf-8"))
    names = {key: entry["name"] for key, entry in sorted(manifest["itemInfoEntries"].items())}
    manifest["itemInfoEntries"] = {names[key]: entry for key, entry in manifest["itemInfoEntries"].items()}
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    (out / "Manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    for path in out.rglob("*.mlmodel"):
        spec = Model_pb2.Model.FromString(path.read_bytes())
        path.write_bytes(spec.SerializeToString(deterministic=True))
    for folder in sorted(out.rglob("*"), reverse=True):
        if folder.is_dir() and not any(folder.iterdir()):
            shutil.rmtree(folder)
    if not any(out.rglob("*.mlmodel")):
        raise ConvertError(f"{NAME}: coremltools wrote no model")


PLUGIN: Final[Converter] = _CoreML()
