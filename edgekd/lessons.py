"""One training of one student: with its teachers' knowledge or without, whole or as a short probe."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgekd import heads, students
from edgekd.errors import ConfigError
from edgekd.fronts import seen
from edgekd.generations import OwnTexts
from edgekd.layers import copy_layers
from edgekd.nets import Net, save
from edgekd.objectives import Objective, teachable, terms_of
from edgekd.oracles import Live, Oracle, first_teacher
from edgekd.plugins import find, options
from edgekd.rows import Rows
from edgekd.runs import Work
from edgekd.specs import Choice, Data, Initialise, Knowledge, LossChoice, Seed, Spec, Stage, Subject, Training, Views
from edgekd.training import fit, labelled, labels_of, train_labels
from edgekd.writing import written_by

VERSION = 3


class Lesson(Spec, frozen=True, kw_only=True):
    """Everything that a student's weights depend on, besides the data and the teachers' knowledge."""

    student: Choice
    training: Training
    losses: tuple[LossChoice, ...]
    views: Views
    seed: Seed
    """Of the student's start and of the order of examples."""
    views_seed: Seed
    """Of the pictures that it looks at, which are those that its teachers have spoken about."""
    stages: tuple[Stage, ...] = ()
    weighting: Literal["fixed", "uncertainty"] = "fixed"
    initialise: Initialise = Initialise()
    with_teacher: bool = True
    held_out: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of the training split to leave out and take the metrics on; 0 takes them on the test split."""
    source: str = ""
    """Fingerprint of a user's own code."""

    def all_stages(self) -> tuple[Stage, ...]:
        """With the main training, which is the last."""
        return (*self.stages, Stage(training=self.training, losses=self.losses))


class Learned(Spec, frozen=True, kw_only=True):
    """What comes of a lesson."""

    weights: str
    """File name in the step's folder."""
    metrics: dict[str, float]
    score: float
    """The headline metric."""


def build(student: Choice, subject: Subject) -> Net:
    """The student's untrained net.

    Raises:
        ConfigError: the options are not of this family.
    """
    family = find(students, student.name)
    table = options(family.Options, student.options, f"options of student {student.name}")
    net: Net = family.build(table, subject)
    return net


def learn(work: Work, lesson: Lesson, data: Data, knowledge: Knowledge, name: str) -> Learned:
    """Train a student and write `<name>.safetensors`; goes on from `<name>*.checkpoint`."""
    torch.manual_seed(lesson.seed)
    net = build(lesson.student, data.subject)
    initialise(work, lesson, net, data, knowledge)
    labels, stages = train_labels(work, data), lesson.all_stages()
    taught, held = _divide(len(labels[0]), lesson)
    if data.subject.written is not None:  # what has no label has no text either that could be shown
        everything = np.arange(len(labels[0])) if taught is None else taught
        taught = np.intersect1d(everything, labelled(labels))
    if not lesson.with_teacher:
        taught, stages = _alone(np.arange(len(labels[0])) if taught is None else taught, stages, labelled(labels))
    for index, stage in enumerate(stages):
        last = index == len(lesson.stages)
        objective = objective_of(work, lesson, stage, data, knowledge, net)
        with seen(work, data, "train", net, lesson.views, lesson.views_seed) as (module, viewer):
            fit(
                module,
                viewer,
                objective,
                stage.training,
                views=lesson.views.count,
                seed=lesson.seed,
                checkpoint=work.out / (f"{name}.checkpoint" if last else f"{name}-{index}.checkpoint"),
                what=f"training {name}" if last else f"training {name}, stage {index + 1}",
                examples=taught,
                writer=writer_of(lesson, stage.training, net, data, labels),
            )
        objective.close()
    weights = work.out / f"{name}.safetensors"
    save(net.module, weights)
    split: Literal["train", "test"] = "train" if lesson.held_out else "test"
    with seen(work, data, split, net) as (module, viewer):
        answers = written_by(module, viewer, data.subject, held, f"examining {name}")
    metrics = heads.judged(data.subject, answers, labels_of(work, data, split, held))
    return Learned(weights=weights.name, metrics=metrics, score=metrics[data.subject.metric])


