"""One training of one student: with the teacher's knowledge or without, whole or as a short probe."""

from typing import Annotated, Literal

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor

from edgekd import losses, students, tasks
from edgekd.errors import ConfigError
from edgekd.losses import Batch, Loss
from edgekd.nets import Net, save
from edgekd.plugins import find, options
from edgekd.runs import Work
from edgekd.specs import Choice, Data, Knowledge, LossChoice, Seed, Spec, Training, Views
from edgekd.training import Objective, fit, labels_of, predict, viewer_of

VERSION = 1


class Lesson(Spec, frozen=True, kw_only=True):
    """Everything that a student's weights depend on, besides the data and the teacher's knowledge."""

    student: Choice
    training: Training
    losses: tuple[LossChoice, ...]
    task: str
    views: Views
    seed: Seed
    with_teacher: bool = True
    held_out: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of the training split to leave out and take the metrics on; 0 takes them on the test split."""
    source: str = ""
    """Fingerprint of a user's own code."""


class Learned(Spec, frozen=True, kw_only=True):
    """What comes of a lesson."""

    weights: str
    """File name in the step's folder."""
    metrics: dict[str, float]
    score: float
    """The task's headline metric."""


def build(student: Choice, data: Data) -> Net:
    """The student's untrained net.

    Raises:
        ConfigError: the options are not of this family.
    """
    family = find(students, student.name)
    table = options(family.Options, student.options, f"options of student {student.name}")
    net: Net = family.build(table, data.classes, data.shape, data.images)
    return net


def learn(work: Work, lesson: Lesson, data: Data, knowledge: Knowledge, name: str) -> Learned:
    """Train a student and write `<name>.safetensors`; goes on from `<name>.checkpoint`."""
    torch.manual_seed(lesson.seed)
    net = build(lesson.student, data)
    task = find(tasks, lesson.task)
    taught, held = _divide(len(labels_of(work, data, "train")), lesson)
    fit(
        net.module,
        viewer_of(work, data, "train", net.preprocessing, lesson.views, lesson.seed),
        objective_of(work, lesson, data, knowledge),
        lesson.training,
        views=lesson.views.count,
        seed=lesson.seed,
        checkpoint=work.out / f"{name}.checkpoint",
        what=f"training {name}",
        examples=taught,
    )
    weights = work.out / f"{name}.safetensors"
    save(net.module, weights)
    split: Literal["train", "test"] = "train" if lesson.held_out else "test"
    outputs = predict(net.module, viewer_of(work, data, split, net.preprocessing), examples=held)
    labels = labels_of(work, data, split)
    metrics = task.metrics(outputs, labels if held is None else labels[held])
    return Learned(weights=weights.name, metrics=metrics, score=metrics[task.metric])


def loss_plugins(choices: tuple[LossChoice, ...]) -> list[tuple[float, Loss, msgspec.Struct]]:
    """Weight, loss and options of each of a recipe's losses.

    Raises:
        ConfigError: unknown options, or no loss that a twin without a teacher could learn from.
    """
    found = []
    for choice in choices:
        plugin = find(losses, choice.name)
        table = options(plugin.Options, choice.options, f"options of loss {choice.name}")
        found.append((choice.weight, plugin, table))
    if not any(not plugin.needs_teacher and weight > 0 for weight, plugin, _ in found):
        raise ConfigError(
            "every loss needs the teacher, so nothing can show what distillation brings", hint="add the loss `labels`"
        )
    return found


def objective_of(work: Work, lesson: Lesson, data: Data, knowledge: Knowledge) -> Objective:
    """The lesson's losses, added up by weight."""
    task = find(tasks, lesson.task)
    labels = torch.from_numpy(labels_of(work, data, "train"))
    said = [np.load(work.path(file), mmap_mode="r", allow_pickle=False) for file in knowledge.views]
    parts = [part for part in loss_plugins(lesson.losses) if lesson.with_teacher or not part[1].needs_teacher]
    total_weight = sum(weight for weight, _, _ in parts)

    def objective(outputs: Tensor, indices: NDArray[np.int64], epoch: int) -> Tensor:
        teacher = None
        if lesson.with_teacher:
            teacher = torch.from_numpy(said[epoch % len(said)][indices].astype(np.float32))
        batch = Batch(outputs, teacher, labels[indices], task, lesson.training.label_smoothing)
        terms = [weight / total_weight * plugin(batch, table) for weight, plugin, table in parts]
        return torch.stack(terms).sum()

    return objective


def _divide(examples: int, lesson: Lesson) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """Indices to learn from and to be examined on; None for all."""
    if not lesson.held_out:
        return None, None
    order = np.random.default_rng([lesson.seed, 4242]).permutation(examples)
    held = max(1, round(examples * lesson.held_out))
    return np.sort(order[held:]), np.sort(order[:held])
