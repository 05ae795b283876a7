"""What is known now: constants, ranges, stored weights."""

import math

import torch

from edgekd.errors import ConfigError
from edgekd.sources._graphs import MOST_ELEMENTS
from edgekd.sources._tensorflow_graphs import Node, Thing, Variable, tensor_of
from edgekd.sources._tensorflow_operators import operator


@operator("Const")
def constant(node: Node) -> Thing:
    """As it is stored."""
    from tensorflow.python.framework.tensor_util import MakeNdarray

    stored = node.attributes["value"].tensor
    sizes = [int(axis.size) for axis in stored.tensor_shape.dim]
    if math.prod(sizes) > MOST_ELEMENTS or min(sizes, default=0) < 0:
        raise ConfigError(f"{node}: a constant of shape {tuple(sizes)}")
    return node.constant(tensor_of(MakeNdarray(stored), str(node)))


@operator("ReadVariableOp")
def read(node: Node) -> Thing:
    """The weight of a handle."""
    handle = node.inputs[0]
    if not isinstance(handle, Variable):
        raise node.refusal("it reads what is not a stored weight")
    return handle.read()


@operator("Fill")
def fill(node: Node) -> Thing:
    """One value everywhere."""
    shape = node.integers(0, "shape")
    if math.prod(shape) > MOST_ELEMENTS or min(shape, default=0) < 0:
        raise ConfigError(f"{node}: a constant of shape {tuple(shape)}")
    return node.make(lambda value: value.reshape([1] * len(shape)).expand(shape), [node.plain(1)])


@operator("Range")
def numbers(node: Node) -> Thing:
    """From a start, without the end."""
    start, end, step = (node.static(position, "bound").item() for position in range(3))
    if step == 0 or (end - start) / step > MOST_ELEMENTS:
        raise ConfigError(f"{node}: numbers from {start} to {end} by {step}")
    count = max(0, math.ceil((end - start) / step))
    return node.constant(start + torch.arange(count).to(node.array().dtype) * step)


@operator("LinSpace")
def evenly(node: Node) -> Thing:
    """So many numbers from a start to an end."""
    start, end = node.static(0).item(), node.static(1).item()
    (count,) = node.integers(2, "number")
    if not 0 < count <= MOST_ELEMENTS:
        raise ConfigError(f"{node}: {count} numbers")
    return node.constant(torch.linspace(start, end, count, dtype=node.array().dtype))
