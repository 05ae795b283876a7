"""Operators that move elements and leave their values."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.sources._functions import depth_to_space, space_to_depth
from edgekd.sources._onnx_operators import Node, Translation, operator


@operator("Shape")
def shape_of(node: Node) -> Translation:
    """Known now."""
    node.static_inputs.add(0)
    shape = node.shape()
    end = node.int_of("end", len(shape))
    return torch.tensor(shape[node.int_of("start", 0) : end], dtype=torch.int64)


@operator("Size")
def size_of(node: Node) -> Translation:
    """Known now."""
    node.static_inputs.add(0)
    return torch.tensor(prod(node.shape()), dtype=torch.int64)


@operator("Reshape")
def reshape(node: Node) -> Translation:
    """Zeros copy a size, unless `allowzero` says that they are sizes."""
    wanted, shape = node.integers(1, "shape"), node.shape()
    if not node.int_of("allowzero"):
        wanted = [_copied(node, shape, position) if size == 0 else size for position, size in enumerate(wanted)]
    if wanted.count(-1) == 1:  # an explicit size keeps traces free of arithmetic
        known = prod(size for size in wanted if size != -1)
        wanted = [prod(shape) // max(known, 1) if size == -1 else size for size in wanted]
    return lambda data: data.reshape(wanted)


def _copied(node: Node, shape: tuple[int, ...], position: int) -> int:
    if position >= len(shape):
        raise ConfigError(f"{node}: it copies size {position} of shape {shape}")
    return shape[position]


@operator("Flatten")
def flatten(node: Node) -> Translation:
    """To a matrix, cut before an axis, which may be one behind the last."""
    shape, axis = node.shape(), node.int_of("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    sizes = (prod(shape[:axis]), prod(shape[axis:]))
    return lambda data: data.reshape(sizes)


@operator("Squeeze")
def squeeze(node: Node) -> Translation:
    """Axes are an attribute before opset 13, an input since then; none means all of size one."""
    shape, axes = node.shape(), _axes(node)
    chosen = {node.normal(axis) for axis in axes} if axes else {at for at, size in enumerate(shape) if size == 1}
    if any(shape[axis] != 1 for axis in chosen):
        raise ConfigError(f"{node}: axes {sorted(chosen)} of shape {shape} are not all of size one")
    sizes = [size for axis, size in enumerate(shape) if axis not in chosen]
    return lambda data: data.reshape(sizes)


@operator("Unsqueeze")
def unsqueeze(node: Node) -> Translation:
    """Axes count in the result."""
    axes = _axes(node) or []
    rank = node.rank() + len(axes)
    places = sorted(node.normal(axis, rank) for axis in axes)
    if len(set(places)) != len(axes):
        raise ConfigError(f"{node}: an axis of {axes} comes twice")
    sizes = list(node.shape())
    for place in places:
        sizes.insert(place, 1)
    return lambda data: data.reshape(sizes)


def _axes(node: Node) -> list[int] | None:
    if node.opset < 13:
        return node.ints_of("axes")
    return node.integers(1, "axes") if node.has(1) else None


@operator("Transpose")
def transpose(node: Node) -> Translation:
    """Reversed axes by default."""
    order = node.ints_of("perm") or list(reversed(range(node.rank())))
    if order == list(range(node.rank())):
        return lambda data: data
    return lambda data: data.permute(order)


@operator("Expand")
def expand(node: Node) -> Translation:
    """Sizes of one grow; those that are larger than wanted stay."""
    wanted = node.integers(1, "shape")
    rank = max(node.rank(), len(wanted))
    shape = [old if new == 1 else new for old, new in zip(_led(node.shape(), rank), _led(wanted, rank), strict=True)]
    return lambda data: data.expand(shape)


def _led(sizes: Sequence[int], rank: int) -> list[int]:
    """Sizes with as many ones in front as there are axes."""
    return [1] * (rank - len(sizes)) + list(sizes)


@operator("Tile")
def tile(node: Node) -> Translation:
    """So many times along each axis."""
    repeats = node.integers(1, "repeats")
    return lambda data: data.repeat(repeats)


@operator("Concat")
def concat(node: Node) -> Translation:
    """Along one axis."""
    axis = node.axis(0)
    return lambda *parts: torch.cat(parts, axis)


@operator("Split")
def split(node: Node) -> Translation:
    """Into given sizes, or into equal parts, of which the last may be smaller."""
    axis, count = node.axis(0), node.int_of("num_outputs", len(node.outputs))
    size = node.shape()[axis]
    sizes = node.ints_of("split") if node.opset < 13 else (node.integers(1, "sizes") if node.has(1) else None)
    if sizes is None:
        part = -(-size // max(count, 1))
        sizes = [max(0, min(part, size - start * part)) for start in range(count)]
    if sum(sizes) != size or min(sizes, default=0) < 0:
        raise ConfigError(f"{node}: parts {sizes} of an axis of size {size}")
    return lambda data: torch.split(data, sizes, axis)


@operator("Slice")
def cut(node: Node) -> Translation:
    """Attributes before opset 10, inputs since then."""
    shape = node.shape()
    if node.opset < 10:
        starts, ends, axes = node.ints_of("starts") or [], node.ints_of("ends") or [], node.ints_of("axes")
        steps = [1] * len(starts)
    else:
        starts, ends = node.integers(1, "starts"), node.integers(2, "ends")
        axes = node.integers(3, "axes") if node.has(3) else None
        steps = node.integers(4, "steps") if node.has(4) else [1] * len(starts)
        node.static_inputs.update({3, 4})
    places = [node.normal(axis) for axis in (range(len(starts)) if axes is None else axes)]
    slices, flipped = [slice(None)] * len(shape), []
    for axis, start, end, step in zip(places, starts, ends, steps, strict=True):
        if step == 0:
            raise ConfigError(f"{node}: a step of zero")
        low, high, stride = slice(start, end, step).indices(shape[axis])
        if step < 0:  # torch has no negative steps
            flipped.append(axis)
            low, high, stride = shape[axis] - 1 - low, shape[axis] - 1 - high, -step
        slices[axis] = slice(low, max(low, high), stride)
    chosen = tuple(slices)
    return lambda data: (data.flip(flipped) if flipped else data)[chosen]


# --- pads

PAD_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@operator("Pad")
def pad(node: Node) -> Translation:
    """Pads are attributes before opset 11, inputs since then; negative ones cut."""
    mode, value = node.text_of("mode", "constant"), 0.0
    if node.opset < 11:
        pads, value = node.ints_of("pads") or [], node.float_of("value")
    else:
        pads = node.integers(1, "pads")
        filler = node.optional(2, "value")
        value = 0.0 if filler is None or not filler.numel() else filler.item()
    axes = node.integers(3, "axes") if node.opset >= 18 and node.has(3) else list(range(node.rank()))
    if len(pads) != 2 * len(axes):
        raise ConfigError(f"{node}: {len(pads)} pads for {len(axes)} axes")
    edges = [(0, 0)] * node.rank()
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        edges[node.normal(axis)] = (before, after)
    if mode == "constant":
        flat = [side for pair in reversed(edges) for side in pair]
        while flat[-2:] == [0, 0]:
            flat = flat[:-2]
        return lambda data: F.pad(data, flat, value=value)
    if mode not in PAD_MODES:
        raise node.refusal(f"mode {mode!r} is not known", hint=f"known: constant, {', '.join(PAD_MODES)}")
    return _mirrored(node, edges, mode)


def _mirrored(node: Node, edges: list[tuple[int, int]], mode: str) -> Translation:
    """Pads that are copies of elements: torch's own for the last axes of an image, and picked by index else."""
    shape, padded = node.shape(), [axis for axis, pair in enumerate(edges) if any(pair)]
    inside = all(0 <= side < shape[axis] for axis in padded for side in edges[axis])
    if inside and padded and 3 <= len(shape) <= 5 and min(padded) >= 2:
        flat = [side for pair in reversed(edges[2:]) for side in pair]
        return lambda data: F.pad(data, flat, mode=PAD_MODES[mode])
    for axis in padded:
        before, after = edges[axis]
        node.attach(_sources(torch.arange(-before, shape[axis] + after), shape[axis], mode))

    def function(data: Tensor, *indices: Tensor) -> Tensor:
        for axis, index in zip(padded, indices, strict=True):
            data = data.index_select(axis, index)
        return data

    return function


