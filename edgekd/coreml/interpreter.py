"""Executes a program, one operation after the other, and holds each value against the type that it is declared to have.

Arithmetic is float32. What the program types as fp16 is rounded to fp16 and kept as float32, so that its kernels need
not be in torch.
"""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekd.coreml.given import Budget, Given, State, Value
from edgekd.coreml.operators import REFUSED, Operator, operators
from edgekd.coreml.program import OPSETS, Block, Constant, Feature, Named, Operation, Program, Type, quote
from edgekd.errors import MeasureError, UnsupportedOperator
from edgekd.specs import TensorSpec

_KEPT_AS: Final = {
    "bool": torch.bool, "float16": torch.float32, "float32": torch.float32, "float64": torch.float64,
    "int4": torch.int8, "int8": torch.int8, "int16": torch.int16, "int32": torch.int32, "int64": torch.int64,
    "uint1": torch.uint8, "uint2": torch.uint8, "uint3": torch.uint8, "uint4": torch.uint8, "uint6": torch.uint8,
    "uint8": torch.uint8, "uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64,
}  # fmt: skip
_WIDER: Final = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}
_RETURNED_AS: Final = {"int4": "int8", **dict.fromkeys(("uint1", "uint2", "uint3", "uint4", "uint6"), "uint8")}

_STEP: Final = 2**20
"""Multiply-accumulates that are done in the time that an operation or a block takes of itself."""
_ELEMENT: Final = 32
"""And in the time that an element takes that is only passed through."""

_SMALL_BYTES: Final = 2**16

_FOREIGN: Final = (ArithmeticError, IndexError, MemoryError, RuntimeError, TypeError, ValueError)
"""What torch and numpy raise at shapes, types and sizes that do not fit."""


def run(
    program: Program,
    inputs: Sequence[NDArray[Any]] | Mapping[str, NDArray[Any]],
    taps: Sequence[str],
    round_fp16: bool,
) -> dict[str, NDArray[Any]]:
    """What `edgekd.coreml.execute` promises."""
    plan = _planned(program)
    for name in taps:
        if name not in plan.types:
            raise MeasureError(f"the program has no value {quote(name)}", hint=_close(name, plan.types))
    given = _by_name(program, inputs)
    budget = Budget(program.size_bytes + sum(array.nbytes for array in given.values()))
    with torch.inference_mode():
        return _Run(program, plan, budget, taps, round_fp16).outputs(given)


# --- before anything is executed


@dataclass(frozen=True)
class _Plan:
    """What is found out of a program once."""

    table: Mapping[str, Operator]
    types: Mapping[str, Type]
    """Of every value, those of nested blocks too."""
    last_uses: Mapping[int, Sequence[str]]
    """Number of an operation -> names of the values that nobody needs after it."""
    literals: dict[int, Value] = field(default_factory=dict)
    """Constants as the kernels take them, by their identity."""
    weights: dict[tuple[int, bool], tuple[Value, ...]] = field(default_factory=dict)
    """Results of constant operations, by their identity and whether fp16 is rounded."""


def _planned(program: Program) -> _Plan:
    """The program's plan, when edgekd has all operators that it needs."""
    if "plan" not in program.cache:
        table = operators()
        for operation in _all_operations(program.block):
            _check_operator(program, operation, table)
        types = {value.name: value.type for value in _all_values(program.block)}
        program.cache["plan"] = _Plan(table, types, _last_uses(program.block))
    plan: _Plan = program.cache["plan"]
    return plan


