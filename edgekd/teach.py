"""Adapt the teacher to the data once, and write down once what it says about every view; all targets share both."""

import msgspec
import numpy as np

from edgekd import tasks, teachers
from edgekd.nets import Net, anatomy, input_shape, load, save
from edgekd.plugins import find, options
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import Choice, Data, Knowledge, Spec, Teacher, TeacherChoice, Views
from edgekd.tensors import write_array
from edgekd.training import fit, labels_of, predict, viewer_of
from edgekd.workers import call

VERSION = 1

_OTHER_VIEWS = 500_000
"""Added to the seed of the views that the teacher learns from, so that those it labels are new to it."""


class Curriculum(Spec, frozen=True, kw_only=True):
    """Everything that the teacher's weights depend on, besides the data."""

    teacher: TeacherChoice
    task: str
    views: Views
    seed: int
    source: str
    """Fingerprint of a user's own code."""
    threads: int
    """Sums in another number of threads may differ in the last bit."""


def build(teacher: TeacherChoice | Choice, data: Data) -> Net:
    """The teacher's net with a new head, its pretrained weights loaded."""
    source = find(teachers, teacher.name)
    table = options(source.Options, teacher.options, f"options of teacher {teacher.name}")
    net: Net = source.build(table, data.classes, data.shape, data.images)
    return net


def teach(work: Work, curriculum: Curriculum, data: Data) -> Teacher:
    """Train the teacher, or take it as it is where its training has no epochs."""
    return call(_teach, work, curriculum, data, threads=curriculum.threads, log=work.out / "worker.log")


def _teach(work: Work, curriculum: Curriculum, data: Data) -> Teacher:
    choice = curriculum.teacher
    import torch

    torch.manual_seed(curriculum.seed)
    net = build(choice, data)
    task = find(tasks, curriculum.task)
    views = choice.views or msgspec.structs.replace(curriculum.views, count=max(1, choice.training.epochs))
    labels = torch.from_numpy(labels_of(work, data, "train"))
    if choice.training.epochs:
        fit(
            net.module,
            viewer_of(work, data, "train", net.preprocessing, views, curriculum.seed + _OTHER_VIEWS),
            lambda outputs, indices, _: task.label_loss(outputs, labels[indices], choice.training.label_smoothing),
            choice.training,
            views=views.count,
            seed=curriculum.seed,
            checkpoint=work.out / "checkpoint.safetensors",
            what="teaching the teacher",
        )
    weights = work.out / "teacher.safetensors"
    save(net.module, weights)
    outputs = predict(net.module, viewer_of(work, data, "test", net.preprocessing))
    described = anatomy(net.module, input_shape(net, data.shape))
    (work.out / "checkpoint.safetensors").unlink(missing_ok=True)
    return Teacher(
        weights=work.keep(weights),
        choice=Choice(name=choice.name, options=choice.options),
        preprocessing=net.preprocessing,
        parameters=described.parameters,
        file_bytes=weights.stat().st_size,
        macs=described.macs,
        metrics=task.metrics(outputs, labels_of(work, data, "test")),
    )


def know(work: Work, teacher: Teacher, data: Data, views: Views, seed: int, threads: int) -> Knowledge:
    """The teacher's outputs on each seeded view of the training split."""
    return call(_know, work, teacher, data, views, seed, threads=threads, log=work.out / "worker.log")


def _know(work: Work, teacher: Teacher, data: Data, views: Views, seed: int) -> Knowledge:
    net = build(teacher.choice, data)
    load(net.module, work.path(teacher.weights))
    viewer = viewer_of(work, data, "train", net.preprocessing, views, seed)
    files = [work.out / f"view-{view:03}.npy" for view in range(views.count)]
    for view, path in enumerate(files):
        tell("asking the teacher", view, views.count)
        if not path.exists():  # a killed try's finished views are kept
            write_array(path, predict(net.module, viewer, view).astype(np.float16))
    tell("asking the teacher", views.count, views.count)
    return Knowledge(views=tuple(work.keep(path) for path in files))