def _sources(places: Tensor, size: int, mode: str) -> Tensor:
    """Which element of an axis stands at each place, places before and behind it included."""
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(1, 2 * (size - 1))
    folded = places % period
    return torch.where(folded < size, folded, period - folded)


@operator("CenterCropPad")
def centre_crop_pad(node: Node) -> Translation:
    """Cut or padded with zeros to a size, evenly on both sides."""
    axes = node.ints_of("axes") or list(range(node.rank()))
    edges = [(0, 0)] * node.rank()
    for axis, size in zip(axes, node.integers(1, "shape"), strict=True):
        place = node.normal(axis)
        difference = size - node.shape()[place]
        half = abs(difference) // 2
        edges[place] = (half, difference - half) if difference >= 0 else (-half, difference + half)
    flat = [side for pair in reversed(edges) for side in pair]
    return lambda data: F.pad(data, flat)


# --- blocks


@operator("DepthToSpace")
def to_space(node: Node) -> Translation:
    """Channels become pixels: block first (DCR), or channel first (CRD), as torch has it."""
    block = node.int_of("blocksize", 1)
    if node.text_of("mode", "DCR") == "CRD":
        return lambda data: F.pixel_shuffle(data, block)
    return depth_to_space(block, node.shape())


@operator("SpaceToDepth")
def to_depth(node: Node) -> Translation:
    """Pixels become channels: block first (DCR), or channel first (CRD), as torch has it."""
    block = node.int_of("blocksize", 1)
    if node.text_of("mode", "DCR") == "CRD":
        return lambda data: F.pixel_unshuffle(data, block)
    return space_to_depth(block, node.shape())


@operator("ReverseSequence")
def reverse_sequence(node: Node) -> Translation:
    """The first elements of each sequence backwards, as many as its length says."""
    time, batch = node.int_of("time_axis", 0), node.int_of("batch_axis", 1)
    steps = node.shape()[time]
    lengths = node.static(1, "lengths").long().reshape(-1, 1)
    places = torch.arange(steps).expand(len(lengths), steps)
    sources = torch.where(places < lengths, lengths - 1 - places, places)
    spread = [1] * node.rank()
    spread[batch], spread[time] = len(lengths), steps
    index = (sources if batch < time else sources.t()).reshape(spread)
    node.attach(index)
    shape = node.shape()
    return lambda data, index: data.gather(time, index.expand(shape))
