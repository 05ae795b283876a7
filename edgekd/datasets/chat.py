"""A bank's customers ask, in the sentences of banking77 or clinc150, and SmolLM2 answers: what a chatbot learns from.

The answers are the teacher's own, the most likely token after token (Kim and Rush 2016, "Sequence-Level Knowledge
Distillation", arXiv:1606.07947). So the accuracy of what comes next is the share of tokens for which a student says
what SmolLM2 would; whether that is wise, nobody has judged. They are written once, on all cores, and kept in the user's
cache.

An example is a customer's turn and the assistant's, padded; the label of a token of the answer is the one that
follows. The vocabulary is SmolLM2's, cut down to the pieces of the training texts and to single bytes, so that
everything can be said: a device cuts texts up as SmolLM2 does, and pieces that are not there into the longest that are,
from the left.
"""

import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgekd import caches, smollm
from edgekd.caches import Site, cache
from edgekd.datasets import Arrays, Dataset, _text, banking77, clinc150
from edgekd.files import digest, file_digest
from edgekd.progress import tell
from edgekd.workers import call, cores, together

VERSION: Final = 1
"""Of what is written; another one makes new answers."""
LEAST_ANSWER: Final = 16
"""Tokens that a question leaves for its answer; longer questions are left out."""
UNLABELLED: Final = -1

_SPLITS: Final = ("train", "test")
_AT_ONCE: Final = 64
"""Texts that are written together."""
_OF_A_PROCESS: Final = 512
"""It loads SmolLM2 in ten seconds, and writes that many answers in some minutes."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who asks, and how many texts of which length there are."""

    archive: str = ""
    """Path of the .tar.xz; "" looks in the folder that EDGEKD_DATA names."""
    questions: Literal["banking77", "clinc150"] = "banking77"
    examples: Annotated[int, Meta(ge=1, le=10_000)] = 2000
    """To learn from, drawn from the publisher's training split."""
    test_examples: Annotated[int, Meta(ge=1, le=3000)] = 200
    length: Annotated[int, Meta(ge=32, le=512)] = 64
    """Tokens of question and answer; an answer that takes more is cut off."""
    rarest: Annotated[int, Meta(ge=1)] = 2
    """How often a piece must be in the training texts to be in the vocabulary."""
    instructions: str = smollm.INSTRUCTIONS
    """What SmolLM2 is told to do; students do not see it."""
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    """Of which questions are drawn."""
    autocast: bool = False
    """Multiply matrices in bfloat16 while answers are written: on processors that can, three times as fast."""


class _Chat:
    Options = Options
    licence = "questions: CC BY 4.0 (PolyAI) or CC BY 3.0 (S. Larson and others); answers: SmolLM2, Apache-2.0"
    needs = f"export EDGEKD_DATA=FOLDER, with {_text.ARCHIVE} in it; {smollm.NEEDS}"

    def here(self) -> bool:
        packages = (smollm.PACKAGE, "gguf", "tokenizers")
        return _text.path_of("").is_file() and all(map(importlib.util.find_spec, packages))

    def load(self, options: Any) -> Arrays:
        asked = _questions(options)
        folder = cache() / "chat" / digest([VERSION, asked, options.length, options.instructions, options.autocast])
        caches.make(folder, "the answers of the data set chat", partial(_write, options, asked), caches.is_whole)
        texts = {split: np.load(folder / f"{split}.npy") for split in _SPLITS}
        vocabulary = _vocabulary(texts["train"], options.rarest)
        train, test = (_examples(texts[split], asked[split], vocabulary) for split in _SPLITS)
        end = vocabulary.index(smollm.END)
        return Arrays(*train, *test, vocabulary, self.licence, vocabulary, end)


def _questions(options: Options) -> dict[str, list[list[int]]]:
    """For each split the customers' turns, as SmolLM2 cuts them up, and how the assistant's begins."""
    reader = banking77.questions if options.questions == "banking77" else clinc150.questions
    wanted, tokenizer = (options.examples, options.test_examples), smollm.tokenizer()
    found: dict[str, list[list[int]]] = {}
    seen: set[str] = set()
    for number, texts in enumerate(reader(options.archive)):
        order = np.random.default_rng([options.seed, number]).permutation(len(texts))
        drawn = [text for index in order if (text := " ".join(texts[index].split())) not in seen]
        seen |= set(drawn)
        begun = [smollm.turn("user", text) + f"{smollm.START}assistant\n" for text in dict.fromkeys(drawn)]
        turns = [encoding.ids for encoding in tokenizer.encode_batch(begun)]
        short = [turn for turn in turns if len(turn) <= options.length - LEAST_ANSWER]
        found[_SPLITS[number]] = short[: wanted[number]]
    return found


