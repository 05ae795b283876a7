"""Hidden states and embeddings of TinyBERT: Jiao, Yin, Shang, Jiang, Chen, Li, Wang and Liu 2020, "TinyBERT: Distilling
BERT for Natural Language Understanding", arXiv:1909.10351."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import torch
from torch import Tensor, nn

from edgekd.losses import FeatureLoss, Features, Pair
from edgekd.losses._features import are_states, given, projection, require, weighted_mean, weights_of


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of hidden states."""

    project: bool = True
    """W_h, a learned linear layer on the student's side; without it both have to be of one width."""


class _HiddenStates:
    Options = Options
    needs_teacher = True

    def build(self, options: Any, pairs: Sequence[Pair]) -> nn.Module:
        """L_hidn = MSE(H^S W_h, H^T), averaged over the tokens that count and the width, summed over pairs.

        L_embd, of the layer of embeddings, is the same. Layers are (*positions, width), with the same positions. As in
        the official code W_h has a bias, and pairs of the same widths share it; that code also averages over padding.
        """
        require(pairs, are_states, "both (*positions, width) with the same positions", "pair layers of the same tokens")
        if not options.project:
            require(pairs, lambda pair: pair.student == pair.teacher, "of one width", "leave `project` on")
        return _States(pairs, options.project)


class _States(nn.Module):
    def __init__(self, pairs: Sequence[Pair], project: bool) -> None:
        super().__init__()
        widths = {(pair.student[-1], pair.teacher[-1]) for pair in pairs} if project else set()
        self.w_h = nn.ModuleDict({_name(*width): projection(*width) for width in sorted(widths)})

    def forward(self, features: Sequence[Features]) -> Tensor:
        return torch.stack([self._loss(given(one)) for one in features]).sum()

    def _loss(self, features: Features) -> Tensor:
        student, teacher = features.student, features.teacher
        if self.w_h:
            student = self.w_h[_name(student.shape[-1], teacher.shape[-1])](student)
        return weighted_mean((student - teacher).square().mean(dim=-1), weights_of(teacher, features.mask))


def _name(student: int, teacher: int) -> str:
    return f"{student}-{teacher}"


PLUGIN: Final[FeatureLoss] = _HiddenStates()
