"""What an output of a net is for: its shape, its loss on labels and its metrics.

To add one, write `edgekd/tasks/<name>.py` that ends in `PLUGIN: Task = ...`. tests/contracts/test_tasks.py finds it.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import ConfigError

Array = NDArray[Any]


class Mark(msgspec.Struct, frozen=True):
    """A box that is drawn over an image."""

    name: str
    corners: tuple[float, ...]
    """Left, top, right and bottom, in 0..1."""
    score: float | None = None


class Task(Protocol):
    """A task of one output.

    One whose answers can be drawn over images has a method `marks(outputs, labels, classes)` as well, which gives for
    each example the Marks that are true and those that are found.

    Labels are arrays of (examples, ...); what is not labelled counts nowhere: -1 in whole numbers, NaN in floats.
    """

    metric: str
    """The headline metric, in [0, 1], higher is better: a key of what `metrics` returns."""

    def check(self, labels: Array, classes: Sequence[str]) -> None:
        """Raise ConfigError when labels and classes do not make a data set of this task."""

    def output(self, labels: tuple[int, ...], classes: Sequence[str], example: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a net's answer for one example, by the shapes of its labels and of the example; where each place is
        of one class, the classes are the first axis."""

    def label_loss(self, outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Scalar loss of outputs (batch, *output) on labels (batch, ...)."""

    def counts(self, outputs: Array, labels: Array, classes: Sequence[str]) -> NDArray[Any]:
        """What the metrics are made of, (examples, numbers): it adds up over examples."""

    def metrics(self, counts: NDArray[Any]) -> dict[str, float]:
        """Metrics of the examples whose counts these are."""


def wrap(own: Any) -> Task:
    """A user's own Task object."""
    missing = [name for name in ("output", "label_loss", "counts", "metrics") if not hasattr(own, name)]
    if missing:
        raise ConfigError(f"{own!r} is not a task: it has no {missing[0]}", hint="see edgekd/tasks/__init__.py")
    return own  # type: ignore[no-any-return]  # checked above as far as one can


def cross_entropy(outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean over the positions that have a label; 0 where none has, for of nothing torch's would be NaN."""
    if (labels < 0).all():
        return outputs.sum() * 0
    return F.cross_entropy(outputs, labels.long(), ignore_index=-1, label_smoothing=smoothing)


def hits(outputs: Array, labels: Array) -> NDArray[Any]:
    """How many positions are right and how many count, (examples, 2); the classes are axis 1 of the outputs."""
    right = (outputs.argmax(axis=1) == labels).reshape(len(labels), -1)
    counted = (labels >= 0).reshape(len(labels), -1)
    return np.stack([(right & counted).sum(axis=1), counted.sum(axis=1)], axis=1).astype(np.float64)


def share(counts: NDArray[Any]) -> float:
    """The first column's sum over the second's; 0 of nothing."""
    part, whole = counts[:, :2].sum(axis=0)
    return float(part / whole) if whole else 0.0
