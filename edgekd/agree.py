"""Find out before any long work whether recipe, targets, teacher, student and data fit together."""

from collections.abc import Sequence
from math import prod
from typing import Any

import msgspec
import numpy as np
import torch

from edgekd import compilers, converters, cost, datasets, engines, losses, students, tasks, teachers
from edgekd.errors import ConfigError, Disagreement
from edgekd.heads import restricted, tasks_of
from edgekd.layers import copy_layers
from edgekd.lessons import build, weights_in
from edgekd.losses import Batch
from edgekd.nets import Net, examine
from edgekd.objectives import Comparison, teachable, terms_of, watched
from edgekd.objectives import heads_of as looked_at
from edgekd.oracles import build_teacher
from edgekd.plan import candidates
from edgekd.plugins import known
from edgekd.rows import Rows
from edgekd.runs import Work
from edgekd.specs import Choice, Data, Head, LossChoice, Recipe, Spec, Stage, Subject, Target, TeacherChoice
from edgekd.teach import learns, taught_by
from edgekd.training import targets, train_labels
from edgekd.workers import call

VERSION = 1
FEW = 2
"""Examples whose labels losses are tried on."""
MOST_BUILT = 64
"""Candidates whose layers are looked at."""


class Agreed(Spec, frozen=True, kw_only=True):
    """That everything fits together."""

    layers: tuple[str, ...] = ()
    """Of the first teacher, that some candidate of the students looks at."""


def for_job(recipe: Recipe, target: Target) -> Target:
    """The target with the limits and the exports that the recipe has in place of its own."""
    budget = msgspec.structs.replace(target.budget, **recipe.budget)
    exports = tuple(dict.fromkeys(recipe.instead.get(export, export) for export in target.exports))
    return msgspec.structs.replace(target, budget=budget, exports=exports)


def foresee(recipe: Recipe, target: Target) -> None:
    """Raise what can be known from the names alone: plugins that do not exist, packages that are missing.

    Raises:
        UnknownPlugin, PluginUnavailable, ConfigError: as the message says.
    """
    known(datasets, recipe.dataset.name)
    for head in heads_of(recipe).values():
        known(tasks, head.task)
    for teacher in teachers_of(recipe).values():
        known(teachers, teacher.name)
    known(students, recipe.student.name)
    for loss in losses_of(recipe):
        known(losses, loss.name)
    cost.model_of(target)
    for engine in target.engines:
        known(engines, engine)
    if target.npu:
        compilers.check(target.npu)
    for export in target.exports:
        known(converters, converters.split(export)[0])
        converters.check(export)


def heads_of(recipe: Recipe) -> dict[str, Head]:
    """A recipe's outputs with their tasks; the only one of a net is called "logits".

    Raises:
        ConfigError: the recipe names a task and heads, or neither.
    """
    if bool(recipe.task) == bool(recipe.heads):
        both = "a task and heads" if recipe.task else "neither a task nor heads"
        raise ConfigError(f"recipe {recipe.name} names {both}", hint='task = "classification", or [heads.NAME] tables')
    return recipe.heads or {"logits": Head(task=recipe.task)}


def teachers_of(recipe: Recipe) -> dict[str, TeacherChoice]:
    """All of a recipe's, by the folders that they have in a run; the first one's layers can be looked at."""
    return {"teacher": recipe.teacher, **{f"teachers/{name}": one for name, one in recipe.teachers.items()}}


def losses_of(recipe: Recipe) -> list[LossChoice]:
    """Of every stage, and of the main training."""
    return [*(loss for stage in recipe.stages for loss in stage.losses), *recipe.losses]


def agree(work: Work, recipe: Recipe, data: Data, sources: dict[str, str]) -> Agreed:
    """Build teachers and student once and hold what they declare against the data and the losses.

    Raises:
        Disagreement: they differ in classes, channels, outputs or preprocessing; the message says who says what.
        ConfigError: options that are not of the plugin, or layers that are not there.
    """
    return call(_agree, work, recipe, data, threads=1, log=work.out / "worker.log")


