"""Core ML packages with an ML program, by coremltools.

fp32 and fp16 say what is stored and computed in; all others compute in fp16. int8 and the palettes (6 and 4 bits) store
weights only, w8a8 has integers between operators too, and wants iOS 17 where the others want iOS 16.

The module is traced, for coremltools' reader of torch.export knows fewer operators (it has no LSTM), is slower, and
writes the lines of the user's source files into the package. torch.export goes first all the same: what a trace would
silently keep as it was for one input, it refuses.
"""

import contextlib
import gc
import io
import logging
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgekd.converters import Converter, Source, _coreml_compress
from edgekd.converters._coreml_layers import module_of_values, spread
from edgekd.converters._coreml_package import write_package
from edgekd.converters._coreml_trace import trace
from edgekd.converters._ends import check_names_differ
from edgekd.converters._modules import check_in_float, fingerprint
from edgekd.converters._unsupported import FAILURES, blame_operator, export_program
from edgekd.errors import ConvertError, EdgekdError
from edgekd.specs import TensorSpec

if TYPE_CHECKING:
    from torch import nn

NAME: Final = "Core ML"


class _CoreML:
    suffix = ".mlpackage"
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8", "palette6", "palette4", "w8a8")
    packages: tuple[str, ...] = ("coremltools", "torch")
    family = "coreml"

    def convert(
        self, source: Source, precision: str, out: Path
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        check_in_float(source)
        check_names_differ(source, NAME)
        with _quiet(), tempfile.TemporaryDirectory(dir=out.parent) as scratch:
            kind = "FLOAT32" if precision == "fp32" else "FLOAT16"
            model, modules = _float_model(
                source.module, source.inputs, source.outputs, kind, fingerprint(source.module)
            )
            try:
                model = _coreml_compress.compress(model, modules, source, precision, Path(scratch))
            except FAILURES as error:
                raise ConvertError(f"{NAME} cannot hold this module in {precision}: {error}") from error
            specification, weights = model.get_spec(), Path(model.weights_dir) / "weight.bin"
            layers = spread(specification.mlProgram, modules)
            write_package(specification, weights, source.properties, layers, out)
        return tuple(map(_stored, source.inputs)), tuple(map(_stored, source.outputs))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Load coremltools without what it would load to convert from, in silence, and let go of its files at the end."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with (
        contextlib.redirect_stderr(io.StringIO()),  # progress bars
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        _load_coremltools()
        try:
            yield
        except EdgekdError as error:
            _clear(error)
            raise
        finally:
            gc.collect()  # here, for coremltools leaves folders to the garbage collector, which warns of each


def _clear(error: BaseException | None) -> None:
    """Let go of what the frames of an error hold."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


def _load_coremltools() -> None:
    others = [name for name in ("tensorflow", "torchao", "sklearn") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(others))  # type: ignore[arg-type]  # as if they were not installed: 9 s, not 45
    try:
        import coremltools.optimize  # noqa: F401 - for what it loads
    finally:
        for name in others:
            del sys.modules[name]


@lru_cache(maxsize=2)  # all precisions but one are made of the same float16, and this is what takes long
def _float_model(
    module: "nn.Module", inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], kind: str, weights: str
) -> tuple[Any, dict[str, str]]:
    """The MLModel, and of its values the torch modules that they come from; `weights` is their fingerprint."""
    import coremltools
    import torch

    del weights
    zeros = tuple(torch.zeros(given.shape, dtype=getattr(torch, given.dtype)) for given in inputs)
    program = export_program(module, zeros, NAME)
    try:
        with torch.no_grad():
            traced, inner = trace(module, zeros, program)
        model = coremltools.convert(
            traced,
            inputs=[coremltools.TensorType(given.name, given.shape, _dtype(given)) for given in inputs],
            outputs=[coremltools.TensorType(given.name, dtype=_dtype(given)) for given in outputs],
            convert_to="mlprogram",
            minimum_deployment_target=coremltools.target.iOS16,
            compute_precision=getattr(coremltools.precision, kind),
            skip_model_load=True,
        )
    except FAILURES as error:
        raise blame_operator(program, error, NAME) from error
    _check_names(model, inputs, outputs)
    return model, module_of_values(model, traced, inner)


def _check_names(model: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Raise where coremltools gave another name than it was told, for MIL's names are those of C."""
    description = model.get_spec().description
    for features, specs in ((description.input, inputs), (description.output, outputs)):
        for feature, given in zip(features, specs, strict=True):
            if feature.name != given.name:
                raise ConvertError(
                    f"{NAME} cannot name a tensor {given.name!r}", hint="use letters, digits and _, no digit first"
                )


def _dtype(given: TensorSpec) -> type[Any]:
    """Arrays at the ends hold float32 or int32 at every precision: they are what every API of Apple's takes."""
    return np.float32 if given.dtype.startswith("float") else np.int32


def _stored(given: TensorSpec) -> TensorSpec:
    return TensorSpec(name=given.name, shape=given.shape, dtype=_dtype(given).__name__, layout=given.layout)


PLUGIN: Final[Converter] = _CoreML()
