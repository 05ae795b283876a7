"""What is said, in words: an answer for each token of a text is the next one.

Classes are the pieces of a byte-level vocabulary: see edgekd/pieces.py. Texts are compared as Whisper's authors do it,
without capitals, punctuation and hesitations, and with numbers in figures (Radford et al. 2022, arXiv:2212.04356,
appendix C), by the word error rate.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgekd.errors import ConfigError, PluginUnavailable
from edgekd.pieces import END, spelled
from edgekd.tasks import Array, Task, cross_entropy

UNLABELLED: Final = -1
PADDING: Final = 0


class _Transcription:
    metric = "word_accuracy"

    def check(self, labels: Array, classes: Sequence[str]) -> None:
        if END not in classes:
            raise ConfigError(f"no piece of the vocabulary is {END}", hint="a text needs an end")
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
            raise ConfigError(
                f"labels are {labels.dtype} of shape {labels.shape}", hint="the next token of each place of a text"
            )
        if labels.min() < UNLABELLED or labels.max() >= len(classes):
            raise ConfigError(
                f"labels run from {labels.min()} to {labels.max()}, the vocabulary has {len(classes)} pieces",
                hint="-1 is a place that nothing is answered at",
            )
        if labels.max() < 0:
            raise ConfigError("no text has a word", hint="nothing can be learned from it")

    def output(self, labels: tuple[int, ...], classes: Sequence[str], example: tuple[int, ...]) -> tuple[int, ...]:
        return (len(classes), *labels)

    def label_loss(self, outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        return cross_entropy(outputs, labels, smoothing)

    def counts(self, outputs: Array, labels: Array, classes: Sequence[str]) -> NDArray[Any]:
        """Words that are wrong, missing or too many, and words that were said."""
        found = outputs.argmax(axis=1)
        end = list(classes).index(END)
        rows = np.zeros((len(labels), 2))
        for row, chosen, true in zip(rows, found, labels, strict=True):
            labelled = np.flatnonzero(true >= 0)
            if len(labelled):
                row[:] = _errors(*(_text(one, classes, end) for one in (true[true >= 0], chosen[labelled[0] :])))
        return rows

    def metrics(self, counts: NDArray[Any]) -> dict[str, float]:
        """wer: word error rate, which is above 1 where more is written than was said; word_accuracy: 1 - wer, or 0."""
        wrong, said = counts.sum(axis=0)
        rate = float(wrong / said) if said else 0.0
        return {"word_accuracy": max(0.0, 1.0 - rate), "wer": rate}


def _text(tokens: Array, classes: Sequence[str], end: int) -> str:
    """Words of a text, up to its end."""
    over = np.flatnonzero((tokens == end) | (tokens == PADDING))
    words: str = _normalise()(spelled(classes[token] for token in tokens[: over[0] if len(over) else None]))
    return words


def _errors(said: str, written: str) -> tuple[float, float]:
    if not said.split():
        return float(len(written.split())), 0.0
    import jiwer

    found = jiwer.process_words(said, written)
    return float(found.substitutions + found.deletions + found.insertions), float(len(said.split()))


@lru_cache(maxsize=1)
def _normalise() -> Any:
    try:
        import jiwer as _  # noqa: F401 - is there, or nothing can be counted
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
    except ModuleNotFoundError as missing:
        raise PluginUnavailable(
            f"words are counted with the package {missing.name!r}", hint="pip install 'edgekd[speech]'"
        ) from missing
    return EnglishTextNormalizer({})  # type: ignore[no-untyped-call]  # transformers


PLUGIN: Final[Task] = _Transcription()
