"""Attention of TinyBERT: Jiao, Yin, Shang, Jiang, Chen, Li, Wang and Liu 2020, "TinyBERT: Distilling BERT for Natural
Language Understanding", arXiv:1909.10351."""

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from torch import Tensor, nn

from edgekd.losses import FeatureLoss, Features, Pair
from edgekd.losses._features import Summed, require, weighted_mean, weights_of

_MASKED = -1e2
"""The official code takes a score as low as this for one of a token that may not be looked at."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Attention maps have none."""


class _AttentionMaps:
    Options = Options
    needs_teacher = True

    def build(self, options: Any, pairs: Sequence[Pair]) -> nn.Module:
        """L_attn = 1/h sum over heads of MSE(A^S, A^T), averaged over the tokens that count, summed over pairs.

        A are layers (heads, queries, keys): the paper takes scores before the softmax. Scores of -100 and below mean
        "not looked at", and count as 0, as in the official code; that code also averages over padding. Where the
        numbers of heads differ, which the paper leaves out, both are averaged down to as many groups of heads that
        stand together as divides both numbers: 12 and 8 heads to 4 groups of 3 and of 2.
        """
        require(
            pairs,
            lambda pair: len(pair.student) == 3 and len(pair.teacher) == 3 and pair.student[1:] == pair.teacher[1:],
            "both (heads, queries, keys) of the same tokens",
            "take a layer that answers the scores of attention",
        )
        return Summed([_Attention(math.gcd(pair.student[0], pair.teacher[0])) for pair in pairs])


class _Attention(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, features: Features) -> Tensor:
        error = (self._grouped(features.student) - self._grouped(features.teacher)).square().mean(dim=1)
        queries, keys = (weights_of(one, features.mask) for one in (error, error.mT))
        return weighted_mean(error, queries[:, :, None] * keys[:, None, :])

    def _grouped(self, scores: Tensor) -> Tensor:
        heads = scores.masked_fill(scores <= _MASKED, 0)
        return heads.reshape(len(heads), self.groups, -1, *heads.shape[2:]).mean(dim=2)


PLUGIN: Final[FeatureLoss] = _AttentionMaps()
