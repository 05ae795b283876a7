"""Every file in edgekd/tasks is checked here; a new file needs no new test."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgekd import tasks
from edgekd.errors import ConfigError
from edgekd.plugins import find, names
from edgekd.tasks import Task

CLASSES = ("O", "B-a", "I-a")
LABELS = (np.array([0, 2, 1, 1]), np.array([[0, 1, 2, -1], [1, 2, 0, 0]]))
"""Of a whole example, and of each of its positions; no task takes both."""


def labels_of(task: Task) -> NDArray[Any]:
    """Those that a task takes."""
    for labels in LABELS:
        try:
            task.check(labels, CLASSES)
            task.output(labels.shape[1:], CLASSES)
        except ConfigError:
            continue
        return labels
    pytest.fail("takes none of the labels that are known here")


@pytest.mark.parametrize("name", names(tasks))
def test_perfect_answers_score_one(name: str) -> None:
    task = find(tasks, name)
    labels = labels_of(task)
    outputs = np.moveaxis(np.eye(3, dtype=np.float32)[labels.clip(0)] * 20, -1, 1)
    assert outputs.shape[1:] == task.output(labels.shape[1:], CLASSES)
    counts = task.counts(outputs, labels)
    assert task.metrics(counts)[task.metric] == 1.0
    assert task.metrics(task.counts(-outputs, labels))[task.metric] < 1.0
    assert task.label_loss(torch.from_numpy(outputs), torch.from_numpy(labels), 0.0).item() < 1e-3
    assert len(counts) == len(labels) and task.metrics(counts.sum(axis=0, keepdims=True)) == task.metrics(counts)


def test_labels_that_are_no_classes_are_refused() -> None:
    task = find(tasks, "classification")
    with pytest.raises(ConfigError, match="labels run from 0 to 3, classes from 0 to 2"):
        task.check(np.array([0, 3]), ("a", "b", "c"))
    with pytest.raises(ConfigError, match="every example is of class 'b'"):
        task.check(np.array([1, 1]), ("a", "b", "c"))
