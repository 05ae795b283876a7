"""Element by element: arithmetic, comparison, logic, casts."""

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.sources._onnx_operators import Node, Translation, dtype_of, operator, plain
from edgekd.sources._patterns import argument_of_gelu

plain(
    {
        "Abs": torch.abs,
        "Acos": torch.acos,
        "Acosh": torch.acosh,
        "And": torch.logical_and,
        "Asin": torch.asin,
        "Asinh": torch.asinh,
        "Atan": torch.atan,
        "Atanh": torch.atanh,
        "Add": torch.add,
        "BitwiseAnd": torch.bitwise_and,
        "BitwiseNot": torch.bitwise_not,
        "BitwiseOr": torch.bitwise_or,
        "BitwiseXor": torch.bitwise_xor,
        "Ceil": torch.ceil,
        "Cos": torch.cos,
        "Cosh": torch.cosh,
        "Equal": torch.eq,
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Floor": torch.floor,
        "Greater": torch.gt,
        "GreaterOrEqual": torch.ge,
        "Identity": lambda data: data,
        "IsNaN": torch.isnan,
        "Less": torch.lt,
        "LessOrEqual": torch.le,
        "Log": torch.log,
        "Neg": torch.neg,
        "Not": torch.logical_not,
        "Or": torch.logical_or,
        "Reciprocal": torch.reciprocal,
        "Round": torch.round,
        "Sign": torch.sign,
        "Sin": torch.sin,
        "Sinh": torch.sinh,
        "Sqrt": torch.sqrt,
        "Sub": torch.sub,
        "Sum": lambda *terms: reduce(torch.add, terms),
        "Tan": torch.tan,
        "Where": torch.where,
        "Xor": torch.logical_xor,
    }
)


@operator("Div")
def divide(node: Node) -> Translation:
    """Integers are truncated towards zero."""
    if node.dtype().is_floating_point:
        return torch.div
    return partial(torch.div, rounding_mode="trunc")


@operator("Mul")
def multiply(node: Node) -> Translation:
    """Where it completes x / 2 * (1 + erf(x / sqrt 2)), that is one activation, as converters know it."""
    data = argument_of_gelu(node.inputs)
    if data is None:
        return torch.mul
    return list(node.builder.apply(F.gelu, [data], node.outputs, maker=node))


@operator("Pow")
def power(node: Node) -> Translation:
    """The result is of the base's type."""
    base, exponent = node.dtype(), node.value(1)
    if exponent.tensor is not None and exponent.tensor.numel() == 1 and len(exponent.shape) <= node.rank():
        number = node.static(1).item()
        return lambda data: torch.pow(data, number).to(base)
    return lambda data, powers: torch.pow(data, powers).to(base)


@operator("Mod")
def modulo(node: Node) -> Translation:
    """The sign is the divisor's, or with `fmod` the dividend's."""
    return torch.fmod if node.int_of("fmod") else torch.remainder


@operator("BitShift")
def shift(node: Node) -> Translation:
    """To the left or to the right."""
    return torch.bitwise_left_shift if node.text_of("direction") == "LEFT" else torch.bitwise_right_shift


@operator("Max")
def maximum(node: Node) -> Translation:
    """Of any number of tensors."""
    return _of_many(torch.maximum)


@operator("Min")
def minimum(node: Node) -> Translation:
    """Of any number of tensors."""
    return _of_many(torch.minimum)


def _of_many(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda *terms: reduce(function, terms)


@operator("Mean")
def mean(node: Node) -> Translation:
    """Of any number of tensors."""
    return lambda *terms: reduce(torch.add, terms) / len(terms)


@operator("Clip")
def clip(node: Node) -> Translation:
    """Bounds are attributes before opset 11, and optional inputs since then."""
    if node.opset < 11:
        low, high = node.float_of("min", -math.inf), node.float_of("max", math.inf)
        return partial(torch.clamp, min=_bound(low), max=_bound(high))
    if all(node.is_constant(side) or not node.has(side) for side in (1, 2)):
        least, most = (_number(node.optional(side)) for side in (1, 2))
        if least is None and most is None:
            return lambda data: data
        return partial(torch.clamp, min=least, max=most)
    return _between


def _bound(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _number(bound: Tensor | None) -> Any:
    return None if bound is None else bound.item()


def _between(data: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
    data = data if least is None else torch.maximum(data, least)
    return data if most is None else torch.minimum(data, most)


@operator("IsInf")
def is_infinite(node: Node) -> Translation:
    """Of either sign, or of one."""
    negative, positive = node.int_of("detect_negative", 1), node.int_of("detect_positive", 1)
    if negative and positive:
        return torch.isinf
    if not negative and not positive:
        return lambda data: torch.zeros_like(data, dtype=torch.bool)
    return torch.isneginf if negative else torch.isposinf


@operator("Cast")
def cast(node: Node) -> Translation:
    """Floats become integers by truncation."""
    wanted = dtype_of(node.int_of("to"), str(node))
    return lambda data: data.to(wanted)


@operator("CastLike")
def cast_like(node: Node) -> Translation:
    """As `cast`, to the type of the second input."""
    if node.odd_type(1):
        raise node.refusal(f"a cast to {node.odd_type(1)}", hint="cast to a type that devices compute with")
    wanted = node.dtype(1)
    node.static_inputs.add(1)
    return lambda data: data.to(wanted)
