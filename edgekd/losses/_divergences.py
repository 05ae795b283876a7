"""Kullback-Leibler divergences of what a batch holds, which may be nothing."""

import torch.nn.functional as F
from torch import Tensor


def kl(log_p: Tensor, log_q: Tensor, dim: int = 1) -> Tensor:
    """KL(p || q) of each distribution along an axis, averaged; 0 of none."""
    return mean(kl_each(log_p, log_q, dim))


def kl_each(log_p: Tensor, log_q: Tensor, dim: int) -> Tensor:
    """KL(p || q) of each distribution along an axis, which is left out of the shape."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=dim)


def mean(values: Tensor) -> Tensor:
    """The mean; 0 of none, which has a gradient of 0 as well."""
    return values.sum() / max(values.numel(), 1)
