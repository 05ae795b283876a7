"""Every file in edgekd/tasks is checked here; a new file needs no new test."""

import numpy as np
import pytest
import torch

from edgekd import tasks
from edgekd.errors import ConfigError
from edgekd.plugins import find, names


@pytest.mark.parametrize("name", names(tasks))
def test_perfect_answers_score_one(name: str) -> None:
    task = find(tasks, name)
    labels = np.array([0, 2, 1, 1])
    outputs = np.eye(3, dtype=np.float32)[labels] * 20
    assert task.metrics(task.counts(outputs, labels))[task.metric] == 1.0
    assert task.metrics(task.counts(-outputs, labels))[task.metric] < 1.0
    assert float(task.label_loss(torch.from_numpy(outputs), torch.from_numpy(labels), 0.0)) < 1e-3


def test_labels_that_are_no_classes_are_refused() -> None:
    task = find(tasks, "classification")
    with pytest.raises(ConfigError, match="labels run from 0 to 3, classes from 0 to 2"):
        task.check(np.array([0, 3]), ("a", "b", "c"))
    with pytest.raises(ConfigError, match="every example is of class 'b'"):
        task.check(np.array([1, 1]), ("a", "b", "c"))
