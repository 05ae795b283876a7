"""Activations."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.coreml.given import Given
from edgekd.coreml.operators import Function, Table


def _plain(compute: Callable[[Tensor], Tensor]) -> Function:
    """An activation without parameters."""

    def activate(given: Given) -> Tensor:
        return compute(given.tensor("x"))

    return activate


def _clamped_relu(given: Given) -> Tensor:
    x, alpha, beta = given.tensor("x"), given.number("alpha"), given.number("beta")
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


def _elu(given: Given) -> Tensor:
    return functional.elu(given.tensor("x"), given.number("alpha"))


def _gelu(given: Given) -> Tensor:
    x = given.tensor("x")
    mode = given.text("mode", "EXACT", among=("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"))
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate="none" if mode == "EXACT" else "tanh")


def _leaky_relu(given: Given) -> Tensor:
    return functional.leaky_relu(given.tensor("x"), given.number("alpha"))


def _linear_activation(given: Given) -> Tensor:
    return given.tensor("x") * given.number("alpha") + given.number("beta")


def _prelu(given: Given) -> Tensor:
    x = given.tensor("x")
    return torch.where(x > 0, x, by_channel(given.tensor("alpha"), x) * x)


def _scaled_tanh(given: Given) -> Tensor:
    return given.number("alpha") * torch.tanh(given.number("beta") * given.tensor("x"))


def _sigmoid_hard(given: Given) -> Tensor:
    return (given.number("alpha") * given.tensor("x") + given.number("beta")).clamp(0, 1)


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def _softplus_parametric(given: Given) -> Tensor:
    x = given.tensor("x")
    return by_channel(given.tensor("alpha"), x) * _softplus(by_channel(given.tensor("beta"), x) * x)


def _softmax(given: Given) -> Tensor:
    x = given.tensor("x")
    return torch.softmax(x, given.axis("axis", x.dim(), -1))


def _thresholded_relu(given: Given) -> Tensor:
    x = given.tensor("x")
    return torch.where(x >= given.number("alpha"), x, torch.zeros_like(x))


def by_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter for each channel, in the shape that broadcasts to x of shape (batch, channels, ...)."""
    if parameter.dim() != 1 or x.dim() < 2 or parameter.shape[0] != x.shape[1]:
        raise ValueError(f"{tuple(parameter.shape)} parameters for the channels of {tuple(x.shape)}")
    return parameter.reshape(-1, *[1] * (x.dim() - 2))


OPERATORS: Final[Table] = {
    "clamped_relu": _clamped_relu,
    "elu": _elu,
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "linear_activation": _linear_activation,
    "prelu": _prelu,
    "relu": _plain(torch.relu),
    "relu6": _plain(functional.relu6),
    "scaled_tanh": _scaled_tanh,
    "sigmoid": _plain(torch.sigmoid),
    "sigmoid_hard": _sigmoid_hard,
    "silu": _plain(functional.silu),
    "softmax": _softmax,
    "softplus": _plain(_softplus),
    "softplus_parametric": _softplus_parametric,
    "softsign": _plain(functional.softsign),
    "thresholded_relu": _thresholded_relu,
}
