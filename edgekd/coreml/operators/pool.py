"""Pools over one to three spatial axes."""

import math
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.coreml.given import Given
from edgekd.coreml.operators import Table
from edgekd.coreml.operators._windows import for_torch, output_sizes, paddings

_AVERAGE: Final = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_LARGEST: Final = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


class _Pool:
    """The input, padded so that its windows are all there are."""

    def __init__(self, given: Given, filling: float) -> None:
        x = given.tensor("x")
        self.axes = x.dim() - 2
        self.kernel = list(given.ints("kernel_sizes", least=1))
        self.strides = list(given.ints("strides", [1] * max(self.axes, 0), least=1))
        if not 1 <= self.axes <= 3 or {len(self.kernel), len(self.strides)} != {self.axes}:
            raise ValueError(f"windows {self.kernel} and strides {self.strides} on an input of rank {x.dim()}")
        self.ceil, sizes = given.flag("ceil_mode"), list(x.shape[2:])
        pad = paddings(given, sizes, self.kernel, self.strides)
        outputs = output_sizes(sizes, self.kernel, self.strides, pad, ceil=self.ceil)
        self.counted, self.sizes, self.pad = pad, sizes, self._reaching(sizes, pad, outputs)
        padded = [sum(numbers) for numbers in zip(sizes, self.pad[::2], self.pad[1::2], strict=True)]
        given.room(math.prod(x.shape[:2]) * math.prod(padded))
        given.spend(math.prod(x.shape[:2]) * math.prod(outputs) * math.prod(self.kernel))
        self.x = functional.pad(x, for_torch(self.pad), value=filling)

    def _reaching(self, sizes: list[int], pad: list[int], outputs: list[int]) -> list[int]:
        """The paddings, with as much after each axis as its last window reaches."""
        axes, found = zip(outputs, self.strides, self.kernel, strict=True), []
        reach = [(count - 1) * step + size for count, step, size in axes]
        for axis, (size, end) in enumerate(zip(sizes, reach, strict=True)):
            before, after = pad[2 * axis : 2 * axis + 2]
            found += [before, max(after, end - size - before)]
        return found

    def average(self, x: Tensor) -> Tensor:
        """Sum of each window divided by its size."""
        return _AVERAGE[self.axes](x, self.kernel, self.strides)

    def shares(self, *, padding_counts: bool) -> Tensor:
        """Of each window the share that counts: of the input, or of the input with the paddings that were asked for."""
        inner = torch.ones(1, 1, *self.sizes)
        if padding_counts:
            inner = functional.pad(inner, for_torch(self.counted), value=1.0)
            rest = [theirs - ours for theirs, ours in zip(self.pad, self.counted, strict=True)]
        else:
            rest = self.pad
        return self.average(functional.pad(inner, for_torch(rest)))


def _avg_pool(given: Given) -> Tensor:
    pool, excluding = _Pool(given, 0.0), given.flag("exclude_padding_from_average")
    averages = pool.average(pool.x)
    if excluding or pool.pad != pool.counted:
        return averages / pool.shares(padding_counts=not excluding)
    return averages


def _l2_pool(given: Given) -> Tensor:
    pool = _Pool(given, 0.0)
    return torch.sqrt(pool.average(pool.x.square()) * math.prod(pool.kernel))


def _max_pool(given: Given) -> Tensor:
    pool = _Pool(given, -math.inf)
    largest: Callable[..., Tensor] = _LARGEST[pool.axes]
    return largest(pool.x, pool.kernel, pool.strides)


OPERATORS: Final[Table] = {"avg_pool": _avg_pool, "l2_pool": _l2_pool, "max_pool": _max_pool}
