"""Adapt a teacher to the data once; what it is and what it says is shared by all targets, students and runs."""

from pathlib import Path
from typing import Final

import msgspec
import torch

from edgekd import heads, store
from edgekd.errors import ConfigError
from edgekd.files import content, decode_json, digest, dumps, link, read_text, write_text
from edgekd.fronts import seen
from edgekd.nets import Net, examine, save, weights_digest
from edgekd.oracles import build_teacher, identity
from edgekd.runs import Work
from edgekd.specs import Choice, Data, Spec, Subject, Teacher, TeacherChoice, Views
from edgekd.training import Shown, fit, labelled, labels_of, targets, train_labels
from edgekd.workers import call
from edgekd.writing import written_by

VERSION = 3

TIMEOUT_S: Final = 86_400.0

_OTHER_VIEWS = 500_000
"""Added to the seed of the views that the teacher learns from, so that those it labels are new to it."""
_WEIGHTS: Final = "teacher.safetensors"
_NOUN: Final = "teacher.json"


class Curriculum(Spec, frozen=True, kw_only=True):
    """Everything that the teacher's weights depend on, besides the data."""

    teacher: TeacherChoice
    views: Views
    seed: int
    source: str
    """Fingerprint of a user's own code."""
    threads: int
    """Sums in another number of threads may differ in the last bit."""


def taught_by(teacher: TeacherChoice, subject: Subject) -> tuple[int, ...]:
    """Which of the subject's outputs a teacher teaches.

    Raises:
        ConfigError: it names one that is not there.
    """
    names = [output.name for output in subject.outputs]
    odd = [name for name in teacher.heads if name not in names]
    if odd:
        raise ConfigError(f"teacher {teacher.name} teaches {odd[0]!r}", hint=f"heads: {', '.join(names)}")
    return tuple(index for index, name in enumerate(names) if not teacher.heads or name in teacher.heads)


def learns(teacher: TeacherChoice, net: Net) -> None:
    """Raise ConfigError where a teacher is to be trained whose net has nothing that could learn."""
    if teacher.training.epochs and not any(parameter.requires_grad for parameter in net.module.parameters()):
        raise ConfigError(f"teacher {teacher.name} is frozen", hint="give its training epochs = 0")


def teach(work: Work, curriculum: Curriculum, data: Data) -> Teacher:
    """Train the teacher, or take it as it is where its training has no epochs; one that was trained before is used."""
    log, threads = work.out / "worker.log", curriculum.threads
    return call(_teach, work, curriculum, data, threads=threads, log=log, timeout_s=TIMEOUT_S, trains=True)


def _teach(work: Work, curriculum: Curriculum, data: Data) -> Teacher:
    torch.manual_seed(curriculum.seed)
    taught = taught_by(curriculum.teacher, data.subject)
    net = build_teacher(curriculum.teacher, heads.restricted(data.subject, taught))
    weights = work.out / _WEIGHTS
    with store.entry(_key(curriculum, data, net), "teacher", f"{curriculum.teacher.name} of {data.name}") as shelf:
        teacher = _known(shelf)
        if teacher is None:
            _train(work, curriculum, data, net, taught)
            save(net.module, weights)
            teacher = _described(work, curriculum, data, net, taught)
            weights.chmod(0o444)  # runs will hold links to it
            link(weights, shelf / _WEIGHTS)
            write_text(shelf / _NOUN, dumps(teacher))
        else:
            link(shelf / _WEIGHTS, weights)
    (work.out / "checkpoint.safetensors").unlink(missing_ok=True)
    store.make_room()
    return msgspec.structs.replace(teacher, weights=work.keep(weights))


def _key(curriculum: Curriculum, data: Data, net: Net) -> str:
    """Everything that the trained teacher depends on; what a net starts from may come out of a user's own file."""
    files = [*data.inputs("train"), *data.train_labels, *data.inputs("test"), *data.test_labels]
    start = [weights_digest(net.module), identity(curriculum.teacher, net)]
    choice = msgspec.structs.replace(curriculum.teacher, views=None)
    how = msgspec.structs.replace(curriculum, teacher=choice, views=_views(curriculum))
    return digest(["teacher", VERSION, how, start, data.subject, [file.sha256 for file in files]])


def _known(shelf: Path) -> Teacher | None:
    """What the store has, where it is as it was put there."""
    weights, noun = shelf / _WEIGHTS, shelf / _NOUN
    if not weights.exists() or not noun.exists():
        return None
    try:
        teacher = decode_json(Teacher, read_text(noun), str(noun))
    except ConfigError:
        return None
    whole = content(weights) == (teacher.weights.size_bytes, teacher.weights.sha256)
    return teacher if whole else None


def _train(work: Work, curriculum: Curriculum, data: Data, net: Net, taught: tuple[int, ...]) -> None:
    choice = curriculum.teacher
    if not choice.training.epochs:
        return
    views = _views(curriculum)
    subject = heads.restricted(data.subject, taught)
    labels = [train_labels(work, data)[index] for index in taught]

    def objective(answers: tuple[torch.Tensor, ...], shown: Shown) -> torch.Tensor:
        wanted = [one.to(shown.device) for one in targets(labels, shown.indices)]
        return heads.label_loss(subject, answers, wanted, choice.training.label_smoothing)

    with seen(work, data, "train", net, views, curriculum.seed + _OTHER_VIEWS) as (module, viewer):
        fit(
            module,
            viewer,
            objective,
            choice.training,
            views=views.count,
            seed=curriculum.seed,
            checkpoint=work.out / "checkpoint.safetensors",
            what="teaching the teacher",
            examples=labelled(labels),
        )


def _views(curriculum: Curriculum) -> Views:
    """Those that the teacher learns from."""
    epochs = max(1, curriculum.teacher.training.epochs)
    return curriculum.teacher.views or msgspec.structs.replace(curriculum.views, count=epochs)


def _described(work: Work, curriculum: Curriculum, data: Data, net: Net, taught: tuple[int, ...]) -> Teacher:
    weights = work.out / _WEIGHTS
    subject = heads.restricted(data.subject, taught)
    with seen(work, data, "test", net) as (module, viewer):
        answers = written_by(module, viewer, subject, what="examining the teacher")
    labels = labels_of(work, data, "test")
    anatomy_of = examine(net, data.subject)
    return Teacher(
        weights=work.keep(weights),
        choice=Choice(name=curriculum.teacher.name, options=curriculum.teacher.options),
        preprocessing=net.preprocessing,
        parameters=anatomy_of.parameters,
        file_bytes=weights.stat().st_size,
        macs=anatomy_of.macs,
        metrics=heads.judged(subject, answers, [labels[index] for index in taught]),
    )
