"""Normalization."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.sources._onnx_operators import MICROSOFT, Node, Translation, operator


@operator("BatchNormalization")
def batch_norm(node: Node) -> Translation:
    """By the statistics in the file, which stay as they are when the rest is trained."""
    if node.int_of("training_mode") or any(node.wants(output) for output in range(1, 5)):
        raise node.refusal("it is in training mode", hint="export the model in evaluation mode")
    if not node.int_of("spatial", 1):
        raise node.refusal("spatial = 0 is not known", hint="write it as Sub, Div, Mul and Add")
    epsilon = node.float_of("epsilon", 1e-5)
    node.freeze(3, 4)
    return lambda data, scale, bias, mean, variance: F.batch_norm(data, mean, variance, scale, bias, eps=epsilon)


@operator("InstanceNormalization")
def instance_norm(node: Node) -> Translation:
    """Each channel of each example by its own statistics."""
    epsilon = node.float_of("epsilon", 1e-5)
    return lambda data, scale, bias: F.instance_norm(data, weight=scale, bias=bias, eps=epsilon)


@operator("LayerNormalization")
def layer_norm(node: Node) -> Translation:
    """Over the last axes."""
    axis, shape, epsilon = node.axis(-1), node.shape(), node.float_of("epsilon", 1e-5)
    normalized = shape[axis:]
    if node.wants(1) or node.wants(2):
        return partial(_layer_norm_with_statistics, axes=list(range(axis, len(shape))), epsilon=epsilon)
    parameters = [node.shape(position) for position in (1, 2) if node.has(position)]
    if all(given == normalized for given in parameters):
        return lambda data, scale, bias=None: F.layer_norm(data, normalized, scale, bias, epsilon)
    return lambda data, scale, bias=None: _scaled(F.layer_norm(data, normalized, eps=epsilon), scale, bias)


def _scaled(data: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return data * scale if bias is None else data * scale + bias


def _layer_norm_with_statistics(
    data: Tensor, scale: Tensor, bias: Tensor | None = None, *, axes: list[int], epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean = data.mean(axes, keepdim=True)
    centred = data - mean
    inverse = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + epsilon)
    return _scaled(centred * inverse, scale, bias), mean, inverse


@operator("RMSNormalization")
def rms_norm(node: Node) -> Translation:
    """Over the last axes, without centring."""
    axis, shape, epsilon = node.axis(-1), node.shape(), node.float_of("epsilon", 1e-5)
    axes = list(range(axis, len(shape)))
    return lambda data, scale: data * torch.rsqrt((data * data).mean(axes, keepdim=True) + epsilon) * scale


@operator("GroupNormalization")
def group_norm(node: Node) -> Translation:
    """Scale and bias are for each group before opset 21, for each channel since then."""
    groups, epsilon = node.int_of("num_groups", 1), node.float_of("epsilon", 1e-5)
    share = node.shape()[1] // max(groups, 1) if node.opset < 21 else 1

    def function(data: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if share > 1:
            scale, bias = scale.repeat_interleave(share), bias.repeat_interleave(share)
        return F.group_norm(data, groups, scale, bias, epsilon)

    return function


@operator("LpNormalization")
def lp_normalization(node: Node) -> Translation:
    """By the 1-norm or the 2-norm of an axis."""
    axis, order = node.axis(-1), node.int_of("p", 2)

    def function(data: Tensor) -> Tensor:
        norm = data.abs().sum(axis, keepdim=True) if order == 1 else (data * data).sum(axis, keepdim=True).sqrt()
        return torch.where(norm == 0, torch.zeros_like(data), data / norm)

    return function


@operator("MeanVarianceNormalization")
def mean_variance_normalization(node: Node) -> Translation:
    """Over given axes."""
    axes = node.ints_of("axes") or [0, 2, 3]

    def function(data: Tensor) -> Tensor:
        centred = data - data.mean(axes, keepdim=True)
        return centred / ((centred * centred).mean(axes, keepdim=True).sqrt() + 1e-9)

    return function


@operator("LRN")
def local_response_norm(node: Node) -> Translation:
    """Over neighbouring channels (Krizhevsky 2012)."""
    size, bias = node.int_of("size", 1), node.float_of("bias", 1.0)
    alpha, beta = node.float_of("alpha", 1e-4), node.float_of("beta", 0.75)
    before = (size - 1) // 2
    edges = [0, 0] * (node.rank() - 2) + [before, size - 1 - before]

    def function(data: Tensor) -> Tensor:
        squares = F.pad(data * data, edges)
        channels = data.shape[1]
        total = squares[:, :channels]
        for shift in range(1, size):
            total = total + squares[:, shift : shift + channels]
        return data / torch.pow(bias + total * (alpha / size), beta)

    return function


@operator("Dropout")
def dropout(node: Node) -> Translation:
    """Nothing, as in evaluation."""
    if node.opset >= 12 and node.has(2):
        training = node.static(2, "training mode")
        if bool(training.any()):
            raise node.refusal("it is in training mode", hint="export the model in evaluation mode")
    node.static_inputs.update({1, 2})
    kind = torch.bool if node.opset >= 10 else node.dtype()
    if not node.wants(1):
        return lambda data: data
    return lambda data: (data, torch.ones_like(data, dtype=kind))


@operator(f"{MICROSOFT}.SkipLayerNormalization")
def skip_layer_norm(node: Node) -> Translation:
    """ONNX Runtime's: sum of two and a bias, then a layer norm; the fourth output is the sum."""
    epsilon, wants_sum = node.float_of("epsilon", 1e-12), node.wants(3)
    if node.wants(1) or node.wants(2):
        raise node.refusal("its mean and deviation are read", hint="save the model before it is optimized")

    def function(
        data: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None, bias: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        total = data + skip if bias is None else data + skip + bias
        normal = F.layer_norm(total, total.shape[-1:], scale, shift, epsilon)
        return (normal, total, total, total) if wants_sum else (normal,)

    return function
