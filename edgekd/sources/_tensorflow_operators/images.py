"""Convolutions, pools and what else slides over an image; they work with channels first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.sources._functions import (
    Method,
    Pads,
    average_pool,
    convolution,
    cubic_kernel,
    depth_to_space,
    kernel_map,
    linear_kernel,
    max_pool,
    nearest_map,
    resize,
    same_pads,
    space_to_depth,
    transposed_convolution,
)
from edgekd.sources._graphs import Value
from edgekd.sources._tensorflow_graphs import Array, Made, Node, Thing
from edgekd.sources._tensorflow_operators import operator
from edgekd.sources._tensorflow_operators.elementwise import together


def is_last(node: Node) -> bool:
    """Whether the node has channels last, as nearly all have."""
    return not node.text_of("data_format", "NHWC").startswith("NC")


def channels_first(node: Node, position: int = 0) -> Value:
    """An image among the inputs, with channels first."""
    array = node.array(position)
    return array.channels_first() if is_last(node) else array.plain()


def result(
    node: Node, function: Callable[..., object], values: Sequence[Value | None], frozen: Sequence[int] = ()
) -> Array:
    """An image, made with channels first."""
    return node.make(function, values, first=is_last(node), frozen=frozen)


def per_axis(node: Node, name: str, axes: int) -> list[int]:
    """The attribute's numbers for the spatial axes."""
    numbers = node.ints_of(name) or [1] * (axes + 2)
    return numbers[1:-1] if is_last(node) else numbers[2:]


def pads_of(node: Node, sizes: Sequence[int], kernel: list[int], strides: list[int], dilations: list[int]) -> Pads:
    """As `padding` says."""
    padding = node.text_of("padding", "VALID")
    if padding == "SAME":
        return same_pads(sizes, kernel, strides, dilations)
    if padding == "EXPLICIT":
        flat = node.ints_of("explicit_paddings")
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        return tuple(pairs[1:-1] if is_last(node) else pairs[2:])
    return ((0, 0),) * len(sizes)


def weight(node: Node, position: int, order: list[int], shape: Sequence[int] | None = None) -> Value:
    """Stored weights in torch's order of axes."""
    given = node.plain(position)
    return node.make(
        lambda data: data.permute(order) if shape is None else data.permute(order).reshape(shape), [given]
    ).plain()


# --- convolutions


@operator("Conv2D", "Conv3D")
def conv(node: Node) -> Thing:
    """Weights are (height, width, inputs, outputs)."""
    data, kernel = channels_first(node), list(node.array(1).shape[:-2])
    axes = len(kernel)
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    pads = pads_of(node, data.shape[2:], kernel, strides, dilations)
    groups = data.shape[1] // node.array(1).shape[-2]
    filters = weight(node, 1, [axes + 1, axes, *range(axes)])
    made = result(node, convolution(strides, pads, dilations, groups), [data, filters])
    return _with_dilated(node, made, filters, strides, pads, groups)


@operator("DepthwiseConv2dNative")
def depthwise(node: Node) -> Thing:
    """Weights are (height, width, channels, outputs of each channel)."""
    data, (height, width, channels, each) = channels_first(node), node.array(1).shape
    strides, dilations = per_axis(node, "strides", 2), per_axis(node, "dilations", 2)
    pads = pads_of(node, data.shape[2:], [height, width], strides, dilations)
    filters = weight(node, 1, [2, 3, 0, 1], (channels * each, 1, height, width))
    made = result(node, convolution(strides, pads, dilations, channels), [data, filters])
    return _with_dilated(node, made, filters, strides, pads, channels)


@dataclass(frozen=True)
class Blocked:
    """An image whose pixels were dealt out to examples, as TensorFlow writes some dilated convolutions."""

    image: Array
    """Before that; or the dilated convolution of it."""
    blocks: tuple[int, ...]
    pads: Pads = ()


def _with_dilated(node: Node, made: Array, filters: Value, strides: list[int], pads: Pads, groups: int) -> Array:
    """The convolution, and the dilated one that it is a part of, for the operator that puts the pixels back."""
    note = node.array(0).note
    plain = set(strides) == {1} and not any(side for pair in pads for side in pair) and is_last(node)
    if isinstance(note, Blocked) and plain and len(note.blocks) == len(strides):
        function = convolution(strides, note.pads, list(note.blocks), groups)
        whole = node.make(function, [note.image.channels_first(), filters], first=True)
        made.note = Blocked(whole, note.blocks)
    return made


