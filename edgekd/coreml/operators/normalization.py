"""Normalizations."""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from edgekd.coreml.given import Given
from edgekd.coreml.operators import Table
from edgekd.coreml.operators.activation import by_channel


def _batch_norm(given: Given) -> Tensor:
    x, mean, variance = given.tensor("x"), given.tensor("mean"), given.tensor("variance")
    gamma, beta, epsilon = given.maybe("gamma"), given.maybe("beta"), given.number("epsilon", 1e-5)
    for parameter in (mean, variance, gamma, beta):
        if parameter is not None:
            by_channel(parameter, x)
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


def _instance_norm(given: Given) -> Tensor:
    x = given.tensor("x")
    if x.dim() < 3:
        raise ValueError(f"an input of rank {x.dim()}")
    normal = _normalized(x, list(range(2, x.dim())), given.number("epsilon", 1e-5))
    gamma, beta = given.maybe("gamma"), given.maybe("beta")
    normal = normal if gamma is None else normal * by_channel(gamma, x)
    return normal if beta is None else normal + by_channel(beta, x)


def _layer_norm(given: Given) -> Tensor:
    x, epsilon = given.tensor("x"), given.number("epsilon", 1e-5)
    axes = given.axes("axes", x.dim())
    gamma, beta = given.maybe("gamma"), given.maybe("beta")
    shape = [x.shape[axis] for axis in axes]
    for parameter in (gamma, beta):
        if parameter is not None and list(parameter.shape) != shape:
            raise ValueError(f"parameters of shape {tuple(parameter.shape)} for axes of {shape}")
    if axes and axes == list(range(axes[0], x.dim())):
        return functional.layer_norm(x, shape, gamma, beta, epsilon)
    wide = [x.shape[axis] if axis in axes else 1 for axis in range(x.dim())]
    normal = _normalized(x, axes, epsilon)
    normal = normal if gamma is None else normal * gamma.reshape(wide)
    return normal if beta is None else normal + beta.reshape(wide)


def _normalized(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    if not axes:
        raise ValueError("no axes")
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)


def _l2_norm(given: Given) -> Tensor:
    x = given.tensor("x")
    if x.dim() < 3:
        raise ValueError(f"an input of rank {x.dim()}")
    return x / torch.sqrt(x.square().sum((-3, -2, -1), keepdim=True) + given.number("epsilon", 1e-6))


def _local_response_norm(given: Given) -> Tensor:
    x, size = given.tensor("x"), given.integer("size", least=1)
    alpha, beta, k = given.number("alpha", 1e-4), given.number("beta", 0.75), given.number("k", 1.0)
    if x.dim() < 3:
        raise ValueError(f"an input of rank {x.dim()}")
    given.room(x.numel() + size * x[:, 0].numel())
    given.spend(x.numel() * size)
    return functional.local_response_norm(x, size, alpha, beta, k)


OPERATORS: Final[Table] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "l2_norm": _l2_norm,
    "layer_norm": _layer_norm,
    "local_response_norm": _local_response_norm,
}
