"""Mean squared error of logits: Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?", arXiv:1312.6184.

Kim, Oh, Kim, Cho and Yun 2021, "Comparing Kullback-Leibler Divergence and Mean Squared Error Loss in Knowledge
Distillation", arXiv:2105.08919, find it better than soft targets, and these at a low T better where labels are noisy.
"""

from typing import Any, Final

import msgspec
from torch import Tensor

from edgekd.losses import Batch, Loss, flat
from edgekd.losses._divergences import mean


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The error of logits has none."""


class _LogitMse:
    Options = Options
    needs_teacher = True

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """(z^s - z^t)^2 averaged over batch and classes, as in the code of Kim et al.

        Ba and Caruana halve the sum over the classes instead: theirs is classes / 2 times this. Unlike a loss of
        probabilities it also has the student learn the teacher's mean logit. Of dense outputs each position that has
        a label is an example; where labels are no classes but numbers, all that the output holds counts.
        """
        numbers = batch.labels.is_floating_point()
        student, teacher = (batch.student, batch.teacher) if numbers else flat(batch)[:2]
        assert teacher is not None
        return mean((student - teacher).square())


PLUGIN: Final[Loss] = _LogitMse()
