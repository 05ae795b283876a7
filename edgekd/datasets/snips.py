"""Seven intents and 39 slots of a voice assistant, in 13,784 + 700 sentences (Coucke et al. 2018, arXiv:1805.10190; the
collection of 2017-06).

It has two heads: `intent`, a class for the sentence, and `slots`, a tag for each word. A tag stands at a word's first
piece; the pieces after it, [CLS], [SEP] and padding have none. Training sentences that the test split has as well are
left out: the publisher has some in both.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd.datasets import Arrays, Dataset
from edgekd.datasets._text import (
    NEEDS,
    UNLABELLED,
    Pieces,
    TextOptions,
    exchanged,
    here,
    parsed,
    read,
    share_of,
    vocabulary_of,
)

INTENTS: Final = (
    "AddToPlaylist",
    "BookRestaurant",
    "GetWeather",
    "PlayMusic",
    "RateBook",
    "SearchCreativeWork",
    "SearchScreeningEvent",
)
FOLDER: Final = "sonos/2017-06-custom-intent-engines"


class _Part(msgspec.Struct):
    """Of a sentence."""

    text: str
    entity: str = ""


class _Sentence(msgspec.Struct):
    data: tuple[_Part, ...]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.data)


class _Snips:
    Options = TextOptions
    licence = "CC0 1.0 (Snips)"
    needs = NEEDS

    def here(self) -> bool:
        return here()

    def load(self, options: Any) -> Arrays:
        train, train_intents = _split(options, "train_{}_full.json")
        test, test_intents = _split(options, "validate_{}.json")
        asked_for = {sentence.text.casefold().strip() for sentence in test}
        new = [index for index, one in enumerate(train) if one.text.casefold().strip() not in asked_for]
        chosen = np.array(new)[share_of(train_intents[new], options.examples)]
        train, train_intents = [train[index] for index in chosen], train_intents[chosen]
        slots = sorted({part.entity for sentence in train for part in sentence.data if part.entity})
        vocabulary = vocabulary_of((sentence.text for sentence in train), options.rarest)
        learned, asked = (Pieces([sentence.text for sentence in split], vocabulary) for split in (train, test))
        length = options.length or learned.usual_length()
        tokens = learned.tokens(length)
        copies = exchanged(tokens, vocabulary, options.copies)
        return Arrays(
            np.concatenate([tokens, copies]),
            {
                "intent": np.concatenate([train_intents, np.full(len(copies), UNLABELLED)]),
                "slots": np.concatenate([_tags(train, learned, slots, length), np.full_like(copies, UNLABELLED)]),
            },
            asked.tokens(length),
            {"intent": test_intents, "slots": _tags(test, asked, slots, length)},
            {"intent": INTENTS, "slots": ("O", *(f"{place}-{slot}" for slot in slots for place in "BI"))},
            self.licence,
            vocabulary,
        )


def _split(options: TextOptions, pattern: str) -> tuple[list[_Sentence], NDArray[np.int64]]:
    """Sentences of a split, and the number of each one's intent."""
    names = [f"{FOLDER}/{intent}/{pattern.format(intent)}" for intent in INTENTS]
    sentences, intents = [], list[int]()
    for number, (name, content) in enumerate(zip(names, read(options.archive, names), strict=True)):
        found = parsed(options.archive, name, content, partial(_sentences, INTENTS[number]))
        sentences += found
        intents += [number] * len(found)
    return sentences, np.array(intents)


def _sentences(intent: str, content: bytes) -> list[_Sentence]:
    """Sentences of an intent; one of the publisher's files is in Latin-1 where the others are in UTF-8."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return msgspec.json.decode(text, type=dict[str, list[_Sentence]])[intent]


def _tags(sentences: Sequence[_Sentence], pieces: Pieces, slots: Sequence[str], length: int) -> NDArray[np.int32]:
    """Tags of shape (sentences, length): 0 is outside, 2k + 1 begins a phrase of slot k, 2k + 2 goes on with it."""
    tags = np.full((len(sentences), length), UNLABELLED, np.int32)
    known = {slot: number for number, slot in enumerate(slots)}
    for index, sentence in enumerate(sentences):
        owner = np.repeat(np.arange(len(sentence.data)), [len(part.text) for part in sentence.data])
        last = -1
        for place, start, _ in pieces.words(index):
            part = int(owner[start])
            slot = known.get(sentence.data[part].entity)
            if place < length - 1:
                tags[index, place] = 0 if slot is None else 2 * slot + 1 + (part == last)
            last = part
    return tags


PLUGIN: Final[Dataset] = _Snips()
