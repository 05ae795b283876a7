"""What several operators are made of: padded convolutions, pools, and resizing, as plain torch functions."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOLS: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}

Pads = tuple[tuple[int, int], ...]
"""Of each spatial axis, in order: how much before, how much after."""


def same_pads(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, low: bool = False
) -> Pads:
    """Pads with which a window at every stride covers the axis; the odd one goes behind, or before where `low`."""
    pads = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / stride) - 1) * stride + dilation * (width - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        pads.append((large, small) if low else (small, large))
    return tuple(pads)


def symmetric(pads: Pads) -> list[int] | None:
    """The pad of each axis, where it is the same on both sides and not negative."""
    return [before for before, _ in pads] if all(a == b >= 0 for a, b in pads) else None


def torch_pads(pads: Pads) -> list[int]:
    """The pads in the order of torch.nn.functional.pad: last axis first."""
    return [side for pair in reversed(pads) for side in pair]


def convolution(strides: list[int], pads: Pads, dilations: list[int], groups: int) -> Callable[..., Tensor]:
    """A function of (input, weight, bias or None), channels first, in one to three dimensions."""
    convolve, even = CONVOLUTIONS[len(strides)], symmetric(pads)

    def conv(data: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        padded = data if even is not None else F.pad(data, torch_pads(pads))
        return convolve(padded, weight, bias, strides, even or 0, dilations, groups)

    return conv


def transposed_convolution(
    strides: list[int], pads: Pads, outer: list[int], dilations: list[int], groups: int
) -> Callable[..., Tensor]:
    """As `convolution`, of weights (inputs, outputs / groups, ...); `outer` is what is added behind the output."""
    convolve, even = TRANSPOSED[len(strides)], symmetric(pads)
    plain = even is not None and all(
        more < max(stride, dilation) for more, stride, dilation in zip(outer, strides, dilations, strict=True)
    )

    def conv(data: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if plain:
            return convolve(data, weight, bias, strides, even, outer, groups, dilations)
        full = convolve(data, weight, None, strides, 0, 0, groups, dilations)
        edges = tuple((-before, more - after) for (before, after), more in zip(pads, outer, strict=True))
        cut = F.pad(full, torch_pads(edges))
        return cut if bias is None else cut + bias.reshape(-1, *[1] * len(strides))

    return conv


def max_pool(
    kernel: list[int], strides: list[int], pads: Pads, dilations: list[int], *, ceil: bool, indices: bool = False
) -> Callable[[Tensor], Any]:
    """A function of (batch, channels, ...): the largest of each window; and where it is, of the padded plane."""
    pool, even = MAX_POOLS[len(kernel)], symmetric(pads)
    plain = even is not None and all(2 * pad <= width for pad, width in zip(even, kernel, strict=True))

    def largest(data: Tensor) -> Any:
        if plain:
            return pool(data, kernel, strides, even, dilations, ceil, indices)
        lowest = -math.inf if data.is_floating_point() else torch.iinfo(data.dtype).min
        return pool(F.pad(data, torch_pads(pads), value=lowest), kernel, strides, 0, dilations, ceil, indices)

    return largest


def average_pool(
    sizes: Sequence[int], kernel: list[int], strides: list[int], pads: Pads, *, ceil: bool, count_pads: bool
) -> tuple[Callable[..., Tensor], Tensor | None]:
    """A function of (batch, channels, *sizes), or of that and the tensor that comes with it: each window's mean."""
    pool, even = AVERAGE_POOLS[len(kernel)], symmetric(pads)
    if even is not None and all(2 * pad <= width for pad, width in zip(even, kernel, strict=True)):
        return (lambda data: pool(data, kernel, strides, even, ceil, count_pads)), None
    edges = torch_pads(pads)
    if count_pads and not ceil:
        return (lambda data: pool(F.pad(data, edges), kernel, strides, 0)), None
    ones = torch.ones(1, 1, *sizes)
    inside = F.pad(ones, edges, value=float(count_pads))
    shares = pool(inside, kernel, strides, 0, ceil, True)

    def mean(data: Tensor, share: Tensor) -> Tensor:
        return pool(F.pad(data, edges), kernel, strides, 0, ceil, True) / share

    return mean, shares


# --- resizing

Method = Literal["nearest", "linear", "cubic"]


