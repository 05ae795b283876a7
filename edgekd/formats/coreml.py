"""Core ML packages with an ML program, read by edgekd/coreml."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgekd import coreml
from edgekd.coreml import Program
from edgekd.errors import ConfigError
from edgekd.formats import Format
from edgekd.specs import Graph, Operator


class _CoreML:
    suffixes: tuple[str, ...] = (".mlpackage",)

    def read(self, path: Path) -> Graph:
        program = coreml.open_package(path)
        return Graph(
            format="coreml",
            inputs=program.inputs,
            outputs=program.outputs,
            operators=_operators(program),
            properties=dict(program.metadata),
        )

    def tap(self, path: Path, tensors: Sequence[str], out: Path) -> None:
        raise ConfigError(f"{path}: tensors inside of a Core ML package cannot be tapped")


def _operators(program: Program) -> tuple[Operator, ...]:
    modules = coreml.layers(program)
    return tuple(
        Operator(
            kind=operation.kind,
            name=operation.outputs[0].name if operation.outputs else operation.name,
            layer=modules.get(operation.outputs[0].name, "") if operation.outputs else "",
            inputs=tuple(one for given in operation.inputs.values() for one in given if isinstance(one, str)),
            outputs=tuple(one.name for one in operation.outputs),
            dtype=operation.outputs[0].type.dtype if operation.outputs else "",
        )
        for operation in program.operations
        if operation.kind != "const"
    )


PLUGIN: Final[Format] = _CoreML()
