"""Functions of one value, element by element."""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from edgekd.coreml.given import Given
from edgekd.coreml.operators import Function, Table

DTYPES: Final = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}
"""Types of which MIL's name, in an input, is not ours."""


def _unary(compute: Callable[[Tensor], Tensor]) -> Function:
    def apply(given: Given) -> Tensor:
        return compute(given.tensor("x"))

    return apply


def _cast(given: Given) -> Tensor:
    x, dtype = given.tensor("x"), given.text("dtype")
    if DTYPES.get(dtype, dtype) != given.output_dtype:
        raise ValueError(f"to {dtype}, and the output is said to be {given.output_dtype}")
    return x  # every output is brought to its declared type


def _clip(given: Given) -> Tensor:
    return given.tensor("x").clamp(given.number("alpha"), given.number("beta"))


def _threshold(given: Given) -> Tensor:
    return torch.maximum(given.tensor("x"), given.tensor("alpha"))


def _epsilon(given: Given, default: float) -> float:
    """A default is of the type of x: 1e-45 and 1e-12 are nothing in fp16."""
    return given.number("epsilon", float(np.float16(default)) if given.output_dtype == "float16" else default)


def _inverse(given: Given) -> Tensor:
    return 1 / (given.tensor("x") + _epsilon(given, 1e-4))


def _log(given: Given) -> Tensor:
    return torch.log(given.tensor("x") + _epsilon(given, 1e-45))


def _rsqrt(given: Given) -> Tensor:
    return torch.rsqrt(given.tensor("x") + _epsilon(given, 1e-12))


def _logical_not(given: Given) -> Tensor:
    x = given.tensor("x")
    if x.dtype != torch.bool:
        raise ValueError("x is not of truth values")
    return ~x


OPERATORS: Final[Table] = {
    "abs": _unary(torch.abs),
    "acos": _unary(torch.acos),
    "asin": _unary(torch.asin),
    "atan": _unary(torch.atan),
    "atanh": _unary(torch.atanh),
    "cast": _cast,
    "ceil": _unary(torch.ceil),
    "clip": _clip,
    "cos": _unary(torch.cos),
    "cosh": _unary(torch.cosh),
    "erf": _unary(torch.erf),
    "exp": _unary(torch.exp),
    "exp2": _unary(torch.exp2),
    "floor": _unary(torch.floor),
    "inverse": _inverse,
    "log": _log,
    "logical_not": _logical_not,
    "round": _unary(torch.round),
    "rsqrt": _rsqrt,
    "sign": _unary(torch.sign),
    "sin": _unary(torch.sin),
    "sinh": _unary(torch.sinh),
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "tan": _unary(torch.tan),
    "tanh": _unary(torch.tanh),
    "threshold": _threshold,
}
