"""Operators that read and write elements by their indices."""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.sources._onnx_operators import Node, Translation, operator

ACCUMULATE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""ONNX's reductions, as torch.scatter_reduce calls them."""


@operator("Gather")
def gather(node: Node) -> Translation:
    """Slices along an axis; from rows of a stored matrix it is an embedding, whose indices must not be negative."""
    axis, shape = node.axis(0), node.shape()
    if node.is_constant(1):
        index = node.static(1)
        return _gather_constant(node, axis, shape[axis], index)
    if axis == 0 and len(shape) == 2 and node.is_constant(0) and node.dtype().is_floating_point:
        return lambda data, index: F.embedding(index, data)
    sizes = (*shape[:axis], *node.shape(1), *shape[axis + 1 :])
    size = shape[axis]

    def function(data: Tensor, index: Tensor) -> Tensor:
        return data.index_select(axis, _wrapped(index, size).reshape(-1)).reshape(sizes)

    return function


def _gather_constant(node: Node, axis: int, size: int, index: Tensor) -> Translation:
    places = index.long()
    if places.numel() and not -size <= int(places.min()) <= int(places.max()) < size:
        raise ConfigError(f"{node}: an index is outside of an axis of size {size}")
    places = torch.where(places < 0, places + size, places)
    if places.dim() == 0:
        position = int(places)
        return lambda data: data.select(axis, position)
    flat = places.reshape(-1)
    start, count = int(flat[0]) if flat.numel() else 0, flat.numel()
    shape = node.shape()
    sizes = (*shape[:axis], *places.shape, *shape[axis + 1 :])
    if count and torch.equal(flat, torch.arange(start, start + count)):
        return lambda data: data.narrow(axis, start, count).reshape(sizes)
    node.attach(flat)
    return lambda data, flat: data.index_select(axis, flat).reshape(sizes)


