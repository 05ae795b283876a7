"""Hints: Romero, Ballas, Kahou, Chassang, Gatta and Bengio 2015, "FitNets: Hints for Thin Deep Nets",
arXiv:1412.6550."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.losses import FeatureLoss, Features, Pair
from edgekd.losses._features import Summed, are_maps, pool_alike, project_channels, projection, require


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hints have none."""


class _Hints:
    Options = Options
    needs_teacher = True

    def build(self, options: Any, pairs: Sequence[Pair]) -> nn.Module:
        """(u_h - r(v_g))^2, averaged over the batch and all numbers of the hint u_h, which is the teacher's layer.

        The regressor r is a learned 1x1 convolution of the student's guided layer v_g, or a linear layer where both
        are vectors; the paper's has a kernel as large as the sizes differ by, in its place the larger map is averaged
        down to the smaller here. The paper's 1/2 ||.||^2 is numbers / 2 times this. Layers are (channels, *positions),
        as convolutions have them, or vectors; for tokens take `hidden_states`.
        """
        require(
            pairs,
            lambda pair: are_maps(pair) or len(pair.student) == len(pair.teacher) == 1,
            "both (channels, *positions) or both vectors",
            "pair layers of one kind",
        )
        return Summed([_Regressor(pair) for pair in pairs])


class _Regressor(nn.Module):
    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.r = projection(pair.student[0], pair.teacher[0])

    def forward(self, features: Features) -> Tensor:
        guided, hint = pool_alike(features.student, features.teacher)
        return F.mse_loss(project_channels(self.r, guided), hint)


PLUGIN: Final[FeatureLoss] = _Hints()
