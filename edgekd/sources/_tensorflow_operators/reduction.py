"""Operators that take axes away, and those that go along one."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgekd.sources._tensorflow_graphs import Array, Node, Thing
from edgekd.sources._tensorflow_operators import operator
from edgekd.sources._tensorflow_operators.shapes import by_axes, first_axis

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _one_by_one(function: Callable[..., Tensor]) -> Reduction:
    def reduce(data: Tensor, axes: list[int], keep: bool) -> Tensor:
        for axis in sorted(axes, reverse=True):
            data = function(data, axis, keepdim=keep)
        return data

    return reduce


def _mean(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    if data.is_floating_point():
        return torch.mean(data, axes, keepdim=keep)
    count = torch.ones_like(data).sum(axes, keepdim=keep)
    return torch.div(data.sum(axes, keepdim=keep), count, rounding_mode="floor").to(data.dtype)


REDUCTIONS: dict[str, Reduction] = {
    "All": _one_by_one(torch.all),
    "Any": _one_by_one(torch.any),
    "EuclideanNorm": lambda data, axes, keep: torch.sqrt(torch.sum(data * data, axes, keepdim=keep)),
    "Max": lambda data, axes, keep: torch.amax(data, axes, keepdim=keep),
    "Mean": _mean,
    "Min": lambda data, axes, keep: torch.amin(data, axes, keepdim=keep),
    "Prod": _one_by_one(torch.prod),
    "Sum": lambda data, axes, keep: torch.sum(data, axes, keepdim=keep, dtype=data.dtype),
}


@operator(*REDUCTIONS)
def reduce(node: Node) -> Thing:
    """Over some axes."""
    array, function, keep = node.array(), REDUCTIONS[node.operator], node.bool_of("keep_dims")
    axes = sorted({node.normal(axis) for axis in node.integers(1, "axes")})
    if not axes or not array.rank:
        return array
    if not array.is_first:
        return node.make(lambda data: function(data, axes, keep), [array.plain()])
    moved = [first_axis(array, axis) for axis in axes]
    left = array.rank - len(axes)
    # Channels still stand behind the batch where both are left, and spatial axes too.
    first = keep or (left >= 3 and not {0, array.rank - 1} & set(axes))
    if not first and left >= 2 and 0 in axes and array.rank - 1 not in axes:
        return node.make(lambda data: function(data, axes, keep), [array.plain()])
    return node.make(lambda data: function(data, moved, keep), [array.channels_first()], first=first)


@operator("ArgMax", "ArgMin")
def place_of(node: Node) -> Thing:
    """The first of equals."""
    function = torch.argmax if node.operator == "ArgMax" else torch.argmin
    axis, kind = node.axis(1), node.dtype_of("output_type") if node.has("output_type") else torch.int64
    return node.make(lambda data: function(data, axis).to(kind), [node.plain()])


@operator("Cumsum")
def cumulative_sum(node: Node) -> Thing:
    """With or without the element itself, from either end."""
    axis, exclusive, backwards = node.axis(1), node.bool_of("exclusive"), node.bool_of("reverse")

    def function(data: Tensor) -> Tensor:
        ordered = data.flip(axis) if backwards else data
        total = torch.cumsum(ordered, axis, dtype=data.dtype)
        total = total - ordered if exclusive else total
        return total.flip(axis) if backwards else total

    return node.make(function, [node.plain()])


@operator("Softmax", "LogSoftmax")
def softmax(node: Node) -> Thing:
    """Over the last axis."""
    function = torch.softmax if node.operator == "Softmax" else torch.log_softmax
    return by_axes(node, lambda axes: lambda data: function(data, axes[0]), [node.array().rank - 1])


@operator("L2Loss")
def half_square(node: Node) -> Thing:
    """Half the sum of squares."""
    return node.make(lambda data: (data * data).sum() / 2, [node.plain()])


@operator("TopKV2", "TopK")
def top_k(node: Node) -> list[Array]:
    """The largest of the last axis, and where they are."""
    count = node.int_of("k", 1) if node.operator == "TopK" else node.integers(1, "number")[0]
    kind = node.dtype_of("index_type") if node.has("index_type") else torch.int32

    def function(data: Tensor) -> tuple[Tensor, Tensor]:
        values, places = torch.topk(data, count, -1, True, True)
        return values, places.to(kind)

    return node.make_all(function, [node.plain()])