def _agree(work: Work, recipe: Recipe, data: Data) -> Agreed:
    subject = data.subject
    _stay(recipe, subject)
    main = terms_of(recipe.losses, subject)
    teachable(main)
    _check_teachers(recipe)
    choices = losses_of(recipe)
    terms_of(choices, subject)
    first = None
    for name, teacher in teachers_of(recipe).items():
        taught = restricted(subject, taught_by(teacher, subject))
        net = build_teacher(teacher, taught)
        _fits(name if name == "teacher" else f"teacher {teacher.name}", net, taught)
        learns(teacher, net)
        first = first or net
    assert first is not None
    _all_heard(choices, recipe, subject)
    _take_outputs(choices, recipe, data, train_labels(work, data))
    nets = _spread(candidates(recipe.student, subject))
    student = build(Choice(name=recipe.student.name, options=nets[0]), subject)
    _fits("student", student, subject)
    _check_writing(recipe, student, subject)
    if recipe.student.initialise.weights:
        weights_in(recipe.student.initialise.weights)
    looked = [loss for loss in choices if loss.layers]
    start = recipe.student.initialise.layers
    if not looked and not start:
        return Agreed()
    seen: set[str] = set()
    for options in nets:
        student = build(Choice(name=recipe.student.name, options=options), subject)
        seen |= set(watched(looked, first.module, student.module))
        if start:
            copy_layers(first.module, student.module, start)
    for term in terms_of(looked, subject):  # shapes that do not go together are found before the training
        Comparison(term, subject, first, student)
    return Agreed(layers=tuple(sorted(seen)))


