"""Integers and back. A pair of QuantizeLinear and DequantizeLinear becomes one step that rounds in floats."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgekd.sources._functions import fake_quantize
from edgekd.sources._graphs import Value
from edgekd.sources._onnx_operators import Node, Translation, dtype_of, operator
from edgekd.sources._onnx_operators.convolution import convolve

QUANTIZED = {torch.uint8, torch.int8, torch.uint16, torch.int16}
UINT8 = (0, 255)


def _range(dtype: torch.dtype) -> tuple[int, int]:
    limits = torch.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _spread(node: Node, scale: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Scales or zero points in a shape that fits the data: one for all, one a slice, or one a block of an axis."""
    shape, block = node.shape(), node.int_of("block_size")
    if block:
        axis = node.axis(1)
        size = shape[axis]
        return lambda tensor: tensor.repeat_interleave(block, axis).narrow(axis, 0, size)
    if not scale or scale == (1,):
        return lambda tensor: tensor.reshape(())
    axis = node.axis(1)
    sizes = [1] * len(shape)
    sizes[axis] = -1
    return lambda tensor: tensor.reshape(sizes)


NARROW = {"INT4": (-8, 7), "UINT4": (0, 15), "INT2": (-2, 1), "UINT2": (0, 3)}
"""Integers that are kept in 8 bits here."""


def _limits(node: Node) -> tuple[torch.dtype, int, int]:
    """Type, least and largest of the integers that a node makes."""
    odd = node.odd_type(2)
    if odd in NARROW:
        return (torch.uint8 if odd.startswith("U") else torch.int8), *NARROW[odd]
    number = node.int_of("output_dtype")
    kind = node.dtype(2) if node.has(2) else dtype_of(number, str(node)) if number else torch.uint8
    if odd or kind not in QUANTIZED:
        raise node.refusal(f"it quantizes to {odd or kind}", hint="use int8, uint8, int16, uint16, int4 or uint4")
    return kind, *_range(kind)


