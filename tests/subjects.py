"""What nets are made for, in tests."""

from typing import Literal

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
