"""150 intents of ten domains, in 15,000 + 4,500 short questions to an assistant (Larson et al. 2019, "An Evaluation
Dataset for Intent Classification and Out-of-Scope Prediction", arXiv:1909.02027).

Questions that are out of scope are left out. The publisher has 100 of them to learn from and 1,000 to be asked: as a
class of its own they would make up a fifth of the accuracy, and measure what can be rejected rather than what was
distilled. The publisher, too, gives the accuracy in scope apart. The validation split is left out as well.
"""

from typing import Any, Final

import msgspec

from edgekd.datasets import Arrays, Dataset
from edgekd.datasets._text import NEEDS, TextOptions, classified, here, parsed, read

FILE: Final = "clinc/data/data_full.json"


class _Published(msgspec.Struct):
    """The splits that are used, of [text, class] pairs."""

    train: list[tuple[str, str]]
    test: list[tuple[str, str]]


class _Clinc150:
    Options = TextOptions
    licence = "CC BY 3.0 (S. Larson and others)"
    needs = NEEDS

    def here(self) -> bool:
        return here()

    def load(self, options: Any) -> Arrays:
        published = _published(options.archive)
        return classified(published.train, published.test, options, self.licence)


def questions(archive: str) -> list[list[str]]:
    """The texts of the training split, and of the test split."""
    published = _published(archive)
    return [[text for text, _ in split] for split in (published.train, published.test)]


def _published(archive: str) -> _Published:
    (content,) = read(archive, [FILE])
    found: _Published = parsed(archive, FILE, content, lambda raw: msgspec.json.decode(raw, type=_Published))
    return found


PLUGIN: Final[Dataset] = _Clinc150()
