"""Angular distillation: Duong, Luu, Quach and Le 2019, "ShrinkTeaNet: Million-scale Lightweight Face Recognition via
Shrinking Teacher-Student Networks", arXiv:1905.10620."""

from typing import Any, Final

import msgspec
from torch import Tensor

from edgekd.losses import Batch, Loss
from edgekd.losses._divergences import mean
from edgekd.losses._features import directions


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The angle has none."""


class _EmbeddingAngle:
    Options = Options
    needs_teacher = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """(1 - cos(F_t, F_s))^2, averaged over the batch.

        Embeddings F are (batch, numbers); of their lengths nothing is learned. The gradient fades as the angle does,
        with its cube; that of `embedding_regression` only with the angle. The cosine with zeros counts as 0.
        """
        assert batch.teacher is not None
        cosine = (directions(batch.teacher, dim=1) * directions(batch.student, dim=1)).sum(dim=1)
        return mean((1 - cosine).square())


PLUGIN: Final[Loss] = _EmbeddingAngle()
