"""Resize and Upsample: each axis by a matrix that is known now (see edgekd.sources._functions.resize)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.sources._functions import AxisMap, Method, cubic_kernel, kernel_map, linear_kernel, nearest_map, resize
from edgekd.sources._graphs import MOST_ELEMENTS
from edgekd.sources._onnx_operators import Node, Translation, operator

METHODS: dict[str, Method] = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic"}


@dataclass(frozen=True)
class Axis:
    """One resized axis."""

    size: int
    output: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)
    """Of the input, as shares of its length."""


Coordinates = Callable[[Tensor, Axis], Tensor]


def _half_pixel(place: Tensor, axis: Axis) -> Tensor:
    return (place + 0.5) / axis.scale - 0.5


def _symmetric(place: Tensor, axis: Axis) -> Tensor:
    adjustment = axis.output / (axis.scale * axis.size)
    centre = axis.size / 2
    return centre * (1 - adjustment) + (place + 0.5) / axis.scale - 0.5


def _align_corners(place: Tensor, axis: Axis) -> Tensor:
    return place * (axis.size - 1) / (axis.output - 1) if axis.output > 1 else place * 0.0


def _crop(place: Tensor, axis: Axis) -> Tensor:
    start, end = axis.region
    if axis.output > 1:
        return start * (axis.size - 1) + place * (end - start) * (axis.size - 1) / (axis.output - 1)
    return place * 0.0 + 0.5 * (start + end) * (axis.size - 1)


COORDINATES: dict[str, Coordinates] = {
    "align_corners": _align_corners,
    "asymmetric": lambda place, axis: place / axis.scale,
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": lambda place, axis: _half_pixel(place, axis) if axis.output > 1 else place * 0.0,
    "tf_crop_and_resize": _crop,
    "tf_half_pixel_for_nn": lambda place, axis: (place + 0.5) / axis.scale,
}
ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "ceil": torch.ceil,
    "floor": torch.floor,
    "round_prefer_ceil": lambda place: torch.floor(place + 0.5),
    "round_prefer_floor": lambda place: torch.ceil(place - 0.5),
}


@operator("Upsample")
def upsample(node: Node) -> Translation:
    """By scales, an attribute in opset 7 and an input since; places are counted from the first pixel's edge."""
    scales = node.floats_of("scales") if node.opset < 9 else _floats(node.static(1, "scales"))
    method = METHODS.get(text := node.text_of("mode", "nearest"))
    if method is None or scales is None:
        raise node.refusal(f"mode {text!r} is not known", hint=f"known: {', '.join(METHODS)}")
    axes = _scaled(node, scales, list(range(node.rank())))
    return _resized(node, axes, method, "asymmetric", "floor")


@operator("Resize")
def resize_node(node: Node) -> Translation:
    """To sizes or by scales; scales alone and no modes in opset 10."""
    text = node.text_of("mode", "nearest")
    method = METHODS.get(text)
    if method is None:
        raise node.refusal(f"mode {text!r} is not known", hint="known: nearest, linear, cubic")
    if node.opset < 11:
        axes = _scaled(node, _floats(node.static(1, "scales")), list(range(node.rank())))
        return _resized(node, axes, method, "asymmetric", "floor")
    places = [node.normal(axis) for axis in node.ints_of("axes") or range(node.rank())]
    region, scales, sizes = node.optional(1, "region"), node.optional(2, "scales"), node.optional(3, "sizes")
    if scales is not None and scales.numel():
        axes = _scaled(node, _floats(scales), places)
    elif sizes is not None and sizes.numel():
        axes = _sized(node, [int(size) for size in sizes.tolist()], places)
    else:
        raise ConfigError(f"{node}: neither scales nor sizes are given")
    mode = node.text_of("coordinate_transformation_mode", "half_pixel")
    if mode == "tf_crop_and_resize" and region is not None:
        axes = _cropped(node, axes, places, _floats(region))
    return _resized(node, axes, method, mode, node.text_of("nearest_mode", "round_prefer_floor"))


def _floats(tensor: Tensor) -> list[float]:
    return [float(number) for number in tensor.reshape(-1).tolist()]


def _scaled(node: Node, scales: list[float], places: list[int]) -> dict[int, Axis]:
    if len(scales) != len(places) or not all(0 < scale < math.inf for scale in scales):
        raise ConfigError(f"{node}: scales {scales} for {len(places)} axes")
    shape = node.shape()
    return {
        place: Axis(shape[place], max(1, math.floor(shape[place] * scale)), scale)
        for place, scale in zip(places, scales, strict=True)
    }


def _sized(node: Node, sizes: list[int], places: list[int]) -> dict[int, Axis]:
    shape = node.shape()
    if len(sizes) != len(places) or min(sizes, default=1) < 1:
        raise ConfigError(f"{node}: sizes {sizes} for {len(places)} axes")
    policy = node.text_of("keep_aspect_ratio_policy", "stretch")
    scales = [size / shape[place] for size, place in zip(sizes, places, strict=True)]
    if policy != "stretch":
        common = min(scales) if policy == "not_larger" else max(scales)
        scales = [common] * len(scales)
        sizes = [math.floor(common * shape[place] + 0.5) for place in places]
    return {place: Axis(shape[place], size, scale) for place, size, scale in zip(places, sizes, scales, strict=True)}


def _cropped(node: Node, axes: dict[int, Axis], places: list[int], region: list[float]) -> dict[int, Axis]:
    if len(region) != 2 * len(places):
        raise ConfigError(f"{node}: a region of {len(region)} numbers for {len(places)} axes")
    return {
        place: Axis(axes[place].size, axes[place].output, axes[place].scale, (start, end))
        for place, start, end in zip(places, region[: len(places)], region[len(places) :], strict=True)
    }


def _resized(node: Node, axes: dict[int, Axis], method: Method, coordinates: str, rounding: str) -> Translation:
    if coordinates not in COORDINATES or rounding not in ROUNDINGS:
        raise node.refusal(
            f"coordinates {coordinates!r} with {rounding!r} are not known", hint=f"known: {', '.join(COORDINATES)}"
        )
    changed = {place: axis for place, axis in axes.items() if axis.output != axis.size or axis.region != (0.0, 1.0)}
    shape = [axes[at].output if at in axes else size for at, size in enumerate(node.shape())]
    if math.prod(shape) > MOST_ELEMENTS:
        raise ConfigError(f"{node}: a result of shape {tuple(shape)}")
    maps = {}
    for place, axis in changed.items():
        sources = COORDINATES[coordinates](torch.arange(axis.output, dtype=torch.float64), axis)
        if coordinates == "tf_crop_and_resize" and bool(((sources < 0) | (sources > axis.size - 1)).any()):
            raise node.refusal(f"{coordinates} reads outside of the image", hint="crop inside of it")
        maps[place] = _map(node, axis, sources, method, rounding)
    if not maps:
        return lambda data: data
    function, tensors = resize(node.shape(), maps, method)
    node.attach(*tensors)
    return function


def _map(node: Node, axis: Axis, sources: Tensor, method: Method, rounding: str) -> AxisMap:
    if method == "nearest":
        return nearest_map(ROUNDINGS[rounding](sources), axis.size)
    kernel = linear_kernel if method == "linear" else cubic_kernel(node.float_of("cubic_coeff_a", -0.75))
    radius = 1.0 if method == "linear" else 2.0
    shrink = min(axis.scale, 1.0) if node.int_of("antialias") else 1.0
    return kernel_map(
        sources,
        axis.size,
        lambda distance: kernel(distance * shrink),
        radius / shrink,
        outside=bool(node.int_of("exclude_outside")),
    )
