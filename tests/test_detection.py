"""Boxes: what is learned against the papers' formulas, cell by cell, and mean average precision against pycocotools."""

import contextlib
import io
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import edgekd
from edgekd import agree, losses, tasks
from edgekd.errors import ConfigError
from edgekd.examples import examples
from edgekd.losses import Batch
from edgekd.plugins import find
from edgekd.runs import Work
from edgekd.shipped import load_recipe
from edgekd.specs import Data, Output, Subject, Views
from edgekd.tasks import Task
from edgekd.tasks._boxes import BINS, Boxes, decode, examined, mean_precisions, overlaps, pitch

RANDOM = np.random.default_rng(2)
TASK: Task = find(tasks, "detection")
NONE = [math.nan] * 5
CLASSES = 2
HEIGHT, WIDTH = 6, 8
STEP = pitch(HEIGHT, WIDTH)


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def answer(found: list[tuple[int, float, list[float]]]) -> NDArray[np.float32]:
    """What a net answers that is this sure of boxes (class, score, corners), each told by the cell of its centre."""
    outputs = np.full((1, 4 * BINS + CLASSES, HEIGHT, WIDTH), -30.0, np.float32)
    for kind, score, (left, top, right, bottom) in found:
        x, y = int((left + right) / 2 * WIDTH), int((top + bottom) / 2 * HEIGHT)
        sides = (x + 0.5 - left * WIDTH, y + 0.5 - top * HEIGHT, right * WIDTH - x - 0.5, bottom * HEIGHT - y - 0.5)
        for side, cells in enumerate(sides):
            place = (cells + 0.5) / STEP
            lower = int(place)
            outputs[0, side * BINS + lower, y, x] = math.log(max(1 - (place - lower), 1e-12))
            outputs[0, side * BINS + lower + 1, y, x] = math.log(max(place - lower, 1e-12))
        outputs[0, 4 * BINS + kind, y, x] = logit(score)
    return outputs


def test_boxes_are_read_from_answers() -> None:
    told = [(1, 0.9, [0.1, 0.2, 0.5, 0.9]), (0, 0.7, [0.8, 0.6, 0.83, 0.66]), (0, 0.6, [0.0, 0.0, 1.0, 1.0])]
    (boxes,) = decode(answer(told))
    assert boxes.kinds.tolist() == [1, 0, 0]
    np.testing.assert_allclose(boxes.scores, [0.9, 0.7, 0.6], rtol=1e-5)
    np.testing.assert_allclose(boxes.corners, [corners for _, _, corners in told], atol=1e-5)


def test_one_thing_found_twice_is_one_box_and_of_two_classes_it_is_two() -> None:
    told = [(0, 0.6, [0.1, 0.1, 0.5, 0.5]), (0, 0.9, [0.1, 0.1, 0.52, 0.55]), (1, 0.5, [0.11, 0.1, 0.58, 0.55])]
    (boxes,) = decode(answer(told))
    assert list(zip(boxes.kinds.tolist(), boxes.scores.round(2).tolist(), strict=True)) == [(0, 0.9), (1, 0.5)]
    (unsure,) = decode(answer([(0, 0.04, [0.1, 0.1, 0.5, 0.5])]))
    assert not len(unsure.kinds)


def test_overlap_is_intersection_over_union() -> None:
    first, second = np.array([[0, 0, 0.5, 0.5]]), np.array([[0.25, 0, 0.75, 0.5], [0.6, 0, 1, 1], [0, 0, 0.5, 0.5]])
    np.testing.assert_allclose(overlaps(first, second), [[1 / 3, 0, 1]])


# --- mean average precision