@operator("Conv2DBackpropInput", "Conv3DBackpropInputV2")
def transposed(node: Node) -> Thing:
    """Inputs: sizes of the result; weights (height, width, outputs, inputs); the image."""
    sizes, data, kernel = node.integers(0, "output shape"), channels_first(node, 2), list(node.array(1).shape[:-2])
    axes = len(kernel)
    wanted = sizes[1:-1] if is_last(node) else sizes[2:]
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    pads = pads_of(node, wanted, kernel, strides, dilations)
    outer = [
        size - ((given - 1) * stride + dilation * (width - 1) + 1 - sum(pair))
        for size, given, stride, dilation, width, pair in zip(
            wanted, data.shape[2:], strides, dilations, kernel, pads, strict=True
        )
    ]
    order = [axes + 1, axes, *range(axes)]
    function = transposed_convolution(strides, pads, outer, dilations, 1)
    return result(node, function, [data, weight(node, 1, order)])


FUSING = {"Conv2D", "Conv3D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3DBackpropInputV2", "MatMul"}
"""Their functions take a bias as the third."""


@operator("BiasAdd")
def add_bias(node: Node) -> Thing:
    """Into the convolution or product right before it, where there is one."""
    data, bias = node.array(), node.plain(1)
    if not is_last(node):
        sizes = [-1, *[1] * (data.rank - 2)]
        return node.make(lambda image, shift: image + shift.reshape(sizes), [data.plain(), bias])
    value = data.channels_first() if data.is_first else data.plain()
    maker = value.maker
    if isinstance(maker, Made) and maker.operator in FUSING and len(maker.inputs) == 2:
        return node.make(maker.function, [*maker.inputs, bias], first=data.is_first)
    return together(node, torch.add)


