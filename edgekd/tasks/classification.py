"""One class out of several."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.tasks import Task


class _Classification:
    metric = "accuracy"

    def check(self, labels: NDArray[np.int64], classes: Sequence[str]) -> None:
        if len(classes) < 2:
            raise ConfigError(f"{len(classes)} class is no choice", hint="a classification needs two classes or more")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ConfigError(
                f"labels run from {labels.min()} to {labels.max()}, classes from 0 to {len(classes) - 1}",
                hint="number the classes from 0 and name them all",
            )
        if len(np.unique(labels)) < 2:
            raise ConfigError(
                f"every example is of class {classes[labels[0]]!r}", hint="nothing can be learned from it"
            )

    def label_loss(self, outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        return F.cross_entropy(outputs, labels, label_smoothing=smoothing)

    def metrics(self, outputs: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
        return {"accuracy": float(np.mean(outputs.argmax(axis=1) == labels))}


PLUGIN: Final[Task] = _Classification()
