"""Operators of ONNX as torch functions, a file a kind of operator.

A translator sees a node with the shapes of its inputs, and returns the function that computes the node's outputs from
those inputs that it did not read as constants; or a tensor, where the outputs are constant; or finished values. To add
an operator, write a function in the file of its kind and decorate it with `@operator("Name")`.

Source: the operators' specification, https://onnx.ai/onnx/operators/.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from torch import Tensor

from edgekd.errors import ConfigError, UnsupportedOperator
from edgekd.sources._failures import clean
from edgekd.sources._graphs import Builder, Value

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto

OLDEST_OPSET: Final = 7
MICROSOFT: Final = "com.microsoft"


@dataclass(eq=False)
class Node:
    """What a translator sees of a node."""

    operator: str
    name: str
    opset: int
    inputs: tuple[Value | None, ...]
    outputs: tuple[str, ...]
    """Empty where nobody wants it."""
    attributes: Mapping[str, "AttributeProto"]
    builder: Builder
    run_graph: Callable[["GraphProto", Sequence[Value]], list[Value]]
    """Adds a subgraph to the builder, its inputs bound to values; what its outputs are."""
    read_tensor: Callable[[Any], Tensor]
    """The content of a TensorProto."""
    static_inputs: set[int] = field(default_factory=set)
    frozen_inputs: set[int] = field(default_factory=set)
    attached: list[Tensor] = field(default_factory=list)

    # --- inputs

    def has(self, position: int) -> bool:
        """Whether this optional input is there."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def value(self, position: int) -> Value:
        """The input, which must be there."""
        value = self.inputs[position] if position < len(self.inputs) else None
        if value is None:
            raise ConfigError(f"{self}: input {position} is missing")
        return value

    def shape(self, position: int = 0) -> tuple[int, ...]:
        """Sizes of an input."""
        return self.value(position).shape

    def rank(self, position: int = 0) -> int:
        """Number of axes of an input."""
        return len(self.shape(position))

    def dtype(self, position: int = 0) -> torch.dtype:
        """Type of an input."""
        return self.value(position).meta.dtype

    def odd_type(self, position: int) -> str:
        """The type that an input has in the file, where torch has none like it, else ""."""
        return self.value(position).stored if self.has(position) else ""

    def is_constant(self, position: int) -> bool:
        """Whether an input is known now."""
        return self.has(position) and self.value(position).tensor is not None

    def static(self, position: int, what: str = "") -> Tensor:
        """An input that must be known now; the function does not get it.

        Raises:
            UnsupportedOperator: it is computed from the model's inputs.
        """
        tensor = self.value(position).tensor
        if tensor is None:
            raise self.refusal(
                f"its {what or f'input {position}'} depends on the data",
                hint="export the model with fixed shapes, and with this as a constant",
            )
        self.static_inputs.add(position)
        return tensor

    def optional(self, position: int, what: str = "") -> Tensor | None:
        """As `static`, or None where the input is not there."""
        if not self.has(position):
            self.static_inputs.add(position)
            return None
        return self.static(position, what)

    def integers(self, position: int, what: str = "") -> list[int]:
        """A static input as integers."""
        return [int(number) for number in self.static(position, what).reshape(-1).tolist()]

    def freeze(self, *positions: int) -> None:
        """Say that these inputs are statistics, and not to be trained."""
        self.frozen_inputs.update(positions)

    def attach(self, *tensors: Tensor) -> None:
        """Constants that the function gets behind its inputs."""
        self.attached.extend(tensors)

    # --- attributes

    def _attribute(self, name: str, kind: str) -> Any:
        from onnx import AttributeProto

        found = self.attributes.get(name)
        if found is None:
            return None
        if found.type != AttributeProto.AttributeType.Value(kind):
            raise ConfigError(f"{self}: attribute {clean(name)!r} is not of type {kind}")
        return found

    def int_of(self, name: str, default: int = 0) -> int:
        """An attribute."""
        found = self._attribute(name, "INT")
        return default if found is None else int(found.i)

    def ints_of(self, name: str) -> list[int] | None:
        """An attribute, or None."""
        found = self._attribute(name, "INTS")
        return None if found is None else [int(number) for number in found.ints]

    def float_of(self, name: str, default: float = 0.0) -> float:
        """An attribute."""
        found = self._attribute(name, "FLOAT")
        return default if found is None else float(found.f)

    def floats_of(self, name: str) -> list[float] | None:
        """An attribute, or None."""
        found = self._attribute(name, "FLOATS")
        return None if found is None else [*map(float, found.floats)]

    def text_of(self, name: str, default: str = "") -> str:
        """An attribute."""
        found = self._attribute(name, "STRING")
        return default if found is None else found.s.decode("utf-8", "replace")

    def texts_of(self, name: str) -> list[str] | None:
        """An attribute, or None."""
        found = self._attribute(name, "STRINGS")
        return None if found is None else [one.decode("utf-8", "replace") for one in found.strings]

    def tensor_of(self, name: str) -> Tensor | None:
        """An attribute, or None."""
        found = self._attribute(name, "TENSOR")
        return None if found is None else self.read_tensor(found.t)

    def graph_of(self, name: str) -> "GraphProto":
        """An attribute, which must be there."""
        found = self._attribute(name, "GRAPH")
        if found is None:
            raise ConfigError(f"{self}: attribute {name!r} is missing")
        return found.g

    def axis(self, default: int = 0, name: str = "axis", rank: int | None = None) -> int:
        """An attribute that counts axes, from the end where negative; from the front afterwards."""
        return self.normal(self.int_of(name, default), rank)

    def normal(self, axis: int, rank: int | None = None) -> int:
        """An axis counted from the front.

        Raises:
            ConfigError: there is no such axis.
        """
        rank = self.rank() if rank is None else rank
        if not -rank <= axis < max(rank, 1):
            raise ConfigError(f"{self}: axis {axis} of a tensor with {rank} axes")
        return axis % rank if rank else 0

    # --- outputs

    def wants(self, position: int) -> bool:
        """Whether somebody reads this output."""
        return position < len(self.outputs) and bool(self.outputs[position])

    def refusal(self, what: str, hint: str = "") -> UnsupportedOperator:
        """The error to raise where the node cannot be expressed."""
        return UnsupportedOperator(f"{self}: {what}", hint=hint)

    def __str__(self) -> str:
        name = f" {clean(self.name)!r}" if self.name else ""
        return f"{clean(self.operator)}{name} (opset {self.opset})"


