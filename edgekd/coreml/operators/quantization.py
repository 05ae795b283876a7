"""Rounding of activations to eight bits, and back."""

from typing import Final

import torch
from torch import Tensor

from edgekd.coreml.given import Given
from edgekd.coreml.operators import Table
from edgekd.coreml.operators.constexpr import along

_RANGES: Final = {"int8": (-128, 127), "uint8": (0, 255)}


def _quantize(given: Given) -> Tensor:
    x, dtype = given.tensor("input"), given.text("output_dtype", among=_RANGES)
    scale, zero_point = _parameters(given, x)
    low, high = _RANGES[dtype]
    return (torch.round(x / scale) + zero_point).nan_to_num(0).clamp(low, high)


def _dequantize(given: Given) -> Tensor:
    x = given.tensor("input").float()
    scale, zero_point = _parameters(given, x)
    return scale * (x - zero_point)


def _parameters(given: Given, x: Tensor) -> tuple[Tensor, Tensor]:
    axis = given.axis("axis", x.dim()) if "axis" in given else None
    scale, zero_point = given.tensor("scale"), given.maybe("zero_point")
    if zero_point is None:
        zero_point = torch.zeros(())
    return along(scale, x, axis), along(zero_point.float(), x, axis)


OPERATORS: Final[Table] = {"dequantize": _dequantize, "quantize": _quantize}
SINCE: Final = {7: ("dequantize", "quantize")}
