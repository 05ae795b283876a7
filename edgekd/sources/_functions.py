"""What several operators are made of: padded convolutions, pools, and resizing, as plain torch functions."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.errors import ConfigError

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


def padded_or_cut(edges: Sequence[tuple[int, int]], value: float = 0.0) -> Callable[[Tensor], Tensor]:
    """A function that pads the last axes, and cuts where a pad is negative: converters know no negative pads."""
    grow = [side for pair in reversed(edges) for side in (max(pair[0], 0), max(pair[1], 0))]
    while grow[-2:] == [0, 0]:
        grow = grow[:-2]
    cut = (..., *(slice(max(-before, 0), min(after, 0) or None) for before, after in edges))
    cuts = any(side < 0 for pair in edges for side in pair)

    def change(data: Tensor) -> Tensor:
        data = data[cut] if cuts else data
        return F.pad(data, grow, value=value) if grow else data

    return change


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

    change_edges = padded_or_cut([(-before, more - after) for (before, after), more in zip(pads, outer, strict=True)])

    def conv(data: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if plain:
            return convolve(data, weight, bias, strides, even, outer, groups, dilations)
        full = convolve(data, weight, None, strides, 0, 0, groups, dilations)
        made = change_edges(full)
        return made if bias is None else made + bias.reshape(-1, *[1] * len(strides))

    return conv


def windows(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    ceil: bool,
) -> Pads:
    """Pads with which the windows fit in exactly; in ceil mode the last may stand over, if it starts before the pad."""
    fitted = []
    for size, width, stride, (before, after), dilation in zip(sizes, kernel, strides, pads, dilations, strict=True):
        reach = dilation * (width - 1) + 1
        room = size + before + after - reach
        steps = -(-room // stride) if ceil else room // stride
        if ceil and steps * stride >= size + before:
            steps -= 1
        fitted.append((before, steps * stride + reach - size - before))
    return tuple(fitted)


def max_pool(
    sizes: Sequence[int],
    kernel: list[int],
    strides: list[int],
    pads: Pads,
    dilations: list[int],
    *,
    ceil: bool,
    indices: bool = False,
) -> Callable[[Tensor], Any]:
    """A function of (batch, channels, *sizes): the largest of each window; and where it is, of the padded plane."""
    pool, even = MAX_POOLS[len(kernel)], symmetric(pads)
    if even is not None and all(2 * pad <= width for pad, width in zip(even, kernel, strict=True)):
        return lambda data: pool(data, kernel, strides, even, dilations, ceil, indices)
    fitted = windows(sizes, kernel, strides, pads, dilations, ceil)

    def largest(data: Tensor) -> Any:
        lowest = -math.inf if data.is_floating_point() else torch.iinfo(data.dtype).min
        return pool(padded_or_cut(fitted, lowest)(data), kernel, strides, 0, dilations, False, indices)

    return largest


def average_pool(
    sizes: Sequence[int], kernel: list[int], strides: list[int], pads: Pads, *, ceil: bool, count_pads: bool
) -> tuple[Callable[..., Tensor], Tensor | None]:
    """A function of (batch, channels, *sizes), or of that and the tensor that comes with it: each window's mean."""
    pool, even = AVERAGE_POOLS[len(kernel)], symmetric(pads)
    if even is not None and all(2 * pad <= width for pad, width in zip(even, kernel, strict=True)):
        return (lambda data: pool(data, kernel, strides, even, ceil, count_pads)), None
    fitted = windows(sizes, kernel, strides, pads, [1] * len(kernel), ceil)
    change_edges, shares = padded_or_cut(fitted), counted(sizes, pads, fitted, count_pads=count_pads)
    if bool((shares == 1).all()):
        return (lambda data: pool(change_edges(data), kernel, strides, 0)), None
    share = pool(shares, kernel, strides, 0)
    return (lambda data, share: pool(change_edges(data), kernel, strides, 0) / share), share


def counted(sizes: Sequence[int], pads: Pads, fitted: Pads, *, count_pads: bool) -> Tensor:
    """Ones of shape (1, 1, ...) where a place counts in a mean, zeros where it does not; on the fitted plane."""
    inside = F.pad(torch.ones(1, 1, *sizes), torch_pads(pads), value=float(count_pads))
    over = [(0, after - pad) for (_, after), (_, pad) in zip(fitted, pads, strict=True)]
    return padded_or_cut(over)(inside)


# --- resizing

Method = Literal["nearest", "linear", "cubic"]

LARGEST_MATRIX: Final = 2**22
"""Elements; a larger axis is mixed tap by tap."""
MOST_TAPS: Final = 2**26


