"""Images cropped, resized and resampled; the spatial axes are the last two."""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from edgekd.coreml.given import Given
from edgekd.coreml.operators import Table
from edgekd.coreml.operators.tensor_transformation import cropped

_IOS17: Final = 7
_SAMPLE: Final = 128
"""Multiply-accumulates that are done in the time that an interpolation takes."""
_SAMPLING: Final = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def _grid(size: int, target: int, mode: str) -> Tensor:
    """Where on an axis of `size` pixels the `target` samples lie, by the table of `resize_bilinear`."""
    steps = torch.arange(target, dtype=torch.float64)
    match mode:
        case "STRICT_ALIGN_CORNERS" | "ALIGN_CORNERS" if target > 1:
            points = steps * (size - 1) / (target - 1)
        case "ALIGN_CORNERS":
            points = steps + (size - 1) / 2
        case "STRICT_ALIGN_CORNERS":
            points = steps
        case "DEFAULT":
            points = steps * size / target
        case "OFFSET_CORNERS":
            points = (steps + 0.5) * max(1, size - 1) / target
        case _:
            points = (steps + 0.5) * size / target - 0.5
    return points.clamp(0, size - 1)


def _interpolated(x: Tensor, axis: int, points: Tensor) -> Tensor:
    """The values between pixels of one axis."""
    low = points.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    share = (points - low).float().reshape(*[-1 if at == axis else 1 for at in range(x.dim())])
    return torch.lerp(x.index_select(axis, low).float(), x.index_select(axis, high).float(), share)


def _resized(given: Given, x: Tensor, grids: Sequence[Tensor], *, nearest: bool = False) -> Tensor:
    """The last axes sampled at these points."""
    first = x.dim() - len(grids)
    if first < 0 or 0 in x.shape[first:]:
        raise ValueError(f"{len(grids)} axes of {tuple(x.shape)}")
    shape = list(x.shape)
    for at, points in enumerate(grids):
        shape[first + at] = len(points)
        given.room(math.prod(shape))
        given.spend(_SAMPLE * math.prod(shape))
        x = x.index_select(first + at, points.long()) if nearest else _interpolated(x, first + at, points)
    return x


def _spatial(given: Given) -> tuple[Tensor, int, int]:
    x = given.tensor("x")
    if x.dim() < 3 or 0 in x.shape[-2:]:
        raise ValueError(f"an image of shape {tuple(x.shape)}")
    return x, x.shape[-2], x.shape[-1]


def _targets(given: Given, height: int, width: int) -> tuple[tuple[int, float], tuple[int, float]]:
    """Sizes after scaling, and the factors."""
    factors = given.number("scale_factor_height", 1.0), given.number("scale_factor_width", 1.0)
    if not all(0 < factor < math.inf for factor in factors):
        raise ValueError(f"factors {factors}")
    rows, columns = (_scaled(size, factor) for size, factor in zip((height, width), factors, strict=True))
    given.room(rows * columns)
    return (rows, factors[0]), (columns, factors[1])


def _scaled(size: int, factor: float) -> int:
    target = math.floor(size * factor)
    if target < 1:
        raise ValueError(f"{size} pixels times {factor}")
    return target


def _upsample_nearest_neighbor(given: Given) -> Tensor:
    x, height, width = _spatial(given)
    grids = [
        (torch.arange(target, dtype=torch.float64) / factor).floor().clamp(max=size - 1)
        for size, (target, factor) in zip((height, width), _targets(given, height, width), strict=True)
    ]
    return _resized(given, x, grids, nearest=True)


def _upsample_bilinear(given: Given) -> Tensor:
    x, height, width = _spatial(given)
    aligned = given.flag("align_corners", True)
    centred = given.flag("half_pixel_centers", not aligned)
    if aligned and centred:
        raise ValueError("corners are aligned, or the centres of pixels are, not both")
    mode = "STRICT_ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS" if centred else "DEFAULT"
    (rows, _), (columns, _) = _targets(given, height, width)
    return _resized(given, x, [_grid(height, rows, mode), _grid(width, columns, mode)])


