"""Executes Core ML packages (.mlpackage with an ML program) where there is no Mac.

    from edgekd import coreml

    program = coreml.open_package(Path("model.mlpackage"))
    outputs = coreml.execute(program, [image])

The package's own program and weights are read, without coremltools, and each operation is executed as Apple's MIL
specification describes it (coremltools/converters/mil/mil/ops/defs), with float32 kernels of torch. A value that the
program types as fp16 is rounded to fp16 after each operation. So this checks the graph, its weights and what fp16 or
quantization costs; it does not check Apple's kernels, and says nothing of their speed.

To add an operator, write its function into the file of its category in `edgekd/coreml/operators/` and name it in that
file's table.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edgekd.coreml.package import open_package
from edgekd.coreml.program import Block, Constant, Feature, Named, Operation, Program, Type
from edgekd.errors import PluginUnavailable

__all__ = ["Block", "Constant", "Feature", "Named", "Operation", "Program", "Type", "execute", "layers", "open_package"]

LAYERS = "edgekd.layers"
CONSTANTS = "edgekd.constants_sha256"
"""Key of the user-defined metadata that tells which torch module made a value."""


def execute(
    program: Program,
    inputs: Sequence[NDArray[Any]] | Mapping[str, NDArray[Any]],
    taps: Sequence[str] = (),
    *,
    round_fp16: bool = True,
) -> dict[str, NDArray[Any]]:
    """Outputs of one call by name, in the program's order and types, and the values that are tapped, by their names.

    Inputs come in the order of `program.inputs` or by name; optional ones may be left out by name. States are zeros
    unless they are given by name, and what they hold at the end is had by tapping their names. A label comes as an
    array of str or int64, a classifier's probabilities as a vector in the order of `metadata["classes"]`.

    With `round_fp16=False` values of fp16 keep float32's precision, which shows what the rounding alone costs.

    Raises:
        UnsupportedOperator: an operator that edgekd does not execute, or that the program's op set has not.
        MeasureError: inputs that do not fit, an operation that fails or disagrees with its declared type, a tap that
            is no value of the program, or more memory or work than a package and inputs of that size may take.
        PluginUnavailable: torch is not installed.
    """
    try:
        from edgekd.coreml.interpreter import run
    except ModuleNotFoundError as missing:
        raise PluginUnavailable(
            f"executing a Core ML package needs {missing.name}", hint="pip install 'edgekd[train]'"
        ) from missing
    return run(program, inputs, taps, round_fp16)


def layers(program: Program) -> dict[str, str]:
    """Each value of the program's operations -> path of the torch module that it comes from, "" where none is told.

    The converter writes the paths into the package's user-defined metadata, as JSON under "edgekd.layers".
    """
    try:
        told = json.loads(program.metadata.get(LAYERS, "{}"))
    except (ValueError, RecursionError):
        told = {}
    known = {name: path for name, path in told.items() if isinstance(path, str)} if isinstance(told, dict) else {}
    values = (output.name for operation in program.operations for output in operation.outputs)
    return {name: known.get(name, "") for name in values}
