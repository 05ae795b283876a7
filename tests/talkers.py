"""Texts that a net of a few thousand weights learns to go on with in seconds, and nets for them."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekd.llama import Size, WritingNet, WritingStep
from edgekd.nets import Net
from edgekd.specs import Output, Subject

PIECES: Final = ("[pad]", "[ask]", "[answer]", "[end]", *"abcdefgh")
PAD, ASK, ANSWER, END, LETTERS = 0, 1, 2, 3, 4
LENGTH: Final = 12


def texts(count: int, seed: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Up to four letters, and the same ones again; tokens and labels."""
    random = np.random.default_rng(seed)
    tokens, labels = np.zeros((count, LENGTH), np.int32), np.full((count, LENGTH), -1, np.int32)
    for row, follows in zip(tokens, labels, strict=True):
        said = random.integers(LETTERS, len(PIECES), random.integers(2, 5)).tolist()
        text = [ASK, *said, ANSWER, *said, END]
        row[: len(text)] = text
        follows[len(said) + 1 : len(text) - 1] = text[len(said) + 2 :]
    return tokens, labels


def echoes(count: int = 256) -> dict[str, Any]:
    """A data set."""
    train, test = texts(count, 0), texts(64, 1)
    return {
        "train_inputs": train[0],
        "train_labels": train[1],
        "test_inputs": test[0],
        "test_labels": test[1],
        "classes": PIECES,
        "vocabulary": PIECES,
        "licence": "CC0-1.0",
        "end": END,
    }


def subject(length: int = LENGTH) -> Subject:
    """What the data set is about."""
    output = Output(name="logits", task="next_token", shape=(len(PIECES), length), classes=PIECES, metric="accuracy")
    return Subject(shape=(length,), kind="tokens", outputs=(output,), vocabulary=PIECES, end=END)


def teacher(width: int = 32, layers: int = 2) -> Net:
    """A decoder."""
    net = WritingNet(Size(width=width, heads=4, groups=2, feed_forward=2 * width, layers=layers), subject())
    return Net(net, step=WritingStep(net))


def mute() -> Net:
    """A net that answers as a decoder does, and says nothing of a step."""
    return Net(teacher().module)
