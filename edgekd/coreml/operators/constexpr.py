"""Weights that are stored smaller than they are used: quantized, palettized, sparse, or in fewer bits.

They are constant, so the interpreter executes them once for a program.
"""

import math
from typing import Final

import torch
from torch import Tensor

from edgekd.coreml.given import Given, axis_of
from edgekd.coreml.operators import Table
from edgekd.coreml.operators.elementwise_unary import DTYPES

_IOS18: Final = 8
"""From this op set on, indices and masks have a shape and types of less than eight bits."""


def _affine_dequantize(given: Given) -> Tensor:
    data, scale, zero_point = given.tensor("quantized_data"), given.tensor("scale"), given.tensor("zero_point")
    axis = given.axis("axis", data.dim())
    return (data.float() - along(zero_point.float(), data, axis)) * along(scale, data, axis)


def along(parameter: Tensor, data: Tensor, axis: int | None) -> Tensor:
    """A scalar, or a number for each index of an axis, in the shape that broadcasts to the data."""
    if parameter.dim() == 0 or parameter.dim() == data.dim() == 1 and parameter.numel() == 1:
        return parameter.reshape(())
    if axis is None or parameter.dim() != 1 or parameter.shape[0] != data.shape[axis]:
        raise ValueError(f"parameters of shape {tuple(parameter.shape)} for axis {axis} of {tuple(data.shape)}")
    return parameter.reshape(*[-1 if at == axis else 1 for at in range(data.dim())])


def _blockwise_shift_scale(given: Given) -> Tensor:
    return _shift_scale(given, given.tensor("data"))


def _shift_scale(given: Given, data: Tensor) -> Tensor:
    scale, offset = given.tensor("scale"), given.maybe("offset")
    if offset is not None:
        data = data.float() - _blocks(offset.float(), data)
    return data.float() * _blocks(scale, data)


def _blocks(parameter: Tensor, data: Tensor) -> Tensor:
    """A number for each block of the data, repeated for each of its elements."""
    if parameter.dim() != data.dim() or any(
        few == 0 or many % few for many, few in zip(data.shape, parameter.shape, strict=True)
    ):
        raise ValueError(f"{tuple(parameter.shape)} blocks of {tuple(data.shape)}")
    for axis, (many, few) in enumerate(zip(data.shape, parameter.shape, strict=True)):
        if few not in (1, many):
            parameter = parameter.repeat_interleave(many // few, axis)
    return parameter


def _cast(given: Given) -> Tensor:
    dtype = given.text("output_dtype")
    if DTYPES.get(dtype, dtype) != given.output_dtype:
        raise ValueError(f"to {dtype}, and the output is said to be {given.output_dtype}")
    return given.tensor("source_val")


def _lut_to_dense(given: Given) -> Tensor:
    if given.opset >= _IOS18:
        return _look_up(given, given.indices("indices"))
    lut, packed = given.tensor("lut"), given.tensor("indices")
    shape = given.ints("shape", least=0)
    count, width = math.prod(shape), max(lut.numel() - 1, 1).bit_length()
    if lut.dim() != 1 or lut.numel() != 2**width or packed.numel() != -(-count * width // 8):
        raise ValueError(f"{packed.numel()} bytes of indices into {lut.numel()} values for the shape {list(shape)}")
    given.room(packed.numel() * 8, 1)
    bits = _bits(packed)[: count * width].reshape(count, width)
    places = 2 ** torch.arange(width)
    return lut[(bits * places).sum(1)].reshape(*shape)


def _bits(packed: Tensor) -> Tensor:
    """The bits of bytes, each byte's lowest first."""
    if packed.dtype != torch.uint8 or packed.dim() != 1:
        raise ValueError("packed bits are not bytes")
    return (packed.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)).bitwise_and(1).reshape(-1)


def _look_up(given: Given, indices: Tensor) -> Tensor:
    """Each index replaced by what a table holds: one table for each block of indices, of vectors along an axis."""
    lut, rank = given.tensor("lut"), indices.dim()
    if lut.dim() != rank + 2 or not lut.shape[-1]:
        raise ValueError(f"tables of shape {tuple(lut.shape)} for indices of shape {tuple(indices.shape)}")
    palettes, vector = lut.shape[-2:]
    axis = axis_of(given.integer("vector_axis", -1), rank, "vector_axis")
    if vector != 1 and "vector_axis" not in given:
        raise ValueError("vectors without a vector_axis")
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < palettes:
        raise ValueError(f"an index beyond {palettes} values")
    given.room(indices.numel() * max(vector, 2), 8)
    tables = lut.reshape(-1, vector)
    table = torch.arange(math.prod(lut.shape[:rank])).reshape(lut.shape[:rank])
    found = tables[_blocks(table, indices) * palettes + indices]
    shape = [size * vector if at == axis else size for at, size in enumerate(indices.shape)]
    return found.movedim(-1, axis + 1).reshape(shape)


def _sparse_to_dense(given: Given) -> Tensor:
    if given.opset >= _IOS18:
        return _dense(given, given.tensor("nonzero_data"), given.tensor("mask"))
    shape = given.ints("shape", least=0)
    count = math.prod(shape)
    mask = given.tensor("mask")
    if mask.numel() != -(-count // 8):
        raise ValueError(f"{mask.numel()} bytes of mask for the shape {list(shape)}")
    given.room(mask.numel() * 8, 1)
    return _dense(given, given.tensor("nonzero_data"), _bits(mask)[:count].reshape(*shape))


def _dense(given: Given, data: Tensor, mask: Tensor) -> Tensor:
    present = mask != 0
    if data.dim() != 1 or int(present.sum()) != len(data):
        raise ValueError(f"{data.numel()} values for {int(present.sum())} places")
    given.room(mask.numel())
    return torch.zeros(mask.shape, dtype=data.dtype).masked_scatter(present, data)


def _lut_to_sparse(given: Given) -> tuple[Tensor, Tensor]:
    mask = given.tensor("indices_mask")
    values = _look_up(given, _dense(given, given.indices("indices_nonzero_data"), mask))
    vector = given.tensor("lut").shape[-1]
    if vector > 1:
        mask = mask.repeat_interleave(vector, given.axis("vector_axis", mask.dim()))
    return mask, values[mask != 0]


def _sparse_blockwise_shift_scale(given: Given) -> tuple[Tensor, Tensor]:
    mask = given.tensor("data_mask")
    return mask, _shift_scale(given, _dense(given, given.tensor("nonzero_data"), mask))[mask != 0]


OPERATORS: Final[Table] = {
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_blockwise_shift_scale": _blockwise_shift_scale,
    "constexpr_cast": _cast,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "constexpr_sparse_blockwise_shift_scale": _sparse_blockwise_shift_scale,
    "constexpr_sparse_to_dense": _sparse_to_dense,
}
SINCE: Final = {
    6: (
        "constexpr_affine_dequantize",
        "constexpr_cast",
        "constexpr_lut_to_dense",
        "constexpr_sparse_to_dense",
    ),
    8: ("constexpr_blockwise_shift_scale", "constexpr_lut_to_sparse", "constexpr_sparse_blockwise_shift_scale"),
}
