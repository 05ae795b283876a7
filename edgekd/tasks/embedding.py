"""Embeddings of 128 numbers: two examples are of one person, or thing, when theirs point the same way.

Labels say who it is, by a number that means nothing else: those to be told apart later are others. -1 is not known.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.tasks import Array, Task

WIDTH: Final = 128
TEMPERATURE: Final = 0.1
"""That cosines are divided by when they are learned from labels."""
MISTAKEN: Final = 0.01
"""Share of pairs of two people that may pass for one."""


class _Embedding:
    metric = "verification"

    def check(self, labels: Array, classes: Sequence[str]) -> None:
        if classes:
            raise ConfigError("embeddings have no classes", hint="leave classes of this head empty: ()")
        if not np.issubdtype(labels.dtype, np.integer):
            raise ConfigError(f"labels are {labels.dtype}", hint="who it is, as a whole number; -1 is not known")
        known, often = np.unique(labels[labels >= 0], return_counts=True)
        if len(known) < 2 or often.max() < 2:
            raise ConfigError(
                "no two examples are of one person", hint="embeddings need several of each, of two or more"
            )

    def output(self, labels: tuple[int, ...], classes: Sequence[str], example: tuple[int, ...]) -> tuple[int, ...]:
        if labels:
            raise ConfigError(f"an example has labels of shape {labels}", hint="an embedding has one label each")
        return (WIDTH,)

    def label_loss(self, outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """N-pair loss of cosines: for each pair of one person, log(1 + sum over others of exp((s_n - s_p) / 0.1)).

        Sohn 2016, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NeurIPS. The others are all
        in the batch who are someone else.
        """
        embeddings = F.normalize(outputs[labels >= 0], dim=1)
        people = labels[labels >= 0]
        cosines = embeddings @ embeddings.T / TEMPERATURE
        same = people[:, None] == people
        others = cosines.masked_fill(same, -torch.inf).logsumexp(dim=1)
        pairs = same & ~torch.eye(len(people), dtype=torch.bool, device=same.device)
        pairs &= ~same.all(dim=1)[:, None]  # whoever is alone in the batch is told from nobody
        losses = F.softplus(torch.where(pairs, others[:, None] - cosines, 0.0))
        return torch.where(pairs, losses, 0.0).sum() / pairs.sum().clamp(min=1) + outputs.sum() * 0

    def counts(self, outputs: Array, labels: Array, classes: Sequence[str] = ()) -> NDArray[np.float64]:
        """Who it is, and the embedding at length 1: metrics are of all pairs of examples."""
        lengths = np.linalg.norm(outputs, axis=1, keepdims=True).astype(np.float64)
        known = (labels >= 0)[:, None]
        return np.concatenate([labels[:, None], np.where(known, outputs / np.maximum(lengths, 1e-12), 0.0)], axis=1)

    def metrics(self, counts: NDArray[np.float64]) -> dict[str, float]:
        """verification: share of pairs that the best bound of their cosine tells right, where pairs of one person weigh
        as much as pairs of two; tar: share of pairs of one person above the bound that 1% of the pairs of two exceed.

        An example that is there several times counts once.
        """
        rows = np.unique(counts[counts[:, 0] >= 0], axis=0)
        first, second = np.triu_indices(len(rows), 1)
        cosines = (rows[:, 1:] @ rows[:, 1:].T)[first, second]
        together = rows[first, 0] == rows[second, 0]
        same, other = np.sort(cosines[together]), np.sort(cosines[~together])
        if not len(same) or not len(other):
            return {"verification": 0.0, "tar": 0.0}
        accepted = 1 - np.searchsorted(same, same) / len(same)
        refused = np.searchsorted(other, same) / len(other)
        return {
            "verification": float((accepted + refused).max() / 2),
            "tar": float((same > np.quantile(other, 1 - MISTAKEN)).mean()),
        }


PLUGIN: Final[Task] = _Embedding()
