"""Reductions of axes."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from edgekd.coreml.given import Given
from edgekd.coreml.operators import Function, Table


def _reduced(compute: Callable[[Tensor, list[int]], Tensor]) -> Function:
    """A reduction; `compute` keeps the axes it reduces, with a size of 1."""

    def reduce(given: Given) -> Tensor:
        x, keep = given.tensor("x"), given.flag("keep_dims")
        axes = given.axes("axes", x.dim())
        result = compute(x.unsqueeze(-1), axes or [x.dim()]).squeeze(-1)  # torch takes "no axes" for "all"
        return result if keep else result.squeeze(axes)

    return reduce


def _argument(compute: Callable[[Tensor, int, bool], Tensor]) -> Function:
    def find(given: Given) -> Tensor:
        x, keep = given.tensor("x"), given.flag("keep_dims")
        dtype = given.text("output_dtype", "int32", among=("int32", "uint16"))
        if dtype != given.output_dtype:
            raise ValueError(f"{dtype}, and the output is said to be {given.output_dtype}")
        return compute(x, given.axis("axis", x.dim(), -1), keep)

    return find


def _sum(x: Tensor, axes: list[int]) -> Tensor:
    return x.sum(axes, keepdim=True)


def _mean(x: Tensor, axes: list[int]) -> Tensor:
    return (x if x.is_floating_point() else x.double()).mean(axes, keepdim=True)


def _product(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


OPERATORS: Final[Table] = {
    "reduce_argmax": _argument(torch.argmax),
    "reduce_argmin": _argument(torch.argmin),
    "reduce_l1_norm": _reduced(lambda x, axes: _sum(x.abs(), axes)),
    "reduce_l2_norm": _reduced(lambda x, axes: torch.sqrt(_sum(x.square(), axes))),
    "reduce_log_sum": _reduced(lambda x, axes: torch.log(_sum(x, axes))),
    "reduce_log_sum_exp": _reduced(lambda x, axes: torch.logsumexp(x, axes, keepdim=True)),
    "reduce_max": _reduced(lambda x, axes: torch.amax(x, axes, keepdim=True)),
    "reduce_mean": _reduced(_mean),
    "reduce_min": _reduced(lambda x, axes: torch.amin(x, axes, keepdim=True)),
    "reduce_prod": _reduced(_product),
    "reduce_sum": _reduced(_sum),
    "reduce_sum_square": _reduced(lambda x, axes: _sum(x.square(), axes)),
}
