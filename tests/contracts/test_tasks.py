"""Every file in edgekd/tasks is checked here; a new file needs no new test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgekd import tasks
from edgekd.errors import ConfigError
from edgekd.plugins import find, names
from edgekd.tasks import Task

RANDOM = np.random.default_rng(0)
IMAGE = (3, 16, 24)
NONE = [np.nan] * 5
BOXES = [
    [[0, 0.3, 0.4, 0.4, 0.6], [1, 0.8, 0.7, 0.2, 0.3]],
    [[1, 0.5, 0.5, 1.0, 1.0], NONE],
    [[1, 0.2, 0.8, 0.05, 0.06], [-1, 0.9, 0.1, 0.1, 0.1]],
    [[-1, *NONE[1:]], NONE],
    [[0, 0.7, 0.3, 0.3, 0.4], NONE],
    [NONE, NONE],
]
LABELS: list[tuple[NDArray[Any], tuple[str, ...]]] = [
    (np.array([0, 2, 1, 1, 0, -1]), ("a", "b", "c")),
    (np.append(RANDOM.integers(0, 3, (5, 7)), [[0, 2, 1, -1, -1, -1, -1]], axis=0), ("O", "B-x", "I-x")),
    (np.append(RANDOM.integers(0, 3, (5, 4, 6)), np.full((1, 4, 6), -1), axis=0), ("a", "b", "c")),
    (np.array([0.5, 3.0, 40.0, 7.0, 1.0, np.nan], np.float32), ()),
    (np.array(BOXES, np.float32), ("a", "b")),
    (np.array([0, 0, 1, 1, 2, 2, -1]), ()),
    (
        np.append(np.append(RANDOM.integers(2, 5, (5, 6)), np.ones((5, 1), int), axis=1), [[-1] * 7], axis=0),
        ("", "<|endoftext|>", "Ġa", "Ġb", "Ġc"),
    ),
]
"""Of an example, of its tokens and of its pixels a class each, a number, boxes, who it is, and words; the last example
has no label."""


def example(name: str) -> tuple[Task, NDArray[Any], tuple[int, ...], tuple[str, ...]]:
    """A task, the labels that it takes, the shape of outputs for them, and the classes."""
    task: Task = find(tasks, name)
    for labels, classes in LABELS:
        try:
            task.check(labels, classes)
            return task, labels, (len(labels), *task.output(labels.shape[1:], classes, IMAGE)), classes
        except ConfigError:
            continue
    raise AssertionError(f"give an example of labels of {name}")


def learned(task: Task, labels: NDArray[Any], shape: Sequence[int]) -> NDArray[np.float32]:
    """The outputs that a net would have come to, had it learned the labels by heart."""
    outputs = 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    outputs.requires_grad_()
    optimiser = torch.optim.Adam([outputs], lr=0.3)
    for step in range(600):
        optimiser.param_groups[0]["lr"] = 0.3 * (1 - step / 600)
        loss = task.label_loss(outputs, torch.from_numpy(labels), 0.0)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimiser.step()
    assert loss.item() < 0.05
    return outputs.detach().numpy()


@pytest.mark.parametrize("name", names(tasks))
def test_whoever_learned_the_labels_scores_one(name: str) -> None:
    task, labels, shape, classes = example(name)
    outputs = learned(task, labels, shape)
    assert task.metrics(task.counts(outputs, labels, classes))[task.metric] > 0.99
    assert task.metrics(task.counts(np.roll(outputs, 1, axis=0), labels, classes))[task.metric] < 0.9


@pytest.mark.parametrize("name", names(tasks))
def test_metrics_are_numbers_and_the_headline_is_a_share(name: str) -> None:
    task, labels, shape, classes = example(name)
    for outputs in (np.zeros(shape, np.float32), RANDOM.normal(0, 300, shape).astype(np.float32)):
        found = task.metrics(task.counts(outputs, labels, classes))
        assert all(np.isfinite(value) for value in found.values())
        assert 0 <= found[task.metric] <= 1


@pytest.mark.parametrize("name", names(tasks))
def test_counts_are_of_examples_and_add_up(name: str) -> None:
    task, labels, shape, classes = example(name)
    outputs = RANDOM.normal(size=shape).astype(np.float32)
    whole = task.counts(outputs, labels, classes)
    assert whole.ndim == 2 and len(whole) == len(labels)
    parts = [
        task.counts(outputs[index : index + 1], labels[index : index + 1], classes) for index in range(len(labels))
    ]
    np.testing.assert_allclose(np.concatenate(parts), whole)


@pytest.mark.parametrize("name", names(tasks))
def test_what_has_no_label_counts_nowhere(name: str) -> None:
    task, labels, shape, classes = example(name)
    outputs = RANDOM.normal(size=shape).astype(np.float32)
    nothing = np.full_like(labels, -1 if labels.dtype.kind == "i" else np.nan)
    more, unlabelled = np.concatenate([outputs, outputs]), np.concatenate([labels, nothing])
    assert task.metrics(task.counts(more, unlabelled, classes)) == pytest.approx(
        task.metrics(task.counts(outputs, labels, classes))
    )
    losses = [
        task.label_loss(torch.from_numpy(given), torch.from_numpy(known), 0.0).item()
        for given, known in ((outputs, labels), (more, unlabelled))
    ]
    assert losses[0] == pytest.approx(losses[1])
    alone = torch.from_numpy(outputs).requires_grad_()
    loss = task.label_loss(alone, torch.from_numpy(nothing), 0.0)
    loss.backward()  # type: ignore[no-untyped-call]  # torch
    assert loss.item() == 0 and alone.grad is not None and not alone.grad.any()


def test_labels_that_are_no_classes_are_refused() -> None:
    task = find(tasks, "classification")
    with pytest.raises(ConfigError, match="labels run from 0 to 3, classes from 0 to 2"):
        task.check(np.array([0, 3]), ("a", "b", "c"))
    with pytest.raises(ConfigError, match="every example is of class 'b'"):
        task.check(np.array([1, 1]), ("a", "b", "c"))
