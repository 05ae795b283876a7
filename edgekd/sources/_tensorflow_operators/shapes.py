"""Operators that move elements and leave their values."""

from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.sources._tensorflow_graphs import Array, Node, Thing, to_last
from edgekd.sources._tensorflow_operators import operator


def first_axis(array: Array, axis: int) -> int:
    """Where an axis of the graph's order stands with channels first."""
    return to_last(array.rank)[axis]


def by_axes(node: Node, function: Callable[[list[int]], Callable[..., Tensor]], axes: Sequence[int]) -> Array:
    """A function of the first input and some of its axes, in whatever order these are."""
    array = node.array()
    if array.is_first:
        moved = [first_axis(array, axis) for axis in axes]
        return node.make(function(moved), [array.channels_first()], first=True)
    return node.make(function(list(axes)), [array.plain()])


@operator("Shape")
def shape_of(node: Node) -> Thing:
    """Known now."""
    return node.constant(torch.tensor(node.array().shape, dtype=_index_type(node)))


@operator("Size")
def size_of(node: Node) -> Thing:
    """Known now."""
    return node.constant(torch.tensor(prod(node.array().shape), dtype=_index_type(node)))


@operator("Rank")
def rank_of(node: Node) -> Thing:
    """Known now."""
    return node.constant(torch.tensor(node.array().rank, dtype=torch.int32))


@operator("ShapeN")
def shapes_of(node: Node) -> list[Thing]:
    """Known now."""
    return [node.constant(torch.tensor(array.shape, dtype=_index_type(node))) for array in node.arrays()]


def _index_type(node: Node) -> torch.dtype:
    return node.dtype_of("out_type") if node.has("out_type") else torch.int32


