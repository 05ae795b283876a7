"""Convolutions, pools, and what else slides a window over an image."""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.sources._functions import (
    Pads,
    average_pool,
    convolution,
    counted,
    max_pool,
    padded_or_cut,
    same_pads,
    transposed_convolution,
    windows,
)
from edgekd.sources._onnx_operators import Node, Translation, operator

MOST_AXES = 3


def spatial_axes(node: Node) -> int:
    """How many axes there are behind batch and channels.

    Raises:
        UnsupportedOperator: more than torch has windows for.
    """
    axes = node.rank() - 2
    if not 1 <= axes <= MOST_AXES:
        raise node.refusal(f"its input has {node.rank()} axes", hint="one to three behind batch and channels can be")
    return axes


def per_axis(node: Node, name: str, axes: int) -> list[int]:
    """An attribute with a positive number an axis, ones where it is not there."""
    numbers = node.ints_of(name) or [1] * axes
    if len(numbers) != axes or min(numbers) < 1:
        raise ConfigError(f"{node}: {name} {numbers} for {axes} axes")
    return numbers


def pads_of(node: Node, sizes: Sequence[int], kernel: list[int], strides: list[int], dilations: list[int]) -> Pads:
    """Explicit, or as `auto_pad` says."""
    automatic = node.text_of("auto_pad", "NOTSET")
    if automatic in {"SAME_UPPER", "SAME_LOWER"}:
        return same_pads(sizes, kernel, strides, dilations, low=automatic == "SAME_LOWER")
    pads = (node.ints_of("pads") if automatic == "NOTSET" else None) or [0] * 2 * len(sizes)
    if len(pads) != 2 * len(sizes):
        raise ConfigError(f"{node}: pads {pads} for {len(sizes)} axes")
    return tuple(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))


@operator("Conv")
def conv(node: Node) -> Translation:
    """With a bias or without."""
    return convolve(node, node.shape(0), node.shape(1))


def convolve(node: Node, shape: tuple[int, ...], weight: tuple[int, ...]) -> Callable[..., Tensor]:
    """The convolution that a node's attributes describe."""
    axes = spatial_axes(node)
    kernel = list(weight[2:])
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    pads = pads_of(node, shape[2:], kernel, strides, dilations)
    return convolution(strides, pads, dilations, node.int_of("group", 1))


@operator("ConvTranspose")
def conv_transpose(node: Node) -> Translation:
    """The output's size follows from the pads, or the pads from `output_shape`."""
    axes = spatial_axes(node)
    kernel = list(node.shape(1)[2:])
    strides, dilations = per_axis(node, "strides", axes), per_axis(node, "dilations", axes)
    outer = node.ints_of("output_padding") or [0] * axes
    wanted = node.ints_of("output_shape")
    automatic = node.text_of("auto_pad", "NOTSET")
    sizes = node.shape()[2:]
    if wanted is None and automatic in {"SAME_UPPER", "SAME_LOWER"}:
        wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    pads = pads_of(node, sizes, kernel, strides, dilations) if wanted is None else ()
    if wanted is not None:
        full = [
            stride * (size - 1) + more + (width - 1) * dilation + 1
            for size, stride, more, width, dilation in zip(sizes, strides, outer, kernel, dilations, strict=True)
        ]
        pads = tuple(_shared(total - size, automatic) for total, size in zip(full, wanted[-axes:], strict=True))
    return transposed_convolution(strides, pads, outer, dilations, node.int_of("group", 1))


def _shared(total: int, automatic: str) -> tuple[int, int]:
    half = total // 2
    return (half, total - half) if automatic == "SAME_UPPER" else (total - half, half)


# --- pools


@operator("MaxPool")
def maximum_pool(node: Node) -> Translation:
    """With the place of each maximum in the flattened input, where it is wanted."""
    axes = spatial_axes(node)
    kernel, strides = _kernel(node, axes), per_axis(node, "strides", axes)
    dilations = per_axis(node, "dilations", axes)
    pads = pads_of(node, node.shape()[2:], kernel, strides, dilations)
    ceil, places = bool(node.int_of("ceil_mode")), node.wants(1)
    if not places:
        return max_pool(node.shape()[2:], kernel, strides, pads, dilations, ceil=ceil)
    if any(side for pair in pads for side in pair) and any(before != after for before, after in pads):
        raise node.refusal("places of maxima with uneven pads", hint="pad in an operator of its own")
    return _with_places(node, max_pool(node.shape()[2:], kernel, strides, pads, dilations, ceil=ceil, indices=True))


