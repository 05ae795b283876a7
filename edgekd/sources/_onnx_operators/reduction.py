"""Operators that take axes away."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from edgekd.sources._onnx_operators import Node, Translation, operator

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        data = data.prod(axis, keepdim=keep)
    return data


def _maximum(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    if data.dtype == torch.bool:
        return _any(data, axes, keep)
    return torch.amax(data, axes, keepdim=keep) if data.numel() else _sum(data, axes, keep) - math.inf


def _minimum(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    if data.dtype == torch.bool:
        return ~_any(~data, axes, keep)
    return torch.amin(data, axes, keepdim=keep) if data.numel() else _sum(data, axes, keep) + math.inf


def _any(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        data = data.any(axis, keepdim=keep)
    return data


def _mean(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    if data.is_floating_point():
        return torch.mean(data, axes, keepdim=keep)
    count = torch.ones_like(data).sum(axes, keepdim=keep)
    return torch.div(data.sum(axes, keepdim=keep), count, rounding_mode="trunc").to(data.dtype)


def _sum(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    return data.sum(axes, keepdim=keep, dtype=data.dtype)


REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda data, axes, keep: _sum(data.abs(), axes, keep),
    "ReduceL2": lambda data, axes, keep: _sum(data * data, axes, keep).to(_float(data)).sqrt().to(data.dtype),
    "ReduceLogSum": lambda data, axes, keep: _sum(data, axes, keep).log(),
    "ReduceLogSumExp": lambda data, axes, keep: torch.logsumexp(data, axes, keepdim=keep),
    "ReduceMax": _maximum,
    "ReduceMean": _mean,
    "ReduceMin": _minimum,
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda data, axes, keep: _sum(data * data, axes, keep),
}


def _float(data: Tensor) -> torch.dtype:
    return data.dtype if data.is_floating_point() else torch.float64


@operator(*REDUCTIONS)
def reduce(node: Node) -> Translation:
    """Axes are an attribute in old opsets and an input in new ones; none means all, or with a flag no axis at all."""
    axes = node.ints_of("axes")
    if axes is None and node.has(1):
        axes = node.integers(1, "axes")
    if not axes and node.int_of("noop_with_empty_axes"):
        return _without_axes(node)
    wanted = sorted({node.normal(axis) for axis in axes or range(node.rank())})
    keep, function = bool(node.int_of("keepdims", 1)), REDUCTIONS[node.operator]
    if not wanted:
        return lambda data: function(data.reshape(1), [0], False)
    return lambda data: function(data, wanted, keep)


def _without_axes(node: Node) -> Translation:
    """Each element reduced by itself."""
    function = REDUCTIONS[node.operator]
    return lambda data: function(data.unsqueeze(-1), [-1], False)


@operator("ArgMax")
def arg_max(node: Node) -> Translation:
    """The first of equals, or the last."""
    return _place_of(node, torch.argmax)


@operator("ArgMin")
def arg_min(node: Node) -> Translation:
    """The first of equals, or the last."""
    return _place_of(node, torch.argmin)


def _place_of(node: Node, function: Callable[..., Tensor]) -> Translation:
    axis, keep = node.axis(0), bool(node.int_of("keepdims", 1))
    if not node.int_of("select_last_index"):
        return lambda data: function(data, axis, keepdim=keep)
    last = node.shape()[axis] - 1
    return lambda data: last - function(data.flip(axis), axis, keepdim=keep)
