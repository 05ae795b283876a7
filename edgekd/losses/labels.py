"""The task's own loss on the true labels."""

from typing import Any, Final

import msgspec
from torch import Tensor

from edgekd.losses import Batch, Loss


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Labels have none."""


class _Labels:
    Options = Options
    needs_teacher = False

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        return batch.task.label_loss(batch.student, batch.labels, batch.smoothing)


PLUGIN: Final[Loss] = _Labels()
