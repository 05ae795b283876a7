"""DIST: Huang, You, Wang, Qian and Xu 2022, "Knowledge Distillation from A Stronger Teacher", arXiv:2205.10536."""

from typing import Annotated, Any, Final

import msgspec
import torch
from torch import Tensor

from edgekd.losses import Batch, Loss, flat
from edgekd.losses._divergences import mean

_CONSTANT = 1e-15
"""A centred vector shorter than this is one of equal values: float32 cannot square what is much smaller."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of DIST; the defaults are the official code's."""

    beta: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 1.0
    """Weight of the inter-class relation: how the classes of one example relate."""
    gamma: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 1.0
    """Weight of the intra-class relation: how the examples of the batch relate within one class."""
    temperature: Annotated[float, msgspec.Meta(ge=0.01, le=1000)] = 1.0
    """tau, which divides the logits of both."""


class _Dist:
    Options = Options
    needs_teacher = True
    needs_classes = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """tau^2 (beta L_inter + gamma L_intra), with Y the softmax of the logits over tau.

        L_inter is 1 - Pearson(Y^s, Y^t) of each row, averaged over the batch; L_intra that of each column, averaged
        over the classes. A correlation with equal values is undefined and counts as 0, as in the official code: of a
        batch of one, L_intra is 1 without a gradient. With two classes L_inter only tells whether both prefer the
        same one, and has no gradient. Of dense outputs each position that has a label is an example, as there.
        """
        z_s, z_t, _ = flat(batch)
        assert z_t is not None
        student = torch.softmax(z_s / options.temperature, dim=1)
        teacher = torch.softmax(z_t / options.temperature, dim=1)
        inter = mean(1 - _pearson(student, teacher, dim=1))
        intra = mean(1 - _pearson(student, teacher, dim=0))
        loss: Tensor = (options.beta * inter + options.gamma * intra) * options.temperature**2
        return loss


def _pearson(one: Tensor, two: Tensor, dim: int) -> Tensor:
    return (_standardise(one, dim) * _standardise(two, dim)).sum(dim=dim)


def _standardise(values: Tensor, dim: int) -> Tensor:
    """Centred, of length 1; zeros for equal values."""
    centred = values - values.mean(dim=dim, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(centred, dim=dim, keepdim=True)
    return centred / length.masked_fill(length < _CONSTANT, 1)


PLUGIN: Final[Loss] = _Dist()
