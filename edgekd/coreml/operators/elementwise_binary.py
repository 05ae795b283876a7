"""Arithmetic and comparisons of two values that broadcast."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from edgekd.coreml.given import Given, broadcast
from edgekd.coreml.operators import Function, Table


def _binary(compute: Callable[[Tensor, Tensor], Tensor]) -> Function:
    def combine(given: Given) -> Tensor:
        x, y = given.tensor("x"), given.tensor("y")
        if x.shape != y.shape:
            given.room(broadcast(x, y))
        return compute(x, y)

    return combine


def _wide(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Integers as 64-bit ones: the least number of a type divided by -1 does not fit, and stops an x86 processor."""

    def combine(x: Tensor, y: Tensor) -> Tensor:
        return compute(x, y) if x.is_floating_point() or y.is_floating_point() else compute(x.long(), y.long())

    return combine


def _truth(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def combine(x: Tensor, y: Tensor) -> Tensor:
        if x.dtype != torch.bool or y.dtype != torch.bool:
            raise ValueError("x and y are not truth values")
        return compute(x, y)

    return combine


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y)


OPERATORS: Final[Table] = {
    "add": _binary(torch.add),
    "equal": _binary(torch.eq),
    "floor_div": _binary(_wide(torch.floor_divide)),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "logical_and": _binary(_truth(torch.logical_and)),
    "logical_or": _binary(_truth(torch.logical_or)),
    "logical_xor": _binary(_truth(torch.logical_xor)),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "mod": _binary(_wide(torch.remainder)),
    "mul": _binary(torch.mul),
    "not_equal": _binary(torch.ne),
    "pow": _binary(torch.pow),
    "real_div": _binary(_divide),
    "sub": _binary(torch.sub),
}
