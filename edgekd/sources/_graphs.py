"""A foreign graph as a torch module: steps, each a torch function on named values.

Shapes are known when the graph is built, so every step is tried on the meta device, which computes shapes alone; what
depends on constants alone is computed once, and what is left has static shapes, as converters want it.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from edgekd.errors import ConfigError
from edgekd.sources._failures import clean

Function = Callable[..., Any]
"""Takes tensors (None where an optional one is missing), and returns a tensor or a tuple of them."""

MOST_ELEMENTS: Final = 2**28
"""Of one tensor."""
MOST_FOLDED: Final = 2**29
"""Elements of all constants that are computed while a graph is built."""
MOST_STEPS: Final = 50_000
LARGEST_WEIGHT: Final = 1e3
"""A constant with a larger value is a mask, and not trained."""
LONGEST_NAME: Final = 200


@dataclass(frozen=True, eq=False)
class Value:
    """What a name in the graph stands for."""

    name: str
    meta: Tensor
    """Its shape and dtype."""
    tensor: Tensor | None = None
    """What it holds, where it is constant."""
    origin: str = ""
    """The stored weight that a constant was made of."""
    maker: "Maker | None" = None
    """What made it, for those who look for patterns."""
    stored: str = ""
    """The type that a constant has in its file, where torch has none like it: "INT4"."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Concrete sizes."""
        return tuple(self.meta.shape)


class Maker(Protocol):
    """A node of the file."""

    @property
    def operator(self) -> str:
        """Its name as ONNX has it, where it is one that patterns are made of."""

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        """What it reads."""


@dataclass(frozen=True, eq=False)
class Step:
    """A function, what it takes and what it makes."""

    function: Function
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    frozen: frozenset[int] = frozenset()
    """Positions of inputs that are statistics, and not to be trained."""


