"""Divergences of GKD: Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist and Bachem 2024, "On-Policy Distillation of
Language Models: Learning from Self-Generated Mistakes", arXiv:2306.13649."""

import math
from typing import Annotated, Any, Final, Literal

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.losses import Batch, Loss, flat
from edgekd.losses._divergences import kl


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the divergence."""

    kind: Literal["forward_kl", "reverse_kl", "jsd"] = "jsd"
    """Forward KL(P || Q) covers all that the teacher P holds possible; reverse KL(Q || P) has the student Q choose."""
    beta: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    """Share of the teacher in the mixture of `jsd`, unused by the others. JSD / beta tends to `forward_kl` for beta
    to 0, JSD / (1 - beta) to `reverse_kl` for beta to 1; the JSD itself tends to 0 there, so neither can be chosen."""
    temperature: Annotated[float, msgspec.Meta(ge=0.01, le=1000)] = 4.0
    """T, which divides the logits of both."""


class _Divergence:
    Options = Options
    needs_teacher = True
    needs_classes = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """T^2 D(P, Q), averaged over the batch, with P the teacher's and Q the student's softmax over T.

        The paper has the T^2 of soft targets nowhere, for it trains at T = 1; with it, `forward_kl` is soft targets.
        Of dense outputs each position that has a label is an example.
        """
        student, teacher, _ = flat(batch)
        assert teacher is not None
        log_p = F.log_softmax(teacher / options.temperature, dim=1)
        log_q = F.log_softmax(student / options.temperature, dim=1)
        loss: Tensor = _DIVERGENCES[options.kind](log_p, log_q, options.beta) * options.temperature**2
        return loss


def _jsd(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """beta KL(P || M) + (1 - beta) KL(Q || M), with M = beta P + (1 - beta) Q."""
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)


_DIVERGENCES: Final = {
    "forward_kl": lambda log_p, log_q, _: kl(log_p, log_q),
    "reverse_kl": lambda log_p, log_q, _: kl(log_q, log_p),
    "jsd": _jsd,
}

PLUGIN: Final[Loss] = _Divergence()
