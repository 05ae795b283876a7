"""Activations that a file spells out in arithmetic, and that converters know by name."""

import math
from collections.abc import Sequence

from edgekd.sources._graphs import Value

TOLERANCE = 1e-6


def argument_of_gelu(values: Sequence[Value | None]) -> Value | None:
    """The x, where the product of the values is x / 2 * (1 + erf(x / sqrt 2)), in whatever order it is multiplied."""
    factors, share = _factors(values, 2)
    if len(factors) != 2 or abs(share - 0.5) > TOLERANCE:
        return None
    for data, other in (factors, factors[::-1]):
        inner, slope = _error_function(other)
        if inner is not None and _is_scaled(inner, data, slope):
            return data
    return None


def _error_function(value: Value) -> tuple[Value | None, float]:
    """The argument of 1 + erf, or of erfc, and how it must be scaled."""
    if _operator(value) == "Erfc":
        return _inputs(value)[0], -math.sqrt(0.5)
    terms, number = _terms(value)
    if len(terms) == 1 and abs(number - 1) < TOLERANCE and _operator(terms[0]) == "Erf":
        return _inputs(terms[0])[0], math.sqrt(0.5)
    return None, 0.0


def _operator(value: Value) -> str:
    return value.maker.operator if value.maker is not None else ""


def _inputs(value: Value) -> tuple[Value | None, ...]:
    return value.maker.inputs if value.maker is not None else ()


def _is_scaled(value: Value, data: Value, wanted: float) -> bool:
    """Whether a value is the data times that number."""
    inputs = _inputs(value)
    if _operator(value) == "Mul":
        factors, share = _factors(inputs, 1)
    elif _operator(value) == "Div":
        divisor = _single(inputs[1])
        factors, share = ([value for value in inputs[:1] if value], 1 / divisor) if divisor else ([], 0.0)
    else:
        return False
    return factors == [data] and abs(share - wanted) < TOLERANCE


def _factors(values: Sequence[Value | None], depth: int) -> tuple[list[Value], float]:
    """What is multiplied, numbers multiplied out; through so many more products and signs."""
    factors: list[Value] = []
    share = 1.0
    for value in filter(None, values):
        number = _single(value)
        if number is not None:
            share *= number
        elif depth and _operator(value) in {"Mul", "Neg"}:
            inner, factor = _factors(_inputs(value), depth - 1)
            factors += inner
            share *= factor if _operator(value) == "Mul" else -factor
        else:
            factors.append(value)
    return factors, share


def _terms(value: Value) -> tuple[list[Value], float]:
    """What is added up, numbers added up."""
    if _operator(value) != "Add":
        return [value], 0.0
    terms, total = [], 0.0
    for term in filter(None, _inputs(value)):
        number = _single(term)
        if number is None:
            terms.append(term)
        else:
            total += number
    return terms, total


def _single(value: Value | None) -> float | None:
    """The number that a constant of one element is."""
    if value is None or value.tensor is None or value.tensor.numel() != 1 or len(value.shape) > 1:
        return None
    return float(value.tensor)