@dataclass
class Builder:
    """Collects steps, folds constants, and makes the module."""

    steps: list[Step] = field(default_factory=list)
    folded: int = 0

    def input(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Value:
        """A value that is given at run time."""
        _check_size(shape, name)
        return Value(name, torch.empty(shape, dtype=dtype, device="meta"))

    def constant(self, tensor: Tensor, name: str, origin: str = "", stored: str = "") -> Value:
        """A value that is known now; `origin` names the stored weight that it is or was made of."""
        return Value(name, torch.empty_like(tensor, device="meta"), tensor.detach(), origin, None, stored)

    def apply(
        self,
        function: Function,
        inputs: Sequence[Value | None],
        names: Sequence[str],
        *,
        frozen: Iterable[int] = (),
        maker: "Maker | None" = None,
    ) -> tuple[Value, ...]:
        """Values that the function makes of the inputs: constants where all inputs are.

        Raises:
            ConfigError: a tensor or the graph would be too large.
        """
        metas = _call(function, [value and value.meta for value in inputs])
        for meta in metas:
            _check_size(tuple(meta.shape), names[0] if names else "")
        named = (*names, *(f"{names[0]}:{index}" for index in range(len(names), len(metas))))
        if all(value is None or value.tensor is not None for value in inputs):
            return self._fold(function, inputs, named)
        made = tuple(Value(name, meta, maker=maker) for name, meta in zip(named, metas, strict=False))
        if len(self.steps) >= MOST_STEPS:
            raise ConfigError(f"the graph has more than {MOST_STEPS} steps")
        self.steps.append(Step(function, tuple(inputs), made, frozenset(frozen)))
        return made

    def _fold(self, function: Function, inputs: Sequence[Value | None], names: Sequence[str]) -> tuple[Value, ...]:
        tensors = _call(function, [value and value.tensor for value in inputs])
        self.folded += sum(tensor.numel() for tensor in tensors)
        if self.folded > MOST_FOLDED:
            raise ConfigError("the constants that the graph computes are too large")
        origins = [value for value in inputs if value is not None and value.origin]
        origin = max(origins, key=lambda value: value.meta.numel()).origin if origins else ""
        return tuple(self.constant(tensor, name, origin) for name, tensor in zip(names, tensors, strict=False))

    def module(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> "Steps":
        """The module that computes the outputs, without the steps that they do not need; in evaluation mode."""
        module = Steps()
        module.assemble(inputs, _needed(self.steps, outputs), outputs)
        return module.eval()


def _call(function: Function, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        result = function(*arguments)
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _check_size(shape: tuple[int, ...], name: str) -> None:
    if prod(shape) > MOST_ELEMENTS:
        raise ConfigError(f"{clean(name)} of shape {shape} is too large", hint=f"at most {MOST_ELEMENTS} elements")


def _needed(steps: Sequence[Step], outputs: Sequence[Value]) -> list[Step]:
    wanted, kept = set(outputs), []
    for step in reversed(steps):
        if wanted.intersection(step.outputs):
            kept.append(step)
            wanted.update(value for value in step.inputs if value is not None)
    return kept[::-1]


# --- the module


@dataclass(frozen=True)
class Line:
    """A step as the module executes it: numbers are slots of activations, texts are names of weights."""

    function: Function
    inputs: tuple[int | str | None, ...]
    outputs: tuple[int, ...]
    dead: tuple[int, ...]
    """Slots that nothing after this line reads."""
    names: tuple[str, ...]
    """Of its outputs, as the file has them."""


class Steps(nn.Module):
    """Executes steps in order. Weights are named as the file names them, `a.b` being `b` of submodule `a`."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Line] = []
        self.results: tuple[int | str, ...] = ()
        self.seen: dict[str, Tensor] = {}
        self._watched: dict[int, str] = {}

    @property
    def values(self) -> tuple[str, ...]:
        """Names of all that is computed, as the file has them."""
        return tuple(dict.fromkeys(name for line in self.lines for name in line.names))

    def watch(self, names: Iterable[str]) -> None:
        """Keep these values, and no others, in `seen` whenever the module computes."""
        slots = {name: slot for line in self.lines for slot, name in zip(line.outputs, line.names, strict=True)}
        self._watched = {slots[name]: name for name in names}
        self.seen.clear()

    def assemble(self, inputs: Sequence[Value], steps: Sequence[Step], outputs: Sequence[Value]) -> None:
        """Fill an empty module."""
        places: dict[Value, int | str] = {value: slot for slot, value in enumerate(inputs)}
        self._keep_constants(places, steps, outputs)
        reads = _reads(steps, outputs)
        for step in steps:
            for value in step.outputs:
                places[value] = len(places)
            reads.subtract(step.inputs)
            touched = {value for value in (*step.inputs, *step.outputs) if value is not None and reads[value] <= 0}
            dead = tuple(sorted(place for place in map(places.__getitem__, touched) if isinstance(place, int)))
            takes = tuple(None if value is None else places[value] for value in step.inputs)
            makes = tuple(int(places[value]) for value in step.outputs)
            self.lines.append(Line(step.function, takes, makes, dead, tuple(value.name for value in step.outputs)))
        self.results = tuple(places[value] for value in outputs)

    def forward(self, *inputs: Tensor) -> Any:
        slots: dict[int, Tensor] = dict(enumerate(inputs))
        for line in self.lines:
            made = line.function(*[self._at(slots, place) for place in line.inputs])
            tensors = made if isinstance(made, tuple | list) else (made,)
            slots.update(zip(line.outputs, tensors, strict=False))
            for slot in self._watched.keys() & line.outputs if self._watched else ():
                self.seen[self._watched[slot]] = slots[slot]
            for slot in line.dead:
                del slots[slot]
        results = tuple(self._at(slots, place) for place in self.results)
        return results[0] if len(results) == 1 else results

    def _at(self, slots: dict[int, Tensor], place: int | str | None) -> Any:
        if isinstance(place, int):
            return slots[place]
        return None if place is None else self._weight(place)

    def _weight(self, name: str) -> Any:
        *path, last = name.split(".")
        owner: nn.Module = self
        for part in path:
            owner = getattr(owner, part)
        return getattr(owner, last)

    def _keep_constants(self, places: dict[Value, int | str], steps: Sequence[Step], outputs: Sequence[Value]) -> None:
        used = [value for step in steps for value in step.inputs if value is not None and value.tensor is not None]
        used += [value for value in outputs if value.tensor is not None]
        frozen = {step.inputs[position] for step in steps for position in step.frozen if position < len(step.inputs)}
        seen: dict[tuple[object, ...], str] = {}  # unrolled loops work the same constants out in every turn
        for number, value in enumerate(dict.fromkeys(used)):
            assert value.tensor is not None
            tensor = value.tensor.clone(memory_format=torch.contiguous_format)
            key = (value.origin, tensor.dtype, tensor.shape, _digest(tensor))
            if key not in seen:
                kept = nn.Parameter(tensor) if _is_weight(value) and value not in frozen else tensor
                seen[key] = self._keep(kept, value.origin or value.name, number)
            places[value] = seen[key]

    def _keep(self, tensor: Tensor, name: str, number: int) -> str:
        owner, path = self._owner_of(name, number)
        last = path[-1]
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(last, tensor)
        else:
            owner.register_buffer(last, tensor)
        return ".".join(path)

    def _owner_of(self, name: str, number: int) -> tuple[nn.Module, list[str]]:
        path = name.split(".")
        if len(name) > LONGEST_NAME or not all(part and part.isprintable() for part in path):
            path = [f"constant_{number}"]
        owner: nn.Module = self
        for position, part in enumerate(path[:-1]):
            while not isinstance(owner._modules.get(part), nn.Module):
                if hasattr(owner, part):
                    part += "_"  # noqa: PLW2901 - until it is free
                    continue
                owner.add_module(part, nn.Module())
            path[position] = part
            owner = owner._modules[part]  # type: ignore[assignment]  # the loop saw that it is there
        while hasattr(owner, path[-1]):
            path[-1] += "_"
        return owner, path


def _digest(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().tobytes()).digest()


def _is_weight(value: Value) -> bool:
    tensor = value.tensor
    if tensor is None or not value.origin or not tensor.is_floating_point() or tensor.numel() < 2:
        return False
    largest = tensor.abs().max()
    return bool(torch.isfinite(largest)) and float(largest) <= LARGEST_WEIGHT


def _reads(steps: Sequence[Step], outputs: Sequence[Value]) -> Counter[Value | None]:
    reads: Counter[Value | None] = Counter(outputs)
    for step in steps:
        reads.update(step.inputs)
    return reads
