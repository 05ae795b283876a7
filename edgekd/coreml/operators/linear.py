"""Products of matrices."""

import math
import re
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.coreml.given import Given, broadcast
from edgekd.coreml.operators import Table
from edgekd.coreml.program import quote

_EQUATION: Final = re.compile(r"([a-zA-Z]+),([a-zA-Z]+)->([a-zA-Z]+)")


def _linear(given: Given) -> Tensor:
    x, weight, bias = given.tensor("x"), given.tensor("weight"), given.maybe("bias")
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"weights of shape {tuple(weight.shape)} on {tuple(x.shape)}")
    rows = math.prod(x.shape[:-1])
    given.room(rows * weight.shape[0])
    given.spend(rows * weight.numel())
    return functional.linear(x, weight, bias)


def _matmul(given: Given) -> Tensor:
    x, y = given.tensor("x"), given.tensor("y")
    x = x.transpose(-1, -2) if given.flag("transpose_x") and x.dim() > 1 else x
    y = y.transpose(-1, -2) if given.flag("transpose_y") and y.dim() > 1 else y
    return multiply(given, x, y)


def multiply(given: Given, x: Tensor, y: Tensor) -> Tensor:
    """The matrix product of numpy's rules."""
    if 0 in (x.dim(), y.dim()):
        raise ValueError("a scalar is no matrix")
    left, right = x[..., None] if x.dim() == 1 else x[..., :1], y[None] if y.dim() == 1 else y[..., :1, :]
    elements = broadcast(left, right)
    given.room(elements)
    given.spend(elements * x.shape[-1])
    return torch.matmul(x, y)


def _einsum(given: Given) -> Tensor:
    equation, values = given.text("equation").replace(" ", ""), given.tensors("values")
    match = _EQUATION.fullmatch(equation)
    if match is None or len(values) != 2:
        raise ValueError(f"equation {quote(equation)} of {len(values)} values")
    sizes: dict[str, int] = {}
    for letters, value in zip(match.groups(), values, strict=False):
        for letter, size in zip(letters, value.shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)
    if any(letter not in sizes for letter in match[3]):
        raise ValueError(f"equation {quote(equation)}")
    given.room(math.prod(sizes[letter] for letter in match[3]))
    given.spend(math.prod(sizes.values()))
    result: Tensor = torch.einsum(equation, *values)
    return result


OPERATORS: Final[Table] = {"einsum": _einsum, "linear": _linear, "matmul": _matmul}