@operator("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def batch_norm(node: Node) -> list[Thing]:
    """By the statistics in the file; the other outputs serve training alone."""
    if node.bool_of("is_training", True):
        raise node.refusal("it is in training mode", hint="save the model in evaluation mode")
    epsilon = node.float_of("epsilon", 1e-4)
    scale, shift, mean, variance = (node.plain(position) for position in range(1, 5))
    made = result(
        node,
        lambda data, *rest: F.batch_norm(data, rest[2], rest[3], rest[0], rest[1], eps=epsilon),
        [channels_first(node), scale, shift, mean, variance],
        frozen=(3, 4),
    )
    return [made, *node.inputs[3:5], *node.inputs[3:5], node.inputs[4]]


@operator("LRN")
def local_response_norm(node: Node) -> Thing:
    """Over neighbouring channels (Krizhevsky 2012)."""
    radius, bias = node.int_of("depth_radius", 5), node.float_of("bias", 1.0)
    alpha, beta = node.float_of("alpha", 1.0), node.float_of("beta", 0.5)
    size = 2 * radius + 1
    return node.make(
        lambda data: F.local_response_norm(data, size, alpha * size, beta, bias),
        [node.array().channels_first()],
        first=True,
    )


# --- pools


def _window(node: Node, data: Value, axes: int) -> tuple[list[int], list[int], Pads]:
    kernel, strides = per_axis(node, "ksize", axes), per_axis(node, "strides", axes)
    return kernel, strides, pads_of(node, data.shape[2:], kernel, strides, [1] * axes)


@operator("MaxPool", "MaxPool3D")
def maximum_pool(node: Node) -> Thing:
    """The largest of each window."""
    data = channels_first(node)
    kernel, strides, pads = _window(node, data, len(data.shape) - 2)
    return result(node, max_pool(kernel, strides, pads, [1] * len(kernel), ceil=False), [data])


@operator("AvgPool", "AvgPool3D")
def mean_pool(node: Node) -> Thing:
    """Pads do not count."""
    data = channels_first(node)
    kernel, strides, pads = _window(node, data, len(data.shape) - 2)
    function, shares = average_pool(data.shape[2:], kernel, strides, pads, ceil=False, count_pads=False)
    extra = [] if shares is None else [node.constant(shares, f"{node.name}.shares").plain()]
    return result(node, function, [data, *extra])


# --- resizing


@operator("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic")
def resize_image(node: Node) -> Thing:
    """To a size; places are computed in single precision, as TensorFlow does."""
    data, sizes = node.array().channels_first(), node.integers(1, "size")
    if min(sizes, default=0) < 1 or len(sizes) != 2:
        raise ConfigError(f"{node}: a size of {sizes}")
    corners, half = node.bool_of("align_corners"), node.bool_of("half_pixel_centers")
    method: Method = {"ResizeBilinear": "linear", "ResizeBicubic": "cubic"}.get(node.operator, "nearest")  # type: ignore[assignment]  # of a literal's values
    maps = {
        axis: _map(data.shape[axis], output, method, corners=corners, half=half)
        for axis, output in zip((2, 3), sizes, strict=True)
        if output != data.shape[axis]
    }
    if not maps:
        return node.array()
    function, tensors = resize(data.shape, maps, method)
    extra = [node.constant(tensor, f"{node.name}.map").plain() for tensor in tensors]
    kind = torch.float32 if method != "nearest" else data.meta.dtype
    return node.make(lambda image, *rest: function(image.to(kind), *rest), [data, *extra], first=True)


def _map(size: int, output: int, method: Method, *, corners: bool, half: bool) -> Tensor:
    scale = torch.tensor((size - 1) / (output - 1) if corners and output > 1 else size / output)
    place = torch.arange(output).float()
    if method == "nearest":
        sources = (place + 0.5) * scale if half else place * scale
        return nearest_map(torch.floor(sources + 0.5) if corners else sources.floor(), size)
    sources = (place + 0.5) * scale - 0.5 if half else place * scale
    if method == "linear":
        return kernel_map(sources.double(), size, linear_kernel, 1.0)
    return kernel_map(sources.double(), size, cubic_kernel(-0.5 if half else -0.75), 2.0, outside=half)


# --- blocks


@operator("DepthToSpace")
def to_space(node: Node) -> Thing:
    """Channels become pixels, the block first."""
    data = channels_first(node)
    return result(node, depth_to_space(node.int_of("block_size", 2), data.shape), [data])


@operator("SpaceToDepth")
def to_depth(node: Node) -> Thing:
    """Pixels become channels, the block first."""
    data = channels_first(node)
    return result(node, space_to_depth(node.int_of("block_size", 2), data.shape), [data])


@operator("SpaceToBatchND")
def space_to_batch(node: Node) -> Thing:
    """Pixels become examples, as dilated convolutions are written."""
    shape, blocks = node.array().shape, node.integers(1, "blocks")
    pads = node.static(2, "pads").reshape(-1, 2).tolist()
    count, rest = len(blocks), shape[len(blocks) + 1 :]
    edges = [0, 0] * len(rest) + [int(side) for pair in reversed(pads) for side in pair]
    sizes = [
        (size + sum(map(int, pair))) // block
        for size, pair, block in zip(shape[1 : count + 1], pads, blocks, strict=True)
    ]
    split = [shape[0], *[part for size, block in zip(sizes, blocks, strict=True) for part in (size, block)], *rest]
    order = [*range(2, 2 * count + 1, 2), 0, *range(1, 2 * count, 2), *range(2 * count + 1, len(split))]
    whole = [-1, *sizes, *rest]
    made = node.make(lambda data: F.pad(data, edges).reshape(split).permute(order).reshape(whole), [node.plain()])
    if len(rest) == 1:
        sides = tuple((int(before), int(after)) for before, after in pads)
        made.note = Blocked(node.array(), tuple(blocks), sides)
    return made


@operator("BatchToSpaceND")
def batch_to_space(node: Node) -> Thing:
    """The way back."""
    shape, blocks = node.array().shape, node.integers(1, "blocks")
    crops = [[int(side) for side in pair] for pair in node.static(2, "crops").reshape(-1, 2).tolist()]
    count, sizes, rest = len(blocks), shape[1 : len(blocks) + 1], shape[len(blocks) + 1 :]
    split = [*blocks, -1, *sizes, *rest]
    order = [count]
    for axis in range(count):
        order += [count + 1 + axis, axis]
    order += range(2 * count + 1, len(split))
    whole = [size * block for size, block in zip(sizes, blocks, strict=True)]
    cut = (
        slice(None),
        *(slice(before, size - after) for size, (before, after) in zip(whole, crops, strict=True)),
    )
    note = node.array().note
    if isinstance(note, Blocked) and note.blocks == tuple(blocks):
        moved = (slice(None), slice(None), *cut[1:])
        return node.make(lambda data: data[moved], [note.image.channels_first()], first=True)
    joined = [-1, *whole, *rest]
    return node.make(lambda data: data.reshape(split).permute(order).reshape(joined)[cut], [node.plain()])
