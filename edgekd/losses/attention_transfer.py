"""Attention transfer: Zagoruyko and Komodakis 2017, "Paying More Attention to Attention: Improving the Performance of
Convolutional Neural Networks via Attention Transfer", arXiv:1612.03928."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from torch import Tensor, nn

from edgekd.losses import FeatureLoss, Features, Pair
from edgekd.losses._features import Summed, are_maps, directions, pool_alike, require, scaled


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of attention transfer."""

    p: Annotated[float, msgspec.Meta(ge=1, le=16)] = 2.0
    """Power of activations in F_sum^p: the higher, the more the strongest position has."""


class _AttentionTransfer:
    Options = Options
    needs_teacher = True

    def build(self, options: Any, pairs: Sequence[Pair]) -> nn.Module:
        """(Q_S / ||Q_S|| - Q_T / ||Q_T||)^2, averaged over batch and positions, summed over pairs.

        Q is F_sum^p(A), the sum of |A_c|^p over the channels c of a map A (channels, *positions), as a vector; channels
        may differ, and the larger map is averaged down to the smaller. As in the official code, where the paper has
        the length of the difference, whose gradient knows no size. A map of zeros has no attention, and stays 0. The
        official code weighs the sum by 1000.
        """
        require(pairs, are_maps, "both (channels, *positions)", "take what convolutions answer")
        return Summed([_Attention(options.p) for _ in pairs])


class _Attention(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, features: Features) -> Tensor:
        student, teacher = pool_alike(features.student, features.teacher)
        return (self._map(student) - self._map(teacher)).square().mean()

    def _map(self, activations: Tensor) -> Tensor:
        """Q / ||Q||, of shape (batch, positions)."""
        flat = activations.flatten(2)
        return directions(scaled(flat, dim=(1, 2)).abs().pow(self.p).mean(dim=1), dim=1)


PLUGIN: Final[FeatureLoss] = _AttentionTransfer()
