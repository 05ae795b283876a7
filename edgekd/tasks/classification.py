"""One class out of several."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.tasks import Array, Task, cross_entropy, hits, share

UNLABELLED: Final = -1


class _Classification:
    metric = "accuracy"

    def check(self, labels: Array, classes: Sequence[str]) -> None:
        if len(classes) < 2:
            raise ConfigError(f"{len(classes)} class is no choice", hint="a classification needs two classes or more")
        if labels.min() < UNLABELLED or labels.max() >= len(classes):
            raise ConfigError(
                f"labels run from {labels.min()} to {labels.max()}, classes from 0 to {len(classes) - 1}",
                hint="number the classes from 0 and name them all; -1 is what has no label",
            )
        seen = np.unique(labels[labels >= 0])
        if not len(seen):
            raise ConfigError("no example has a label", hint="nothing can be learned from it")
        if len(seen) < 2:
            raise ConfigError(f"every example is of class {classes[seen[0]]!r}", hint="nothing can be learned from it")

    def output(self, labels: tuple[int, ...], classes: Sequence[str], example: tuple[int, ...]) -> tuple[int, ...]:
        if labels:
            raise ConfigError(f"an example has labels of shape {labels}", hint="a classification has one label each")
        return (len(classes),)

    def label_loss(self, outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        return cross_entropy(outputs, labels, smoothing)

    def counts(self, outputs: Array, labels: Array, classes: Sequence[str] = ()) -> NDArray[Any]:
        return hits(outputs, labels)

    def metrics(self, counts: NDArray[Any]) -> dict[str, float]:
        return {"accuracy": share(counts)}


PLUGIN: Final[Task] = _Classification()
