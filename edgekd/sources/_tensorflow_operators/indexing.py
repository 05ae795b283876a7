"""Operators that read and write elements by their indices."""

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.sources._graphs import Value
from edgekd.sources._tensorflow_graphs import Array, Node, Thing, Variable
from edgekd.sources._tensorflow_operators import operator


@operator("GatherV2", "Gather", "ResourceGather")
def gather(node: Node) -> Thing:
    """Slices along an axis; rows of a stored matrix are an embedding."""
    handle = node.inputs[0]
    data = handle.read() if isinstance(handle, Variable) else node.array()
    index = node.array(1)
    if node.int_of("batch_dims"):
        raise node.refusal("slices differ between examples (batch_dims)", hint="write it with GatherNd or OneHot")
    axis = node.normal(node.integers(2, "axis")[0], data.rank) if len(node.inputs) > 2 else 0
    known = index.constant
    if known is not None and known.dim() == 0:
        place = int(known)
        return node.make(lambda table: table.select(axis, place), [data.plain()])
    if axis == 0 and data.rank == 2 and data.constant is not None and data.dtype.is_floating_point:
        return node.make(lambda table, rows: F.embedding(rows, table), [data.plain(), _whole(node, index)])
    sizes = [*data.shape[:axis], *index.shape, *data.shape[axis + 1 :]]

    def function(table: Tensor, rows: Tensor) -> Tensor:
        return table.index_select(axis, rows.reshape(-1)).reshape(sizes)

    return node.make(function, [data.plain(), _whole(node, index)])


def _whole(node: Node, index: Array) -> Value:
    """Indices of a type that torch takes."""
    if index.dtype in {torch.int32, torch.int64}:
        return index.plain()
    return node.make(lambda data: data.long(), [index.plain()]).plain()


@operator("GatherNd")
def gather_nd(node: Node) -> Thing:
    """Slices at coordinates, which stand along the last axis of the index."""
    depth = node.array(1).shape[-1]
    return node.make(
        lambda data, index: data[tuple(index[..., axis].long() for axis in range(depth))],
        [node.plain(0), node.plain(1)],
    )


@operator("ScatterNd")
def scatter_nd(node: Node) -> Thing:
    """Slices at coordinates of zeros, added up where they meet."""
    shape = node.integers(2, "shape")

    def function(index: Tensor, updates: Tensor) -> Tensor:
        empty = torch.zeros(shape, dtype=updates.dtype, device=updates.device)
        return empty.index_put(_coordinates(index), updates, accumulate=True)

    return node.make(function, [node.plain(0), node.plain(1)])


@operator("TensorScatterUpdate", "TensorScatterAdd")
def tensor_scatter(node: Node) -> Thing:
    """Slices written into a tensor, or added to it."""
    add = node.operator == "TensorScatterAdd"
    return node.make(
        lambda data, index, updates: data.index_put(_coordinates(index), updates, accumulate=add),
        [node.plain(position) for position in range(3)],
    )


def _coordinates(index: Tensor) -> tuple[Tensor, ...]:
    return tuple(part.long() for part in index.unbind(-1))


@operator("OneHot")
def one_hot(node: Node) -> Thing:
    """One value where the index stands, another elsewhere."""
    index, depth = node.array(), node.integers(1, "depth")[0]
    axis = node.normal(node.int_of("axis", -1), index.rank + 1)
    sizes = [depth if at == axis else 1 for at in range(index.rank + 1)]
    classes = node.constant(torch.arange(depth).reshape(sizes), f"{node.name}.classes")

    def function(data: Tensor, on: Tensor, off: Tensor, numbers: Tensor) -> Tensor:
        return torch.where(data.unsqueeze(axis) == numbers, on, off)

    return node.make(function, [index.plain(), node.plain(2), node.plain(3), classes.plain()])


@operator("Where")
def where(node: Node) -> Thing:
    """Coordinates of what is not zero; only of constants, as their number depends on the data."""
    return node.constant(torch.nonzero(node.static(0)))


@operator("MatrixBandPart")
def band(node: Node) -> Thing:
    """The matrix around its diagonal, zeros elsewhere; a negative width keeps the whole triangle."""
    (below,), (above,) = node.integers(1, "width"), node.integers(2, "width")

    def function(data: Tensor) -> Tensor:
        data = data if above < 0 else torch.tril(data, above)
        return data if below < 0 else torch.triu(data, -below)

    return node.make(function, [node.plain()])


@operator("InvertPermutation")
def invert(node: Node) -> Thing:
    """Known now."""
    order = node.static(0)
    return node.constant(torch.argsort(order).to(order.dtype))
