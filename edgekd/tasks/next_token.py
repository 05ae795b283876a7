"""What comes next in a text: at each token one of the vocabulary's pieces.

The label of a token is the one that follows it; it is -1 where that is not asked: in the prompt, which somebody else
writes, and in padding.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.tasks import Array, Task, cross_entropy, hits, share

UNLABELLED: Final = -1
LARGEST_EXPONENT: Final = 700.0
"""Of the perplexity, so that it stays a number."""


class _NextToken:
    metric = "accuracy"

    def check(self, labels: Array, classes: Sequence[str]) -> None:
        if labels.dtype.kind not in "iu" or labels.min() < UNLABELLED or labels.max() >= len(classes):
            raise ConfigError(
                f"labels run from {labels.min()} to {labels.max()}, the vocabulary from 0 to {len(classes) - 1}",
                hint="a label is the number of the piece that follows; -1 is what is not asked",
            )
        if labels.max() < 0:
            raise ConfigError("no token has one that follows it", hint="nothing can be learned from it")

    def output(self, labels: tuple[int, ...], classes: Sequence[str], example: tuple[int, ...]) -> tuple[int, ...]:
        if len(labels) != 1:
            raise ConfigError(f"an example has labels of shape {labels}", hint="one for each token: (length,)")
        return (len(classes), *labels)

    def label_loss(self, outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        return cross_entropy(outputs, labels, smoothing)

    def counts(self, outputs: Array, labels: Array, classes: Sequence[str] = ()) -> NDArray[Any]:
        """Right tokens, tokens, and -log of the probability of what follows."""
        surprise = [_surprise(logits, follows) for logits, follows in zip(outputs, labels, strict=True)]
        return np.concatenate([hits(outputs, labels), np.array(surprise)[:, None]], axis=1)

    def metrics(self, counts: NDArray[Any]) -> dict[str, float]:
        """Accuracy, and perplexity: e to the mean surprise of a token, 1 and more, less is better."""
        _, tokens, surprise = counts.sum(axis=0)
        mean = surprise / tokens if tokens else 0.0
        return {"accuracy": share(counts), "perplexity": float(np.exp(min(mean, LARGEST_EXPONENT)))}


def _surprise(logits: Array, labels: Array) -> float:
    """Of a text, logits (pieces, length) and labels (length,), in nats."""
    counted = np.flatnonzero(labels >= 0)
    rows = logits[:, counted].astype(np.float64)
    peak = rows.max(axis=0, initial=-np.inf)
    norm = peak + np.log(np.exp(rows - peak).sum(axis=0))
    return float((norm - rows[labels[counted], np.arange(len(counted))]).sum())


PLUGIN: Final[Task] = _NextToken()
