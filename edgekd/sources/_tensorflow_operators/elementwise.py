"""Element by element: they work in whatever order the axes of their inputs are."""

from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.sources._functions import fake_quantize
from edgekd.sources._graphs import Function, Value
from edgekd.sources._patterns import argument_of_gelu
from edgekd.sources._tensorflow_graphs import Array, Node, Thing
from edgekd.sources._tensorflow_operators import operator

UNARY: dict[str, Function] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Asin": torch.asin,
    "Atan": torch.atan,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Elu": F.elu,
    "Erf": torch.erf,
    "Erfc": lambda data: 1 - torch.erf(data),
    "Exp": torch.exp,
    "Expm1": torch.expm1,
    "Floor": torch.floor,
    "Inv": torch.reciprocal,
    "IsFinite": torch.isfinite,
    "IsInf": torch.isinf,
    "IsNan": torch.isnan,
    "Log": torch.log,
    "Log1p": torch.log1p,
    "LogicalNot": torch.logical_not,
    "Neg": torch.neg,
    "OnesLike": torch.ones_like,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Relu6": F.relu6,
    "Rint": torch.round,
    "Round": torch.round,
    "Rsqrt": torch.rsqrt,
    "Selu": F.selu,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Square": torch.square,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "ZerosLike": torch.zeros_like,
}


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _or_zero(function: Function) -> Function:
    """The function, and zero where its second argument is."""
    return lambda a, b: torch.where(b == 0, torch.zeros_like(a), function(a, b))


BINARY: dict[str, Function] = {
    "Add": torch.add,
    "AddV2": torch.add,
    "Atan2": torch.atan2,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "Div": _quotient,
    "DivNoNan": _or_zero(torch.div),
    "Equal": torch.eq,
    "FloorDiv": partial(torch.div, rounding_mode="floor"),
    "FloorMod": torch.remainder,
    "Greater": torch.gt,
    "GreaterEqual": torch.ge,
    "Less": torch.lt,
    "LessEqual": torch.le,
    "LogicalAnd": torch.logical_and,
    "LogicalOr": torch.logical_or,
    "Maximum": torch.maximum,
    "Minimum": torch.minimum,
    "Mod": torch.fmod,
    "MulNoNan": _or_zero(torch.mul),
    "NotEqual": torch.ne,
    "Pow": torch.pow,
    "RealDiv": torch.div,
    "SelectV2": torch.where,
    "SquaredDifference": lambda a, b: torch.square(a - b),
    "Sub": torch.sub,
    "TruncateDiv": partial(torch.div, rounding_mode="trunc"),
    "TruncateMod": torch.fmod,
    "Xdivy": lambda a, b: torch.where(a == 0, torch.zeros_like(a), a / b),
    "Xlogy": torch.xlogy,
}


def together(node: Node, function: Function, arrays: list[Array] | None = None) -> Array:
    """The function of all inputs, channels first where one of the largest of them is."""
    values, first = aligned(node.arrays() if arrays is None else arrays)
    return node.make(function, values, first=first)


def aligned(arrays: list[Array]) -> tuple[list[Value], bool]:
    """The inputs with their axes in one order, and whether that has channels first."""
    rank = max(array.rank for array in arrays)
    if rank >= 3 and any(array.is_first and array.rank == rank and array.constant is None for array in arrays):
        return [array.spread(rank) for array in arrays], True
    return [array.plain() for array in arrays], False


@operator(*UNARY)
def unary(node: Node) -> Thing:
    """Of one input."""
    return together(node, UNARY[node.operator], [node.array()])


@operator(*BINARY)
def binary(node: Node) -> Thing:
    """Of two or three inputs that are spread over each other."""
    return together(node, BINARY[node.operator])


@operator("Mul")
def multiply(node: Node) -> Thing:
    """Where it completes x / 2 * erfc(-x / sqrt 2), or the same by erf, that is one activation."""
    values, first = aligned(node.arrays())
    data = argument_of_gelu(values)
    if data is not None:
        return node.make(F.gelu, [data], first=first)
    return node.make(torch.mul, values, first=first)


@operator("AddN")
def add_all(node: Node) -> Thing:
    """Of any number of inputs."""
    return together(node, lambda *terms: reduce(torch.add, terms))


@operator("Select")
def select(node: Node) -> Thing:
    """A condition with one axis chooses whole rows."""
    condition, yes, _ = node.arrays()
    if condition.rank == 1 and yes.rank > 1:
        sizes = [condition.shape[0], *[1] * (yes.rank - 1)]
        values = [array.plain() for array in node.arrays()]
        return node.make(lambda c, a, b: torch.where(c.reshape(sizes), a, b), values)
    return together(node, torch.where)


@operator("LeakyRelu")
def leaky_relu(node: Node) -> Thing:
    """Slope `alpha` below zero."""
    return together(node, partial(F.leaky_relu, negative_slope=node.float_of("alpha", 0.2)))


@operator("ClipByValue")
def clip(node: Node) -> Thing:
    """Between two bounds."""
    if node.array(1).constant is not None and node.array(2).constant is not None and node.array(1).rank == 0:
        low, high = node.static(1).item(), node.static(2).item()
        return together(node, partial(torch.clamp, min=low, max=high), [node.array()])
    return together(node, lambda data, low, high: torch.minimum(torch.maximum(data, low), high))


@operator("Cast")
def cast(node: Node) -> Thing:
    """Floats become integers by truncation."""
    wanted = node.dtype_of("DstT")
    if wanted == node.array().dtype:
        return node.array()
    return together(node, lambda data: data.to(wanted))


PASSING = (
    "CheckNumerics",
    "DisableCopyOnRead",
    "EnsureShape",
    "Identity",
    "IdentityN",
    "PlaceholderWithDefault",
    "PreventGradient",
    "Snapshot",
    "StopGradient",
)


@operator(*PASSING)
def identity(node: Node) -> list[Thing]:
    """As it is."""
    return node.inputs


@operator("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVarsPerChannel")
def fake_quant(node: Node) -> Thing:
    """Rounded as in integers of so many bits; the range is nudged so that zero is one of them."""
    if node.operator == "FakeQuantWithMinMaxArgs":
        low, high = torch.tensor(node.float_of("min", -6.0)), torch.tensor(node.float_of("max", 6.0))
    else:
        low, high = node.static(1, "range"), node.static(2, "range")
    least = int(node.bool_of("narrow_range"))
    most = 2 ** node.int_of("num_bits", 8) - 1
    scale = (high - low) / (most - least)
    zero = torch.clamp(torch.round(least - low / scale), least, most)
    parts = [node.array(), node.constant(scale, f"{node.name}.scale"), node.constant(zero, f"{node.name}.zero")]
    return together(node, fake_quantize(least, most), parts)
