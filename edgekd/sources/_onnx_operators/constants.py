"""Constants, known now."""

import math

import torch

from edgekd.errors import ConfigError
from edgekd.sources._graphs import MOST_ELEMENTS
from edgekd.sources._onnx_operators import Node, Translation, dtype_of, operator


@operator("Constant")
def constant(node: Node) -> Translation:
    """In one of several attributes."""
    stored = node.tensor_of("value")
    if stored is not None:
        return stored
    if "value_float" in node.attributes:
        return torch.tensor(node.float_of("value_float"))
    if "value_int" in node.attributes:
        return torch.tensor(node.int_of("value_int"))
    floats, integers = node.floats_of("value_floats"), node.ints_of("value_ints")
    if floats is not None:
        return torch.tensor(floats, dtype=torch.float32)
    if integers is not None:
        return torch.tensor(integers, dtype=torch.int64)
    raise node.refusal("a constant that is neither numbers nor a dense tensor", hint="store it as a tensor")


@operator("ConstantOfShape")
def constant_of_shape(node: Node) -> Translation:
    """Zeros by default."""
    shape, value = node.integers(0, "shape"), node.tensor_of("value")
    if math.prod(shape) > MOST_ELEMENTS or min(shape, default=0) < 0:
        raise ConfigError(f"{node}: a constant of shape {tuple(shape)}")
    filler = torch.zeros(1) if value is None else value
    return torch.full(shape, filler.item(), dtype=filler.dtype)


@operator("Range")
def numbers(node: Node) -> Translation:
    """From a start, without the end."""
    start, end, step = (node.static(position, "bound").item() for position in range(3))
    if step == 0 or (end - start) / step > MOST_ELEMENTS:
        raise ConfigError(f"{node}: numbers from {start} to {end} by {step}")
    count = max(0, math.ceil((end - start) / step))
    return start + torch.arange(count).to(node.dtype()) * step


@operator("EyeLike")
def eye_like(node: Node) -> Translation:
    """Ones on a diagonal."""
    rows, columns = node.shape()
    node.static_inputs.add(0)
    kind = dtype_of(node.int_of("dtype"), str(node)) if "dtype" in node.attributes else node.dtype()
    diagonal = node.int_of("k", 0)
    return (torch.arange(rows)[:, None] + diagonal == torch.arange(columns)[None, :]).to(kind)


@operator("HannWindow", "HammingWindow", "BlackmanWindow")
def window(node: Node) -> Translation:
    """Sums of cosines."""
    (size,) = node.integers(0, "size")
    if not 0 < size <= MOST_ELEMENTS:
        raise ConfigError(f"{node}: a window of {size}")
    shares = {
        "HannWindow": (0.5, 0.5, 0.0),
        "HammingWindow": (25 / 46, 21 / 46, 0.0),
        "BlackmanWindow": (0.42, 0.5, 0.08),
    }[node.operator]
    angle = 2 * math.pi * torch.arange(size, dtype=torch.float64) / (size if node.int_of("periodic", 1) else size - 1)
    made = shares[0] - shares[1] * torch.cos(angle) + shares[2] * torch.cos(2 * angle)
    return made.to(dtype_of(node.int_of("output_datatype", 1), str(node)))
