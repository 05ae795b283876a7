"""The same elements in another shape or order, and parts of them."""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.coreml.given import Given, axis_of
from edgekd.coreml.operators import Table

_IOS17: Final = 7


def _image(given: Given) -> Tensor:
    x = given.tensor("x")
    if x.dim() != 4:
        raise ValueError(f"an image of rank {x.dim()}")
    return x


def _split_axis(x: Tensor, axis: int, *sizes: int) -> Tensor:
    """An axis divided into several; -1 for the one that takes what is left."""
    known = -math.prod(sizes)
    if not known or x.shape[axis] % known:
        raise ValueError(f"{x.shape[axis]} elements divided by {known}")
    return x.reshape(*x.shape[:axis], *sizes, *x.shape[axis + 1 :])


def _depth_to_space(given: Given) -> Tensor:
    x, size = _image(given), given.integer("block_size", least=1)
    blocks = _split_axis(x, 1, size, size, -1)
    return blocks.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


def _space_to_depth(given: Given) -> Tensor:
    x, size = _image(given), given.integer("block_size", least=1)
    blocks = _split_axis(_split_axis(x, 3, -1, size), 2, -1, size)
    return blocks.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


def _pixel_shuffle(given: Given) -> Tensor:
    return functional.pixel_shuffle(_image(given), given.integer("upscale_factor", least=1))


def _pixel_unshuffle(given: Given) -> Tensor:
    return functional.pixel_unshuffle(_image(given), given.integer("downscale_factor", least=1))


def _space_to_batch(given: Given) -> Tensor:
    x, (height, width) = _image(given), _pair(given, "block_shape")
    (top, bottom), (left, right) = _margins(given, "paddings")
    given.room(x.shape[0] * x.shape[1] * (x.shape[2] + top + bottom) * (x.shape[3] + left + right))
    padded = functional.pad(x, [left, right, top, bottom])
    blocks = _split_axis(_split_axis(padded, 3, -1, width), 2, -1, height)
    return blocks.permute(3, 5, 0, 1, 2, 4).flatten(0, 2)


def _batch_to_space(given: Given) -> Tensor:
    x, (height, width) = _image(given), _pair(given, "block_shape")
    (top, bottom), (left, right) = _margins(given, "crops")
    blocks = _split_axis(x, 0, height, width, -1)
    whole = blocks.permute(2, 3, 4, 0, 5, 1).flatten(4, 5).flatten(2, 3)
    return cropped(whole, (top, bottom), (left, right))


def cropped(x: Tensor, height: Sequence[int], width: Sequence[int]) -> Tensor:
    """The last two axes without so many elements at their beginnings and ends."""
    rows, columns = x.shape[-2] - sum(height), x.shape[-1] - sum(width)
    if rows < 0 or columns < 0:
        raise ValueError(f"{height} and {width} taken off {tuple(x.shape)}")
    return x.narrow(-2, height[0], rows).narrow(-1, width[0], columns)


def _pair(given: Given, name: str) -> tuple[int, int]:
    numbers = given.ints(name, least=1)
    if len(numbers) != 2:
        raise ValueError(f"{name} is {list(numbers)}")
    return numbers[0], numbers[1]


def _margins(given: Given, name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    values = given.indices(name)
    if values.shape != (2, 2) or int(values.min()) < 0:
        raise ValueError(f"{name} is {values.tolist()}")
    (top, bottom), (left, right) = values.tolist()
    return (top, bottom), (left, right)


def _expand_dims(given: Given) -> Tensor:
    x, axes = given.tensor("x"), given.ints("axes")
    rank = x.dim() + len(axes)
    found = sorted(axis_of(axis, rank, "axes") for axis in axes)
    if len(set(found)) < len(found):
        raise ValueError(f"axes {list(axes)}")
    for axis in found:
        x = x.unsqueeze(axis)
    return x


def _squeeze(given: Given) -> Tensor:
    x = given.tensor("x")
    return x.squeeze(given.axes("axes", x.dim()))  # leaves axes of more than one element, as MIL does


def _reshape(given: Given) -> Tensor:
    x, shape = given.tensor("x"), list(given.ints("shape", least=-1))
    if given.opset < _IOS17 and 0 in shape and len(shape) != x.dim():
        raise ValueError(f"shape {shape} of a tensor of rank {x.dim()}")
    for at, size in enumerate(shape):
        if size == 0:  # from iOS 17 on counted from the end, and 1 where there is no such axis
            place = at - len(shape)
            shape[at] = x.shape[place] if place >= -x.dim() else 1
    return x.reshape(shape)


def _reshape_like(given: Given) -> Tensor:
    x, references = given.tensor("x"), given.tensors("ref_tensors")
    begins, ends, masks = given.ints("begins"), given.ints("ends"), given.flags("end_masks", ())
    if not len(references) == len(begins) == len(ends) == len(masks):
        raise ValueError("begins, ends and masks are not as many as the references")
    shape = [
        size
        for reference, begin, end, mask in zip(references, begins, ends, masks, strict=True)
        for size in reference.shape[begin : None if mask else end]
    ]
    return x.reshape(shape)


def _reverse(given: Given) -> Tensor:
    x = given.tensor("x")
    return x.flip(given.axes("axes", x.dim()))


def _reverse_sequence(given: Given) -> Tensor:
    x, lengths = given.tensor("x"), given.indices("lengths")
    steps, batch = given.axis("seq_axis", x.dim(), 0), given.axis("batch_axis", x.dim(), 0)
    size = x.shape[steps]
    if lengths.shape != (x.shape[batch],) or steps == batch:
        raise ValueError(f"{lengths.numel()} lengths for {x.shape[batch]} sequences")
    if lengths.numel() and not 0 <= int(lengths.min()) <= int(lengths.max()) <= size:
        raise ValueError(f"lengths from {int(lengths.min())} to {int(lengths.max())} of {size} steps")
    places = torch.arange(size).expand(len(lengths), size)
    mirrored = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)
    mirrored = mirrored if batch < steps else mirrored.T
    shape = [x.shape[axis] if axis in (steps, batch) else 1 for axis in range(x.dim())]
    return x.gather(steps, mirrored.reshape(shape).expand(x.shape))


