"""What an operator's function sees: its inputs by name, each checked as it is taken, and what it may cost."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from edgekd.coreml.program import Named, quote


@dataclass
class State:
    """A value that a program changes."""

    value: Tensor


Value = Tensor | str | list[Any] | State
"""What a name stands for at run time. fp16 is kept as float32, integers that torch has not in the next larger ones."""

Result = Value | tuple[Value, ...]

LONGEST_VECTOR = 2**20
"""Numbers of a parameter such as a shape, which become numbers of Python."""


class Budget:
    """Bounds what a program of `size_bytes`, with its inputs, may take, so that a small file cannot fill a machine.

    The factors leave room for what nets need that make large images of few weights: the memory of a thousand times
    their files and inputs, and a quarter of a million multiply-accumulates a byte.
    """

    memory_bytes: Final[int]
    work: Final[int]

    def __init__(self, size_bytes: int) -> None:
        self.memory_bytes = min(2**28 + 2**10 * size_bytes, _physical_bytes() // 2)
        self.work = 2**36 + 2**18 * size_bytes
        self._held_bytes = self._spent = 0

    def room(self, elements: int, item_bytes: int = 4) -> None:
        """Raise ValueError unless a value of that many elements may be made."""
        if self._held_bytes + elements * item_bytes > self.memory_bytes:
            raise ValueError(f"needs more than the {self.memory_bytes} bytes that a package of this size may take")

    def hold(self, size_bytes: int) -> None:
        """Count a value that was made, or with a negative size one that is gone."""
        self._held_bytes += size_bytes
        self.room(0)

    def spend(self, work: int) -> None:
        """Count multiply-accumulates; raise ValueError when they are too many."""
        self._spent += work
        if self._spent > self.work:
            raise ValueError(f"needs more than the {self.work} steps that a package of this size may take")


def _physical_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Given:
    """Inputs of one operation. What is wrong with one is a ValueError, which the interpreter tells with the place."""

    def __init__(
        self,
        values: Mapping[str, tuple[Value, ...]],
        outputs: Sequence[Named],
        opset: int,
        budget: Budget,
        execute: Callable[[int, Sequence[Value]], list[Value]],
    ) -> None:
        self._values, self._seen = values, set[str]()
        self.outputs, self.opset = outputs, opset
        self.room, self.spend = budget.room, budget.spend
        self.execute = execute
        """Runs one of the operation's blocks, by its number, on values for its inputs."""

    def __contains__(self, name: str) -> bool:
        self._seen.add(name)
        return name in self._values

    def unseen(self) -> list[str]:
        """Inputs that nobody asked for."""
        return sorted(self._values.keys() - self._seen)

    def ignore(self, *names: str) -> None:
        """Take inputs that have no bearing on the result."""
        self._seen.update(names)

    def all(self, name: str) -> tuple[Value, ...]:
        """What is bound to a parameter that takes several values."""
        if name not in self:
            raise ValueError(f"{name} is missing")
        return self._values[name]

    def one(self, name: str) -> Value:
        """What is bound to a parameter that takes one value."""
        values = self.all(name)
        if len(values) != 1:
            raise ValueError(f"{name} has {len(values)} values")
        return values[0]

    def tensor(self, name: str) -> Tensor:
        """A tensor of any shape."""
        value = self.one(name)
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is not a tensor")
        return value

    def maybe(self, name: str) -> Tensor | None:
        """A tensor, or None where it is left out."""
        return self.tensor(name) if name in self else None

    def tensors(self, name: str) -> list[Tensor]:
        """Several tensors."""
        found = [value for value in self.all(name) if isinstance(value, Tensor)]
        if not found or len(found) < len(self._values[name]):
            raise ValueError(f"{name} are not tensors")
        return found

    def elements(self, name: str) -> list[Any]:
        """A list."""
        value = self.one(name)
        if not isinstance(value, list):
            raise ValueError(f"{name} is not a list")
        return value

    def state(self, name: str) -> State:
        """A state."""
        value = self.one(name)
        if not isinstance(value, State):
            raise ValueError(f"{name} is not a state")
        return value

    def indices(self, name: str) -> Tensor:
        """A tensor of integers, as torch wants indices."""
        value = self.tensor(name)
        if value.is_floating_point() or value.dtype == torch.bool:
            raise ValueError(f"{name} are not integers")
        return value.long()

    def ints(self, name: str, default: Sequence[int] | None = None, *, least: int | None = None) -> Sequence[int]:
        """A vector of integers, each at least `least`; several scalars or one count as a vector."""
        if default is not None and name not in self:
            return default
        numbers = [number for value in self.all(name) for number in self._integers(name, value)]
        if least is not None and min(numbers, default=least) < least:
            raise ValueError(f"{name} is {numbers}, and may not be below {least}")
        return numbers

    def integer(self, name: str, default: int | None = None, *, least: int | None = None) -> int:
        """A single integer."""
        numbers = self.ints(name, None if default is None else [default], least=least)
        if len(numbers) != 1:
            raise ValueError(f"{name} is not one number")
        return numbers[0]

    def flags(self, name: str, default: Sequence[bool]) -> Sequence[bool]:
        """A vector of truth values."""
        if name not in self:
            return default
        values = self.tensors(name)
        if any(value.dtype != torch.bool for value in values):
            raise ValueError(f"{name} is not of truth values")
        return [bool(flag) for value in values for flag in value.reshape(-1).tolist()]

    def flag(self, name: str, default: bool = False) -> bool:
        """A single truth value."""
        found = self.flags(name, [default])
        if len(found) != 1:
            raise ValueError(f"{name} is not one truth value")
        return found[0]

    def number(self, name: str, default: float | None = None) -> float:
        """A single number."""
        if default is not None and name not in self:
            return default
        value = self.tensor(name)
        if value.numel() != 1:
            raise ValueError(f"{name} is not one number")
        return float(value.item())

    def text(self, name: str, default: str | None = None, *, among: Iterable[str] = ()) -> str:
        """A text, one of `among` where these are given."""
        value = default if default is not None and name not in self else self.one(name)
        if not isinstance(value, str):
            raise ValueError(f"{name} is not a text")
        if among and value not in among:
            raise ValueError(f"{name} is {quote(value)}, not one of {', '.join(among)}")
        return value

    def axis(self, name: str, rank: int, default: int | None = None) -> int:
        """An axis of a tensor of that rank, counted from the front."""
        return axis_of(self.integer(name, default), rank, name)

    def axes(self, name: str, rank: int) -> list[int]:
        """Different axes, counted from the front, in their order; all where they are left out."""
        found = sorted(axis_of(axis, rank, name) for axis in self.ints(name, range(rank)))
        if len(set(found)) < len(found):
            raise ValueError(f"{name} has an axis twice")
        return found

    @property
    def output_dtype(self) -> str:
        """Type of the first output's elements as the program declares it."""
        return self.outputs[0].type.dtype

    @staticmethod
    def _integers(name: str, value: Value) -> list[int]:
        if not isinstance(value, Tensor) or value.is_floating_point() or value.dtype == torch.bool or value.dim() > 1:
            raise ValueError(f"{name} is not a vector of integers")
        if value.numel() > LONGEST_VECTOR:
            raise ValueError(f"{name} has {value.numel()} numbers, more than {LONGEST_VECTOR}")
        return [int(number) for number in value.reshape(-1).tolist()]


def axis_of(axis: int, rank: int, name: str = "axis") -> int:
    """The axis counted from the front; ValueError where a tensor of that rank has none such."""
    if not -rank <= axis < rank:
        raise ValueError(f"{name} {axis} of a tensor of rank {rank}")
    return axis % rank


def broadcast(*tensors: Tensor) -> int:
    """Elements of the shape that these broadcast to, at most; wrong shapes are left to the kernels."""
    rank = max(tensor.dim() for tensor in tensors)
    shapes = [(1,) * (rank - tensor.dim()) + tuple(tensor.shape) for tensor in tensors]
    return math.prod(map(max, *shapes)) if len(shapes) > 1 else math.prod(shapes[0])