def _centre(size: int, target: int) -> Tensor:
    """The pixels that hold the centres of the new ones."""
    return ((torch.arange(target, dtype=torch.float64) + 0.5) * size / target).floor().clamp(0, size - 1)


def _resize_nearest_neighbor(given: Given) -> Tensor:
    x, height, width = _spatial(given)
    rows, columns = given.integer("target_size_height", least=1), given.integer("target_size_width", least=1)
    given.room(rows * columns)
    return _resized(given, x, [_centre(height, rows), _centre(width, columns)], nearest=True)


def _resize_bilinear(given: Given) -> Tensor:
    x, height, width = _spatial(given)
    rows, columns = given.integer("target_size_height", 1, least=1), given.integer("target_size_width", 1, least=1)
    mode = given.text("sampling_mode", "DEFAULT", among=_SAMPLING)
    given.room(rows * columns)
    return _resized(given, x, [_grid(height, rows, mode), _grid(width, columns, mode)])


def _resize(given: Given) -> Tensor:
    x, shape, count = given.tensor("x"), given.ints("shape", least=0), given.integer("resized_dims", least=0)
    nearest = given.text("interpolation_mode", "LINEAR", among=("LINEAR", "NEAREST_NEIGHBOR")) == "NEAREST_NEIGHBOR"
    mode = given.text("sampling_mode", "DEFAULT", among=_SAMPLING)
    if nearest and mode != "DEFAULT":
        raise NotImplementedError(f"which pixel is the nearest is not documented for sampling mode {mode}")
    if count > min(len(shape), x.dim()):
        raise ValueError(f"{count} axes of {x.dim()}, with {len(shape)} sizes")
    sizes = x.shape[x.dim() - count :]
    targets = [target or size for target, size in zip(shape[len(shape) - count :], sizes, strict=True)]
    given.room(math.prod(targets))
    if nearest:
        grids = [_centre(size, target) for size, target in zip(sizes, targets, strict=True)]
    else:
        grids = [_grid(size, target, mode) for size, target in zip(sizes, targets, strict=True)]
    return _resized(given, x, grids, nearest=nearest)


# --- samples at any place

_PADDINGS: Final = ("constant", "border", "reflection", "symmetric")


def _inside(places: Tensor, size: int, padding: str) -> Tensor:
    """Pixels that stand for places outside of an axis."""
    if padding == "reflection":
        period = max(2 * (size - 1), 1)
        places = places.remainder(period)
        places = torch.minimum(places, period - places)
    elif padding == "symmetric":
        places = places.remainder(2 * size)
        places = torch.minimum(places, 2 * size - 1 - places)
    return places.clamp(0, size - 1)


def _pixels(x: Tensor, rows: Tensor, columns: Tensor, padding: str, value: float) -> Tensor:
    """Pixels of images (batch, channels, height, width) at whole places (batch, ...): (batch, channels, ...)."""
    height, width = x.shape[-2:]
    flat = _inside(rows, height, padding) * width + _inside(columns, width, padding)
    index = flat.reshape(len(x), 1, -1).expand(-1, x.shape[1], -1)
    found = x.flatten(2).gather(2, index).reshape(*x.shape[:2], *rows.shape[1:])
    if padding != "constant":
        return found
    within = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(within.unsqueeze(1), found, value)


def _sampled(x: Tensor, rows: Tensor, columns: Tensor, padding: str, value: float) -> Tensor:
    """Values between pixels, from the four around each place."""
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top).unsqueeze(1), (columns - left).unsqueeze(1)
    top, left = top.long(), left.long()
    first, second = (
        torch.lerp(_pixels(x, line, left, padding, value), _pixels(x, line, left + 1, padding, value), right)
        for line in (top, top + 1)
    )
    return torch.lerp(first, second, down)


_FARTHEST = 2.0**24
"""Pixels; beyond, float32 has no fractions of a pixel left."""