def _alone(
    taught: NDArray[np.int64], stages: tuple[Stage, ...], known: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[Stage, ...]]:
    """What a twin learns from, and for how long: of examples that have labels, in as many steps as the student."""
    both = np.intersect1d(taught, known)
    times = len(taught) / max(1, len(both))
    longer = [msgspec.structs.replace(one.training, epochs=round(one.training.epochs * times)) for one in stages]
    return both, tuple(
        msgspec.structs.replace(stage, training=training) for stage, training in zip(stages, longer, strict=True)
    )


def initialise(work: Work, lesson: Lesson, net: Net, data: Data, knowledge: Knowledge) -> None:
    """Give an untrained student the weights that its lesson starts from.

    Raises:
        ConfigError: layers of another shape, or a file that is not of weights.
    """
    if lesson.initialise.weights:
        copy_file(lesson.initialise.weights, net)
    if lesson.initialise.layers:
        copy_layers(first_teacher(work, data, knowledge).module, net.module, lesson.initialise.layers)


def copy_file(path: str, net: Net) -> int:
    """Copy what a safetensors file has of a net's names and shapes; how many tensors that were.

    Raises:
        ConfigError: the file is not there, is none, or has nothing that fits.
    """
    given, own = weights_in(path), net.module.state_dict()
    fitting = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    if not fitting:
        raise ConfigError(f"{path}: no tensor of it has a name and shape of the student's", hint="another file")
    net.module.load_state_dict(fitting, strict=False)
    return len(fitting)


def weights_in(path: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ConfigError: the file is not there, or is none.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        line = next(iter(str(error).splitlines()), "")
        hint = "student.initialise.weights is the path of a safetensors file, such as 2-distil/student.safetensors"
        raise ConfigError(f"{path}: not the weights of a student: {line}", hint=hint) from error


def objective_of(
    work: Work, lesson: Lesson, stage: Stage, data: Data, knowledge: Knowledge, net: Net | None
) -> Objective:
    """What a student is trained on in a stage; without its net, losses on layers are left out.

    A twin learns in every stage, from the losses of the last one where that stage has none for it.
    """
    terms = terms_of(stage.losses, data.subject)
    labels = train_labels(work, data)
    smoothing = stage.training.label_smoothing
    if not lesson.with_teacher:
        own = [term for term in terms if not term.needs_teacher] or terms_of(lesson.losses, data.subject)
        return Objective(teachable(own), data.subject, labels, None, smoothing=smoothing, weighting=lesson.weighting)
    looks = net is not None and any(loss.layers for loss in stage.losses)
    teacher = first_teacher(work, data, knowledge) if looks else None
    asked = teacher.module if teacher and not knowledge.told[0].kept else None
    writes = net is not None and stage.training.own_generations > 0
    live = Live(work, data, knowledge, autocast=stage.training.autocast) if writes else None
    return Objective(
        terms,
        data.subject,
        labels,
        Oracle(work, data, knowledge, lesson.views, lesson.views_seed, asked, live, autocast=stage.training.autocast),
        nets=(teacher, net) if teacher and net else None,
        smoothing=smoothing,
        weighting=lesson.weighting,
    )


def writer_of(lesson: Lesson, training: Training, net: Net, data: Data, labels: Sequence[Rows]) -> OwnTexts | None:
    """What has a student write in some steps; None where it never does, as a twin that has no teacher to judge it."""
    if not (lesson.with_teacher and training.own_generations):
        return None
    assert net.step is not None  # as agreed on before any work
    return OwnTexts(net.step, labels[0], training.own_generations, data.subject.end, lesson.seed)


def _divide(examples: int, lesson: Lesson) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
    """Indices to learn from and to be examined on; None for all."""
    if not lesson.held_out:
        return None, None
    order = np.random.default_rng([lesson.seed, 4242]).permutation(examples)
    held = max(1, round(examples * lesson.held_out))
    return np.sort(order[held:]), np.sort(order[:held])
