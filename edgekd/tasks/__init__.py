"""What a net is for: its loss on labels and its metrics.

To add one, write `edgekd/tasks/<name>.py` that ends in `PLUGIN: Task = ...`. tests/contracts/test_tasks.py finds it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import ConfigError


class Task(Protocol):
    """A task on single-output nets."""

    metric: str
    """The headline metric, in [0, 1], higher is better: a key of what `metrics` returns."""

    def check(self, labels: NDArray[np.int64], classes: Sequence[str]) -> None:
        """Raise ConfigError when labels and classes do not make a data set of this task."""

    def label_loss(self, outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Scalar loss of outputs (batch, classes) on labels (batch,)."""

    def metrics(self, outputs: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
        """Metrics of outputs (examples, classes) against labels (examples,)."""


def wrap(own: Any) -> Task:
    """A user's own Task object."""
    if not hasattr(own, "label_loss"):
        raise ConfigError(f"{own!r} is not a task", hint="see edgekd/tasks/__init__.py for what it must have")
    return own  # type: ignore[no-any-return]  # checked above as far as one can
