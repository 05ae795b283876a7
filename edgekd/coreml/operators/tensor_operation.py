"""Operations on whole tensors: made, joined, split, padded, sorted, counted."""

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.coreml.given import Given, Value, axis_of
from edgekd.coreml.operators import Table
from edgekd.coreml.operators._windows import for_torch

_IOS17: Final = 7


def _band_part(given: Given) -> Tensor:
    x = given.tensor("x")
    lower, upper = given.integer("lower", -1), given.integer("upper", -1)
    if x.dim() < 2:
        raise ValueError(f"a matrix of rank {x.dim()}")
    rows, columns = x.shape[-2:]
    below = torch.arange(rows)[:, None] - torch.arange(columns)
    keep = torch.ones(rows, columns, dtype=torch.bool)
    keep &= below <= lower if lower >= 0 else keep
    keep &= -below <= upper if upper >= 0 else keep
    return torch.where(keep, x, torch.zeros_like(x))


def _cumsum(given: Given) -> Tensor:
    x = given.tensor("x")
    axis, exclusive, reverse = given.axis("axis", x.dim(), 0), given.flag("exclusive"), given.flag("reverse")
    x = x.flip(axis) if reverse else x
    sums = x.cumsum(axis)
    if exclusive and x.shape[axis]:
        sums = torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums.narrow(axis, 0, x.shape[axis] - 1)], axis)
    return sums.flip(axis) if reverse else sums


def _fill(given: Given) -> Tensor:
    shape = given.ints("shape", least=0)
    given.room(math.prod(shape))
    return _filled(given, shape)


def _fill_like(given: Given) -> Tensor:
    return _filled(given, given.tensor("ref_tensor").shape)


def _filled(given: Given, shape: "torch.Size | list[int] | tuple[int, ...] | object") -> Tensor:
    value = given.maybe("value")
    value = torch.zeros(()) if value is None else value
    return value.reshape(()).expand(shape).clone()  # type: ignore[arg-type]  # torch takes any sequence


def _non_maximum_suppression(given: Given) -> tuple[Value, ...]:
    """Boxes in the order of their scores, but those that overlap a better one; places that are left are 0, indices -1.

    From iOS 17 on the boxes lie along the last axis, no score is too low, and the number of boxes is not told.
    """
    boxes, scores = given.tensor("boxes"), given.tensor("scores")
    last = given.opset >= _IOS17
    if last:
        boxes, scores = boxes.transpose(-1, -2), scores.transpose(-1, -2)
    if boxes.dim() != 3 or scores.dim() != 3 or boxes.shape[:2] != scores.shape[:2] or boxes.shape[2] != 4:
        raise ValueError(f"boxes of shape {tuple(boxes.shape)}, scores of {tuple(scores.shape)}")
    most, per_class = given.integer("max_boxes", least=1), given.flag("per_class_suppression")
    overlap, least = given.number("iou_threshold"), -math.inf if last else given.number("score_threshold")
    batch, count, classes = scores.shape
    if not count or not classes:
        raise ValueError("no boxes")
    given.room(batch * most * max(classes, 4))
    given.spend(batch * count * (2**18 + 64 * count))
    found_boxes, found_scores = torch.zeros(batch, most, 4), torch.zeros(batch, most, classes)
    indices, counts = torch.full((batch, most), -1), torch.zeros(batch, dtype=torch.long)
    for at in range(batch):
        best, labels = scores[at].max(1)
        kept = _kept(boxes[at], best, labels if per_class else torch.zeros_like(labels), overlap, least)[:most]
        found_boxes[at, : len(kept)], found_scores[at, : len(kept)] = boxes[at, kept], scores[at, kept]
        indices[at, : len(kept)], counts[at] = kept, len(kept)
    if last:
        return found_boxes.transpose(-1, -2), found_scores.transpose(-1, -2), indices
    return found_boxes, found_scores, indices, counts


def _kept(boxes: Tensor, scores: Tensor, labels: Tensor, overlap: float, least: float) -> Tensor:
    """Numbers of the boxes that stay, the best first; where none does, that of the best."""
    order = torch.argsort(scores, descending=True, stable=True)
    gone = ~(scores >= least)
    kept: list[int] = []
    for number in order.tolist():
        if not gone[number]:
            kept.append(number)
            gone |= (_overlaps(boxes, number) > overlap) & (labels == labels[number])
    return torch.tensor(kept or order[:1].tolist())


def _overlaps(boxes: Tensor, number: int) -> Tensor:
    """Intersection over union of one box with each; boxes are centre x, centre y, width, height."""
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    sides = torch.minimum(high[number], high) - torch.maximum(low[number], low)
    common, areas = sides.clamp(min=0).prod(-1), boxes[:, 2:].prod(-1)
    return (common / (areas[number] + areas - common)).nan_to_num(0)


def _non_zero(given: Given) -> Tensor:
    return given.tensor("x").nonzero()


def _one_hot(given: Given) -> Tensor:
    indices, size = given.indices("indices"), given.integer("one_hot_vector_size", least=0)
    axis = axis_of(given.integer("axis", -1), indices.dim() + 1)
    on, off = given.maybe("on_value"), given.maybe("off_value")
    given.room(indices.numel() * size)
    classes = torch.arange(size).reshape(*[-1 if at == axis else 1 for at in range(indices.dim() + 1)])
    hit = indices.unsqueeze(axis) == classes
    on, off = torch.tensor(1) if on is None else on, torch.tensor(0) if off is None else off
    return torch.where(hit, on.reshape(()), off.reshape(()))


