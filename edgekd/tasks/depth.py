"""A distance for each pixel, for each place of any grid, or for the whole example.

Labels are metres; a net answers their natural logarithm, of which an equal step is an equal share of the distance, near
and far: one byte holds 0.3 to 150 m in steps of 2.5%.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.tasks import Task

WITHIN: Final = 1.25


class _Depth:
    metric = "delta1"

    def check(self, labels: NDArray[Any], classes: Sequence[str]) -> None:
        if len(classes):
            raise ConfigError("distances have no classes", hint="leave classes of this head empty: ()")
        if not np.issubdtype(labels.dtype, np.floating):
            raise ConfigError(f"labels are {labels.dtype}", hint="distances are float32, in metres")
        known = labels[~np.isnan(labels)]
        if not len(known):
            raise ConfigError("every distance is NaN", hint="nothing can be learned from it")
        if known.min() <= 0 or known.max() == math.inf:
            raise ConfigError(
                f"distances run from {known.min():g} to {known.max():g} m",
                hint="they are above 0 and finite; NaN is one that is not known",
            )

    def output(
        self, labels_shape: tuple[int, ...], classes: Sequence[str], example: tuple[int, ...]
    ) -> tuple[int, ...]:
        return (1, *labels_shape)

    def label_loss(self, outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """Mean absolute error of the logarithms."""
        known = ~labels.isnan()
        errors = (outputs.squeeze(1) - torch.where(known, labels, 1.0).log()).abs()
        return torch.where(known, errors, 0.0).sum() / known.sum().clamp(min=1)

    def counts(
        self, outputs: NDArray[np.float32], labels: NDArray[Any], classes: Sequence[str] = ()
    ) -> NDArray[np.float64]:
        """Distances that are known, those told within a quarter, and sums of what `metrics` averages: (examples, 4)."""
        known = ~np.isnan(labels)
        logarithms = outputs[:, 0].astype(np.float64) - np.log(np.where(known, labels, 1.0))
        # e^100 is wrong enough, and a finite sum
        shares = np.abs(np.expm1(np.minimum(logarithms, 100.0)))
        columns = (np.ones_like(shares), np.abs(logarithms) < math.log(WITHIN), shares, logarithms**2)
        per_example = [np.where(known, column, 0.0).reshape(len(labels), -1).sum(axis=1) for column in columns]
        return np.stack(per_example, axis=1).astype(np.float64)

    def metrics(self, counts: NDArray[np.float64]) -> dict[str, float]:
        """delta1: share of distances within a factor of 1.25 of the truth; absrel: mean of |d - d*| / d*; rmse_log.

        Eigen, Puhrsch and Fergus 2014, "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network",
        arXiv:1406.2283, table 1.
        """
        known, within, shares, squares = counts.sum(axis=0).tolist()
        known = max(known, 1.0)
        return {"delta1": within / known, "absrel": shares / known, "rmse_log": math.sqrt(squares / known)}


PLUGIN: Final[Task] = _Depth()