def _place(coordinates: Tensor, size: int, mode: str, *, aligned: bool) -> Tensor:
    """Coordinates as places on an axis of `size` pixels."""
    if mode == "unnormalized":
        return coordinates
    share = (coordinates + 1) / 2 if mode == "normalized_minus_one_to_one" else coordinates
    return share * (size - 1) if aligned else share * size - 0.5


def _resample(given: Given) -> Tensor:
    x, coordinates = given.tensor("x"), given.tensor("coordinates").float()
    sampling = given.text("sampling_mode", among=("bilinear", "nearest"))
    padding, value = given.text("padding_mode", among=_PADDINGS), given.number("padding_value")
    modes = ("unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one")
    mode, aligned = given.text("coordinates_mode", among=modes), given.flag("align_corners")
    if x.dim() != 4 or coordinates.dim() != 4 or coordinates.shape[-1] != 2 or len(x) != len(coordinates):
        raise ValueError(f"coordinates of shape {tuple(coordinates.shape)} for {tuple(x.shape)}")
    rows = _place(coordinates[..., 1], x.shape[2], mode, aligned=aligned)
    columns = _place(coordinates[..., 0], x.shape[3], mode, aligned=aligned)
    return _at_places(given, x, rows, columns, padding, value, nearest=sampling == "nearest")


def _at_places(
    given: Given, x: Tensor, rows: Tensor, columns: Tensor, padding: str, value: float, *, nearest: bool = False
) -> Tensor:
    if 0 in x.shape[-2:]:
        raise ValueError("an image without pixels")
    given.room(4 * x.shape[1] * rows.numel(), 8)
    given.spend(4 * _SAMPLE * x.shape[1] * rows.numel())
    rows, columns = (places.nan_to_num(-1).clamp(-_FARTHEST, _FARTHEST) for places in (rows, columns))
    if nearest:
        whole = (rows + 0.5).floor().long(), (columns + 0.5).floor().long()
        return _pixels(x, *whole, padding, value)
    return _sampled(x, rows, columns, padding, value)


def _affine(given: Given) -> Tensor:
    x, matrix = given.tensor("x"), given.tensor("transform_matrix").float()
    height, width = given.integer("output_height", least=1), given.integer("output_width", least=1)
    given.text("sampling_mode", among=("bilinear",))
    given.text("padding_mode", among=("constant",))
    given.text("coordinates_mode", among=("normalized_minus_one_to_one",))
    value, aligned = given.number("padding_value"), given.flag("align_corners")
    if not aligned:
        raise NotImplementedError("align_corners=False is not defined by Core ML")
    if x.dim() != 4 or matrix.dim() != 2 or matrix.shape[1] != 6 or len(matrix) not in (1, len(x)):
        raise ValueError(f"matrices of shape {tuple(matrix.shape)} for {tuple(x.shape)}")
    given.room(4 * x.shape[0] * x.shape[1] * height * width, 8)
    right, down = torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)[:, None]
    a, b, c, d, e, f = matrix.expand(len(x), 6).reshape(-1, 6, 1, 1).unbind(1)
    columns = _place(a * right + b * down + c, x.shape[3], "normalized_minus_one_to_one", aligned=True)
    rows = _place(d * right + e * down + f, x.shape[2], "normalized_minus_one_to_one", aligned=True)
    return _at_places(given, x, rows, columns, "constant", value)


# --- crops

_BOXES: Final = ("CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST")


def _crop(given: Given) -> Tensor:
    x, height, width = given.tensor("x"), given.ints("crop_height", least=0), given.ints("crop_width", least=0)
    if x.dim() < 3 or len(height) != 2 or len(width) != 2:
        raise ValueError(f"{list(height)} and {list(width)} taken off {tuple(x.shape)}")
    return cropped(x, height, width)


