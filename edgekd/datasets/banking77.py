"""77 intents of a bank's customers, in 10,003 + 3,080 questions (Casanueva et al. 2020, arXiv:2003.04807)."""

import csv
import io
from typing import Any, Final

from edgekd.datasets import Arrays, Dataset
from edgekd.datasets._text import NEEDS, TextOptions, classified, here, parsed, read

FILES: Final = ("polyai/banking_data/train.csv", "polyai/banking_data/test.csv")


class _Banking77:
    Options = TextOptions
    licence = "CC BY 4.0 (PolyAI)"
    needs = NEEDS

    def here(self) -> bool:
        return here()

    def load(self, options: Any) -> Arrays:
        train, test = _splits(options.archive)
        return classified(train, test, options, self.licence)


def questions(archive: str) -> list[list[str]]:
    """The texts of the training split, and of the test split."""
    return [[text for text, _ in split] for split in _splits(archive)]


def _splits(archive: str) -> list[list[tuple[str, str]]]:
    return [parsed(archive, *named, _rows) for named in zip(FILES, read(archive, FILES), strict=True)]


def _rows(content: bytes) -> list[tuple[str, str]]:
    try:
        head, *rows = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if head != ["text", "category"]:
        raise ValueError(f"its columns are {', '.join(head)}")
    return [(text, category) for text, category in rows]


PLUGIN: Final[Dataset] = _Banking77()