def _wrapped(index: Tensor, size: int) -> Tensor:
    """Indices that count from the end, counted from the front."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


@operator("GatherElements")
def gather_elements(node: Node) -> Translation:
    """An element of its own for every place of the index."""
    axis = node.axis(0)
    size = node.shape()[axis]
    return lambda data, index: torch.gather(data, axis, _wrapped(index, size))


@operator("GatherND")
def gather_nd(node: Node) -> Translation:
    """Slices at coordinates, which stand along the last axis of the index."""
    batch, shape, places = node.int_of("batch_dims", 0), node.shape(0), node.shape(1)
    depth = places[-1]

    def function(data: Tensor, index: Tensor) -> Tensor:
        coordinates = [_wrapped(index[..., axis], shape[batch + axis]) for axis in range(depth)]
        leading = [_along(torch.arange(places[axis]), axis, len(places) - 1) for axis in range(batch)]
        return data[(*leading, *coordinates)]

    return function


def _along(numbers: Tensor, axis: int, rank: int) -> Tensor:
    """Numbers along one of so many axes."""
    return numbers.reshape([-1 if at == axis else 1 for at in range(rank)])


@operator("ScatterElements", "Scatter")
def scatter_elements(node: Node) -> Translation:
    """Writes single elements, or adds, multiplies, compares them with those that are there."""
    axis, reduction = node.axis(0), node.text_of("reduction", "none")
    size = node.shape()[axis]
    if reduction == "none":
        return lambda data, index, updates: data.scatter(axis, _wrapped(index, size), updates)
    kind = _accumulation(node, reduction)
    return lambda data, index, updates: data.scatter_reduce(axis, _wrapped(index, size), updates, kind)


def _accumulation(node: Node, reduction: str) -> str:
    if reduction not in ACCUMULATE:
        raise node.refusal(f"reduction {reduction!r} is not known", hint=f"known: none, {', '.join(ACCUMULATE)}")
    return ACCUMULATE[reduction]


@operator("ScatterND")
def scatter_nd(node: Node) -> Translation:
    """Writes slices at coordinates, which stand along the last axis of the index."""
    shape, depth, reduction = node.shape(0), node.shape(1)[-1], node.text_of("reduction", "none")
    if reduction == "none":

        def write(data: Tensor, index: Tensor, updates: Tensor) -> Tensor:
            return data.index_put([_wrapped(index[..., axis], shape[axis]) for axis in range(depth)], updates)

        return write
    kind, inner = _accumulation(node, reduction), prod(shape[depth:])

    def function(data: Tensor, index: Tensor, updates: Tensor) -> Tensor:
        row = torch.zeros_like(index[..., 0], dtype=torch.int64)
        for axis in range(depth):
            row = row * shape[axis] + _wrapped(index[..., axis], shape[axis])
        rows = row.reshape(-1, 1).expand(-1, inner)
        flat = data.reshape(-1, inner)
        return flat.scatter_reduce(0, rows, updates.reshape(-1, inner), kind).reshape(shape)

    return function


@operator("TensorScatter")
def tensor_scatter(node: Node) -> Translation:
    """Writes the newest steps into a cache, at a place for each example."""
    axis, shape, length = node.axis(-2), node.shape(0), node.shape(1)[node.axis(-2)]
    circular = node.text_of("mode", "linear") == "circular"

    def function(cache: Tensor, update: Tensor, first: Tensor | None = None) -> Tensor:
        steps = torch.arange(length, device=cache.device)
        start = torch.zeros(shape[0], dtype=torch.int64, device=cache.device) if first is None else first.long()
        places = start.reshape(-1, 1) + steps
        places = places % shape[axis] if circular else places
        index = places.reshape([shape[0], *[length if at == axis else 1 for at in range(1, len(shape))]])
        return cache.scatter(axis, index.expand(update.shape), update)

    return function


@operator("OneHot")
def one_hot(node: Node) -> Translation:
    """The second value where the index stands, the first elsewhere."""
    depth = node.integers(1, "depth")[0]
    axis = node.normal(node.int_of("axis", -1), node.rank() + 1)
    classes = _along(torch.arange(depth), axis, node.rank() + 1)
    node.attach(classes)

    def function(index: Tensor, values: Tensor, classes: Tensor) -> Tensor:
        hot = _wrapped(index, depth).unsqueeze(axis) == classes
        return torch.where(hot, values[1], values[0])

    return function


@operator("TopK")
def top_k(node: Node) -> Translation:
    """The largest or smallest and where they are; before opset 10 their number is an attribute."""
    count = node.int_of("k", 1) if node.opset < 10 else node.integers(1, "k")[0]
    axis, largest = node.axis(-1), bool(node.int_of("largest", 1))
    return lambda data: torch.topk(data, count, axis, largest, True)


@operator("CumSum")
def cumulative_sum(node: Node) -> Translation:
    """With or without the element itself, from either end."""
    axis = node.normal(node.integers(1, "axis")[0])
    exclusive, backwards = bool(node.int_of("exclusive")), bool(node.int_of("reverse"))

    def function(data: Tensor) -> Tensor:
        ordered = data.flip(axis) if backwards else data
        total = torch.cumsum(ordered, axis, dtype=data.dtype)
        total = total - ordered if exclusive else total
        return total.flip(axis) if backwards else total

    return function


@operator("CumProd")
def cumulative_product(node: Node) -> Translation:
    """As `cumulative_sum`."""
    axis = node.normal(node.integers(1, "axis")[0])
    exclusive, backwards = bool(node.int_of("exclusive")), bool(node.int_of("reverse"))

    def function(data: Tensor) -> Tensor:
        ordered = data.flip(axis) if backwards else data
        if exclusive:
            ones = torch.ones_like(ordered.narrow(axis, 0, 1))
            ordered = torch.cat([ones, ordered.narrow(axis, 0, ordered.shape[axis] - 1)], axis)
        total = torch.cumprod(ordered, axis, dtype=data.dtype)
        return total.flip(axis) if backwards else total

    return function


@operator("Trilu")
def triangle(node: Node) -> Translation:
    """The upper or lower triangle."""
    given = node.optional(1, "diagonal")
    diagonal = 0 if given is None else int(given)
    if node.int_of("upper", 1):
        return lambda data: torch.triu(data, diagonal)
    return lambda data: torch.tril(data, diagonal)


@operator("NonZero")
def non_zero(node: Node) -> Translation:
    """Coordinates of what is not zero; only of constants, as their number depends on the data."""
    data = node.static(0)
    return torch.nonzero(data).t().contiguous()


@operator("Compress")
def compress(node: Node) -> Translation:
    """Slices that a constant condition chooses."""
    chosen = torch.nonzero(node.static(1, "condition").reshape(-1)).reshape(-1)
    node.attach(chosen)
    if "axis" not in node.attributes:
        return lambda data, chosen: data.reshape(-1).index_select(0, chosen)
    axis = node.axis()
    return lambda data, chosen: data.index_select(axis, chosen)
