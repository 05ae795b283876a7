"""The outputs of a net together: what they lose on labels, and how good they are."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgekd import tasks
from edgekd.plugins import find
from edgekd.specs import Output, Subject
from edgekd.tasks import Array, Task

Counts = tuple[NDArray[Any], ...]
"""For each output what its metrics are made of: see `Task.counts`."""


def tasks_of(subject: Subject) -> list[Task]:
    """The task of each output."""
    return [find(tasks, output.task) for output in subject.outputs]


def counts(subject: Subject, answers: Sequence[Array], labels: Sequence[Array]) -> Counts:
    """Of all examples, output by output."""
    return tuple(
        task.counts(answer, label, output.classes)
        for output, task, answer, label in zip(subject.outputs, tasks_of(subject), answers, labels, strict=True)
    )


def metrics(subject: Subject, counted: Counts) -> dict[str, float]:
    """By name; of several outputs each name begins with its output's, and their `mean` is there too."""
    by_output = [task.metrics(one) for task, one in zip(tasks_of(subject), counted, strict=True)]
    if len(by_output) == 1:
        return by_output[0]
    named = {
        f"{output.name}.{name}": value
        for output, found in zip(subject.outputs, by_output, strict=True)
        for name, value in found.items()
    }
    return {subject.metric: _mean(subject, by_output), **named}


def score(subject: Subject, counted: Counts) -> float:
    """The headline metric."""
    return metrics(subject, counted)[subject.metric]


def judged(subject: Subject, answers: Sequence[Array], labels: Sequence[Array]) -> dict[str, float]:
    """The metrics of a net's answers."""
    return metrics(subject, counts(subject, answers, labels))


def top1_agreement(subject: Subject, expected: Sequence[Array], found: Sequence[Array]) -> float | None:
    """Share of positions with the same class on top, of the output where it is least; None where none is a choice."""
    shares = [
        float(np.mean(one.argmax(axis=1) == other.argmax(axis=1)))
        for output, one, other in zip(subject.outputs, expected, found, strict=True)
        if output.is_choice
    ]
    return min(shares, default=None)


def label_loss(subject: Subject, answers: Sequence[Tensor], labels: Sequence[Tensor], smoothing: float) -> Tensor:
    """The outputs' losses on labels, added up by their weights."""
    weights = [output.weight for output in subject.outputs]
    total: Any = sum(
        weight / sum(weights) * task.label_loss(answer, label, smoothing)
        for weight, task, answer, label in zip(weights, tasks_of(subject), answers, labels, strict=True)
    )
    return total  # type: ignore[no-any-return]  # a sum of tensors


def restricted(subject: Subject, outputs: Sequence[int]) -> Subject:
    """The same subject with some of its outputs."""
    chosen: tuple[Output, ...] = tuple(subject.outputs[index] for index in outputs)
    return msgspec.structs.replace(subject, outputs=chosen)


def _mean(subject: Subject, by_output: Sequence[dict[str, float]]) -> float:
    return float(np.mean([found[output.metric] for output, found in zip(subject.outputs, by_output, strict=True)]))
