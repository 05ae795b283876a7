"""Similarity-preserving KD: Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from torch import Tensor, nn

from edgekd.losses import FeatureLoss, Features, Pair
from edgekd.losses._features import Summed, directions, scaled, vectors_of


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Similarity has none."""


class _Similarity:
    Options = Options
    needs_teacher = True

    def build(self, options: Any, pairs: Sequence[Pair]) -> nn.Module:
        """||G_T - G_S||_F^2 / b^2 of a batch of b, summed over pairs.

        G is Q Q^T with rows of length 1, Q the examples' activations as rows: which examples are alike. Shapes may
        differ at will; padding counts as 0. An example of zeros is like none, and its row stays 0. One example alone
        is only like itself: 0. The paper weighs the sum by 3000.
        """
        return Summed([_Similarities() for _ in pairs])


class _Similarities(nn.Module):
    def forward(self, features: Features) -> Tensor:
        return (_alike(features.teacher, features.mask) - _alike(features.student, features.mask)).square().mean()


def _alike(activations: Tensor, mask: Tensor | None) -> Tensor:
    """G, of shape (b, b)."""
    q = scaled(vectors_of(activations, mask), dim=(0, 1))
    return directions(q @ q.mT, dim=1)


PLUGIN: Final[FeatureLoss] = _Similarity()
