"""Toy speech: up to four words, each a band that sounds for four frames, and who writes them down."""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from edgekd.datasets import Arrays, Beside
from edgekd.fronts import Fronted
from edgekd.specs import Head, Input, Output, Subject
from edgekd.whisper import Size, transcriber

HEADS = {"logits": Head(task="transcription")}
VOCABULARY: Final = ("<|padding|>", "<|endoftext|>", "<|start|>", "Ġgo", "Ġleft", "Ġright", "Ġstop", "Ġnow")
END, START, FIRST = 1, 2, 3
BANDS, FRAMES, LENGTH = 6, 16, 6
WORDS: Final = 4
SIZE = Size(width=32, heads=2, feed_forward=64, encoder_layers=1, decoder_layers=2)


def arrays(count: int = 120, test: int = 40) -> Arrays:
    """Sounds, texts and labels."""
    random = np.random.default_rng(0)
    sounds, tokens = _said(random, count + test)
    beside = Beside(tokens[:count], tokens[count:], prompt=1)
    labels = labels_of(tokens)
    return Arrays(
        sounds[:count],
        labels[:count],
        sounds[count:],
        labels[count:],
        VOCABULARY,
        "CC0-1.0",
        VOCABULARY,
        end=END,
        beside={"text": beside},
    )


def _said(random: np.random.Generator, count: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    sounds = random.normal(0, 0.1, (count, BANDS, FRAMES)).astype(np.float32)
    tokens = np.zeros((count, LENGTH), np.int32)
    for sound, row in zip(sounds, tokens, strict=True):
        words = random.integers(FIRST, len(VOCABULARY), random.integers(1, WORDS + 1))
        row[: len(words) + 2] = [START, *words, END]
        for place, word in enumerate(words):
            sound[word - FIRST, 4 * place : 4 * place + 4] += 2
    return sounds, tokens


def labels_of(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    """At each place the token behind it."""
    labels = np.full_like(tokens, -1)
    labels[:, :-1] = np.where(tokens[:, 1:] == 0, -1, tokens[:, 1:])
    return labels


SUBJECT = Subject(
    shape=(BANDS, FRAMES),
    kind="numbers",
    vocabulary=VOCABULARY,
    beside=(Input(name="text", shape=(LENGTH,), kind="tokens", prompt=1),),
    end=END,
    outputs=(
        Output(
            name="logits",
            task="transcription",
            shape=(len(VOCABULARY), LENGTH),
            classes=VOCABULARY,
            metric="word_accuracy",
        ),
    ),
)


def requests(count: int = 120, test: int = 40, wrong: int = 0) -> dict[str, Any]:
    """A user's data set; the first `wrong` training texts are not what was said."""
    made = arrays(count, test)
    texts = made.beside["text"].train
    texts[:wrong, 1:3] = [FIRST, END]
    texts[:wrong, 3:] = 0
    return {
        "train_inputs": made.train_inputs,
        "train_labels": labels_of(texts),
        "test_inputs": made.test_inputs,
        "test_labels": made.test_labels,
        "classes": VOCABULARY,
        "vocabulary": VOCABULARY,
        "end": END,
        "beside": made.beside,
    }


def teacher(deviation: float = 0.1) -> Fronted:
    """An untrained net, whose front tells sounds apart."""
    net = transcriber(SIZE, SUBJECT)
    for name, parameter in net.named_parameters():
        if parameter.dim() > 1 and "norm" not in name:
            torch.nn.init.normal_(parameter, std=deviation)
    return net
