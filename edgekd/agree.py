"""Find out before any long work whether recipe, targets, teacher, student and data fit together."""

from typing import Any

from edgekd import converters, cost, datasets, engines, losses, students, tasks, teach, teachers
from edgekd.errors import Disagreement
from edgekd.lessons import build, loss_plugins
from edgekd.nets import Net, anatomy, input_shape
from edgekd.plan import candidates
from edgekd.plugins import known
from edgekd.runs import Work
from edgekd.specs import Choice, Data, LossChoice, Recipe, Spec, StudentChoice, Target, TeacherChoice
from edgekd.workers import call

VERSION = 1


class Agreed(Spec, frozen=True, kw_only=True):
    """That everything fits together."""

    classes: int


def foresee(recipe: Recipe, target: Target) -> None:
    """Raise what can be known from the names alone: plugins that do not exist, packages that are missing.

    Raises:
        UnknownPlugin, PluginUnavailable, ConfigError: as the message says.
    """
    known(datasets, recipe.dataset.name)
    known(tasks, recipe.task)
    known(teachers, recipe.teacher.name)
    known(students, recipe.student.name)
    for loss in recipe.losses:
        known(losses, loss.name)
    known(cost, target.cost_profile)
    for engine in target.engines:
        known(engines, engine)
    for export in target.exports:
        known(converters, converters.split(export)[0])
        converters.check(export)
    candidates(recipe.student)


def agree(
    work: Work,
    teacher: TeacherChoice,
    student: StudentChoice,
    losses: tuple[LossChoice, ...],
    data: Data,
    sources: dict[str, str],
) -> Agreed:
    """Build teacher and student once and hold what they declare against the data.

    Raises:
        Disagreement: they differ in classes, channels or preprocessing; the message says who says what.
        ConfigError: options that are not of the plugin.
    """
    return call(_agree, work, teacher, student, losses, data, threads=1, log=work.out / "worker.log")


def _agree(
    work: Work, teacher: TeacherChoice, student: StudentChoice, losses: tuple[LossChoice, ...], data: Data
) -> Agreed:
    loss_plugins(losses)
    _fits("teacher", teach.build(teacher, data), data)
    _fits("student", build(Choice(name=student.name, options=candidates(student)[0]), data), data)
    return Agreed(classes=len(data.classes))


def _fits(who: str, net: Net, data: Data) -> None:
    _same_classes(who, net, data)
    if data.images and net.preprocessing is None:
        raise Disagreement(
            f"the data are images with pixels in 0..255, and the {who} does not say how it wants them",
            hint=f"give the {who}'s module an attribute `preprocessing = edgekd.Preprocessing(size=, mean=, std=)`",
        )
    if net.preprocessing is not None:
        if not data.images:
            raise Disagreement(
                f"the {who} wants to preprocess images, and the data are {data.shape} arrays of float32",
                hint="give images as uint8 of shape (examples, channels, height, width), or take `preprocessing` away",
            )
        wanted = {len(net.preprocessing.mean), len(net.preprocessing.std)}
        if wanted != {data.shape[0]}:
            raise Disagreement(
                f"the {who} preprocesses {max(wanted)} channels, the data have {data.shape[0]}",
                hint="give a mean and a std for each channel of the data",
            )
    answers = outputs(net, data)
    if answers != len(data.classes):
        raise Disagreement(
            f"the {who} answers {answers} values, the data have {len(data.classes)} classes",
            hint=f"give the {who} one output a class",
        )


def _same_classes(who: str, net: Net, data: Data) -> None:
    if not net.classes or net.classes == data.classes:
        return
    if sorted(net.classes) == sorted(data.classes):
        at = next(i for i, (ours, theirs) in enumerate(zip(net.classes, data.classes, strict=True)) if ours != theirs)
        raise Disagreement(
            f"the {who} has the data's classes in another order: class {at} is {net.classes[at]!r}, "
            f"in the data {data.classes[at]!r}",
            hint="bring one of the two into the other's order",
        )
    odd = sorted(set(net.classes) ^ set(data.classes))[:5]
    raise Disagreement(
        f"the {who} has {len(net.classes)} classes, the data {len(data.classes)}; not in both: {', '.join(odd)}",
        hint=f"choose a {who} of these classes",
    )


def outputs(net: Net, data: Data) -> int:
    """Number of values that a net answers for one example.

    Raises:
        Disagreement: it does not take the data's shape.
    """
    layers: Any = anatomy(net.module, input_shape(net, data.shape)).layers
    if not layers:
        raise Disagreement("the net has no layers that work on its input")
    return int(layers[-1].outputs)