@dataclass(frozen=True)
class AxisMap:
    """How an axis is resized: output i is the sum over k of weights[i, k] * input[places[i, k]]."""

    places: Tensor
    weights: Tensor
    size: int
    """Of the input."""

    @property
    def outputs(self) -> int:
        """Size of the result."""
        return len(self.places)

    def of(self, signal: Tensor) -> Tensor:
        """The resized signal, of one axis."""
        return (self.weights * signal[self.places]).sum(1)

    def matrix(self) -> Tensor:
        """The same, of shape (output, input)."""
        return torch.zeros(self.outputs, self.size).scatter_add(1, self.places, self.weights)


def resize(
    shape: tuple[int, ...], maps: dict[int, AxisMap], method: Method
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """A function that resizes axes of data of `shape` by their maps, and the tensors that it takes beside the data.

    torch's own interpolation is called where it computes the same, as converters know it.
    """
    known = _interpolation(shape, maps, method)
    if known is not None:
        return known, ()
    axes = sorted(maps)
    if method == "nearest":
        return _by_index(axes), tuple(maps[axis].places[:, 0] for axis in axes)
    if all(one.outputs * one.size <= LARGEST_MATRIX for one in maps.values()):
        return _by_matrix(axes), tuple(maps[axis].matrix() for axis in axes)
    return _by_taps(axes), tuple(part for axis in axes for part in (maps[axis].places, maps[axis].weights))


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


def _by_taps(axes: list[int]) -> Callable[..., Tensor]:
    def mix(data: Tensor, *taps: Tensor) -> Tensor:
        for axis, places, weights in zip(axes, taps[::2], taps[1::2], strict=True):
            shape = [-1 if at == axis else 1 for at in range(data.dim())]
            parts = [
                data.index_select(axis, places[:, tap]) * weights[:, tap].to(data.dtype).reshape(shape)
                for tap in range(places.shape[1])
            ]
            data = reduce(torch.add, parts)
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
    shape: tuple[int, ...], maps: dict[int, AxisMap], method: Method
) -> Callable[[Tensor], Tensor] | None:
    """torch's interpolation of all axes but the first two, where it resizes these so."""
    if not set(maps) <= set(range(2, len(shape))):
        return None
    sizes = [maps[axis].outputs if axis in maps else shape[axis] for axis in range(2, len(shape))]
    for mode, corners in MODES.get((method, len(sizes)), ()):
        if all(_same_map(one, mode, corners) for one in maps.values()):
            return partial(F.interpolate, size=sizes, mode=mode, align_corners=corners)
    return None


def _same_map(wanted: AxisMap, mode: str, corners: bool | None) -> bool:
    """Whether torch resizes an axis so, seen on noise."""
    spatial = {"linear": 1, "nearest": 1, "nearest-exact": 1, "trilinear": 3}.get(mode, 2)
    noise = torch.rand(wanted.size, generator=torch.Generator().manual_seed(0))
    ones = [1] * (spatial - 1)
    found = F.interpolate(noise.reshape(1, 1, -1, *ones), [wanted.outputs, *ones], mode=mode, align_corners=corners)
    return torch.allclose(found.reshape(-1), wanted.of(noise), atol=4e-6)


def nearest_map(sources: Tensor, size: int) -> AxisMap:
    """Output i is element `sources[i]`; what is outside is clamped."""
    places = sources.long().clamp(0, size - 1)[:, None]
    return AxisMap(places, torch.ones(len(places), 1), size)


def kernel_map(
    sources: Tensor, size: int, kernel: Callable[[Tensor], Tensor], radius: float, *, outside: bool = False
) -> AxisMap:
    """Output i mixes the elements around the real number `sources[i]` by a kernel of that radius.

    Elements outside stand for the edge, or are left out, and the others scaled to sum to one, where `outside`.

    Raises:
        ConfigError: the kernel is too wide, or there are too many outputs.
    """
    reach = math.ceil(radius) + 1
    if (2 * reach + 2) * len(sources) > MOST_TAPS:
        raise ConfigError(f"{len(sources)} places with {2 * reach + 2} taps are too many to resize to")
    places = sources.floor().long()[:, None] + torch.arange(-reach, reach + 2)
    weights = kernel(sources[:, None] - places)
    if outside:
        weights = weights * ((places >= 0) & (places < size))
    weights = weights / weights.sum(1, keepdim=True)
    used = (weights != 0).any(0)
    return AxisMap(places.clamp(0, size - 1)[:, used], weights[:, used].float(), size)


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
