"""What nets are made for, in tests."""

from typing import Literal

import torch
from torch import Tensor

from edgekd.nets import Net, input_shape
from edgekd.specs import Head, Output, Subject

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


def example(net: Net, wanted: Subject, batch: int) -> Tensor:
    """What a net takes: noise, or words and then padding."""
    if wanted.kind != "tokens":
        return torch.randn(batch, *input_shape(net, wanted.shape))
    tokens = torch.randint(1, len(wanted.vocabulary), (batch, *wanted.shape))
    tokens[:, wanted.shape[0] // 2 :] = 0
    return tokens
