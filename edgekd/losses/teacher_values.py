"""Regression on what the teacher answers, where answers are numbers and not classes: distances, angles, embeddings.

Saputra et al. 2019, "Distilling Knowledge From a Deep Pose Regressor Network", arXiv:1908.00858, compare such losses.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.losses import Batch, Loss


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the regression on the teacher's values."""

    beta: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 1.0
    """A difference d below it counts d^2 / (2 beta), one above it d - beta / 2; at 0 all count as they are."""
    where: Literal["everywhere", "labelled"] = "everywhere"
    """"labelled" leaves out what has no label: where nothing is to be known (the sky's distance), a teacher guesses."""


class _TeacherValues:
    Options = Options
    needs_teacher = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """Smooth L1 (Girshick 2015, arXiv:1504.08083) of the student's on the teacher's values, averaged over them."""
        assert batch.teacher is not None
        errors = F.smooth_l1_loss(batch.student, batch.teacher, beta=options.beta, reduction="none")
        if options.where == "everywhere":
            return errors.mean()
        labels = batch.labels.view(len(errors), -1, *batch.student.shape[2:])
        known = (~labels.isnan() if labels.is_floating_point() else labels >= 0).expand_as(errors)
        return torch.where(known, errors, 0.0).sum() / known.sum().clamp(min=1)


PLUGIN: Final[Loss] = _TeacherValues()