def _with_places(node: Node, pool: Callable[[Tensor], Any]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    batch, channels, *sizes = node.shape()
    column_major = bool(node.int_of("storage_order"))

    def function(data: Tensor) -> tuple[Tensor, Tensor]:
        largest, within = pool(data)
        if column_major:
            coordinates, rest = [], within
            for size in reversed(sizes):
                coordinates.append(rest % size)
                rest = torch.div(rest, size, rounding_mode="floor")
            within, step = torch.zeros_like(within), 1
            for coordinate, size in zip(reversed(coordinates), sizes, strict=True):
                within, step = within + coordinate * step, step * size
        planes = torch.arange(batch * channels, device=data.device).reshape(batch, channels, *[1] * len(sizes))
        return largest, within + planes * prod(sizes)

    return function


def _kernel(node: Node, axes: int) -> list[int]:
    if node.ints_of("kernel_shape") is None:
        raise ConfigError(f"{node}: kernel_shape is missing")
    return per_axis(node, "kernel_shape", axes)


@operator("AveragePool")
def mean_pool(node: Node) -> Translation:
    """Pads count or do not."""
    axes = spatial_axes(node)
    kernel, strides = _kernel(node, axes), per_axis(node, "strides", axes)
    dilations = per_axis(node, "dilations", axes)
    sizes, ceil = node.shape()[2:], bool(node.int_of("ceil_mode"))
    pads = pads_of(node, sizes, kernel, strides, dilations)
    count_pads = bool(node.int_of("count_include_pad"))
    if max(dilations) > 1:
        return _dilated_mean(node, kernel, strides, pads, dilations)
    function, shares = average_pool(sizes, kernel, strides, pads, ceil=ceil, count_pads=count_pads)
    if shares is not None:
        node.attach(shares)
    return function


def _dilated_mean(node: Node, kernel: list[int], strides: list[int], pads: Pads, dilations: list[int]) -> Translation:
    """By a convolution with ones, as torch's own pool has no dilation."""
    _, channels, *sizes = node.shape()
    fitted = windows(sizes, kernel, strides, pads, dilations, bool(node.int_of("ceil_mode")))
    inside = counted(sizes, pads, fitted, count_pads=bool(node.int_of("count_include_pad")))
    ones = torch.ones(1, 1, *kernel)
    shares = convolution(strides, ((0, 0),) * len(sizes), dilations, 1)(inside, ones)
    node.attach(ones.expand(channels, 1, *kernel).clone(), shares)
    change_edges, sums = padded_or_cut(fitted), convolution(strides, ((0, 0),) * len(sizes), dilations, channels)
    return lambda data, weight, share: sums(change_edges(data), weight) / share


@operator("LpPool")
def norm_pool(node: Node) -> Translation:
    """The p-norm of each window."""
    axes = spatial_axes(node)
    kernel, strides = _kernel(node, axes), per_axis(node, "strides", axes)
    dilations = per_axis(node, "dilations", axes)
    pads = pads_of(node, node.shape()[2:], kernel, strides, dilations)
    order = node.int_of("p", 2)
    if max(dilations) > 1 or node.int_of("ceil_mode"):
        raise node.refusal("a norm pool with dilations or in ceil mode", hint="write it as Pow, AveragePool, Pow")
    mean, _ = average_pool(node.shape()[2:], kernel, strides, pads, ceil=False, count_pads=True)
    count = prod(kernel)
    return lambda data: (mean(data.abs().pow(order)) * count).pow(1 / order)


@operator("GlobalAveragePool")
def global_mean(node: Node) -> Translation:
    """Of each channel."""
    return partial(torch.mean, dim=_all_spatial(node), keepdim=True)


@operator("GlobalMaxPool")
def global_maximum(node: Node) -> Translation:
    """Of each channel."""
    return partial(torch.amax, dim=_all_spatial(node), keepdim=True)


@operator("GlobalLpPool")
def global_norm(node: Node) -> Translation:
    """Of each channel."""
    order, axes = node.int_of("p", 2), _all_spatial(node)
    return lambda data: data.abs().pow(order).sum(axes, keepdim=True).pow(1 / order)


def _all_spatial(node: Node) -> list[int]:
    return list(range(2, node.rank()))


@operator("MaxUnpool")
def max_unpool(node: Node) -> Translation:
    """Puts each value back to its place of the flattened output, zeros elsewhere."""
    axes = spatial_axes(node)
    kernel, strides = _kernel(node, axes), per_axis(node, "strides", axes)
    pads = pads_of(node, node.shape()[2:], kernel, strides, [1] * axes)
    batch, channels, *sizes = node.shape()
    inferred = [
        (size - 1) * stride - before - after + width
        for size, stride, width, (before, after) in zip(sizes, strides, kernel, pads, strict=True)
    ]
    given = node.optional(2, "output shape")
    shape = [batch, channels, *inferred] if given is None else [int(size) for size in given.tolist()]
    # Places count in the inferred shape, also where a larger one is given.
    cut = [(0, larger - size) for larger, size in zip(shape[2:], inferred, strict=True)]

    def function(data: Tensor, places: Tensor) -> Tensor:
        flat = torch.zeros(batch * channels * prod(inferred), dtype=data.dtype, device=data.device)
        filled = flat.scatter(0, places.reshape(-1), data.reshape(-1)).reshape(batch, channels, *inferred)
        return F.pad(filled, [side for pair in reversed(cut) for side in pair])

    return function


@operator("Col2Im")
def columns_to_image(node: Node) -> Translation:
    """Adds overlapping windows up."""
    image, block = node.integers(1, "image shape"), node.integers(2, "block shape")
    if len(image) != 2:
        raise node.refusal(f"an image of {len(image)} axes", hint="two can be")
    strides, dilations = per_axis(node, "strides", 2), per_axis(node, "dilations", 2)
    pads = node.ints_of("pads") or [0] * 4
    if pads[:2] != pads[2:]:
        raise node.refusal("uneven pads", hint="cut the result with Slice")
    sizes = tuple(tuple(pair) for pair in (image, block, dilations, pads[:2], strides))
    return lambda data: F.fold(data, *sizes)


@operator("GridSample")
def grid_sample(node: Node) -> Translation:
    """Reads an image at given places."""
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(text := node.text_of("mode", "linear"), text)
    padding, corners = node.text_of("padding_mode", "zeros"), bool(node.int_of("align_corners"))
    return lambda data, grid: F.grid_sample(data, grid, mode=mode, padding_mode=padding, align_corners=corners)
