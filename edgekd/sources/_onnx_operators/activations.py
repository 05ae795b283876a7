"""Activations."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.sources._onnx_operators import MICROSOFT, Node, Translation, operator, plain

plain(
    {
        "HardSwish": F.hardswish,
        "Mish": F.mish,
        "Relu": torch.relu,
        "Sigmoid": torch.sigmoid,
        "Softplus": F.softplus,
        "Softsign": F.softsign,
        "Tanh": torch.tanh,
        f"{MICROSOFT}.Gelu": F.gelu,
        f"{MICROSOFT}.BiasGelu": lambda data, bias: F.gelu(data + bias),
        f"{MICROSOFT}.FastGelu": lambda data, bias=None: F.gelu(
            data if bias is None else data + bias, approximate="tanh"
        ),
    }
)


@operator("LeakyRelu")
def leaky_relu(node: Node) -> Translation:
    """Slope `alpha` below zero."""
    return partial(F.leaky_relu, negative_slope=node.float_of("alpha", 0.01))


@operator("ThresholdedRelu")
def thresholded_relu(node: Node) -> Translation:
    """Zero up to `alpha`."""
    return partial(F.threshold, threshold=node.float_of("alpha", 1.0), value=0.0)


@operator("PRelu")
def prelu(node: Node) -> Translation:
    """Slopes are spread as in arithmetic; torch's own has one for each channel."""
    shape, slopes = node.shape(0), node.shape(1)
    channels = shape[1] if len(shape) > 1 else 1
    spread = (1,) * (len(shape) - len(slopes)) + slopes
    if len(shape) > 1 and spread[1] in {1, channels} and all(size == 1 for size in (spread[0], *spread[2:])):
        return lambda data, slope: F.prelu(data, slope.reshape(-1))
    return lambda data, slope: torch.where(data < 0, slope * data, data)


@operator("Elu")
def elu(node: Node) -> Translation:
    """Exponential below zero."""
    return partial(F.elu, alpha=node.float_of("alpha", 1.0))


@operator("Celu")
def celu(node: Node) -> Translation:
    """Exponential below zero, smooth for every `alpha`."""
    return partial(F.celu, alpha=node.float_of("alpha", 1.0))


@operator("Selu")
def selu(node: Node) -> Translation:
    """torch's own has the two usual constants."""
    alpha, gamma = node.float_of("alpha", 1.67326319217681884765625), node.float_of("gamma", 1.05070102214813232421875)
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.050701) < 1e-6:
        return F.selu
    return lambda data: gamma * F.elu(data, alpha)


@operator("HardSigmoid")
def hard_sigmoid(node: Node) -> Translation:
    """A straight line between zero and one; torch's own has the slope of a sixth."""
    alpha, beta = node.float_of("alpha", 0.2), node.float_of("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return F.hardsigmoid
    return lambda data: torch.clamp(data * alpha + beta, 0.0, 1.0)


@operator("Gelu")
def gelu(node: Node) -> Translation:
    """Exact, or by the hyperbolic tangent."""
    return partial(F.gelu, approximate=node.text_of("approximate", "none"))


@operator("Swish")
def swish(node: Node) -> Translation:
    """Times its own sigmoid, which `alpha` steepens."""
    alpha = node.float_of("alpha", 1.0)
    return F.silu if alpha == 1.0 else lambda data: data * torch.sigmoid(alpha * data)


@operator("Shrink")
def shrink(node: Node) -> Translation:
    """Zero around zero, and moved by `bias` elsewhere."""
    bias, limit = node.float_of("bias"), node.float_of("lambd", 0.5)

    def function(data: Tensor) -> Tensor:
        zero = torch.zeros_like(data)
        return torch.where(data < -limit, data + bias, torch.where(data > limit, data - bias, zero))

    return function


@operator("Softmax")
def softmax(node: Node) -> Translation:
    """Over one axis; before opset 13 over that axis and all behind it together."""
    return _over_axis(node, torch.softmax)


@operator("LogSoftmax")
def log_softmax(node: Node) -> Translation:
    """As `softmax`."""
    return _over_axis(node, torch.log_softmax)


@operator("Hardmax")
def hardmax(node: Node) -> Translation:
    """One where the first largest is, as `softmax` otherwise."""

    def function(data: Tensor, axis: int) -> Tensor:
        chosen = F.one_hot(data.argmax(axis), data.shape[axis]).to(data.dtype)
        return chosen.movedim(-1, axis)

    return _over_axis(node, function)


def _over_axis(node: Node, function: Translation) -> Translation:
    assert callable(function)
    axis, shape = node.axis(-1 if node.opset >= 13 else 1), node.shape()
    if node.opset >= 13 or axis == len(shape) - 1:
        return lambda data: function(data, axis)
    return lambda data: function(data.flatten(axis), -1).reshape(shape)