def resize(
    shape: tuple[int, ...], maps: dict[int, Tensor], method: Method
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """A function that applies to each axis of data of `shape` its matrix (output, input), and what else it takes.

    torch's own interpolation is called where it computes the same, as converters know it.
    """
    axes = sorted(maps)
    known = _interpolation(shape, maps, method)
    if known is not None:
        return known, ()
    if method == "nearest":
        indices = tuple(maps[axis].argmax(1) for axis in axes)
        return _by_index(axes), indices
    return _by_matrix(axes), tuple(maps[axis] for axis in axes)


def _by_index(axes: list[int]) -> Callable[..., Tensor]:
    def pick(data: Tensor, *indices: Tensor) -> Tensor:
        for axis, index in zip(axes, indices, strict=True):
            data = data.index_select(axis, index)
        return data

    return pick


def _by_matrix(axes: list[int]) -> Callable[..., Tensor]:
    def mix(data: Tensor, *matrices: Tensor) -> Tensor:
        for axis, matrix in zip(axes, matrices, strict=True):
            data = torch.matmul(data.transpose(axis, -1), matrix.to(data.dtype).t()).transpose(axis, -1)
        return data

    return mix


MODES: dict[tuple[Method, int], tuple[tuple[str, bool | None], ...]] = {
    ("nearest", 1): (("nearest", None), ("nearest-exact", None)),
    ("nearest", 2): (("nearest", None), ("nearest-exact", None)),
    ("nearest", 3): (("nearest", None), ("nearest-exact", None)),
    ("linear", 1): (("linear", False), ("linear", True)),
    ("linear", 2): (("bilinear", False), ("bilinear", True)),
    ("linear", 3): (("trilinear", False), ("trilinear", True)),
    ("cubic", 2): (("bicubic", False), ("bicubic", True)),
}
"""What torch.nn.functional.interpolate calls them, and its align_corners."""


def _interpolation(
    shape: tuple[int, ...], maps: dict[int, Tensor], method: Method
) -> Callable[[Tensor], Tensor] | None:
    """torch's interpolation of all axes but the first two, where it has these matrices."""
    if not set(maps) <= set(range(2, len(shape))):
        return None
    sizes = [len(maps[axis]) if axis in maps else shape[axis] for axis in range(2, len(shape))]
    for mode, corners in MODES.get((method, len(sizes)), ()):
        if all(_same_map(matrix, mode, corners) for matrix in maps.values()):
            return partial(F.interpolate, size=sizes, mode=mode, align_corners=corners)
    return None


def _same_map(wanted: Tensor, mode: str, corners: bool | None) -> bool:
    """Whether torch resizes an axis by this matrix, seen on the unit vectors."""
    outputs, inputs = wanted.shape
    spatial = {"linear": 1, "nearest": 1, "nearest-exact": 1, "trilinear": 3}.get(mode, 2)
    units = torch.eye(inputs).reshape(1, inputs, inputs, *[1] * (spatial - 1))
    found = F.interpolate(units, [outputs, *[1] * (spatial - 1)], mode=mode, align_corners=corners)
    return torch.allclose(found.reshape(inputs, outputs).t(), wanted.float(), atol=2e-6)


def nearest_map(sources: Tensor, size: int) -> Tensor:
    """The matrix that picks element `sources[i]` of `size` for output i; what is outside is clamped."""
    index = sources.long().clamp(0, size - 1)
    return F.one_hot(index, size).float()


def kernel_map(
    sources: Tensor, size: int, kernel: Callable[[Tensor], Tensor], radius: float, *, outside: bool = False
) -> Tensor:
    """The matrix that mixes the elements around each real-valued source by a kernel of that radius.

    Elements outside stand for the edge, or are left out, and the others scaled to sum to one, where `outside`.
    """
    reach = math.ceil(radius) + 1
    first = sources.floor().long() - reach
    offsets = torch.arange(2 * reach + 2)
    places = first[:, None] + offsets[None, :]
    weights = kernel(sources[:, None] - places)
    if outside:
        weights = weights * ((places >= 0) & (places < size))
    weights = weights / weights.sum(1, keepdim=True)
    matrix = torch.zeros(len(sources), size, dtype=sources.dtype)
    return matrix.scatter_add(1, places.clamp(0, size - 1), weights).float()


def linear_kernel(distance: Tensor) -> Tensor:
    """A triangle of radius one."""
    return (1 - distance.abs()).clamp(min=0)


def cubic_kernel(sharpness: float) -> Callable[[Tensor], Tensor]:
    """Keys' kernel of radius two (Keys 1981, doi:10.1109/TASSP.1981.1163711)."""

    def kernel(distance: Tensor) -> Tensor:
        x = distance.abs()
        near = ((sharpness + 2) * x - (sharpness + 3)) * x * x + 1
        far = ((sharpness * x - 5 * sharpness) * x + 8 * sharpness) * x - 4 * sharpness
        return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))

    return kernel


# --- blocks


def depth_to_space(block: int, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Channels become pixels, those of a block standing first in the channels."""
    batch, channels, height, width = shape
    depth = channels // (block * block)

    def function(data: Tensor) -> Tensor:
        ordered = data.reshape(batch, block * block, depth, height * width).transpose(1, 2)
        return F.pixel_shuffle(ordered.reshape(batch, channels, height, width), block)

    return function


def space_to_depth(block: int, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Pixels become channels, those of a block standing first in the channels."""
    batch, channels, height, width = shape
    height, width = height // block, width // block

    def function(data: Tensor) -> Tensor:
        ordered = F.pixel_unshuffle(data, block).reshape(batch, channels, block * block, height * width)
        return ordered.transpose(1, 2).reshape(batch, channels * block * block, height, width)

    return function


# --- quantization


def fake_quantize(least: int, most: int) -> Callable[..., Tensor]:
    """A function of (data, scale, zero point), all floating: what is left of the data after a trip through integers."""

    def quantize(data: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        if zero is None:
            return torch.clamp(torch.round(data / scale), least, most) * scale
        return (torch.clamp(torch.round(data / scale) + zero, least, most) - zero) * scale

    return quantize
