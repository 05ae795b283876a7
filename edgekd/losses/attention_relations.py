"""Self-attention relations: Wang, Bao, Huang, Dong and Wei 2021, "MiniLMv2: Multi-Head Self-Attention Relation
Distillation for Compressing Pretrained Transformers", arXiv:2012.15828.

Of the values alone, with as many relation heads as the teacher has heads, this is the value relation of MiniLM (Wang,
Wei, Dong, Bao, Yang and Zhou 2020, arXiv:2002.10957), whose other part, the attention's own distributions, queries and
keys stand in for here.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.losses import FeatureLoss, Features, Pair
from edgekd.losses._divergences import kl_each
from edgekd.losses._features import Summed, require, weights_of


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of self-attention relations."""

    heads: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 48
    """A_r, relation heads; it must divide both widths. The paper has 48 for a teacher of BERT-base's size and 64 for
    one of BERT-large's."""


class _AttentionRelations:
    Options = Options
    needs_teacher = True

    def build(self, options: Any, pairs: Sequence[Pair]) -> nn.Module:
        """1 / (A_r |x|) sum over heads and tokens of KL(R^T || R^S), averaged over the batch, summed over pairs.

        R = softmax(A A^T / sqrt(d_r)), where A is what one of A_r parts of width d_r of a layer (length, width) says of
        each token: a layer that answers the queries of all heads side by side, the keys, or the values. The paper takes
        a pair of each, from the student's last layer and an upper one of the teacher. |x| are the tokens that count;
        no other one is related to.
        """
        require(
            pairs,
            lambda pair: len(pair.student) == len(pair.teacher) == 2 and pair.student[0] == pair.teacher[0],
            "both (length, width) of the same tokens",
            "pair layers that answer queries, keys or values",
        )
        shared = math.gcd(*(shape[1] for pair in pairs for shape in (pair.student, pair.teacher)))
        require(
            pairs,
            lambda pair: pair.student[1] % options.heads == 0 and pair.teacher[1] % options.heads == 0,
            f"of widths that {options.heads} relation heads divide",
            f"set `heads` to a divisor of {shared}",
        )
        return Summed([_Relations(options.heads) for _ in pairs])


class _Relations(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, features: Features) -> Tensor:
        weights = weights_of(features.student, features.mask)
        student, teacher = (self._log_relations(one, weights) for one in (features.student, features.teacher))
        tokens = kl_each(teacher, student, dim=-1).mean(dim=1)
        return ((tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)).mean()

    def _log_relations(self, states: Tensor, weights: Tensor) -> Tensor:
        """Of shape (batch, A_r, length, length)."""
        a = states.reshape(*states.shape[:2], self.heads, -1).transpose(1, 2)
        dots = a @ a.mT / a.shape[-1] ** 0.5
        # not -inf, of which a row of padding alone would make NaN
        nowhere = torch.finfo(dots.dtype).min / 2
        return F.log_softmax(dots.masked_fill(weights[:, None, None, :] == 0, nowhere), dim=-1)


PLUGIN: Final[FeatureLoss] = _AttentionRelations()