def images(count: int) -> tuple[list[Boxes], list[NDArray[np.float32]]]:
    """Boxes that are near things, doubled, of another class, or nowhere; some things do not count."""
    found, labels = [], []
    for _ in range(count):
        things = RANDOM.integers(0, 6)
        label = np.full((7, 5), np.nan, np.float32)
        label[:things, 0] = RANDOM.choice([-1, 0, 0, 1, 1], things)
        label[:things, 3:] = RANDOM.uniform(0.1, 0.4, (things, 2))
        label[:things, 1:3] = RANDOM.uniform(0.2, 0.8, (things, 2))
        label[6, 0] = -1
        near = label[RANDOM.integers(0, max(things, 1), 2 * things)] if things else np.zeros((0, 5), np.float32)
        near = np.concatenate([near, np.stack([[0, *RANDOM.uniform(0.2, 0.8, 4)] for _ in range(2)])])
        near[:, 1:] *= RANDOM.normal(1, 0.04, (len(near), 4))
        kinds = np.where((near[:, 0] < 0) | (RANDOM.random(len(near)) < 0.1), RANDOM.integers(0, 2), near[:, 0])
        scores = np.sort(RANDOM.uniform(0.05, 1, len(near)))[::-1]
        low, high = near[:, 1:3] - near[:, 3:] / 2, near[:, 1:3] + near[:, 3:] / 2
        found.append(Boxes(kinds.astype(np.int64), scores, np.concatenate([low, high], axis=1)))
        labels.append(label)
    return found, labels


def rows(found: list[Boxes], labels: list[NDArray[np.float32]]) -> NDArray[Any]:
    return np.stack([examined(boxes, label, CLASSES) for boxes, label in zip(found, labels, strict=True)])


