"""Numbers: one an example, or several."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.tasks import Task


class _Regression:
    metric = "r2"

    def check(self, labels: NDArray[Any], classes: Sequence[str]) -> None:
        if len(classes):
            raise ConfigError("numbers have no classes", hint="leave classes of this head empty: ()")
        if not np.issubdtype(labels.dtype, np.floating):
            raise ConfigError(f"labels are {labels.dtype}", hint="they are float32; NaN is one that is not known")
        if labels.ndim > 2:
            raise ConfigError(f"labels are of shape {labels.shape}", hint="a number or a row of numbers an example")
        if np.isinf(labels).any():
            raise ConfigError("labels hold infinity", hint="NaN is a number that is not known")
        for index, column in enumerate(labels.reshape(len(labels), -1).T):
            if len(np.unique(column[~np.isnan(column)])) < 2:
                raise ConfigError(f"number {index} is the same in every example", hint="nothing can be learned from it")

    def output(
        self, labels_shape: tuple[int, ...], classes: Sequence[str], example: tuple[int, ...]
    ) -> tuple[int, ...]:
        return labels_shape or (1,)

    def label_loss(self, outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Smooth L1, averaged over the numbers that are known (Girshick 2015, arXiv:1504.08083): squared below 1."""
        labels = labels.view_as(outputs)
        known = ~labels.isnan()
        errors = F.smooth_l1_loss(outputs, torch.where(known, labels, 0.0), reduction="none")
        return torch.where(known, errors, 0.0).sum() / known.sum().clamp(min=1)

    def counts(
        self, outputs: NDArray[np.float32], labels: NDArray[Any], classes: Sequence[str] = ()
    ) -> NDArray[np.float64]:
        """1, y, y^2, e^2 and |e| of each number: y the label, e the error, 0 where it is not known: (examples, 5 k)."""
        truth = labels.reshape(len(labels), -1).astype(np.float64)
        errors = outputs - truth
        columns = (np.ones_like(truth), truth, truth**2, errors**2, np.abs(errors))
        return np.concatenate([np.where(np.isnan(truth), 0.0, column) for column in columns], axis=1)

    def metrics(self, counts: NDArray[np.float64]) -> dict[str, float]:
        """r2: coefficient of determination, the mean of all numbers', no lower than 0; mae: mean absolute error."""
        known, sums, squares, wrong, distances = counts.sum(axis=0).reshape(5, -1)
        known = np.maximum(known, 1)
        spread = squares - sums**2 / known
        explained = np.where(spread > 0, 1 - wrong / np.where(spread > 0, spread, 1), wrong == 0)
        return {"r2": float(explained.mean().clip(0, 1)), "mae": float((distances / known).mean())}


PLUGIN: Final[Task] = _Regression()
