"""Regression of embeddings: Yan, Zhao, Xu, Zhang, Wang and Su 2019, "VarGFaceNet: An Efficient Variable Group
Convolutional Neural Network for Lightweight Face Recognition", arXiv:1910.04985."""

from typing import Any, Final

import msgspec
from torch import Tensor

from edgekd.losses import Batch, Loss
from edgekd.losses._divergences import mean
from edgekd.losses._features import directions


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the regression."""

    normalise: bool = True
    """Embeddings of length 1, as faces are compared; else their lengths are learned too (Luo, Zhu, Liu, Wang and Tang
    2016, "Face Model Compression by Distilling Knowledge from Neurons", AAAI)."""


class _EmbeddingRegression:
    Options = Options
    needs_teacher = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """L_s = ||F_t / ||F_t|| - F_s / ||F_s|| ||^2, averaged over the batch: 2 - 2 cos(F_t, F_s).

        Embeddings F are (batch, numbers). One of zeros has no direction, and stays 0.
        """
        assert batch.teacher is not None
        student, teacher = batch.student, batch.teacher
        if options.normalise:
            student, teacher = directions(student, dim=1), directions(teacher, dim=1)
        return mean((teacher - student).square().sum(dim=1))


PLUGIN: Final[Loss] = _EmbeddingRegression()
