"""Contrastive representation distillation: Tian, Krishnan and Isola 2020, "Contrastive Representation Distillation",
arXiv:1910.10699."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.losses import FeatureLoss, Features, Pair
from edgekd.losses._features import Summed, directions, vectors_of

_MEMORIES: Final = ("memory_s", "memory_t")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of contrastive representation distillation; the defaults are the official code's."""

    width: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 128
    """Of the embeddings in which student and teacher are compared."""
    negatives: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 16384
    """N, examples drawn for each one of the batch."""
    temperature: Annotated[float, msgspec.Meta(ge=0.001, le=1000)] = 0.07
    """tau, which divides cosines."""
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.5
    """What remains of an embedding in the memory when its example is seen again."""


class _Crd:
    Options = Options
    needs_teacher = True

    def build(self, options: Any, pairs: Sequence[Pair]) -> nn.Module:
        """-log h(T, S) - sum over N negatives of log(1 - h(T, S')), averaged over the batch; added to it the same with
        student and teacher swapped; summed over pairs.

        h = x / (x + N) with x = exp(g_T(T)' g_S(S) / tau) / Z, so that both are asked whether two embeddings are of
        one example. g are learned linear embeddings of length 1; those of the other side come from a memory with a row
        for each example of the data, which is random until the example was seen, and learns only in training. Z is the
        mean of exp(.) over the first batch. This is the official code's loss without its 1e-7 in the denominator.
        Negatives are drawn from the whole memory, where the example itself may be among them, as there. Shapes may
        differ at will; padding counts as 0. The official code weighs it by 0.8.
        """
        return Summed([_Contrast(pair, options) for pair in pairs])


class _Contrast(nn.Module):
    memory_s: Tensor
    memory_t: Tensor
    log_z_s: Tensor
    log_z_t: Tensor

    def __init__(self, pair: Pair, options: Options) -> None:
        super().__init__()
        self.options = options
        self.g_s = nn.Linear(math.prod(pair.student), options.width)
        self.g_t = nn.Linear(math.prod(pair.teacher), options.width)
        for name in _MEMORIES:
            self.register_buffer(name, torch.empty(0, options.width))
        for name in ("log_z_s", "log_z_t"):
            self.register_buffer(name, torch.tensor(math.nan))

    def forward(self, features: Features) -> Tensor:
        student = directions(self.g_s(vectors_of(features.student, features.mask)), dim=1)
        teacher = directions(self.g_t(vectors_of(features.teacher, features.mask)), dim=1)
        self._grow(int(features.indices.max()) + 1)
        negatives = torch.randint(
            len(self.memory_s), (len(student), self.options.negatives), device=features.indices.device
        )
        rows = torch.cat([features.indices[:, None], negatives], dim=1)
        loss = self._nce(student, self.memory_t, rows, self.log_z_s) + self._nce(
            teacher, self.memory_s, rows, self.log_z_t
        )
        if self.training:
            self.memory_s = self._renewed(self.memory_s, features.indices, student)
            self.memory_t = self._renewed(self.memory_t, features.indices, teacher)
        return loss

    def _nce(self, anchors: Tensor, memory: Tensor, rows: Tensor, log_z: Tensor) -> Tensor:
        """The first column of rows is the positive."""
        # all cosines, and rows of them: rows of the memory would be its width times as much
        log_x = (anchors @ memory.mT).gather(1, rows) / self.options.temperature
        if log_z.isnan():
            log_z.copy_(log_x.detach().flatten().logsumexp(dim=0) - math.log(log_x.numel()))
        odds = log_x - log_z - math.log(self.options.negatives)
        return -(F.logsigmoid(odds[:, 0]) + F.logsigmoid(-odds[:, 1:]).sum(dim=1)).mean()

    def _grow(self, count: int) -> None:
        """The first batches show how many examples there are."""
        for name in _MEMORIES:
            memory = self.get_buffer(name)
            bound = 1 / math.sqrt(self.options.width / 3)
            new = memory.new_empty(max(count - len(memory), 0), self.options.width).uniform_(-bound, bound)
            setattr(self, name, torch.cat([memory, new]) if len(new) else memory)

    def _renewed(self, memory: Tensor, indices: Tensor, seen: Tensor) -> Tensor:
        momentum = self.options.momentum
        rows = directions(momentum * memory[indices] + (1 - momentum) * seen.detach(), dim=1)
        return memory.index_copy(0, indices, rows)  # not in place: the gradient still needs the old one

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in _MEMORIES:
            if (kept := state_dict.get(prefix + name)) is not None:
                setattr(self, name, self.get_buffer(name).new_empty(kept.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)


PLUGIN: Final[FeatureLoss] = _Crd()
