"""Decoupled KD: Zhao, Cui, Song, Qiu and Liang 2022, "Decoupled Knowledge Distillation", arXiv:2203.08679."""

from typing import Annotated, Any, Final

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.losses import Batch, Loss, flat
from edgekd.losses._divergences import kl


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of decoupled KD; the defaults of alpha, beta and temperature are the paper's on CIFAR-100."""

    alpha: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 1.0
    """Weight of TCKD: how sure the teacher is of the label."""
    beta: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 8.0
    """Weight of NCKD: what the teacher says about the other classes. In plain KD it would be 1 - p_t of the teacher."""
    temperature: Annotated[float, msgspec.Meta(ge=0.01, le=1000)] = 4.0
    """T, which divides the logits of both."""


class _Decoupled:
    Options = Options
    needs_teacher = True
    needs_classes = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """T^2 (alpha KL(b^T || b^S) + beta KL(p^T || p^S)), averaged over the batch.

        b is (p_t, 1 - p_t) with t the label, p the softmax over the classes other than t. With two classes only one
        of these is left, so NCKD is 0. The warm-up of the official code, which knows the epoch, is not part of it.
        Of dense outputs each position is an example; what has no label, and so no t, is left out.
        """
        student, teacher, labels = flat(batch)
        assert teacher is not None
        labelled = labels >= 0
        student_b, student_p = _decouple(student[labelled] / options.temperature, labels[labelled])
        teacher_b, teacher_p = _decouple(teacher[labelled] / options.temperature, labels[labelled])
        tckd, nckd = kl(teacher_b, student_b), kl(teacher_p, student_p)
        loss: Tensor = (options.alpha * tckd + options.beta * nckd) * options.temperature**2
        return loss


def _decouple(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of b, shape (batch, 2), and of p, shape (batch, classes - 1)."""
    is_other = torch.ones_like(logits, dtype=torch.bool).scatter(1, labels[:, None], False)
    others = logits[is_other].reshape(len(logits), logits.shape[1] - 1)
    target = logits.gather(1, labels[:, None])
    # the log-odds of two are exact where 1 - p_t, taken as a difference, would round to 0
    binary = torch.cat([target, others.logsumexp(dim=1, keepdim=True)], dim=1)
    return F.log_softmax(binary, dim=1), F.log_softmax(others, dim=1)


PLUGIN: Final[Loss] = _Decoupled()
