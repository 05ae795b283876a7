"""Names of an OpenVINO model's operations: those of torch modules, each given once, whatever was converted before."""

from collections.abc import Callable, Mapping
from typing import Any

from edgekd.converters._modules import Names


def modules_of_file(model: Any) -> dict[str, str]:
    """For each tensor and each node of an ONNX model of ours the name of its module."""
    nodes = [(node, node.name.partition(":")[0]) for node in model.graph.node]
    return {name: module for node, module in nodes for name in (node.name, *node.output)}


def name_operations(model: Any, modules: Mapping[str, str]) -> None:
    """Name the operations of an ov.Model by the modules that their tensors or their names stand for.

    OpenVINO numbers what it adds by a counter of the process. An operation of which nothing is known belongs where its
    result is read, or where its input comes from.
    """
    operations = list(model.get_ordered_ops())
    place = {_key(operation): index for index, operation in enumerate(operations)}
    found: dict[str, str] = {}
    for operation in reversed(operations):
        readers = sorted(_readers(operation), key=lambda reader: place[_key(reader)])
        found[_key(operation)] = _known(operation, modules) or _first(readers, found)
    for operation in operations:
        found[_key(operation)] = found[_key(operation)] or _first(_sources(operation), found)
    unique = Names()
    for kind in (_is_end, _is_operation, _is_constant):
        for operation in filter(kind, operations):
            name = found[_key(operation)]
            operation.set_friendly_name(unique.unique(f"{name}/constant" if kind is _is_constant else name))


def forget_tensors(model: Any) -> None:
    """Take the names off all tensors but inputs and outputs; operations have names enough."""
    for operation in model.get_ops():
        for port in [] if _is_end(operation) else operation.outputs():
            if not any(reader.get_node().get_type_name() == "Result" for reader in port.get_target_inputs()):
                port.set_names(set())


def layers(model: Any) -> dict[str, str]:
    """Of each operation's name, as `name_operations` gave it, the module."""
    names = (operation.get_friendly_name() for operation in model.get_ops())
    return {name: name.partition(":")[0] for name in names}


def _known(operation: Any, modules: Mapping[str, str]) -> str:
    if _is_end(operation):
        return str(operation.get_friendly_name())
    if _is_constant(operation):
        return ""
    tensors = [name for port in operation.outputs() for name in sorted(port.get_names())]
    name = operation.get_friendly_name().partition("/")[0]  # what is behind the slash was added for it
    return next((modules[one] for one in (*tensors, name, name.partition(":")[0]) if one in modules), "")


def _first(neighbours: list[Any], found: dict[str, str]) -> str:
    return next((found[_key(one)] for one in neighbours if not _is_end(one) and found.get(_key(one))), "")


def _readers(operation: Any) -> list[Any]:
    """In no order: OpenVINO gives a set."""
    return [reader.get_node() for port in operation.outputs() for reader in port.get_target_inputs()]


def _sources(operation: Any) -> list[Any]:
    return [value.get_node() for value in operation.input_values()]


def _key(operation: Any) -> str:
    """What tells operations apart while their names change."""
    return str(operation.get_name())


def _kind(name: str) -> Callable[[Any], bool]:
    return lambda operation: operation.get_type_name() == name


_is_constant = _kind("Constant")


def _is_end(operation: Any) -> bool:
    return operation.get_type_name() in {"Parameter", "Result"}


def _is_operation(operation: Any) -> bool:
    return not _is_end(operation) and not _is_constant(operation)
