"""Convolutions over one to three spatial axes."""

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.coreml.given import Given
from edgekd.coreml.operators import Table
from edgekd.coreml.operators._windows import for_torch, output_sizes, paddings

_CONV: Final = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: Final = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


class _Shape:
    """What both kinds of convolution have in common."""

    def __init__(self, given: Given) -> None:
        self.x, self.weight, self.bias = given.tensor("x"), given.tensor("weight"), given.maybe("bias")
        self.axes = self.x.dim() - 2
        if not 1 <= self.axes <= 3 or self.weight.dim() != self.x.dim():
            raise ValueError(f"weights of rank {self.weight.dim()} on an input of rank {self.x.dim()}")
        self.strides = list(given.ints("strides", [1] * self.axes, least=1))
        self.dilations = list(given.ints("dilations", [1] * self.axes, least=1))
        self.groups = given.integer("groups", 1, least=1)
        if {len(self.strides), len(self.dilations)} != {self.axes} or 0 in self.weight.shape:
            raise ValueError(f"strides {self.strides} and dilations {self.dilations} for {self.axes} axes")
        self.sizes, kernel = self.x.shape[2:], self.weight.shape[2:]
        self.windows = [(size - 1) * step + 1 for size, step in zip(kernel, self.dilations, strict=True)]


def _conv(given: Given) -> Tensor:
    shape = _Shape(given)
    pad = paddings(given, shape.sizes, shape.windows, shape.strides)
    outputs = output_sizes(shape.sizes, shape.windows, shape.strides, pad)
    positions = shape.x.shape[0] * math.prod(outputs)
    given.room(positions * shape.weight.shape[0])
    given.room(shape.x.shape[0] * shape.x.shape[1] * math.prod(_padded(shape.sizes, pad)))
    given.spend(positions * shape.weight.numel())
    x, symmetric = shape.x, pad[::2]
    if pad[::2] != pad[1::2]:
        x, symmetric = functional.pad(x, for_torch(pad)), [0] * shape.axes
    convolve = _CONV[shape.axes]
    return convolve(x, shape.weight, shape.bias, shape.strides, symmetric, shape.dilations, shape.groups)


def _padded(sizes: torch.Size, pad: list[int]) -> list[int]:
    return [size + before + after for size, before, after in zip(sizes, pad[::2], pad[1::2], strict=True)]


def _conv_transpose(given: Given) -> Tensor:
    shape = _Shape(given)
    axes = zip(shape.sizes, shape.strides, shape.windows, strict=True)
    full = [(size - 1) * step + span for size, step, span in axes]
    given.room(shape.x.shape[0] * shape.weight.shape[1] * shape.groups * math.prod(full))
    given.spend(shape.x.shape[0] * math.prod(shape.sizes) * shape.weight.numel())
    transpose = _TRANSPOSED[shape.axes]
    whole = transpose(shape.x, shape.weight, None, shape.strides, 0, 0, shape.groups, shape.dilations)
    cut = functional.pad(whole, for_torch([-number for number in _cuts(given, shape, full)]))
    if shape.bias is None:
        return cut
    return cut + shape.bias.reshape(-1, *[1] * shape.axes)  # after the cut, which may add zeros


def _cuts(given: Given, shape: _Shape, full: list[int]) -> list[int]:
    """Elements taken away before and after each axis, negative where zeros are added."""
    pad_type = given.text("pad_type", "valid", among=("valid", "custom", "same"))
    pad = list(given.ints("pad", [0] * 2 * shape.axes, least=0))
    wanted = given.ints("output_shape", [])
    if pad_type != "custom":
        pad = [0] * 2 * shape.axes
    if len(pad) != 2 * shape.axes or wanted and len(wanted) != shape.x.dim():
        raise ValueError(f"paddings {pad} and output shape {list(wanted)} for {shape.axes} axes")
    targets = list(wanted[2:])
    if not targets:
        if pad_type != "same":
            return pad
        targets = [size * step for size, step in zip(shape.sizes, shape.strides, strict=True)]
    given.room(shape.x.shape[0] * shape.weight.shape[1] * shape.groups * math.prod(map(abs, targets)))
    before = [(size - target) // 2 if pad_type == "same" else 0 for size, target in zip(full, targets, strict=True)]
    before = [max(start, 0) for start in before] if pad_type == "same" else pad[::2]
    return [
        cut for size, target, start in zip(full, targets, before, strict=True) for cut in (start, size - target - start)
    ]


OPERATORS: Final[Table] = {"conv": _conv, "conv_transpose": _conv_transpose}
