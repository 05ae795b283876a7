"""What a student is trained on; a recipe adds them up by weight.

To add one, write `edgekd/losses/<name>.py` that ends in `PLUGIN: Loss = ...`, or `PLUGIN: FeatureLoss = ...` where it
compares layers. tests/contracts/test_losses.py finds it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from torch import Tensor, nn

from edgekd.errors import ConfigError
from edgekd.tasks import Task


class Batch(msgspec.Struct, frozen=True):
    """What a loss on an output may look at."""

    student: Tensor
    """One output, of shape (batch, *shape); the classes are axis 1 where there are some."""
    teacher: Tensor | None
    """The teacher's for the same views, of the same shape; None for the twin that has no teacher."""
    labels: Tensor
    """Shape (batch, ...)."""
    task: Task
    smoothing: float
    """Label smoothing of the recipe."""


class Pair(msgspec.Struct, frozen=True):
    """A layer of the student and one of the teacher, by the shape of what they answer for one example."""

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    by_token: bool = False
    """Whether the first axis is that of a text's tokens, and the last one that of channels."""


class Features(msgspec.Struct, frozen=True):
    """What the two layers of a pair answer."""

    student: Tensor
    """Shape (batch, *pair.student)."""
    teacher: Tensor
    """Shape (batch, *pair.teacher)."""
    mask: Tensor | None
    """Which tokens count, (batch, length); None where examples are no tokens."""
    labels: Tensor
    """Of the first output."""
    indices: Tensor
    """The examples' numbers in the data."""


class Loss(Protocol):
    """A loss on outputs, with its options."""

    @property
    def Options(self) -> type[Any]:
        """The frozen msgspec Struct that the recipe's options are decoded into."""

    @property
    def needs_teacher(self) -> bool:
        """True leaves it out for the twin that is trained without the teacher."""

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """Scalar, averaged over the batch."""


class FeatureLoss(Protocol):
    """A loss on layers, which always needs the teacher."""

    @property
    def Options(self) -> type[Any]:
        """As of `Loss`."""

    def build(self, options: Any, pairs: Sequence[Pair]) -> nn.Module:
        """A module that maps the Features of each pair to a scalar, averaged over the batch.

        What is trainable in it is trained beside the student, and thrown away.

        Raises:
            ConfigError: shapes of a pair that do not go together.
        """


def on_layers(loss: Loss | FeatureLoss) -> bool:
    """Whether a loss compares layers."""
    return hasattr(loss, "build")


def flat(batch: Batch) -> tuple[Tensor, Tensor | None, Tensor]:
    """Student and teacher as (rows, classes) and labels as (rows,): each position that has a label is a row.

    Where an output has one position an example, those without a label are rows as well: the teacher knows them.
    """
    if batch.student.dim() == 2:
        return batch.student, batch.teacher, batch.labels
    counted = batch.labels.reshape(-1) >= 0
    student, teacher = (
        None if one is None else one.flatten(2).transpose(1, 2).reshape(-1, one.shape[1])[counted]
        for one in (batch.student, batch.teacher)
    )
    assert student is not None
    return student, teacher, batch.labels.reshape(-1)[counted]


def wrap(own: Any) -> Loss | FeatureLoss:
    """A user's own loss object."""
    if not hasattr(own, "build") and not (hasattr(own, "needs_teacher") and callable(own)):
        raise ConfigError(f"{own!r} is not a loss", hint="see edgekd/losses/__init__.py for what it must have")
    return own  # type: ignore[no-any-return]  # checked above as far as one can
