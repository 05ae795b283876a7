"""Products of matrices."""

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.sources._tensorflow_graphs import Array, Node, Thing
from edgekd.sources._tensorflow_operators import operator


@operator("MatMul")
def matmul(node: Node) -> Thing:
    """By a stored matrix it is a linear layer, whose weights are (outputs, inputs)."""
    first, second = node.bool_of("transpose_a"), node.bool_of("transpose_b")
    data, matrix = node.plain(0), node.plain(1)
    weight = matrix if second else node.make(lambda stored: stored.t(), [matrix]).plain()

    def function(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(a.t() if first else a, b, bias)

    return node.make(function, [data, weight])


@operator("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def batch_matmul(node: Node) -> Thing:
    """Of the last two axes."""
    first, second = node.bool_of("adj_x"), node.bool_of("adj_y")
    right = node.array(1)
    if right.constant is not None and right.rank == 2 and node.array(0).rank >= 2 and not first:
        weight = right.plain() if second else node.make(lambda stored: stored.t(), [right.plain()]).plain()
        return node.make(F.linear, [node.plain(0), weight])

    def function(a: Tensor, b: Tensor) -> Tensor:
        return torch.matmul(a.mT if first else a, b.mT if second else b)

    return node.make(function, [node.plain(0), node.plain(1)])


@dataclass(frozen=True)
class Contraction:
    """An einsum that is a linear layer: the last axes of the data are contracted with the first of a weight."""

    kept: int
    """Axes of the data that stay."""
    order: tuple[int, ...]
    """Of the weight's axes: those that stay, then those that go."""


@operator("Einsum")
def einsum(node: Node) -> Thing:
    """As torch writes it, or a linear layer where it is one."""
    equation, arrays = node.text_of("equation"), node.arrays()
    if len(equation) > 200:
        raise node.refusal("an equation of more than 200 letters")
    found = _contraction(equation, arrays)
    if found is None:
        return node.make(lambda *data: torch.einsum(equation, *data), [array.plain() for array in arrays])
    data, stored = arrays
    left = [stored.shape[axis] for axis in found.order[: -(data.rank - found.kept)]]
    weight = node.make(lambda matrix: matrix.permute(found.order).reshape(prod(left), -1), [stored.plain()]).plain()
    flat, whole = [*data.shape[: found.kept], -1], [*data.shape[: found.kept], *left]
    return node.make(lambda a, b: F.linear(a.reshape(flat), b).reshape(whole), [data.plain(), weight])


def _contraction(equation: str, arrays: list[Array]) -> Contraction | None:
    sides, arrow, result = equation.replace(" ", "").partition("->")
    parts = sides.split(",")
    if not arrow or len(parts) != 2 or "." in equation or arrays[1].constant is None:
        return None
    data, weight = parts
    gone = [letter for letter in data if letter in weight and letter not in result]
    kept = len(data) - len(gone)
    stays = [letter for letter in weight if letter not in gone]
    plain = len(set(data)) == len(data) and len(set(weight)) == len(weight) and not set(stays) & set(data)
    if not gone or not stays or not plain or list(data[kept:]) != gone or result != data[:kept] + "".join(stays):
        return None
    return Contraction(kept, tuple(weight.index(letter) for letter in (*stays, *gone)))
