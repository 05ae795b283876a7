"""A run folder with a student of hard_toys.py in it, as the steps up to distillation would have left it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd.data import load as load_data
from edgekd.lessons import Lesson, build
from edgekd.nets import Net, anatomy, load, save
from edgekd.runs import Run, Work
from edgekd.specs import Choice, Data, Knowledge, LossChoice, Said, Student, Teacher, TensorSpec, Told, Training, Views
from edgekd.training import Shown, fit, labels_of, predict, viewer_of
from edgekd.views import Viewer
from tests.subjects import HEADS

HERE = Path(__file__).parent
VIEWS = Views(count=2, shift=0.1)
TRAINING = Training(epochs=10, batch=16, learning_rate=0.1)


@dataclass(frozen=True)
class Ground:
    """What remedies start from; the student is its own teacher."""

    run: Run
    data: Data
    student: Student
    lesson: Lesson
    knowledge: Knowledge

    def work(self, name: str) -> Work:
        """Of a step that is tried outside of `run.step`."""
        return work_of(self.run, name)

    def module(self, student: Student) -> nn.Module:
        """A student's net."""
        net = build(student.choice, self.data.subject)
        load(net.module, self.run.folder / student.weights.path)
        return net.module.eval()

    def viewer(self, split: Literal["train", "test"]) -> Viewer:
        """Examples as they are."""
        return viewer_of(self.work("looks"), self.data, split, self.student.preprocessing)

    def labels(self, split: Literal["train", "test"]) -> NDArray[np.int64]:
        """As the data have them."""
        return labels_of(self.work("looks"), self.data, split)[0]


def work_of(run: Run, name: str) -> Work:
    folder = run.folder / name
    folder.mkdir(exist_ok=True)
    return Work(str(run.folder), name, str(folder))


def ground(folder: Path, net: str, options: dict[str, Any], count: int = 600, data: str = "toys.py:pictures") -> Ground:
    """Train a net for some seconds; `options` are its function's."""
    run = Run(folder)
    choice = Choice(name=f"{HERE / 'hard_toys.py'}:{net}", options=options)
    read = run.step("data", load_data, Choice(name=f"{HERE / data}", options={"count": count}), HEADS, "")
    work = work_of(run, "made")
    torch.manual_seed(0)
    net = build(choice, read.subject)
    module = net.module
    shown = viewer_of(work, read, "train", net.preprocessing, VIEWS, 0)
    labels = torch.from_numpy(labels_of(work, read, "train")[0])

    def objective(answers: tuple[Tensor, ...], shown: Shown) -> Tensor:
        return F.cross_entropy(answers[0], labels[shown.indices])

    fit(module, shown, objective, TRAINING, views=2, seed=0, checkpoint=folder / "checkpoint", what="training")
    said = tuple(_said(work, f"view-{view}", predict(module, shown, view)[0]) for view in (0, 1))
    return Ground(
        run=run,
        data=read,
        student=described(run, read, choice, net),
        lesson=Lesson(
            student=choice,
            training=TRAINING,
            losses=(LossChoice(name="soft_targets"), LossChoice(name="labels")),
            views=VIEWS,
            seed=0,
            views_seed=0,
        ),
        knowledge=Knowledge(told=(Told(teacher=_teacher(work, read, choice, module), outputs=(0,), views=said),)),
    )


def described(run: Run, data: Data, choice: Choice, net: Net, name: str = "student") -> Student:
    """A student of a net's weights."""
    work, module = work_of(run, "made"), net.module
    save(module, work.out / f"{name}.safetensors")
    file = work.keep(work.out / f"{name}.safetensors")
    (outputs,) = predict(module, viewer_of(work, data, "test", net.preprocessing))
    metrics = {"accuracy": float(np.mean(outputs.argmax(1) == labels_of(work, data, "test")[0]))}
    examined = anatomy(module, (1, 16, 16))
    return Student(
        weights=file,
        twin_weights=file,
        choice=choice,
        preprocessing=net.preprocessing,
        inputs=(TensorSpec(name="image", shape=(1, 1, 16, 16), layout="NCHW"),),
        outputs=(TensorSpec(name="logits", shape=(1, 3)),),
        subject=data.subject,
        parameters=examined.parameters,
        macs=examined.macs,
        metrics=metrics,
        twin_metrics=metrics,
    )


def _said(work: Work, name: str, outputs: NDArray[np.float32]) -> Said:
    path = work.out / f"{name}.npy"
    np.save(path, outputs.astype(np.float16), allow_pickle=False)
    return Said(outputs=(work.keep(path),))


def _teacher(work: Work, data: Data, choice: Choice, module: nn.Module) -> Teacher:
    save(module, work.out / "teacher.safetensors")
    return Teacher(
        weights=work.keep(work.out / "teacher.safetensors"),
        choice=choice,
        preprocessing=None,
        parameters=1,
        file_bytes=1,
        macs=1,
        metrics={},
    )