Function: TypeAlias = Callable[..., Any]
Translation: TypeAlias = Function | Tensor | tuple[Tensor, ...] | list[Value]
Translator: TypeAlias = Callable[[Node], Translation]

_TABLE: dict[str, Translator] = {}


def operator(*names: str) -> Callable[[Translator], Translator]:
    """Enter a translator of these operators; names outside of ONNX's own domain start with theirs and a dot."""

    def enter(translator: Translator) -> Translator:
        for name in names:
            _TABLE[name] = translator
        return translator

    return enter


def plain(functions: Mapping[str, Function]) -> None:
    """Enter operators without attributes, each a torch function of its inputs."""
    for name, function in functions.items():
        _TABLE[name] = lambda node, function=function: function  # type: ignore[misc]  # mypy and defaults


@cache
def table() -> Mapping[str, Translator]:
    """Name of an operator -> its translator, of all files of this folder."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return _TABLE


DTYPES: Final[Mapping[int, torch.dtype]] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    16: torch.bfloat16,
}
"""TensorProto.DataType -> torch's."""


def dtype_of(number: int, where: str) -> torch.dtype:
    """torch's type for a TensorProto.DataType.

    Raises:
        UnsupportedOperator: torch computes with no such type.
    """
    if number not in DTYPES or DTYPES[number] in {torch.uint16, torch.uint32, torch.uint64}:
        from onnx import TensorProto

        names = {value: name for name, value in TensorProto.DataType.items()}
        raise UnsupportedOperator(
            f"{where}: tensors of type {names.get(number, number)} cannot be computed with", hint="use float32 or int64"
        )
    return DTYPES[number]
