"""A class for each pixel, or for each place of any grid."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.tasks import Task

UNLABELLED: Final = -1


class _Segmentation:
    metric = "miou"

    def check(self, labels: NDArray[Any], classes: Sequence[str]) -> None:
        if labels.ndim < 2:
            raise ConfigError(
                f"labels are of shape {labels.shape}", hint="a segmentation has a class for each pixel of each example"
            )
        if len(classes) < 2:
            raise ConfigError(f"{len(classes)} class is no choice", hint="a segmentation needs two classes or more")
        if not np.issubdtype(labels.dtype, np.integer):
            raise ConfigError(f"labels are {labels.dtype}", hint="labels are whole numbers from 0")
        if labels.min() < UNLABELLED or labels.max() >= len(classes):
            raise ConfigError(
                f"labels run from {labels.min()} to {labels.max()}, classes from 0 to {len(classes) - 1}",
                hint="number the classes from 0 and name them all; -1 is a pixel that does not count",
            )
        if len(set(np.unique(labels).tolist()) - {UNLABELLED}) < 2:
            raise ConfigError("all pixels that count are of one class", hint="nothing can be learned from it")

    def output(
        self, labels_shape: tuple[int, ...], classes: Sequence[str], example: tuple[int, ...]
    ) -> tuple[int, ...]:
        return (len(classes), *labels_shape)

    def label_loss(self, outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Cross-entropy, averaged over the pixels that count."""
        total = F.cross_entropy(
            outputs, labels.long(), ignore_index=UNLABELLED, reduction="sum", label_smoothing=smoothing
        )
        return total / (labels != UNLABELLED).sum().clamp(min=1)

    def counts(
        self, outputs: NDArray[np.float32], labels: NDArray[Any], classes: Sequence[str] = ()
    ) -> NDArray[np.float64]:
        """Of each class the pixels of its intersection, then of each that of its union: (examples, 2 * classes)."""
        examples, number = outputs.shape[:2]
        counted = labels != UNLABELLED
        chosen = outputs.argmax(axis=1)
        rows = np.arange(examples).reshape(-1, *(1,) * (labels.ndim - 1))

        def by_class(kinds: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[np.float64]:
            cells = (rows * number + kinds)[where]
            return np.bincount(cells, minlength=examples * number).reshape(examples, number).astype(np.float64)

        both = by_class(labels, counted & (chosen == labels))
        return np.concatenate([both, by_class(labels, counted) + by_class(chosen, counted) - both], axis=1)

    def metrics(self, counts: NDArray[np.float64]) -> dict[str, float]:
        """Mean over the classes that occur of intersection over union in all examples together; share of pixels right.

        Everingham et al. 2015, "The Pascal Visual Object Classes Challenge: A Retrospective", section 4.2.
        """
        both, either = np.split(counts.sum(axis=0), 2)
        occurs = either > 0
        pixels = (both.sum() + either.sum()) / 2  # each that counts is chosen once and labelled once
        return {
            "miou": float((both[occurs] / either[occurs]).mean()) if occurs.any() else 0.0,
            "pixel_accuracy": float(both.sum() / max(pixels, 1)),
        }


PLUGIN: Final[Task] = _Segmentation()
