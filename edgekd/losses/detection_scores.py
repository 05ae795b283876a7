"""Distillation of a detector's scores: Yang, Zhou, Li, Zhang, Wang, Liu, Liu and Li 2023, "Bridging Cross-task Protocol
Inconsistency for Distillation in Dense Object Detection", arXiv:2308.14286."""

from typing import Annotated, Any, Final

import msgspec
import torch.nn.functional as F
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.losses import Batch, Loss


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the scores' distillation."""

    bins: Annotated[int, msgspec.Meta(ge=2, le=4096)] = 9
    """Of each side's distribution; the classes come after those of four sides."""


class _DetectionScores:
    Options = Options
    needs_teacher = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """Sum of |p_t - p_s| BCE(p_s, p_t) over positions and classes, by the sum of p_t: by how many things it sees.

        Each class is a question of its own, p = sigmoid(logit), as in the detector's loss on labels; a softmax would
        compare classes and forget how sure the teacher is that there is nothing. Outputs are (batch, 4 * bins +
        classes, height, width).

        Raises:
            ConfigError: the output is too small for four sides and a class.
        """
        assert batch.teacher is not None
        if batch.student.dim() != 4 or batch.student.shape[1] <= 4 * options.bins:
            raise ConfigError(
                f"outputs of shape {tuple(batch.student.shape[1:])} have no class beside 4 x {options.bins} bins",
                hint="set `bins`; the output is to be (4 * bins + classes, height, width)",
            )
        logits, taught = (one[:, 4 * options.bins :] for one in (batch.student, batch.teacher))
        wanted = taught.sigmoid()
        weights = (wanted - logits.sigmoid()).abs()
        loss = (weights * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")).sum()
        return loss / wanted.sum().clamp(min=1.0)


PLUGIN: Final[Loss] = _DetectionScores()
