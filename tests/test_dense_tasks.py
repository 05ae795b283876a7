"""Segmentation, depth and regression against their formulas, written once more, place by place."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgekd import losses, tasks
from edgekd.errors import ConfigError
from edgekd.losses import Batch
from edgekd.plugins import find

RANDOM = np.random.default_rng(1)
SEGMENTATION, DEPTH, REGRESSION = (find(tasks, name) for name in ("segmentation", "depth", "regression"))


def found(task: Any, outputs: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    metrics: dict[str, float] = task.metrics(task.counts(outputs.astype(np.float32), labels))
    return metrics


# --- segmentation


def test_mean_intersection_over_union_is_that_of_all_pixels_together() -> None:
    labels = RANDOM.integers(-1, 3, (5, 6, 7))  # of 4 classes the last is neither labelled nor chosen
    outputs = RANDOM.normal(size=(5, 4, 6, 7))
    outputs[:, 3] = -10
    pairs = [
        (int(outputs[n, :, y, x].argmax()), int(labels[n, y, x]))
        for n in range(5)
        for y in range(6)
        for x in range(7)
        if labels[n, y, x] >= 0
    ]
    unions = [[pair for pair in pairs if kind in pair] for kind in range(3)]
    expected = np.mean([union.count((kind, kind)) / len(union) for kind, union in enumerate(unions)])
    metrics = found(SEGMENTATION, outputs, labels)
    assert metrics["miou"] == pytest.approx(expected)
    assert metrics["pixel_accuracy"] == pytest.approx(np.mean([chosen == label for chosen, label in pairs]))


def test_segmentation_learns_from_labelled_pixels_alone() -> None:
    labels = RANDOM.integers(-1, 3, (2, 3, 4))
    outputs = RANDOM.normal(size=(2, 3, 3, 4))
    wrong = [
        math.log(sum(math.exp(one) for one in outputs[n, :, y, x])) - outputs[n, labels[n, y, x], y, x]
        for n, y, x in np.argwhere(labels >= 0)
    ]
    loss = SEGMENTATION.label_loss(torch.from_numpy(outputs), torch.from_numpy(labels), 0.0)
    assert loss.item() == pytest.approx(np.mean(wrong))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (np.array([0, 1]), ("a", "b"), "labels are of shape"),
        (np.array([[0, 2]]), ("a", "b"), "labels run from 0 to 2, classes from 0 to 1"),
        (np.array([[-2, 1]]), ("a", "b"), "labels run from -2 to 1"),
        (np.array([[1, -1]]), ("a", "b"), "of one class"),
        (np.array([[0, 0]]), ("a",), "1 class is no choice"),
        (np.array([[0.0, 1.0]]), ("a", "b"), "labels are float64"),
    ],
)
def test_a_mask_that_is_none_is_refused(labels: NDArray[Any], classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SEGMENTATION.check(labels, classes)


# --- depth


def test_depth_is_measured_as_in_the_paper() -> None:
    truth = RANDOM.uniform(1, 50, (3, 4, 5))
    truth[0, :2] = np.nan
    answers = truth * RANDOM.uniform(0.6, 1.5, truth.shape)
    answers[0, :2] = 7.0  # what is said of the sky
    pairs = [(said, true) for said, true in zip(answers.ravel(), truth.ravel(), strict=True) if not math.isnan(true)]
    metrics = found(DEPTH, np.log(answers)[:, None], truth.astype(np.float32))
    assert metrics["delta1"] == pytest.approx(np.mean([max(said / true, true / said) < 1.25 for said, true in pairs]))
    assert metrics["absrel"] == pytest.approx(np.mean([abs(said - true) / true for said, true in pairs]), rel=1e-5)
    squares = [(math.log(said) - math.log(true)) ** 2 for said, true in pairs]
    assert metrics["rmse_log"] == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-5)


def test_depth_learns_logarithms_of_what_is_known() -> None:
    labels = torch.tensor([2.0, math.nan, 10.0])
    outputs = torch.tensor([[1.0], [5.0], [2.0]], requires_grad=True)
    loss = DEPTH.label_loss(outputs, labels, 0.0)
    assert loss.item() == pytest.approx((abs(1 - math.log(2)) + abs(2 - math.log(10))) / 2)
    loss.backward()
    assert outputs.grad is not None and outputs.grad.flatten().tolist() == [0.5, 0.0, -0.5]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([1.0, 0.0]), "distances run from 0 to 1 m"),
        (np.array([1.0, np.inf]), "distances run from 1 to inf m"),
        (np.array([np.nan, np.nan]), "every distance is NaN"),
        (np.array([1, 2]), "labels are int64"),
    ],
)
def test_what_is_no_distance_is_refused(labels: NDArray[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DEPTH.check(labels, ())


# --- regression


def test_r2_is_the_share_of_variance_that_is_explained() -> None:
    labels = RANDOM.normal(5, [2.0, 0.3], (40, 2))
    outputs = labels + RANDOM.normal(0, [1.0, 0.2], (40, 2))
    labels[:10, 1] = np.nan
    shares = []
    for said, true in zip(outputs.T, labels.T, strict=True):
        known = ~np.isnan(true)
        shares.append(1 - np.mean((said[known] - true[known]) ** 2) / np.var(true[known]))
    metrics = found(REGRESSION, outputs, labels)
    assert metrics["r2"] == pytest.approx(np.mean(shares), rel=1e-5)
    mae = [np.nanmean(np.abs(said - true)) for said, true in zip(outputs.T, labels.T, strict=True)]
    assert metrics["mae"] == pytest.approx(np.mean(mae), rel=1e-5)


def test_worse_than_the_mean_is_nothing() -> None:
    labels = np.arange(10.0)
    assert found(REGRESSION, labels[::-1, None], labels)["r2"] == 0
    assert found(REGRESSION, np.full((10, 1), 4.5), labels)["r2"] == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([2.0, 2.0, np.nan]), "number 0 is the same in every example"),
        (np.array([[1.0, 3.0], [2.0, 3.0]]), "number 1 is the same"),
        (np.array([2.0, np.inf]), "infinity"),
        (np.ones((2, 2, 2)), "labels are of shape"),
        (np.array([1, 2]), "labels are int64"),
    ],
)
def test_numbers_that_teach_nothing_are_refused(labels: NDArray[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        REGRESSION.check(labels, ())


@pytest.mark.parametrize("task", [DEPTH, REGRESSION])
def test_numbers_have_no_classes(task: Any) -> None:
    with pytest.raises(ConfigError, match="have no classes"):
        task.check(np.array([1.0, 2.0]), ("a", "b"))


# --- the loss on a teacher's numbers


def smooth_l1(difference: float, beta: float) -> float:
    size = abs(difference)
    return size**2 / (2 * beta) if size < beta else size - beta / 2


@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("where", ["everywhere", "labelled"])
def test_teacher_values_are_learned_everywhere_or_where_there_are_labels(where: str, beta: float) -> None:
    student, teacher = (torch.from_numpy(RANDOM.normal(size=(2, 1, 3, 4))) for _ in range(2))
    labels = torch.from_numpy(RANDOM.uniform(1, 9, (2, 3, 4)))
    labels[0, 1] = math.nan
    expected = [
        smooth_l1(float(student[n, 0, y, x] - teacher[n, 0, y, x]), beta)
        for n, y, x in np.ndindex(2, 3, 4)
        if where == "everywhere" or not math.isnan(labels[n, y, x])
    ]
    loss = find(losses, "teacher_values")
    batch = Batch(student, teacher, labels, DEPTH, 0.0)
    assert loss(batch, loss.Options(where=where, beta=beta)).item() == pytest.approx(np.mean(expected))


def test_teacher_values_of_a_batch_without_labels_are_no_loss() -> None:
    student = torch.ones(3, 1, requires_grad=True)
    loss = find(losses, "teacher_values")
    batch = Batch(student, torch.zeros(3, 1), torch.full((3,), math.nan), REGRESSION, 0.0)
    assert loss(batch, loss.Options(where="labelled")).item() == 0
    assert loss(batch, loss.Options()).item() == 0.5
