"""Products of matrices."""

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.sources._onnx_operators import MICROSOFT, Node, Translation, operator, plain

plain({"Det": torch.det})


@operator("MatMul")
def matmul(node: Node) -> Translation:
    """By a stored matrix it is a linear layer, as converters know it."""
    if node.is_constant(1) and node.rank(1) == 2 and node.rank(0) >= 2:
        return lambda data, weight: F.linear(data, weight.t())
    return torch.matmul


@operator(f"{MICROSOFT}.FusedMatMul")
def fused_matmul(node: Node) -> Translation:
    """ONNX Runtime's, with transposed operands and a factor."""
    alpha = node.float_of("alpha", 1.0)
    first, second = bool(node.int_of("transA")), bool(node.int_of("transB"))
    if node.int_of("transBatchA") or node.int_of("transBatchB"):
        raise node.refusal("its batch axes are transposed", hint="save the model before it is optimized")

    def function(a: Tensor, b: Tensor) -> Tensor:
        product = torch.matmul(a.mT if first else a, b.mT if second else b)
        return product if alpha == 1.0 else product * alpha

    return function


@operator("Gemm")
def gemm(node: Node) -> Translation:
    """alpha * A * B + beta * C; a linear layer where the factors are one."""
    alpha, beta = node.float_of("alpha", 1.0), node.float_of("beta", 1.0)
    first, second = bool(node.int_of("transA")), bool(node.int_of("transB"))
    outputs = node.shape(1)[0 if second else -1]
    bias_fits = not node.has(2) or node.shape(2) in {(outputs,), (1, outputs)}

    def function(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, weight = a.t() if first else a, b if second else b.t()
        if alpha == beta == 1.0 and bias_fits:
            return F.linear(a, weight, None if c is None else c.reshape(-1))
        product = F.linear(a, weight)
        product = product if alpha == 1.0 else product * alpha
        return product if c is None else product + (c if beta == 1.0 else c * beta)

    return function


@operator("Einsum")
def einsum(node: Node) -> Translation:
    """As torch writes it."""
    equation = node.text_of("equation")
    if len(equation) > 200:
        raise node.refusal("an equation of more than 200 letters")
    return lambda *tensors: torch.einsum(equation, *tensors)