def _by_name(program: Program, inputs: Sequence[NDArray[Any]] | Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(program.inputs):
            raise MeasureError(
                f"the program takes {len(program.inputs)} inputs, not {len(inputs)}",
                hint=f"in this order: {', '.join(quote(spec.name) for spec in program.inputs)}",
            )
        inputs = {spec.name: array for spec, array in zip(program.inputs, inputs, strict=True)}
    specs = {spec.name: spec for spec in (*program.inputs, *program.states)}
    for name in inputs:
        if name not in specs:
            raise MeasureError(f"the program has no input {quote(name)}", hint=_close(name, specs))
    features = {**program.features} | {state.name: Feature(default=0.0) for state in program.states}
    found = {}
    for name, spec in specs.items():
        with _telling(f"input {quote(name)}"):
            if name in inputs:
                found[name] = _array_for(spec, np.asarray(inputs[name]), features[name])
            else:
                Budget(program.size_bytes).room(math.prod(spec.shape), 8)
                found[name] = _default_for(spec, features[name])
    return found


def _default_for(spec: TensorSpec, feature: Feature) -> NDArray[Any]:
    """An array for an input that is left out."""
    if feature.default is None or -1 in spec.shape:
        raise MeasureError(f"input {quote(spec.name)} is missing", hint=f"an array of {spec.dtype}, shape {spec.shape}")
    default = feature.default if spec.dtype.startswith("float") else int(feature.default)
    with np.errstate(over="ignore"):
        return np.full(spec.shape, default, spec.dtype)


def _array_for(spec: TensorSpec, array: NDArray[Any], feature: Feature) -> NDArray[Any]:
    """The array in the type of the input."""
    if not _fits(array.shape, spec.shape) or not _is_allowed(array.shape, feature):
        hint = f"allowed are {list(feature.listed or feature.ranges)}" if feature.listed or feature.ranges else ""
        raise MeasureError(
            f"input {quote(spec.name)} has shape {array.shape}, the program takes {spec.shape}",
            hint=hint,
        )
    kinds = "fiub" if spec.dtype.startswith("float") else "iub"
    if array.dtype.kind not in kinds:
        raise MeasureError(f"input {quote(spec.name)} is {array.dtype}, the program takes {spec.dtype}")
    if kinds == "iub" and array.size:
        low, high = (0, 1) if spec.dtype == "bool" else (np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max)
        if not low <= int(array.min()) <= int(array.max()) <= high:
            raise MeasureError(f"input {quote(spec.name)} has values beyond {spec.dtype}")
    with np.errstate(over="ignore"):  # beyond fp16 is infinite, as on the device
        return array.astype(spec.dtype)


def _fits(shape: Iterable[int], declared: tuple[int, ...]) -> bool:
    sizes = tuple(shape)
    return len(sizes) == len(declared) and all(want in (-1, size) for size, want in zip(sizes, declared, strict=True))


def _is_allowed(shape: tuple[int, ...], feature: Feature) -> bool:
    """Whether the description allows an input of no fixed shape to have this one."""
    if feature.listed:
        return any(shape[-len(sizes) :] == sizes for sizes in feature.listed)
    last = shape[len(shape) - len(feature.ranges) :]
    pairs = zip(last, feature.ranges, strict=False)
    return all(least <= size and (most < 0 or size <= most) for size, (least, most) in pairs)


def _all_values(block: Block) -> Iterator[Named]:
    """Of nested blocks first, so that in a mapping the function's own win where names are alike."""
    for operation in block.operations:
        for inner in operation.blocks:
            yield from _all_values(inner)
    yield from block.inputs
    for operation in block.operations:
        yield from operation.outputs


def _close(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {quote(close[0])}?"
    return f"there are {', '.join(map(quote, names[:8]))}" + ", ..." * (len(names) > 8)


def _all_operations(block: Block) -> Iterator[Operation]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _all_operations(inner)


def _check_operator(program: Program, operation: Operation, table: Mapping[str, Operator]) -> None:
    kind = operation.kind
    if kind == "const":
        return
    if kind in REFUSED:
        raise UnsupportedOperator(f"{_title(operation)} cannot be executed here", hint=REFUSED[kind])
    if kind not in table:
        raise UnsupportedOperator(
            f"{_title(operation)}: edgekd has no such operator of op set {program.opset}",
            hint=f"{_close(kind, table)}; to add it, see edgekd/coreml/__init__.py",
        )
    if program.opset_number < table[kind].since:
        system = OPSETS[f"CoreML{table[kind].since}"]
        raise UnsupportedOperator(
            f"{_title(operation)}: op set {program.opset} has no such operator",
            hint=f"it came with {system}; make the package for minimum_deployment_target {system.replace(' ', '')}",
        )


def _title(operation: Operation) -> str:
    name = operation.outputs[0].name if operation.outputs else operation.name
    return f"operator {quote(operation.kind)} of value {quote(name)}"


# --- execution


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Tell what it is that does not work."""
    try:
        yield
    except NotImplementedError as error:
        raise UnsupportedOperator(f"{what}: {_line(error)}") from error
    except _FOREIGN as error:
        raise MeasureError(
            f"{what} fails: {_line(error)}",
            hint="the program is damaged, or its inputs have sizes that it is not made for",
        ) from error


class _Scope:
    """Values by name, of a block and of those around it."""

    def __init__(self, around: "_Scope | None" = None) -> None:
        self.values: dict[str, Value] = {}
        self._around = around

    def __getitem__(self, name: str) -> Value:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope._around
        raise MeasureError(f"value {quote(name)} was given up too early")  # if `_last_uses` were wrong


class _Run:
    """One call."""

    def __init__(self, program: Program, plan: _Plan, budget: Budget, taps: Sequence[str], round_fp16: bool) -> None:
        self._program, self._plan, self._budget, self._round = program, plan, budget, round_fp16
        self._taps: dict[str, Value | None] = dict.fromkeys(taps)

    def outputs(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        block, scope = self._program.block, _Scope()
        for value in block.inputs:
            with _telling(f"input {quote(value.name)}"):
                self._keep(scope, value.name, self._input(value, given[value.name]))
        self._operations(block, scope, self._plan.last_uses)
        found = {spec.name: self._array(spec.name, scope[spec.name]) for spec in self._program.outputs}
        for name, tapped in self._taps.items():
            if tapped is None:
                raise MeasureError(f"value {quote(name)} was not computed", hint="it is of a branch that was not taken")
            found[name] = self._array(name, tapped)
        return found

    def _input(self, value: Named, array: NDArray[Any]) -> Value:
        if value.type.kind != "state":
            return self._settled(value, _as_tensor(array))
        held = self._settled(Named(value.name, value.type.items[0]), _as_tensor(array))
        return State(held) if isinstance(held, Tensor) else _refuse("not a tensor")

    def _operations(self, block: Block, scope: _Scope, last_uses: Mapping[int, Sequence[str]]) -> None:
        for number, operation in enumerate(block.operations):
            with _telling(_title(operation)):
                values = self._operation(operation, scope)
                for named, value in zip(operation.outputs, values, strict=True):
                    self._keep(scope, named.name, value)
            for name in last_uses.get(number, ()):
                self._budget.hold(-_size_bytes(scope.values.pop(name)))

    def _operation(self, operation: Operation, scope: _Scope) -> tuple[Value, ...]:
        if operation.kind == "const":
            (constant,) = operation.inputs["val"]
            return (self._literal(constant),) if isinstance(constant, Constant) else _refuse("a const is no constant")
        if not operation.kind.startswith("constexpr_"):
            return self._executed(operation, scope)
        key = id(operation), self._round
        if key not in self._plan.weights:
            self._plan.weights[key] = self._executed(operation, scope)
        return self._plan.weights[key]

    def _executed(self, operation: Operation, scope: _Scope) -> tuple[Value, ...]:
        values = {
            parameter: tuple(scope[one] if isinstance(one, str) else self._literal(one) for one in arguments)
            for parameter, arguments in operation.inputs.items()
        }

        def execute(number: int, arguments: Sequence[Value]) -> list[Value]:
            return self._block(operation, number, arguments, scope)

        given = Given(values, operation.outputs, self._program.opset_number, self._budget, execute)
        result = self._plan.table[operation.kind].function(given)
        results = result if isinstance(result, tuple) else (result,)
        if len(results) != len(operation.outputs):
            raise ValueError(f"{len(results)} results for {len(operation.outputs)} outputs")
        if unseen := given.unseen():
            raise ValueError(f"{quote(unseen[0])} is not an input that it has")
        settled = tuple(self._settled(named, value) for named, value in zip(operation.outputs, results, strict=True))
        touched = (value for many in (*values.values(), settled) for value in many)
        self._budget.spend(_STEP + _ELEMENT * sum(one.numel() for one in touched if isinstance(one, Tensor)))
        return settled

    def _block(self, operation: Operation, number: int, arguments: Sequence[Value], around: _Scope) -> list[Value]:
        if number >= len(operation.blocks):
            raise ValueError(f"there is no block {number}")
        self._budget.spend(_STEP)  # or an empty loop would cost nothing
        block, scope = operation.blocks[number], _Scope(around)
        if len(arguments) != len(block.inputs):
            raise ValueError(f"{len(arguments)} values for the {len(block.inputs)} inputs of block {number}")
        for named, value in zip(block.inputs, arguments, strict=True):
            self._keep(scope, named.name, self._settled(named, value))
        self._operations(block, scope, {})
        self._budget.hold(-sum(map(_size_bytes, scope.values.values())))
        return [scope[name] for name in block.outputs]

    def _keep(self, scope: _Scope, name: str, value: Value) -> None:
        self._budget.hold(_size_bytes(value))
        scope.values[name] = value
        if name in self._taps:
            self._taps[name] = value

    def _literal(self, constant: Constant) -> Value:
        """A constant as the kernels take it."""
        key = id(constant)
        if key not in self._plan.literals:
            self._plan.literals[key] = self._converted(constant)
        return self._plan.literals[key]

    def _converted(self, constant: Constant) -> Value:
        if constant.type.kind in ("list", "tuple"):
            return [self._converted(one) for one in constant.data]
        if constant.type.dtype == "str":
            return str(constant.data.item()) if not constant.type.shape else list(constant.data.reshape(-1))
        array: NDArray[Any] = constant.data
        if constant.type.dtype in _WIDER:
            array = array.astype(_WIDER[constant.type.dtype])
        return _as_tensor(array)

    def _settled(self, named: Named, value: Value) -> Value:
        """The value in its declared type, which its shape has to be of."""
        type_ = named.type
        if type_.kind == "list":
            return value if isinstance(value, list) else _refuse(f"{quote(named.name)} is not a list")
        if type_.kind == "dictionary" and isinstance(value, Tensor):
            return value
        if type_.dtype == "str":
            return value if isinstance(value, str | list) else _refuse(f"{quote(named.name)} is not a text")
        if type_.kind != "tensor" or not isinstance(value, Tensor):
            _refuse(f"{quote(named.name)} is not a {type_.kind}")
        if not _fits(value.shape, type_.shape):
            _refuse(f"{quote(named.name)} has shape {tuple(value.shape)}, the program says {type_.shape}")
        if type_.dtype == "float16" and self._round:
            return value.half().float()
        value = value.to(_KEPT_AS[type_.dtype])
        # A small part of a large value would keep the whole in memory, which nobody counts any more.
        is_part = value.untyped_storage().nbytes() > 4 * _size_bytes(value) + _SMALL_BYTES
        return value.clone() if is_part else value

    def _array(self, name: str, value: Value) -> NDArray[Any]:
        """A copy, in the type that the program gives to the value."""
        type_ = self._plan.types[name]
        if isinstance(value, State):
            value, type_ = value.value, type_.items[0]
        if isinstance(value, str):
            return np.array(value)
        if not isinstance(value, Tensor):
            raise MeasureError(f"value {quote(name)} is a list", hint="tap the values that are read from it")
        array: NDArray[Any] = value.numpy()
        dtype = _RETURNED_AS.get(type_.dtype, type_.dtype) if type_.kind == "tensor" else "float32"
        return array.astype("float32" if dtype == "float16" and not self._round else dtype)


def _refuse(what: str) -> NoReturn:
    raise ValueError(what)


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _as_tensor(array: NDArray[Any]) -> Tensor:
    """Shares memory where it can: nothing changes a tensor in place."""
    native = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    tensor = torch.from_numpy(np.ascontiguousarray(native).reshape(array.shape))
    return tensor.float() if tensor.dtype == torch.float16 else tensor


def _size_bytes(value: Value) -> int:
    if isinstance(value, list):
        return 64 + sum(map(_size_bytes, value))
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 64


def _last_uses(block: Block) -> dict[int, list[str]]:
    """Number of an operation -> names of the values that nobody needs after it."""
    last: dict[str, int] = {}
    for number, operation in enumerate(block.operations):
        for one in (operation, *(each for inner in operation.blocks for each in _all_operations(inner))):
            for name in (name for names in one.inputs.values() for name in names if isinstance(name, str)):
                last[name] = number
        for inner in operation.blocks:
            last.update(dict.fromkeys(_outputs_within(inner), number))
        for value in operation.outputs:
            last.setdefault(value.name, number)
    own = {value.name for operation in block.operations for value in operation.outputs}
    found: dict[int, list[str]] = {}
    for name in own - set(block.outputs):
        found.setdefault(last[name], []).append(name)
    return found


def _outputs_within(block: Block) -> Iterator[str]:
    """Values that a block hands out, which may be those of a block around it."""
    yield from block.outputs
    for operation in block.operations:
        for inner in operation.blocks:
            yield from _outputs_within(inner)
