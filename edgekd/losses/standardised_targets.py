"""Standardised targets: Sun, Ren, Li, Wang and Cao 2024, "Logit Standardization in Knowledge Distillation",
arXiv:2403.01427."""

from typing import Annotated, Any, Final

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.losses import Batch, Loss, flat
from edgekd.losses._divergences import kl

_CONSTANT = 1e-15
"""A deviation smaller than this is that of equal logits: float32 cannot square what is much smaller."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of standardised targets."""

    temperature: Annotated[float, msgspec.Meta(ge=0.01, le=1000)] = 2.0
    """tau, the base temperature: the softmax sees logits of mean 0 and of standard deviation 1 / tau."""


class _StandardisedTargets:
    Options = Options
    needs_teacher = True
    needs_classes = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """tau^2 KL(q(Z(v)) || q(Z(z))), averaged over the batch: v the teacher's logits, z the student's.

        q is the softmax over tau and Z the Z-score of an example's logits, with sigma^2 their mean squared deviation
        as in the paper; its code divides by K - 1 in place of K. Equal logits have the Z-score 0. Of two classes the
        Z-scores are 1 and -1 whatever the logits, so there the loss only tells whether both prefer the same one, and
        has no gradient. Of dense outputs each position that has a label is an example.
        """
        student, teacher, _ = flat(batch)
        assert teacher is not None
        log_q_student = F.log_softmax(_z_score(student) / options.temperature, dim=1)
        log_q_teacher = F.log_softmax(_z_score(teacher) / options.temperature, dim=1)
        loss: Tensor = kl(log_q_teacher, log_q_student) * options.temperature**2
        return loss


def _z_score(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(dim=1, keepdim=True)
    # a norm, whose gradient at 0 is 0, where that of a standard deviation is not finite
    sigma: Tensor = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / logits.shape[1] ** 0.5
    return centred / sigma.masked_fill(sigma < _CONSTANT, 1)


PLUGIN: Final[Loss] = _StandardisedTargets()
