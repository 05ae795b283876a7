"""What converters say when a format cannot express a module: which operator, in which line of whose code.

Libraries name the operator somewhere in their error's text, if at all; torch.export keeps for each operator the module
and the lines that called it. Here the two are brought together.
"""

import contextlib
import re
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edgekd.converters._advice import ADVICE, advice
from edgekd.errors import ConvertError, UnsupportedOperator

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import Node

FAILURES: Final = (RuntimeError, TypeError, ValueError, LookupError, AssertionError, AttributeError, ArithmeticError)
"""What libraries raise on modules that they cannot convert, and user's code on what it is not made for."""

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_NAMED = re.compile(r"[A-Za-z_]\w*(?:(?:\.|::)\w+)+|'\w+'|\"\w+\"|%\w+")
"""What can name an operator in a text: a name with its namespace, or one that is set apart."""


class Place(NamedTuple):
    """Where an operator is called."""

    module: str
    """Path of the torch module; "" for the whole."""
    line: str
    """"net.py:41 in forward", or "" where nothing is known."""

    def __str__(self) -> str:
        where = f"module {self.module!r}" if self.module else "the module"
        return f"{where} ({self.line})" if self.line else where


def export_program(module: "nn.Module", inputs: "Sequence[Tensor]", format: str) -> "ExportedProgram":
    """The module as a graph of aten operators, by torch.export.

    Raises:
        UnsupportedOperator: what the module does depends on its inputs' values, or leaves PyTorch; with the line.
        ConvertError: the module itself fails on inputs of its own shapes.
    """
    import torch

    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "The tensor attributes? .* assigned during export", UserWarning
            )  # nn.LSTM
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            return torch.export.export(module, tuple(inputs), strict=False)
    except FAILURES as error:
        _check_that_it_runs(module, inputs, format)
        raise _blame_line(module, error, format) from error


def _check_that_it_runs(module: "nn.Module", inputs: "Sequence[Tensor]", format: str) -> None:
    import torch

    try:
        with torch.no_grad():
            module(*inputs)
    except FAILURES as error:
        place = _place_of_error(module, error)
        raise ConvertError(
            f"{format}: {place} fails: {_first_line(error)}",
            hint=f"call it with zeros of the shapes {', '.join(str(tuple(one.shape)) for one in inputs)}",
        ) from error


def _blame_line(module: "nn.Module", error: Exception, format: str) -> UnsupportedOperator:
    place = _place_of_error(module, error)
    operator = _operator_of_trace(error)
    if operator:
        return UnsupportedOperator(f"{format} cannot express {operator} of {place}", hint=advice(operator))
    return UnsupportedOperator(f"{format} cannot express {place}: {_first_line(error)}", hint=advice("item"))


def _operator_of_trace(error: Exception) -> str:
    """The operator that torch.export stops at, where its error tells."""
    first = error.args[0] if error.args else None
    if hasattr(first, "overloadpacket"):
        return name_of(first)
    text = str(error)
    if "data-dependent" in text:
        return "aten.item (control flow or a size that depends on data)"
    found = re.search(r"aten\.\w+|(?<=\.)numpy(?=\(\))", text)
    return found.group() if found else ""


def _place_of_error(module: "nn.Module", error: BaseException) -> Place:
    """The innermost line that is not PyTorch's, and the innermost module, on the way to an error."""
    paths = {id(part): path for path, part in module.named_modules()}
    path, line = "", ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        path = paths.get(id(frame.f_locals.get("self")), path)
        file = frame.f_code.co_filename
        if not _is_ours(file):
            line = _line(file, number, frame.f_code.co_name)
    return Place(path, line)


# --- operators that torch has and a format has not


def blame_operator(program: "ExportedProgram", error: BaseException, format: str) -> ConvertError:
    """What to raise in place of a library's error about a program of `export_program`.

    It is an UnsupportedOperator where the error's text names an operator of the program, or where the program has one
    that is known to make difficulties; a plain ConvertError otherwise.
    """
    named = _named_node(program, _text(error))
    if named is not None:
        operator = name_of(named.target)
        return UnsupportedOperator(f"{format} cannot express {operator} of {place_of(named)}", hint=advice(operator))
    guessed = _first_node(program, _is_difficult)
    if guessed is not None:
        operator = name_of(guessed.target)
        return UnsupportedOperator(
            f"{format} cannot express this, probably for {operator} of {place_of(guessed)}: {_first_line(error)}",
            hint=advice(operator),
        )
    return ConvertError(f"{format} cannot express this module: {_first_line(error)}")


