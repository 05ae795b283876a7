"""Adapt a teacher to the data once, and write down once what it says about every view; all targets share both."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from edgekd import heads
from edgekd.errors import ConfigError
from edgekd.layers import Tap, shapes_of
from edgekd.nets import anatomy, input_shape, save
from edgekd.objectives import example_of
from edgekd.oracles import build_teacher, trained
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.specs import Choice, Data, Said, Spec, Subject, Teacher, TeacherChoice, Told, Views
from edgekd.training import Shown, fit, labels_of, predict, predicting, viewer_of
from edgekd.workers import call

VERSION = 2

TIMEOUT_S: Final = 86_400.0

LAYERS_BYTES: Final = 4 * 10**9
"""Room that a teacher's layers may take; above it they are asked for again in every epoch."""
LARGEST: Final = 65504.0
"""Of float16."""
_OTHER_VIEWS = 500_000
"""Added to the seed of the views that the teacher learns from, so that those it labels are new to it."""


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


def teach(work: Work, curriculum: Curriculum, data: Data) -> Teacher:
    """Train the teacher, or take it as it is where its training has no epochs."""
    return call(
        _teach, work, curriculum, data, threads=curriculum.threads, log=work.out / "worker.log", timeout_s=TIMEOUT_S
    )


def _teach(work: Work, curriculum: Curriculum, data: Data) -> Teacher:
    choice = curriculum.teacher
    torch.manual_seed(curriculum.seed)
    taught = taught_by(choice, data.subject)
    subject = heads.restricted(data.subject, taught)
    net = build_teacher(choice, subject)
    views = choice.views or msgspec.structs.replace(curriculum.views, count=max(1, choice.training.epochs))
    if choice.training.epochs:
        if not any(parameter.requires_grad for parameter in net.module.parameters()):
            raise ConfigError(f"teacher {choice.name} is frozen", hint="give its training epochs = 0")
        labels = [torch.from_numpy(labels_of(work, data, "train")[index]) for index in taught]

        def objective(answers: tuple[torch.Tensor, ...], shown: Shown) -> torch.Tensor:
            wanted = [_wide(one[shown.indices]) for one in labels]
            return heads.label_loss(subject, answers, wanted, choice.training.label_smoothing)

        fit(
            net.module,
            viewer_of(work, data, "train", net.preprocessing, views, curriculum.seed + _OTHER_VIEWS),
            objective,
            choice.training,
            views=views.count,
            seed=curriculum.seed,
            checkpoint=work.out / "checkpoint.safetensors",
            what="teaching the teacher",
        )
    weights = work.out / "teacher.safetensors"
    save(net.module, weights)
    answers = predict(net.module, viewer_of(work, data, "test", net.preprocessing))
    labels_test = labels_of(work, data, "test")
    described = anatomy(net.module, input_shape(net, data.subject.shape), data.subject.kind == "tokens")
    (work.out / "checkpoint.safetensors").unlink(missing_ok=True)
    return Teacher(
        weights=work.keep(weights),
        choice=Choice(name=choice.name, options=choice.options),
        preprocessing=net.preprocessing,
        parameters=described.parameters,
        file_bytes=weights.stat().st_size,
        macs=described.macs,
        metrics=heads.judged(subject, answers, [labels_test[index] for index in taught]),
    )


def _wide(labels: torch.Tensor) -> torch.Tensor:
    return labels if labels.is_floating_point() else labels.long()


def know(
    work: Work,
    teacher: Teacher,
    data: Data,
    outputs: tuple[int, ...],
    layers: tuple[str, ...],
    views: Views,
    seed: int,
    threads: int,
) -> Told:
    """What the teacher and some layers of it say about each seeded view of the training split.

    Raises:
        ConfigError: it answers NaN.
    """
    log = work.out / "worker.log"
    return call(_know, work, teacher, data, outputs, layers, views, seed, threads=threads, log=log, timeout_s=TIMEOUT_S)


def _know(
    work: Work,
    teacher: Teacher,
    data: Data,
    outputs: tuple[int, ...],
    layers: tuple[str, ...],
    views: Views,
    seed: int,
) -> Told:
    subject = heads.restricted(data.subject, outputs)
    net = trained(work, teacher, subject)
    viewer = viewer_of(work, data, "train", net.preprocessing, views, seed)
    shapes = shapes_of(net.module, layers, example_of(net, subject))
    room = 2 * len(viewer) * views.count * sum(int(np.prod(shape)) for shape in shapes.values())
    kept = layers if room <= LAYERS_BYTES else ()
    said = []
    tap = Tap(net.module, kept)
    for view in range(views.count):
        tell("asking the teacher", view, views.count)
        folder = work.out / f"view-{view:03}"
        if not folder.exists():  # a killed try's finished views are kept
            _write_view(folder, len(viewer), predicting(net.module, viewer, view), tap, kept)
        said.append(_described(work, folder, len(subject.outputs), len(kept)))
    tell("asking the teacher", views.count, views.count)
    return Told(teacher=teacher, outputs=outputs, views=tuple(said), layers=layers, kept=kept == layers)


def _write_view(folder: Path, examples: int, batches: Any, tap: Tap, layers: Sequence[str]) -> None:
    """Outputs and layers as they come, batch after batch; the folder is there when it is whole."""
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(exist_ok=True)
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for _, answers in batches:
            found = {f"output-{index}": answer for index, answer in enumerate(answers)}
            found |= {f"layer-{index}": tap.found[path].float().numpy() for index, path in enumerate(layers)}
            for name, values in found.items():
                if name not in files:
                    files[name] = stack.enter_context((part / f"{name}.npy").open("wb"))
                    header = {"descr": "<f2", "fortran_order": False, "shape": (examples, *values.shape[1:])}
                    np.lib.format.write_array_header_1_0(files[name], header)  # type: ignore[no-untyped-call]  # numpy
                files[name].write(_half(values).tobytes())
    Path(part).replace(folder)


def _half(values: NDArray[np.float32]) -> NDArray[np.float16]:
    if np.isnan(values).any():
        raise ConfigError("the teacher answers NaN", hint="train it longer, or at a lower learning rate")
    return np.clip(values, -LARGEST, LARGEST).astype("<f2")  # masks of attention lie below it


def _described(work: Work, folder: Path, outputs: int, layers: int) -> Said:
    return Said(
        outputs=tuple(work.keep(folder / f"output-{index}.npy") for index in range(outputs)),
        layers=tuple(work.keep(folder / f"layer-{index}.npy") for index in range(layers)),
    )