@operator("Reshape")
def reshape(node: Node) -> Thing:
    """One size may be left to be computed."""
    wanted, count = node.integers(1, "shape"), prod(node.array().shape)
    if -1 in wanted:
        known = prod(size for size in wanted if size != -1)
        wanted = [count // max(known, 1) if size == -1 else size for size in wanted]
    if tuple(wanted) == node.array().shape:
        return node.array()
    if len(wanted) >= 3 and all(size == 1 for size in wanted[1:-1]):  # channels can as well stand first
        moved = [wanted[0], wanted[-1], *wanted[1:-1]]
        return node.make(lambda data: data.reshape(moved), [node.plain()], first=True)
    return node.make(lambda data: data.reshape(wanted), [node.plain()])


@operator("Squeeze")
def squeeze(node: Node) -> Thing:
    """All axes of size one, or some of them."""
    array = node.array()
    axes = [node.normal(axis) for axis in node.ints_of("squeeze_dims") or node.ints_of("axis")]
    chosen = set(axes or [axis for axis, size in enumerate(array.shape) if size == 1])
    if any(array.shape[axis] != 1 for axis in chosen):
        raise ConfigError(f"{node}: axes {sorted(chosen)} of shape {array.shape} are not all of size one")
    left = [axis for axis in range(array.rank) if axis not in chosen]
    if array.is_first and len(left) >= 3 and left[0] == 0 and left[-1] == array.rank - 1:
        sizes = [array.shape[axis] for axis in (0, left[-1], *left[1:-1])]
        return node.make(lambda data: data.reshape(sizes), [array.channels_first()], first=True)
    sizes = [array.shape[axis] for axis in left]
    return node.make(lambda data: data.reshape(sizes), [array.plain()])


@operator("ExpandDims")
def expand_dims(node: Node) -> Thing:
    """A new axis of size one."""
    array = node.array()
    axis = node.normal(node.integers(1, "axis")[0], array.rank + 1)
    sizes = [*array.shape[:axis], 1, *array.shape[axis:]]
    if array.is_first and 0 < axis < array.rank:
        moved = [sizes[0], sizes[-1], *sizes[1:-1]]
        return node.make(lambda data: data.reshape(moved), [array.channels_first()], first=True)
    return node.make(lambda data: data.reshape(sizes), [array.plain()])


@operator("Transpose")
def transpose(node: Node) -> Thing:
    """Of an image with channels first, by one permutation instead of two."""
    array, order = node.array(), node.integers(1, "permutation")
    if order == list(range(array.rank)):
        return array
    if array.is_first:
        composed = [first_axis(array, axis) for axis in order]
        if composed == list(range(array.rank)):
            return node.make(lambda data: data, [array.channels_first()])
        return node.make(lambda data: data.permute(composed), [array.channels_first()])
    return node.make(lambda data: data.permute(order), [array.plain()])


@operator("ConcatV2", "Concat")
def concat(node: Node) -> Thing:
    """Along an axis, which is the last input, or in old graphs the first."""
    place = len(node.inputs) - 1 if node.operator == "ConcatV2" else 0
    arrays = [node.array(position) for position in range(len(node.inputs)) if position != place]
    axis = node.normal(node.integers(place, "axis")[0], arrays[0].rank)
    rank = arrays[0].rank
    if rank >= 3 and any(array.is_first and array.constant is None for array in arrays):
        moved = first_axis(arrays[0], axis)
        return node.make(
            lambda *parts: torch.cat(parts, moved), [array.channels_first() for array in arrays], first=True
        )
    return node.make(lambda *parts: torch.cat(parts, axis), [array.plain() for array in arrays])


@operator("Split")
def split(node: Node) -> list[Array]:
    """Into equal parts; the axis is the first input."""
    array, count = node.array(1), node.int_of("num_split", 1)
    axis = node.normal(node.integers(0, "axis")[0], array.rank)
    return _parts(node, array, axis, [array.shape[axis] // max(count, 1)] * count)


@operator("SplitV")
def split_by_size(node: Node) -> list[Array]:
    """Into given sizes, of which one may be left to be computed."""
    array, sizes = node.array(), node.integers(1, "sizes")
    axis = node.axis(2)
    rest = array.shape[axis] - sum(size for size in sizes if size != -1)
    return _parts(node, array, axis, [rest if size == -1 else size for size in sizes])


def _parts(node: Node, array: Array, axis: int, sizes: list[int]) -> list[Array]:
    if sum(sizes) != array.shape[axis] or min(sizes, default=0) < 0:
        raise ConfigError(f"{node}: parts {sizes} of an axis of size {array.shape[axis]}")
    if array.is_first:
        moved = first_axis(array, axis)
        return node.make_all(lambda data: torch.split(data, sizes, moved), [array.channels_first()], first=True)
    return node.make_all(lambda data: torch.split(data, sizes, axis), [array.plain()])


@operator("Pack")
def pack(node: Node) -> Thing:
    """Along a new axis."""
    arrays = node.arrays()
    axis = node.normal(node.int_of("axis"), arrays[0].rank + 1)
    return node.make(lambda *parts: torch.stack(parts, axis), [array.plain() for array in arrays])


@operator("Unpack")
def unpack(node: Node) -> list[Array]:
    """Slices of an axis."""
    axis = node.normal(node.int_of("axis"))
    return node.make_all(lambda data: torch.unbind(data, axis), [node.plain()])


@operator("Tile")
def tile(node: Node) -> Thing:
    """So many times along each axis."""
    repeats = node.integers(1, "repeats")
    return node.make(lambda data: data.repeat(repeats), [node.plain()])


@operator("BroadcastTo")
def broadcast_to(node: Node) -> Thing:
    """Axes of size one grow."""
    shape = node.integers(1, "shape")
    return node.make(lambda data: data.expand(shape), [node.plain()])


@operator("BroadcastArgs")
def broadcast_shapes(node: Node) -> Thing:
    """The shape that two shapes are spread to."""
    shapes = [tuple(node.integers(position)) for position in (0, 1)]
    spread = torch.broadcast_tensors(*(torch.empty(shape, device="meta") for shape in shapes))[0]  # type: ignore[no-untyped-call]  # torch
    return node.constant(torch.tensor(tuple(spread.shape), dtype=node.array().dtype))


@operator("ReverseV2")
def reverse(node: Node) -> Thing:
    """Backwards along some axes."""
    axes = [node.normal(axis) for axis in node.integers(1, "axes")]
    return by_axes(node, lambda moved: lambda data: data.flip(moved), axes)


# --- pads


@operator("Pad", "PadV2", "MirrorPad")
def pad(node: Node) -> Thing:
    """With a value, or with copies of elements."""
    array = node.array()
    pairs = [[int(side) for side in pair] for pair in node.static(1, "pads").reshape(-1, 2).tolist()]
    if array.is_first:
        pairs = [pairs[0], pairs[-1], *pairs[1:-1]]
    given = array.channels_first() if array.is_first else array.plain()
    if node.operator == "MirrorPad":
        return _mirrored(node, given.shape, pairs)
    flat = [side for pair in reversed(pairs) for side in pair]
    while flat[-2:] == [0, 0]:
        flat = flat[:-2]
    value = node.static(2, "value").item() if node.operator == "PadV2" else 0
    return node.make(lambda data: F.pad(data, flat, value=value), [given], first=array.is_first)


def _mirrored(node: Node, shape: tuple[int, ...], pairs: list[list[int]]) -> Array:
    array, symmetric = node.array(), node.text_of("mode") == "SYMMETRIC"
    given = array.channels_first() if array.is_first else array.plain()
    padded = [axis for axis, pair in enumerate(pairs) if any(pair)]
    if not symmetric and padded and min(padded) >= 2 and 3 <= len(shape) <= 5:
        flat = [side for pair in reversed(pairs[2:]) for side in pair]
        return node.make(lambda data: F.pad(data, flat, mode="reflect"), [given], first=array.is_first)
    indices = []
    for axis in padded:
        size, (before, after) = shape[axis], pairs[axis]
        places = torch.arange(-before, size + after)
        if symmetric:
            places = places % (2 * size)
            indices.append(torch.where(places < size, places, 2 * size - 1 - places))
        else:
            places = places % max(1, 2 * (size - 1))
            indices.append(torch.where(places < size, places, 2 * (size - 1) - places))
    extra = [node.constant(index, f"{node.name}.index").plain() for index in indices]

    def function(data: Tensor, *rest: Tensor) -> Tensor:
        for axis, index in zip(padded, rest, strict=True):
            data = data.index_select(axis, index)
        return data

    return node.make(function, [given, *extra], first=array.is_first)


# --- slices


@operator("Slice")
def cut(node: Node) -> Thing:
    """From a start, so many of each axis; -1 means all that are left."""
    array, starts, counts = node.array(), node.integers(1, "starts"), node.integers(2, "sizes")
    slices = [
        slice(start, size if count == -1 else start + count)
        for start, count, size in zip(starts, counts, array.shape, strict=True)
    ]
    if any(part.start < 0 or part.stop > size for part, size in zip(slices, array.shape, strict=True)):
        raise ConfigError(f"{node}: it cuts outside of shape {array.shape}")
    if array.is_first:
        moved = (slices[0], slices[-1], *slices[1:-1])
        return node.make(lambda data: data[moved], [array.channels_first()], first=True)
    chosen = tuple(slices)
    return node.make(lambda data: data[chosen], [array.plain()])


@operator("StridedSlice")
def strided(node: Node) -> Thing:
    """As Python slices."""
    array = node.array()
    places, new_axes = _places(node)
    flipped = [axis for axis, place in enumerate(places) if isinstance(place, slice) and place.step < 0]
    for axis in flipped:  # torch has no negative steps
        place, last = places[axis], array.shape[axis] - 1
        assert isinstance(place, slice)
        start, stop = last - place.start, last - (-1 if place.stop is None else place.stop)
        places[axis] = slice(start, max(start, stop), -place.step)
    if array.is_first and not new_axes and all(isinstance(place, slice) for place in places):
        moved, turned = (places[0], places[-1], *places[1:-1]), [first_axis(array, axis) for axis in flipped]
        return node.make(
            lambda data: (data.flip(turned) if turned else data)[moved], [array.channels_first()], first=True
        )
    chosen = tuple(places)

    def function(data: Tensor) -> Tensor:
        found = (data.flip(flipped) if flipped else data)[chosen]
        for axis in new_axes:
            found = found.unsqueeze(axis)
        return found

    return node.make(function, [array.plain()])


def _places(node: Node) -> tuple[list[slice | int], list[int]]:
    """For each axis of the input a slice or an index; and where axes of size one are put into the result."""
    starts, stops, steps = (node.integers(position, "bound") for position in (1, 2, 3))
    masks = {name: node.int_of(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    shape = node.array().shape
    specified = sum(not (masks["new_axis"] | masks["ellipsis"]) >> at & 1 for at in range(len(starts)))
    places: list[slice | int] = []
    new_axes: list[int] = []
    result_rank = 0
    for at, (start, stop, step) in enumerate(zip(starts, stops, steps, strict=True)):
        if masks["ellipsis"] >> at & 1:
            skipped = len(shape) - specified
            places += [slice(0, size, 1) for size in shape[len(places) : len(places) + skipped]]
            result_rank += skipped
        elif masks["new_axis"] >> at & 1:
            new_axes.append(result_rank)
            result_rank += 1
        elif masks["shrink_axis"] >> at & 1:
            places.append(start)
        else:
            size = shape[len(places)]
            bounds = slice(
                None if masks["begin"] >> at & 1 else start, None if masks["end"] >> at & 1 else stop, step
            ).indices(size)
            places.append(slice(bounds[0], bounds[1], bounds[2]))
            result_rank += 1
    places += [slice(0, size, 1) for size in shape[len(places) :]]
    return places, new_axes