def test_average_precision_is_that_of_coco() -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pip install pycocotools, which this is held against")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    found, labels = images(60)
    truth = coco.COCO()
    annotations: list[dict[str, Any]] = []
    for image, label in enumerate(labels):
        for kind, x, y, w, h in label[np.isfinite(label[:, 1])].tolist():
            for category in (0, 1) if kind < 0 else (int(kind),):  # what does not count is a crowd of every class
                box = [x - w / 2, y - h / 2, w, h]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": box}
                    | {"area": w * h, "iscrowd": int(kind < 0)}
                )
    answers = [
        {"image_id": image, "category_id": int(kind), "score": float(score)}
        | {"bbox": [left, top, right - left, bottom - top]}
        for image, boxes in enumerate(found)
        for kind, score, (left, top, right, bottom) in zip(*map(np.ndarray.tolist, boxes), strict=True)
    ]
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(labels))],
        "categories": [{"id": kind} for kind in range(CLASSES)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judged = evaluation.COCOeval(truth, truth.loadRes(answers), "bbox")
        judged.params.areaRng = [[0, 1e10]]
        judged.params.areaRngLbl = ["all"]
        judged.evaluate()
        judged.accumulate()
    expected = judged.eval["precision"][..., 0, -1].mean(axis=(1, 2))
    np.testing.assert_allclose(mean_precisions(rows(found, labels)), expected, atol=1e-9)


def test_precision_is_of_any_images_again_and_again() -> None:
    found, labels = images(20)
    whole, chosen = rows(found, labels), [3, 3, 7, 0, 19, 3]
    again = rows([found[index] for index in chosen], [labels[index] for index in chosen])
    np.testing.assert_array_equal(mean_precisions(whole[chosen]), mean_precisions(again))


def test_a_box_too_many_costs_precision_and_one_where_nothing_counts_costs_none() -> None:
    right, wrong = [0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]
    labels = np.array([[[0, 0.3, 0.3, 0.4, 0.4], [-1, *NONE[1:]]]], np.float32)
    spared = np.array([[[0, 0.3, 0.3, 0.4, 0.4], [-1, 0.75, 0.75, 0.3, 0.3]]], np.float32)
    sure_of_both = answer([(0, 0.8, right), (0, 0.9, wrong)])
    assert TASK.metrics(TASK.counts(sure_of_both, labels))["map50"] == pytest.approx(0.5)
    assert TASK.metrics(TASK.counts(sure_of_both, spared))["map50"] == pytest.approx(1)
    assert TASK.metrics(TASK.counts(answer([]), labels)) == {"map50": 0, "map": 0}


# --- what is learned


def softplus(value: float) -> float:
    return max(value, 0) + math.log1p(math.exp(-abs(value)))


def test_the_loss_is_that_of_the_paper() -> None:
    """A box over four cells, a tiny one in the last cell, and a thing that does not count over two."""
    labels = np.array([[[1, 0.25, 1 / 3, 0.25, 1 / 3], [0, 0.99, 0.99, 0.01, 0.01], [-1, 0.75, 1 / 12, 0.25, 1 / 6]]])
    outputs = RANDOM.normal(0, 2, (1, 4 * BINS + CLASSES, HEIGHT, WIDTH))
    boxes = {0: (1.0, 1.0, 3.0, 3.0, 1), 1: (7.88, 5.91, 7.96, 5.97, 0)}  # in cells: corners and class
    seen = {(1, 1): 0, (1, 2): 0, (2, 1): 0, (2, 2): 0, (5, 7): 1}
    total, wanted = 0.0, np.zeros((CLASSES, HEIGHT, WIDTH))
    for (y, x), number in seen.items():
        left, top, right, bottom, kind = boxes[number]
        truth = np.array([x + 0.5 - left, y + 0.5 - top, right - x - 0.5, bottom - y - 0.5])
        logits = outputs[0, : 4 * BINS, y, x].reshape(4, BINS)
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        found = shares @ np.arange(BINS) * STEP - 0.5
        shared = math.prod(max(0, side) for side in (np.minimum(found, truth)[:2] + np.minimum(found, truth)[2:]))
        areas = [math.prod(max(0, side) for side in one[:2] + one[2:]) for one in (found, truth)]
        hull = math.prod((np.maximum(found, truth)[:2] + np.maximum(found, truth)[2:]).tolist())
        union = sum(areas) - shared
        wanted[kind, y, x] = shared / union
        total += 2 * (1 - shared / union + (hull - union) / hull)
        for side in range(4):
            place = (truth[side] + 0.5) / STEP
            near = {int(place): 1 - place % 1, int(place) + 1: place % 1}
            total += sum(p * math.log(p / shares[side, bin]) for bin, p in near.items() if p) / 4 / 4
    for kind, y, x in np.ndindex(CLASSES, HEIGHT, WIDTH):
        if (y, x) not in {(0, 5), (0, 6)}:
            value, target = outputs[0, 4 * BINS + kind, y, x], wanted[kind, y, x]
            entropy = target * softplus(-value) + (1 - target) * softplus(value)
            total += entropy * (target - 1 / (1 + math.exp(-value))) ** 2
    loss = TASK.label_loss(torch.from_numpy(outputs), torch.from_numpy(labels), 0.0)
    assert loss.item() == pytest.approx(total / len(seen), rel=1e-5)


def test_an_image_that_was_looked_at_and_is_empty_teaches_that() -> None:
    outputs = torch.zeros(1, 4 * BINS + CLASSES, HEIGHT, WIDTH, requires_grad=True)
    TASK.label_loss(outputs, torch.tensor([[[-1.0, *NONE[1:]], NONE]]), 0.0).backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    assert (outputs.grad[:, 4 * BINS :] > 0).all() and not outputs.grad[:, : 4 * BINS].any()


@pytest.mark.parametrize(
    ("image", "grid"),
    [((3, 96, 160), (24, 40)), ((1, 30, 17), (8, 5)), ((3, 320, 320), (40, 40)), ((3, 193, 100), (25, 13))],
)
def test_the_grid_is_fine_for_small_images_and_has_no_more_than_48_cells_a_side(
    image: tuple[int, ...], grid: tuple[int, int]
) -> None:
    assert TASK.output((8, 5), ("a", "b"), image) == (4 * BINS + 2, *grid)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (np.zeros((4, 5), np.float32), ("a",), r"labels are float32 of shape \(4, 5\)"),
        (np.zeros((4, 1, 5), np.int64), ("a",), "labels are int64"),
        (np.full((4, 1, 5), 0.5, np.float32), ("a",), "classes of boxes run to 0.5"),
        (np.array([[[1, 0.5, 0.5, 0.1, 0.1]]]), ("a",), "classes of boxes run to 1, the names to 0"),
        (np.array([[[0, 0.5, 0.5, 32.0, 0.1]]]), ("a",), "boxes run from 0.1 to 32"),
        (np.array([[[0, 0.5, 0.5, 0.1, 0.1], [0, *NONE[1:]]]]), ("a",), "a box of a class has no place"),
        (np.full((4, 1, 5), np.nan), ("a",), "no example has a box"),
        (np.array([[[0, 0.5, 0.5, 0.1, 0.1]]]), (), "boxes have no classes"),
    ],
)
def test_what_is_no_box_is_refused(labels: NDArray[Any], classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TASK.check(labels, classes)


def test_boxes_are_in_images() -> None:
    with pytest.raises(ConfigError, match="an example is of shape"):
        TASK.output((8, 5), ("a",), (40,))


# --- the loss on a teacher's scores


def test_scores_are_learned_as_in_the_paper() -> None:
    student, teacher = torch.from_numpy(RANDOM.normal(0, 2, (2, 2, 4 * BINS + CLASSES, 3, 4)))
    total, things = 0.0, 0.0
    for place in np.ndindex(2, CLASSES, 3, 4):
        n, kind, y, x = place
        z, p = float(student[n, 4 * BINS + kind, y, x]), 1 / (1 + math.exp(-float(teacher[n, 4 * BINS + kind, y, x])))
        total += abs(p - 1 / (1 + math.exp(-z))) * (p * softplus(-z) + (1 - p) * softplus(z))
        things += p
    loss = find(losses, "detection_scores")
    batch = Batch(student, teacher, torch.zeros(2, 1, 5), TASK, 0.0)
    assert loss(batch, loss.Options()).item() == pytest.approx(total / things)
    with pytest.raises(ConfigError, match="have no class beside 4 x 10 bins"):
        loss(batch, loss.Options(bins=10))


# --- what people are shown


def test_test_images_are_shown_with_what_is_there_and_what_was_found(tmp_path: Path) -> None:
    labels = np.full((6, 3, 5), np.nan, np.float32)
    labels[:, 0] = [1, 0.3, 0.3, 0.2, 0.2]
    labels[2:, 1] = [0, 0.7, 0.6, 0.2, 0.4]
    labels[:, 2, 0] = -1
    outputs = np.concatenate([answer([(0, 0.9, [0.6, 0.4, 0.8, 0.8]), (1, 0.2, [0.2, 0.2, 0.4, 0.4])])] * 6)
    work = Work(str(tmp_path), ".", str(tmp_path))
    files = []
    for name, array in (("inputs", np.zeros((6, 3, 24, 32), np.uint8)), ("labels", labels), ("outputs", outputs)):
        np.save(tmp_path / f"{name}.npy", array)
        files.append(work.keep(tmp_path / f"{name}.npy"))
    output = Output(name="boxes", task="detection", shape=outputs.shape[1:], classes=("a", "b"), metric="map50")
    data = Data(
        name="made",
        licence="CC0-1.0",
        subject=Subject(shape=(3, 24, 32), kind="images", outputs=(output,)),
        train_inputs=files[0],
        train_labels=(files[1],),
        test_inputs=files[0],
        test_labels=(files[1],),
    )
    shown = examples(work, data, [files[2]])
    assert len(shown) == 4, "of those with two things"
    for one in shown:
        assert [mark.name for mark in one.truth] == ["b", "a"] and [mark.name for mark in one.found] == ["a"]
        np.testing.assert_allclose(one.found[0].corners, [0.6, 0.4, 0.8, 0.8], atol=1e-5)
        with Image.open(io.BytesIO(one.png)) as image:
            assert image.size == (32, 24)
    task = msgspec.structs.replace(output, task="classification")
    assert not examples(
        work, msgspec.structs.replace(data, subject=msgspec.structs.replace(data.subject, outputs=(task,))), [files[2]]
    )


# --- the recipe


def test_views_that_would_leave_boxes_behind_are_refused() -> None:
    shape = TASK.output((8, 5), ("vehicle",), (3, 96, 160))
    output = Output(name="boxes", task="detection", shape=shape, classes=("vehicle",), metric="map50")
    subject = Subject(shape=(3, 96, 160), kind="images", outputs=(output,))
    recipe = load_recipe("detector")
    agree._stay(msgspec.structs.replace(recipe, views=Views(brightness=0.2)), subject)
    with pytest.raises(ConfigError, match="the labels of 'boxes' would stay"):
        agree._stay(msgspec.structs.replace(recipe, views=Views(flip=True)), subject)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_boxes_come_through_to_the_device(tmp_path: Path) -> None:
    pytest.importorskip("pybullet", reason="pip install 'edgekd[detector]', which draws the scenes")
    recipe = load_recipe("detector", "small")
    few = msgspec.structs.replace(recipe.dataset, options={"frames": 64, "test_frames": 32})
    result = edgekd.run(msgspec.structs.replace(recipe, dataset=few), "raspberry-pi-4", out=tmp_path / "run")
    artifacts = result.summary()["artifacts"]
    assert {one["export"] for one in artifacts} >= {"tflite-int8", "onnx-int8"}
    for artifact in artifacts:
        assert all(pair["ok"] for pair in artifact["parity"]), artifact
        assert set(artifact["metrics"]) == {"map50", "map"}
