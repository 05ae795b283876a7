"""What nets are made for, in tests."""

from typing import Literal

import torch
from torch import Tensor

from edgekd.nets import Net, input_shape
from edgekd.specs import Head, Input, Output, Subject

HEADS = {"logits": Head(task="classification")}


def output(name: str = "logits", classes: tuple[str, ...] = ("a", "b", "c"), task: str = "classification") -> Output:
    return Output(name=name, task=task, shape=(len(classes),), classes=classes, metric="accuracy")


def subject(
    shape: tuple[int, ...] = (1, 28, 28),
    classes: tuple[str, ...] = ("a", "b", "c"),
    kind: Literal["images", "numbers", "tokens"] = "images",
    task: str = "classification",
) -> Subject:
    """With one output."""
    return Subject(shape=shape, kind=kind, outputs=(output(classes=classes, task=task),))


def text(length: int = 12) -> Subject:
    """Sentences of words that MiniLM knows, with one output."""
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "!")
    return Subject(shape=(length,), kind="tokens", outputs=(output(),), vocabulary=pieces)


def story(length: int = 12) -> Subject:
    """Texts of a few pieces to go on with, which every net that writes knows."""
    pieces = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "!")
    wanted = Output(name="logits", task="next_token", shape=(len(pieces), length), classes=pieces, metric="accuracy")
    return Subject(shape=(length,), kind="tokens", outputs=(wanted,), vocabulary=pieces, end=2)


def speech(length: int = 8) -> Subject:
    """Sounds of two seconds and texts of words that Whisper knows, which a net writes."""
    pieces = ("<|padding|>", "<|endoftext|>", "<|startoftranscript|>", "Ġhello", "Ġworld", "!")
    answer = Output(
        name="logits", task="transcription", shape=(len(pieces), length), classes=pieces, metric="word_accuracy"
    )
    text = Input(name="text", shape=(length,), kind="tokens", prompt=1)
    return Subject(shape=(80, 200), kind="numbers", outputs=(answer,), vocabulary=pieces, end=1, beside=(text,))


def example(net: Net, wanted: Subject, batch: int) -> tuple[Tensor, ...]:
    """All that a net takes: noise, or words and then padding."""
    first = _words(wanted, wanted.shape, batch) if wanted.kind == "tokens" else None
    if first is None:
        first = torch.randn(batch, *input_shape(net, wanted.shape))
    return (first, *(_words(wanted, one.shape, batch) for one in wanted.beside))


def _words(wanted: Subject, shape: tuple[int, ...], batch: int) -> Tensor:
    tokens = torch.randint(1, len(wanted.vocabulary), (batch, *shape))
    tokens[:, shape[0] // 2 :] = 0
    return tokens
