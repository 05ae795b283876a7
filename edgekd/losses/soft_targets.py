"""Soft targets: Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531."""

from typing import Annotated, Any, Final

import msgspec
import torch.nn.functional as F
from torch import Tensor

from edgekd.losses import Batch, Loss, flat
from edgekd.losses._divergences import kl


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of soft targets."""

    temperature: Annotated[float, msgspec.Meta(gt=0)] = 4.0
    """T: the higher, the more the teacher says about the classes that it did not choose."""


class _SoftTargets:
    Options = Options
    needs_teacher = True
    needs_classes = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """T^2 KL(p || q), with p and q the softmax of the teacher's and the student's logits over T.

        Of dense outputs each position that has a label is an example.
        """
        student, teacher, _ = flat(batch)
        assert teacher is not None
        temperature: float = options.temperature
        log_q = F.log_softmax(student / temperature, dim=1)
        log_p = F.log_softmax(teacher / temperature, dim=1)
        return kl(log_p, log_q) * temperature**2


PLUGIN: Final[Loss] = _SoftTargets()