def _spread(options: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some of many candidates, the first and the last among them."""
    return options[:: max(1, len(options) // MOST_BUILT)] + options[-1:]


def _stay(recipe: Recipe, subject: Subject) -> None:
    """Raise ConfigError where views would move images and leave behind the labels of their places."""
    views = [recipe.views, *(one.views for one in teachers_of(recipe).values() if one.views)]
    placed = [output.name for output in subject.outputs if len(output.shape) == 3]
    if subject.images and placed and any(one.moves for one in views):
        raise ConfigError(
            f"views move what is in an image, and the labels of {placed[0]!r} would stay where they are",
            hint="of views leave brightness alone",
        )


def _all_heard(choices: Sequence[LossChoice], recipe: Recipe, subject: Subject) -> None:
    """Refuse a loss that wants to hear of outputs of which no teacher says anything."""
    heard = {output for teacher in teachers_of(recipe).values() for output in taught_by(teacher, subject)}
    for term in terms_of(choices, subject):
        if term.needs_teacher and not term.on_layers and not heard.intersection(looked_at(term, subject)):
            raise ConfigError(
                f"loss {term.choice.name} is for the head {term.choice.head!r}, which no teacher teaches",
                hint="add it to `heads` of a teacher, or name another head",
            )


def _take_outputs(choices: Sequence[LossChoice], recipe: Recipe, data: Data, labels: Sequence[Rows]) -> None:
    """Refuse a loss that cannot be taken of the outputs that it would look at, by having it look at zeros."""
    subject, kinds = data.subject, tasks_of(data.subject)
    heard = {output for teacher in teachers_of(recipe).values() for output in taught_by(teacher, subject)}
    given = targets(labels, np.arange(min(FEW, len(labels[0]))))
    for term in terms_of(choices, subject):
        if term.on_layers or not term.needs_teacher:
            continue
        for head in heard.intersection(looked_at(term, subject)):
            answers = torch.zeros(len(given[head]), *subject.outputs[head].shape)
            try:
                term.plugin(Batch(answers, answers, given[head], kinds[head], 0.0), term.options)
            except ConfigError as error:
                raise ConfigError(f"loss {term.choice.name}: {error}", hint=error.hint) from error


def _check_teachers(recipe: Recipe) -> None:
    for teacher in teachers_of(recipe).values():
        if teacher.training.own_generations:
            raise ConfigError(
                f"teacher {teacher.name} has own_generations, and nobody who tells it what they are worth",
                hint="that is for [student.training]",
            )


def _check_writing(recipe: Recipe, student: Net, subject: Subject) -> None:
    """Raise ConfigError where a student is to learn from what it writes, and cannot."""
    main = Stage(training=recipe.student.training, losses=recipe.losses)
    for stage in (*recipe.stages, main):
        if not stage.training.own_generations:
            continue
        if student.step is None:
            raise ConfigError(
                f"own_generations = {stage.training.own_generations}: the student {recipe.student.name} does not write",
                hint='a student that writes token after token is name = "decoder"; or leave own_generations out',
            )
        if student.context is not None:
            raise ConfigError(
                f"own_generations: what {recipe.student.name} writes is about something that is not kept for it",
                hint="leave own_generations out; pseudo_labels are what the teacher writes",
            )
        if not any(term.needs_teacher for term in terms_of(stage.losses, subject)):
            raise ConfigError(
                "own_generations: no loss of that training hears the teacher, and nobody else can judge them",
                hint='add the loss "divergence"',
            )


def _fits(who: str, net: Net, subject: Subject) -> None:
    _same_classes(who, net, subject)
    if subject.images and net.preprocessing is None:
        raise Disagreement(
            f"the data are images with pixels in 0..255, and the {who} does not say how it wants them",
            hint=f"give the {who}'s module an attribute `preprocessing = edgekd.Preprocessing(size=, mean=, std=)`",
        )
    if net.preprocessing is not None:
        if not subject.images:
            raise Disagreement(
                f"the {who} wants to preprocess images, and the data are {subject.shape} arrays of {subject.kind}",
                hint="give images as uint8 of shape (examples, channels, height, width), or take `preprocessing` away",
            )
        wanted = {len(net.preprocessing.mean), len(net.preprocessing.std)}
        if wanted != {subject.shape[0]}:
            raise Disagreement(
                f"the {who} preprocesses {max(wanted)} channels, the data have {subject.shape[0]}",
                hint="give a mean and a std for each channel of the data",
            )
    _same_outputs(who, net, subject)


def _same_outputs(who: str, net: Net, subject: Subject) -> None:
    described = examine(net, subject)
    if not described.layers:
        raise Disagreement("the net has no layers that work on its input")
    wanted = tuple(output.shape for output in subject.outputs)
    if described.outputs == wanted:
        return
    if len(wanted) == 1 and subject.outputs[0].shape == (len(subject.classes),) and len(described.outputs) == 1:
        answers = prod(described.outputs[0])
        raise Disagreement(
            f"the {who} answers {answers} values, the data have {len(subject.classes)} classes",
            hint=f"give the {who} one output a class",
        )
    names = ", ".join(f"{output.name} {output.shape}" for output in subject.outputs)
    raise Disagreement(
        f"the {who} answers {', '.join(map(str, described.outputs))}, the data want {names}",
        hint=f"have the {who} return a tuple of one tensor for each head, in this order",
    )


def _same_classes(who: str, net: Net, subject: Subject) -> None:
    if not net.classes or net.classes == subject.classes:
        return
    if sorted(net.classes) == sorted(subject.classes):
        pairs = zip(net.classes, subject.classes, strict=True)
        at = next(i for i, (ours, theirs) in enumerate(pairs) if ours != theirs)
        raise Disagreement(
            f"the {who} has the data's classes in another order: class {at} is {net.classes[at]!r}, "
            f"in the data {subject.classes[at]!r}",
            hint="bring one of the two into the other's order",
        )
    odd = sorted(set(net.classes) ^ set(subject.classes))[:5]
    raise Disagreement(
        f"the {who} has {len(net.classes)} classes, the data {len(subject.classes)}; not in both: {', '.join(odd)}",
        hint=f"choose a {who} of these classes",
    )