def _write(options: Options, asked: Mapping[str, list[list[int]]], site: Site) -> dict[str, str]:
    """Fill the folder with an array a split, (texts, length) in SmolLM2's own numbers; their SHA-256 by file name."""
    site.folder.mkdir()
    pieces = [(split, first) for split in _SPLITS for first in range(0, len(asked[split]), _OF_A_PROCESS)]
    told = iter(range(1, len(pieces) + 1))
    tell("writing answers", 0, len(pieces))

    def write(split: str, first: int) -> None:
        turns = asked[split][first : first + _OF_A_PROCESS]
        out = str(site.folder / f"{split}-{first:06}.npy")
        call(write_piece, out, turns, options, threads=1, log=site.log)
        tell("writing answers", next(told), len(pieces))

    together([partial(write, *piece) for piece in pieces], at_once=cores())
    for split in _SPLITS:
        parts = sorted(site.folder.glob(f"{split}-*.npy"))
        np.save(site.folder / f"{split}.npy", np.concatenate([np.load(part) for part in parts]))
        for part in parts:
            part.unlink()
    return {path.name: file_digest(path) for path in sorted(site.folder.iterdir())}


def write_piece(out: str, turns: list[list[int]], options: Options) -> int:
    """Go on with these turns, and write the texts to a .npy; how many these are.

    What is written depends in its last bits on which texts are written together, so these are always as many.
    """
    import torch

    from edgekd.decoding import written
    from edgekd.smollm_net import step_of

    step, end = step_of(options.length, options.instructions), smollm.number(smollm.END)
    made = []
    for first in range(0, len(turns), _AT_ONCE):
        some = turns[first : first + _AT_ONCE]
        texts = torch.zeros(len(some), options.length, dtype=torch.int64)
        for row, turn in zip(texts, some, strict=True):
            row[: len(turn)] = torch.tensor(turn)
        known = torch.tensor([len(turn) for turn in some])
        with torch.autocast("cpu", torch.bfloat16, enabled=options.autocast):
            made.append(written(step, texts, known, end).numpy().astype(np.int32))
    np.save(out, np.concatenate(made))
    return len(turns)


def _vocabulary(texts: NDArray[np.int32], rarest: int) -> tuple[str, ...]:
    """Padding, what begins and ends a turn, then in SmolLM2's order single bytes and what occurs often enough."""
    whole, counts = smollm.pieces()[0], Counter(texts.ravel().tolist())
    special = (smollm.PADDING, smollm.START, smollm.END)
    return special + tuple(
        piece
        for number, piece in enumerate(whole)
        if not piece.startswith("<|") and (len(piece) == 1 or counts[number] >= rarest)
    )


def _examples(
    texts: NDArray[np.int32], asked: Sequence[list[int]], vocabulary: Sequence[str]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Tokens and labels of texts, both (texts, length), in the numbers of a vocabulary."""
    numbers = {piece: number for number, piece in enumerate(vocabulary)}
    spelled = _Spelled(numbers)
    tokens, labels = np.zeros_like(texts), np.full_like(texts, UNLABELLED)
    for row, follows, text, turn in zip(tokens, labels, texts.tolist(), asked, strict=True):
        answer = text[len(turn) :]
        answer = answer[: answer.index(0)] if 0 in answer else answer
        begun, whole = (list(spelled(some)) for some in (turn, turn + answer))
        whole = whole[: len(row)]
        row[: len(whole)] = whole
        follows[len(begun) - 1 : len(whole) - 1] = whole[len(begun) :]
    return tokens, labels


class _Spelled:
    """SmolLM2's numbers in those of a smaller vocabulary: a piece that is not in it becomes the longest that are."""

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self._numbers, self._whole = numbers, smollm.pieces()[0]

    def __call__(self, tokens: Sequence[int]) -> Iterator[int]:
        for token in tokens:
            piece = self._whole[token]
            while piece:
                size = next(size for size in range(len(piece), 0, -1) if piece[:size] in self._numbers)
                yield self._numbers[piece[:size]]
                piece = piece[size:]


PLUGIN: Final[Dataset] = _Chat()