@operator("QuantizeLinear")
def quantize(node: Node) -> Translation:
    """round(data / scale) + zero point, kept in range."""
    (kind, least, most), spread = _limits(node), _spread(node, node.shape(1))

    def function(data: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        rounded = torch.round(data.float() / spread(scale.float()))
        shifted = rounded if zero is None else rounded + spread(zero).float()
        return torch.clamp(shifted, least, most).to(kind)

    return function


@operator("DequantizeLinear")
def dequantize(node: Node) -> Translation:
    """(data - zero point) * scale; what was quantized right before goes through no integers."""
    spread = _spread(node, node.shape(1))
    trip = _round_trip(node, spread)
    if trip is not None:
        return trip
    kind = node.dtype(1)

    def function(data: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        wide = data.float()
        centred = wide if zero is None else wide - spread(zero).float()
        return (centred * spread(scale)).to(kind)

    return function


def _round_trip(node: Node, spread: Callable[[Tensor], Tensor]) -> Translation | None:
    before = node.value(0).maker
    if not isinstance(before, Node) or before.operator != "QuantizeLinear" or before.dtype() != torch.float32:
        return None
    if not _same(before, node, 1) or not _same(before, node, 2) or not node.is_constant(1):
        return None
    data, scale = before.value(0), spread(node.static(1))
    zero = spread(node.static(2)).float() if node.has(2) else None
    _, least, most = _limits(before)
    quantizer = fake_quantize(least, most)
    constants: list[Value | None] = [node.builder.constant(scale, f"{node.outputs[0]}.scale")]
    if zero is not None and bool(zero.any()):
        constants.append(node.builder.constant(zero, f"{node.outputs[0]}.zero"))
    return list(node.builder.apply(quantizer, [data, *constants], node.outputs))


def _same(a: Node, b: Node, position: int) -> bool:
    if not a.has(position) or not b.has(position):
        return a.has(position) == b.has(position)
    first, second = a.value(position).tensor, b.value(position).tensor
    return (
        first is not None
        and second is not None
        and torch.equal(first, second)
        and a.int_of("axis", 1) == b.int_of("axis", 1)
    )


@operator("DynamicQuantizeLinear")
def dynamic_quantize(node: Node) -> Translation:
    """To 8 bits by the data's own range, zero included."""
    least, most = UINT8

    def function(data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = torch.clamp(data.amin(), max=0.0), torch.clamp(data.amax(), min=0.0)
        scale = (high - low) / (most - least)
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = torch.clamp(torch.round(least - low / scale), least, most)
        quantized = torch.clamp(torch.round(data / scale) + zero, least, most)
        return quantized.to(torch.uint8), scale, zero.to(torch.uint8)

    return function


# --- products of integers


def _centred(data: Tensor, zero: Tensor | None, axis: int | None = None) -> Tensor:
    """In single precision, as every converter has it; exact up to sums of 2^24."""
    wide = data.float()
    if zero is None:
        return wide
    if axis is not None and zero.dim() == 1 and zero.numel() > 1:
        sizes = [1] * data.dim()
        sizes[axis] = -1
        zero = zero.reshape(sizes)
    elif zero.numel() == 1:
        zero = zero.reshape(())
    return wide - zero.float()


@operator("MatMulInteger")
def matmul_integer(node: Node) -> Translation:
    """Zero points may be one a row of the first, and one a column of the second."""

    def function(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
        rows, columns = (-2 if a.dim() > 1 else -1), -1
        return torch.matmul(_centred(a, a_zero, rows), _centred(b, b_zero, columns)).to(torch.int32)

    return function


@operator("ConvInteger")
def conv_integer(node: Node) -> Translation:
    """A convolution of centred integers."""
    conv = convolve(node, node.shape(0), node.shape(1))

    def function(data: Tensor, weight: Tensor, zero: Tensor | None = None, weight_zero: Tensor | None = None) -> Tensor:
        found: Tensor = conv(_centred(data, zero), _centred(weight, weight_zero, 0), None)
        return found.to(torch.int32)

    return function


def _requantize(found: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    least, most = _range(zero.dtype)
    rounded = torch.round(found / scale.float().reshape(())) + zero.float().reshape(())
    return torch.clamp(rounded, least, most).to(zero.dtype)


@operator("QLinearMatMul")
def quantized_matmul(node: Node) -> Translation:
    """Inputs: a, its scale and zero point; b, its own; scale and zero point of the result."""

    def function(*given: Tensor) -> Tensor:
        a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = given
        rows = -2 if a.dim() > 1 else -1
        product = torch.matmul(
            _centred(a, a_zero, rows) * _column(a_scale, a.dim(), rows), _centred(b, b_zero, -1) * b_scale.float()
        )
        return _requantize(product, scale, zero)

    return function


def _column(scale: Tensor, rank: int, axis: int) -> Tensor:
    if scale.numel() == 1:
        return scale.float().reshape(())
    sizes = [1] * rank
    sizes[axis] = -1
    return scale.float().reshape(sizes)


@operator("QLinearConv")
def quantized_conv(node: Node) -> Translation:
    """Inputs: data, its scale and zero point; weight, its own, maybe one a channel; those of the result; a bias."""
    conv = convolve(node, node.shape(0), node.shape(3))

    def function(*given: Tensor | None) -> Tensor:
        data, data_scale, data_zero, weight, weight_scale, weight_zero, scale, zero, *rest = given
        assert data is not None and weight is not None and data_scale is not None
        assert weight_scale is not None and scale is not None and zero is not None
        factor = data_scale.float().reshape(()) * weight_scale.float()
        bias = rest[0].float() if rest and rest[0] is not None else None
        found: Tensor = conv(_centred(data, data_zero), _centred(weight, weight_zero, 0), bias)
        spread = factor.reshape([-1] + [1] * (data.dim() - 2)) if factor.numel() > 1 else factor.reshape(())
        return _requantize(found * spread, scale, zero)

    return function
