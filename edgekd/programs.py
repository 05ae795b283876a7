"""A model file with the sizes of its tensors, which is what its cost is told from; weights themselves are not read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

MOST_AXES: Final = 16
"""Of a tensor."""


@dataclass(frozen=True)
class Value:
    """A tensor."""

    name: str
    shape: tuple[int, ...]
    """-1 where the file leaves a size open."""
    dtype: str = "float32"
    constant: bool = False
    zero: bool = False
    """A constant whose only number is 0."""

    @property
    def elements(self) -> int:
        """How many numbers it holds; an open size counts as 1."""
        return prod(max(1, size) for size in self.shape)


@dataclass(frozen=True)
class Node:
    """An operator."""

    kind: str
    """In the format's words: "CONV_2D"."""
    name: str
    inputs: tuple[str, ...]
    """Weights and other constants included, in the operator's own order; "" for one that is left out."""
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """What is executed from the inputs to the outputs."""

    format: str
    values: Mapping[str, Value]
    nodes: tuple[Node, ...]
    """In an order in which they can be executed."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    open: tuple[str, ...] = ()
    """Inputs with a size that the file leaves open."""
