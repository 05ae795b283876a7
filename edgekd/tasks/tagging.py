"""A tag for each token: phrases of several kinds, in the scheme BIO.

Class 0 is "O", outside of every phrase; 2k + 1 is "B-kind", where a phrase begins, and 2k + 2 "I-kind", where it goes
on. Tokens whose label is -1 are left out before phrases are looked for: padding, and pieces within a word.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import ConfigError
from edgekd.tasks import Array, Task, cross_entropy, hits, share

UNLABELLED: Final = -1
OUTSIDE: Final = 0


class _Tagging:
    metric = "f1"

    def check(self, labels: Array, classes: Sequence[str]) -> None:
        kinds = [name[2:] for name in classes[1::2]]
        if not kinds or list(classes) != ["O", *(f"{place}-{kind}" for kind in kinds for place in "BI")]:
            raise ConfigError(
                f"the tags are {', '.join(classes[:5])} ...", hint="call them O, B-kind, I-kind, B-other, I-other ..."
            )
        if labels.min() < UNLABELLED or labels.max() >= len(classes):
            raise ConfigError(
                f"tags run from {labels.min()} to {labels.max()}, their names from 0 to {len(classes) - 1}",
                hint="-1 is what has no tag",
            )
        if labels.max() <= OUTSIDE:
            raise ConfigError("no token is of a phrase", hint="nothing can be learned from it")

    def output(self, labels: tuple[int, ...], classes: Sequence[str], example: tuple[int, ...]) -> tuple[int, ...]:
        if len(labels) != 1:
            raise ConfigError(f"an example has labels of shape {labels}", hint="a tag for each token: (length,)")
        return (len(classes), *labels)

    def label_loss(self, outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        return cross_entropy(outputs, labels, smoothing)

    def counts(self, outputs: Array, labels: Array, classes: Sequence[str] = ()) -> NDArray[Any]:
        """Right tokens, tokens, and phrases: found and right, found, there."""
        phrases = np.zeros((len(labels), 3))
        for row, found, true in zip(phrases, outputs.argmax(axis=1), labels, strict=True):
            counted = true >= 0
            answered, there = set(_phrases(found[counted])), set(_phrases(true[counted]))
            row[:] = len(answered & there), len(answered), len(there)
        return np.concatenate([hits(outputs, labels), phrases], axis=1)

    def metrics(self, counts: NDArray[Any]) -> dict[str, float]:
        """Of phrases, right where kind, begin and end are (Nakayama 2018, "seqeval"); accuracy is that of tokens.

        Precision, recall and F1 add up all kinds; each is 0 where it would be a share of nothing.
        """
        right, found, there = counts[:, 2:].sum(axis=0)
        return {
            "f1": _share(2 * right, found + there),
            "precision": _share(right, found),
            "recall": _share(right, there),
            "accuracy": share(counts),
        }


def _phrases(tags: NDArray[Any]) -> Iterator[tuple[int, int, int]]:
    """Kind, first token and the one after the last. As in CoNLL's evaluation, an I- after nothing begins one."""
    kind, begin = -1, 0
    for place, tag in enumerate([*tags.tolist(), OUTSIDE]):
        goes_on = tag != OUTSIDE and tag % 2 == 0 and (tag - 1) // 2 == kind
        if goes_on:
            continue
        if kind >= 0:
            yield kind, begin, place
        kind, begin = (tag - 1) // 2 if tag != OUTSIDE else -1, place


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


PLUGIN: Final[Task] = _Tagging()