def _pad(given: Given) -> Tensor:
    x, pad = given.tensor("x"), list(given.ints("pad", least=0))
    mode = given.text("mode", "constant", among=("constant", "reflect", "replicate"))
    value = given.number("constant_val", 0.0)
    if len(pad) % 2 or len(pad) > 2 * x.dim():
        raise ValueError(f"{len(pad)} paddings for a tensor of rank {x.dim()}")
    pad = [0] * (2 * x.dim() - len(pad)) + pad
    sizes = [size + before + after for size, before, after in zip(x.shape, pad[::2], pad[1::2], strict=True)]
    given.room(math.prod(sizes))
    if mode == "constant":
        return functional.pad(x, for_torch(pad), value=value)
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        if before or after:
            x = x.index_select(axis, _mirror(x.shape[axis], before, after, mode))
    return x


def _mirror(size: int, before: int, after: int, mode: str) -> Tensor:
    """Indices of what stands at each place of a padded axis."""
    places = torch.arange(-before, size + after)
    if mode == "replicate":
        if not size:
            raise ValueError("nothing to repeat")
        return places.clamp(0, size - 1)
    if max(before, after) >= size:
        raise ValueError(f"{max(before, after)} elements reflected from {size}")
    return (size - 1) - ((size - 1) - places.abs()).abs()


def _range_1d(given: Given) -> Tensor:
    start, end, step = given.tensor("start"), given.tensor("end"), given.tensor("step")
    first, last, stride = (given.number(name) for name in ("start", "end", "step"))
    if not stride or not all(map(math.isfinite, (first, last, stride))):
        raise ValueError(f"from {first} to {last} in steps of {stride}")
    count = max(math.ceil((last - first) / stride), 0)
    given.room(count)
    kind = torch.promote_types(torch.promote_types(start.dtype, end.dtype), step.dtype)
    return start.reshape(()).to(kind) + torch.arange(count).to(kind) * step.reshape(()).to(kind)


def _tile(given: Given) -> Tensor:
    x, reps = given.tensor("x"), given.ints("reps", least=1)
    if len(reps) != x.dim():
        raise ValueError(f"{len(reps)} repetitions of {x.dim()} axes")
    given.room(x.numel() * math.prod(reps))
    return x.repeat(*reps) if reps else x


def _argsort(given: Given) -> Tensor:
    x = given.tensor("x")
    axis, descending = given.axis("axis", x.dim(), -1), not given.flag("ascending")
    return torch.argsort(x, dim=axis, descending=descending, stable=True)


def _topk(given: Given) -> Value | tuple[Value, ...]:
    x = given.tensor("x")
    axis, smallest, k = given.axis("axis", x.dim(), -1), given.flag("ascending"), given.integer("k", 1, least=-1)
    with_indices, dtype = given.flag("return_indices", True), given.text("output_indices_dtype", "int32")
    given.ignore("sort")  # ours always are sorted
    k = x.shape[axis] if k == -1 and given.opset >= _IOS17 else k
    if not 0 <= k <= x.shape[axis] or dtype not in ("int32", "uint16"):
        raise ValueError(f"{k} of {x.shape[axis]}, with indices of {dtype}")
    indices = torch.argsort(x, dim=axis, descending=not smallest, stable=True).narrow(axis, 0, k)
    values = x.gather(axis, indices)
    return (values, indices) if with_indices else values


def _flatten2d(given: Given) -> Tensor:
    x, axis = given.tensor("x"), given.integer("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _shape(given: Given) -> Tensor:
    return torch.tensor(given.tensor("x").shape, dtype=torch.int32)


def _concat(given: Given) -> Tensor:
    values = given.tensors("values")
    given.room(sum(value.numel() for value in values))
    values = [value.reshape(1) if not value.dim() else value for value in values]
    axis = given.axis("axis", values[0].dim())
    if not given.flag("interleave"):
        return torch.cat(values, axis)
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


def _split(given: Given) -> tuple[Value, ...]:
    x = given.tensor("x")
    axis, sizes = given.axis("axis", x.dim()), list(given.ints("split_sizes", [], least=0))
    number = given.integer("num_splits", len(sizes), least=1)
    if not sizes:
        if x.shape[axis] % number:
            raise ValueError(f"{x.shape[axis]} elements into {number} equal parts")
        sizes = [x.shape[axis] // number] * number
    if len(sizes) != number or len(sizes) != len(given.outputs) or sum(sizes) != x.shape[axis]:
        raise ValueError(f"{x.shape[axis]} elements into {sizes} as {number} parts")
    return tuple(torch.split_with_sizes(x, sizes, axis))


def _stack(given: Given) -> Tensor:
    values = given.tensors("values")
    given.room(sum(value.numel() for value in values))
    return torch.stack(values, given.axis("axis", values[0].dim() + 1))


def _identity(given: Given) -> Value:
    return given.one("x")


OPERATORS: Final[Table] = {
    "argsort": _argsort,
    "band_part": _band_part,
    "concat": _concat,
    "cumsum": _cumsum,
    "fill": _fill,
    "fill_like": _fill_like,
    "flatten2d": _flatten2d,
    "identity": _identity,
    "non_maximum_suppression": _non_maximum_suppression,
    "non_zero": _non_zero,
    "one_hot": _one_hot,
    "pad": _pad,
    "range_1d": _range_1d,
    "shape": _shape,
    "split": _split,
    "stack": _stack,
    "tile": _tile,
    "topk": _topk,
}
SINCE: Final = {6: ("fill_like",)}
