"""What a student is trained on; a recipe adds them up by weight.

To add one, write `edgekd/losses/<name>.py` that ends in `PLUGIN: Loss = ...`. tests/contracts/test_losses.py finds it.
"""

from typing import Any, Protocol

import msgspec
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.tasks import Task


class Batch(msgspec.Struct, frozen=True):
    """What a loss may look at."""

    student: Tensor
    """Logits of shape (batch, classes)."""
    teacher: Tensor | None
    """The teacher's logits for the same views, of the same shape; None for the twin that has no teacher."""
    labels: Tensor
    """Shape (batch,)."""
    task: Task
    smoothing: float
    """Label smoothing of the recipe."""


class Loss(Protocol):
    """A loss with its options."""

    @property
    def Options(self) -> type[Any]:
        """The frozen msgspec Struct that the recipe's options are decoded into."""

    @property
    def needs_teacher(self) -> bool:
        """True leaves it out for the twin that is trained without the teacher."""

    def __call__(self, batch: Batch, options: Any) -> Tensor:
        """Scalar, averaged over the batch."""


def wrap(own: Any) -> Loss:
    """A user's own Loss object."""
    if not (hasattr(own, "needs_teacher") and callable(own)):
        raise ConfigError(f"{own!r} is not a loss", hint="see edgekd/losses/__init__.py for what it must have")
    return own  # type: ignore[no-any-return]  # checked above as far as one can