def _crop_resize(given: Given) -> Tensor:
    """Before iOS 17 boxes are regions of interest of rank five, after their image's number or, without, for all."""
    x, mode = given.tensor("x"), given.text("sampling_mode", "DEFAULT", among=_SAMPLING)
    height, width = given.integer("target_height", 1, least=1), given.integer("target_width", 1, least=1)
    if mode in ("DEFAULT", "UNALIGN_CORNERS"):
        raise NotImplementedError(f"how sampling mode {mode} divides a box is not documented")
    if x.dim() != 4 or 0 in x.shape[-2:]:
        raise ValueError(f"images of shape {tuple(x.shape)}")
    boxes, images = _boxes(given, x)
    given.room(8 * len(boxes) * x.shape[1] * height * width, 8)
    top, left, bottom, right = _corners(given, boxes, x)
    rows = _within(top, bottom, height, mode)[:, :, None].expand(-1, -1, width)
    columns = _within(left, right, width, mode)[:, None, :].expand(-1, height, -1)
    found = _at_places(given, x[images], rows, columns, "border", 0.0)
    inside = (rows >= 0) & (rows <= x.shape[2] - 1) & (columns >= 0) & (columns <= x.shape[3] - 1)
    found = torch.where(inside.unsqueeze(1), found, given.number("pad_value", 0.0))
    if given.opset >= _IOS17:
        return found
    return found.reshape(given.tensor("roi").shape[0], -1, *found.shape[1:])


def _boxes(given: Given, x: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes of shape (crops, 4), and of each the number of its image."""
    if given.opset >= _IOS17:
        boxes = given.tensor("boxes").float()
        images = given.indices("box_indices") if "box_indices" in given else torch.arange(len(boxes))
    else:
        regions = given.tensor("roi").float()
        if regions.dim() != 5 or regions.shape[1] != 1 or regions.shape[3:] != (1, 1):
            raise ValueError(f"regions of shape {tuple(regions.shape)}")
        regions = regions.flatten(1)
        if regions.shape[1] == 5:
            boxes, images = regions[:, 1:], regions[:, 0].long()
        else:
            boxes, images = regions.repeat_interleave(len(x), 0), torch.arange(len(x)).repeat(len(regions))
    if boxes.dim() != 2 or boxes.shape[1] != 4 or images.shape != (len(boxes),):
        raise ValueError(f"boxes of shape {tuple(boxes.shape)} for {tuple(images.shape)} images")
    if len(images) and not 0 <= int(images.min()) <= int(images.max()) < len(x):
        raise ValueError(f"images {int(images.min())} to {int(images.max())} of {len(x)}")
    return boxes, images


def _corners(given: Given, boxes: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, bottom and right in pixels."""
    mode = given.text("box_coordinate_mode", "CORNERS_HEIGHT_FIRST", among=_BOXES)
    first, second, third, fourth = (boxes * given.number("spatial_scale", 1.0)).unbind(1)
    if mode.endswith("WIDTH_FIRST"):
        first, second, third, fourth = second, first, fourth, third
    if mode.startswith("CENTER"):
        first, second, third, fourth = first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2
    if given.flag("normalized_coordinates"):
        down, right = x.shape[2] - 1, x.shape[3] - 1
        return first * down, second * right, third * down, fourth * right
    return first, second, third, fourth


def _within(start: Tensor, end: Tensor, target: int, mode: str) -> Tensor:
    """Places of the samples between the corners of each box: (boxes, target)."""
    steps, span = torch.arange(target, dtype=torch.float32), (end - start)[:, None]
    if mode == "OFFSET_CORNERS":
        return start[:, None] + (steps + 0.5) * span.clamp(min=1) / target
    if target > 1:
        return start[:, None] + steps * span / (target - 1)
    return start[:, None] + (span / 2 if mode == "ALIGN_CORNERS" else 0 * span)


OPERATORS: Final[Table] = {
    "affine": _affine,
    "crop": _crop,
    "crop_resize": _crop_resize,
    "resample": _resample,
    "resize": _resize,
    "resize_bilinear": _resize_bilinear,
    "resize_nearest_neighbor": _resize_nearest_neighbor,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _upsample_nearest_neighbor,
}
SINCE: Final = {7: ("resize",)}