def refuse_sizes_from_data(program: "ExportedProgram", format: str) -> None:
    """Raise where a tensor's size is known only when the model runs; for formats that plan memory ahead.

    Raises:
        UnsupportedOperator: names the operator that makes the first such tensor.
    """
    node = _first_node(program, _has_open_size)
    if node is not None:
        raise UnsupportedOperator(
            f"{format} cannot express {name_of(node.target)} of {place_of(node)}: its size depends on data",
            hint=advice(name_of(node.target) if _is_difficult(node) else "nonzero"),
        )


def place_of(node: "Node") -> Place:
    """Where an operator of an exported program comes from."""
    return Place(module_of(node), _line_of_stack(node.meta.get("stack_trace") or ""))


def module_of(node: "Node") -> str:
    """Path of the torch module that called an operator; "" for the outermost."""
    stack = node.meta.get("nn_module_stack") or {}
    return next((path for path, _ in reversed(stack.values())), "")


def first_in_module(program: "ExportedProgram", module: str) -> "Node | None":
    """The operator of a module that is most likely to make difficulties."""
    return _first_node(program, lambda node: module_of(node) == module and _is_difficult(node)) or _first_node(
        program, lambda node: module_of(node) == module
    )


def _has_open_size(node: "Node") -> bool:
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else (value,)
    return any(not isinstance(size, int) for one in values for size in getattr(one, "shape", ()))


def _is_difficult(node: "Node") -> bool:
    return any(re.search(pattern, name_of(node.target)) for pattern, _ in ADVICE)


def _first_node(program: "ExportedProgram", wanted: "Callable[[Node], bool]") -> "Node | None":
    return next((node for node in program.graph.nodes if node.op == "call_function" and wanted(node)), None)


def _named_node(program: "ExportedProgram", text: str) -> "Node | None":
    """The operator that a text names first, in the program as it is or taken apart."""
    nodes: dict[str, Node] = {}
    for graph in _graphs(program):
        nodes |= {name: node for node in reversed(graph.graph.nodes) for name in _names(node)}
    words = (_plain(found.group().strip("'\"%")) for found in _NAMED.finditer(text))
    return next((nodes[word] for word in words if word in nodes), None)


def _graphs(program: "ExportedProgram") -> "list[ExportedProgram]":
    """The program taken apart, as libraries see it, where that works; and as the user wrote it."""
    with contextlib.suppress(*FAILURES), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of names inside of PyTorch
        return [program.run_decompositions(), program]
    return [program]


def _names(node: "Node") -> set[str]:
    """How texts may name the call of an operator."""
    if node.op != "call_function":
        return set()
    name = name_of(node.target)
    bare = name.partition(".")[2].removeprefix("special_")
    return {_plain(one) for one in (name, str(node.target), f"aten.{bare}", bare, node.name) if one}


def _plain(name: str) -> str:
    """A name without what libraries write differently: "prims::erf_inv" and "aten.erfinv" are one operator."""
    spelled = name.replace("::", ".").removeprefix("torch.ops.")
    return re.sub(r"^prims\.", "aten.", spelled).replace("_", "").lower()


def name_of(target: Any) -> str:
    """ "aten.conv2d" of the overload aten.conv2d.default."""
    return str(target.overloadpacket) if hasattr(target, "overloadpacket") else str(target)


def _text(error: BaseException) -> str:
    """What an error and those it came from say, less the paths of files."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < 10:
        parts.append(_FRAME.sub("", str(current)))
        current = current.__cause__ or current.__context__
    return "\n".join(reversed(parts))  # the innermost knows best


def _first_line(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line[:300]}" if line else type(error).__name__


def _line_of_stack(stack: str) -> str:
    """The innermost line of a stack trace in text that is not PyTorch's."""
    found = ""
    for frame in _FRAME.finditer(stack):
        if not found or not _is_ours(frame["file"]):
            found = _line(frame["file"], int(frame["line"]), frame["function"])
    return found


def _line(file: str, number: int, function: str) -> str:
    return f"{Path(file).name}:{number} in {function}"


def _is_ours(file: str) -> bool:
    """Whether a line belongs to PyTorch or to edgekd, which users cannot change."""
    import torch

    return file.startswith((str(Path(torch.__file__).parent), str(Path(__file__).parent), "<"))
