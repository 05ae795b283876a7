"""Cosine of hidden states: Sanh, Debut, Chaumond and Wolf 2019, "DistilBERT, a distilled version of BERT: smaller,
faster, cheaper and lighter", arXiv:1910.01108."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from torch import Tensor, nn

from edgekd.losses import FeatureLoss, Features, Pair
from edgekd.losses._features import Summed, are_states, directions, require, weighted_mean, weights_of


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cosine has none."""


class _CosineStates:
    Options = Options
    needs_teacher = True

    def build(self, options: Any, pairs: Sequence[Pair]) -> nn.Module:
        """L_cos = 1 - cos(H^S, H^T), averaged over the tokens that count, summed over pairs.

        Layers are (*positions, width), of one width. A state of zeros has no direction, and its cosine counts as 0.
        """
        require(
            pairs,
            lambda pair: are_states(pair) and pair.student == pair.teacher,
            "both (*positions, width) of one shape",
            "`hidden_states` projects the student's width to the teacher's",
        )
        return Summed([_Cosine() for _ in pairs])


class _Cosine(nn.Module):
    def forward(self, features: Features) -> Tensor:
        cosine = (directions(features.student, dim=-1) * directions(features.teacher, dim=-1)).sum(dim=-1)
        return weighted_mean(1 - cosine, weights_of(features.student, features.mask))


PLUGIN: Final[FeatureLoss] = _CosineStates()
