"""Which torch module each value of an ML program comes from."""

from collections.abc import Iterator, Mapping
from typing import Any


def module_of_values(model: Any, traced: Any, inner: str) -> dict[str, str]:
    """For each value that coremltools made of a traced module the path of its module below `inner`; "" for that itself.

    coremltools notes of each value the traced one that it stands for, and its modules but for lists of modules, whose
    members it calls "0"; the trace itself knows their whole paths. A batch norm belongs to its convolution's module,
    into which it is folded here as in every other format.
    """
    from coremltools.converters.mil.mil.scope import ScopeSource

    paths = {value: _below(path, inner) for value, path in _paths(traced).items()}
    found = {}
    for operation in model._mil_program.functions["main"].operations:
        scopes = operation.scopes.get(ScopeSource.TORCHSCRIPT_MODULE_NAME)
        if operation.op_type != "const" and scopes:
            path = paths.get(scopes[-1], "")
            found.update({output.name: path for output in operation.outputs})
    return found


def _paths(traced: Any) -> dict[str, str]:
    """For each value of the traced graph, in the numbers that coremltools gives them, the module's path."""
    import torch

    graph = torch._C._jit_pass_canonicalize(traced.forward.graph)  # which conversion inlined
    nodes = list(graph.nodes())
    makers = {value.debugName(): node for node in nodes for value in node.outputs()}
    found = {}
    for name, node in makers.items():
        before = makers.get(next(node.inputs()).debugName()) if node.kind() == "aten::batch_norm" else None
        folded = before is not None and "conv" in before.kind() and len(next(before.outputs()).uses()) == 1
        found[name] = _path(before if folded else node)
    return found


def _below(path: str, inner: str) -> str:
    return path.removeprefix(inner).removeprefix(".") if inner else path


def _path(node: Any) -> str:
    return str(node.scopeName()).rpartition("/")[2].removeprefix("__module").removeprefix(".")


def spread(program: Any, modules: Mapping[str, str]) -> dict[str, str]:
    """The same of a program that has more values: what compression added belongs where its result is read, else where
    its input comes from. Values of the outermost module are left out.
    """
    operations = list(_operations(program))
    found: dict[str, str | None] = {output: modules.get(output) for _, outputs in operations for output in outputs}
    readers: dict[str, str] = {}
    for given, outputs in reversed(operations):
        for output in outputs:
            if found[output] is None:
                found[output] = found.get(readers.get(output, ""))
        readers.update({name: outputs[0] for name in given if outputs})
    for given, outputs in operations:
        for output in outputs:
            if found[output] is None:
                found[output] = next((found[name] for name in given if found.get(name) is not None), None)
    return {name: path for name, path in found.items() if path}


def _operations(program: Any) -> Iterator[tuple[list[str], list[str]]]:
    """Names of what each operation reads and makes, but for constants."""
    (block,) = program.functions["main"].block_specializations.values()
    for operation in block.operations:
        if operation.type != "const":
            given = [one.name for taken in operation.inputs.values() for one in taken.arguments if one.name]
            yield given, [output.name for output in operation.outputs]