class _Slices:
    """A slice for each axis, by begins, ends, strides and masks."""

    def __init__(self, given: Given, x: Tensor) -> None:
        begin, end = given.ints("begin"), given.ints("end")
        stride, none = given.ints("stride", [1] * x.dim()), [False] * x.dim()
        from_start, to_end = given.flags("begin_mask", none), given.flags("end_mask", none)
        self.squeezed = given.flags("squeeze_mask", none)
        if {len(one) for one in (begin, end, stride, from_start, to_end, self.squeezed)} != {x.dim()} or 0 in stride:
            raise ValueError(f"begin {list(begin)}, end {list(end)} and stride {list(stride)} of rank {x.dim()}")
        self.ranges = []
        for axis, size in enumerate(x.shape):
            if self.squeezed[axis]:
                at = axis_of(0 if from_start[axis] else begin[axis], size, "begin")
                self.ranges.append(range(at, at + 1))
                continue
            first, last = None if from_start[axis] else begin[axis], None if to_end[axis] else end[axis]
            self.ranges.append(range(*slice(first, last, stride[axis]).indices(size)))

    def cut(self, x: Tensor) -> Tensor:
        """The elements, with every axis."""
        for axis, places in enumerate(self.ranges):
            if places == range(x.shape[axis]):
                continue
            if places.step > 0:
                x = x[(slice(None),) * axis + (slice(places.start, places.stop, places.step),)]
            else:
                x = x.index_select(axis, torch.tensor(places, dtype=torch.long))
        return x

    @property
    def kept(self) -> list[int]:
        """Axes that are not squeezed."""
        return [axis for axis, gone in enumerate(self.squeezed) if not gone]


def _slice_by_index(given: Given) -> Tensor:
    x = given.tensor("x")
    slices = _Slices(given, x)
    found = slices.cut(x)
    return found.reshape([found.shape[axis] for axis in slices.kept])


def _slice_update(given: Given) -> Tensor:
    x, update = given.tensor("x"), given.tensor("update")
    slices = _Slices(given, x)
    if [len(slices.ranges[axis]) for axis in slices.kept] != list(update.shape) or update.dtype != x.dtype:
        raise ValueError(f"an update of shape {tuple(update.shape)} for another slice")
    places = torch.zeros((), dtype=torch.long)
    for axis, chosen in enumerate(slices.ranges):
        places = places[..., None] * x.shape[axis] + torch.tensor(chosen, dtype=torch.long)
    return x.reshape(-1).index_copy(0, places.reshape(-1), update.reshape(-1)).reshape(x.shape)


def _slice_by_size(given: Given) -> Tensor:
    x, begin, size = given.tensor("x"), given.ints("begin"), given.ints("size", least=-1)
    if not len(begin) == len(size) == x.dim():
        raise ValueError(f"begin {list(begin)} and size {list(size)} of rank {x.dim()}")
    for axis, (start, length) in enumerate(zip(begin, size, strict=True)):
        start = start + x.shape[axis] if start < 0 else start  # noqa: PLW2901 - counted from the front
        length = x.shape[axis] - start if length == -1 else length  # noqa: PLW2901 - the rest
        if start < 0 or length < 0 or start + length > x.shape[axis]:
            raise ValueError(f"{length} elements from {start} on of {x.shape[axis]}")
        x = x.narrow(axis, start, length)
    return x


def _sliding_windows(given: Given) -> Tensor:
    x, size, stride = given.tensor("x"), given.integer("size", least=1), given.integer("stride", 1, least=1)
    axis = given.axis("axis", x.dim())
    if size > x.shape[axis]:
        raise ValueError(f"windows of {size} on {x.shape[axis]} elements")
    windows = x.unfold(axis, size, stride)
    given.room(windows.numel())
    return windows.movedim(-1, axis + 1).contiguous()


def _transpose(given: Given) -> Tensor:
    x, order = given.tensor("x"), given.ints("perm")
    if len(order) != x.dim():
        raise ValueError(f"order {list(order)} of a tensor of rank {x.dim()}")
    return x.permute(*order) if order else x


OPERATORS: Final[Table] = {
    "batch_to_space": _batch_to_space,
    "depth_to_space": _depth_to_space,
    "expand_dims": _expand_dims,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "reshape": _reshape,
    "reshape_like": _reshape_like,
    "reverse": _reverse,
    "reverse_sequence": _reverse_sequence,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
    "sliding_windows": _sliding_windows,
    "space_to_batch": _space_to_batch,
    "space_to_depth": _space_to_depth,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
SINCE: Final = {6: ("pixel_unshuffle", "reshape_like"), 8: ("slice_update",)}
