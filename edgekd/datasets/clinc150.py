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


class Published(msgspec.Struct):
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
        (content,) = read(options.archive, [FILE])
        found = parsed(options.archive, FILE, content, splits)
        return classified(found.train, found.test, options, self.licence)


def splits(content: bytes) -> Published:
    """What the file holds."""
    return msgspec.json.decode(content, type=Published)


PLUGIN: Final[Dataset] = _Clinc150()
