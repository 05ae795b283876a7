"""Knowledge review: Chen, Liu, Zhao and Jia 2021, "Distilling Knowledge via Knowledge Review", arXiv:2104.09044."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Final

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.losses import FeatureLoss, Features, Pair
from edgekd.losses._features import given, require

_LEVELS: Final = (4, 2, 1)
"""Sizes of HCL's pyramid, below the map itself."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of knowledge review; the default is the official code's."""

    width: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 512
    """Channels in which levels are fused, at most; the student's last level may have fewer."""


class _Review:
    Options = Options
    needs_teacher = True

    def build(self, options: Any, pairs: Sequence[Pair]) -> nn.Module:
        """HCL between the teacher's levels and the student's, each fused with all deeper ones by ABF; summed.

        Pairs are the levels of a net from shallow to deep, of (channels, height, width); sizes may differ.
        """
        require(
            pairs,
            lambda pair: len(pair.student) == len(pair.teacher) == 3,
            "both (channels, height, width)",
            "take what the stages of a convolutional net answer, from the first to the last",
        )
        return _Reviewed(list(pairs), min(options.width, pairs[-1].student[0]))


class _Reviewed(nn.Module):
    def __init__(self, pairs: list[Pair], width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            [_Abf(pair, width, fuse=True) for pair, _ in pairwise(pairs)] + [_Abf(pairs[-1], width, fuse=False)]
        )

    def forward(self, features: Sequence[Features]) -> Tensor:
        losses, residual = [], None
        for level, one in reversed(list(zip(self.levels, map(given, features), strict=True))):
            output, residual = level(one.student, residual)
            losses.append(hcl(output, one.teacher))
        return torch.stack(losses).sum()


class _Abf(nn.Module):
    """Attention based fusion: of a level with what came of the deeper ones."""

    def __init__(self, pair: Pair, width: int, fuse: bool) -> None:
        super().__init__()
        self.size = pair.teacher[1:]
        self.enter = nn.Sequential(nn.Conv2d(pair.student[0], width, 1, bias=False), _Norm(width))
        self.leave = nn.Sequential(nn.Conv2d(width, pair.teacher[0], 3, padding=1, bias=False), _Norm(pair.teacher[0]))
        self.attention = nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid()) if fuse else None
        for convolution in (self.enter[0], self.leave[0]):
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # type: ignore[arg-type]  # a Tensor

    def forward(self, student: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is held against the teacher's level, and what the next shallower one is fused with."""
        x = self.enter(student)
        if self.attention is not None and residual is not None:
            y = F.interpolate(residual, x.shape[2:], mode="nearest")
            z = self.attention(torch.cat([x, y], dim=1))
            x = x * z[:, :1] + y * z[:, 1:]
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode="nearest")
        return self.leave(x), x


class _Norm(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        # one value of a channel has no variance: BatchNorm2d raises, as for a last batch of one example
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def hcl(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss: squared errors of the maps, and of their averages in grids of 4, 2 and 1.

    A grid weighs half of the one before it, and all weights together 1; those not smaller than the map are left out.
    """
    grids = [level for level in _LEVELS if level < min(teacher.shape[2:])]
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for level in grids:
        weight /= 2
        total += weight
        ours, theirs = (F.adaptive_avg_pool2d(one, level) for one in (student, teacher))
        loss = loss + weight * F.mse_loss(ours, theirs)
    return loss / total


PLUGIN: Final[FeatureLoss] = _Review()
