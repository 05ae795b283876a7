"""Teachers as students hear them: their nets, and what they say about each view of the training split."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd import teachers
from edgekd.heads import restricted
from edgekd.layers import Tap
from edgekd.nets import Net, evaluating, load
from edgekd.plugins import find, options
from edgekd.runs import Work
from edgekd.specs import Choice, Data, File, Knowledge, Said, Subject, Teacher, TeacherChoice, Told, Views
from edgekd.training import Shown, viewer_of


def build_teacher(teacher: TeacherChoice | Choice, subject: Subject) -> Net:
    """The teacher's net with new heads, its pretrained weights loaded.

    Raises:
        ConfigError: the options are not of this source.
    """
    source = find(teachers, teacher.name)
    table = options(source.Options, teacher.options, f"options of teacher {teacher.name}")
    net: Net = source.build(table, subject)
    return net


def trained(work: Work, teacher: Teacher, subject: Subject) -> Net:
    """The net of a teacher that a step made, for the outputs that it teaches."""
    net = build_teacher(teacher.choice, subject)
    load(net.module, work.path(teacher.weights))
    return net


def first_teacher(work: Work, data: Data, knowledge: Knowledge) -> Net:
    """The one whose layers students look at."""
    first = knowledge.told[0]
    return trained(work, first.teacher, restricted(data.subject, first.outputs))


class Oracle:
    """Answers, for what a student is shown, what its teachers say about the same views."""

    def __init__(
        self, work: Work, data: Data, knowledge: Knowledge, views: Views, seed: int, asked: nn.Module | None = None
    ) -> None:
        """`asked` is the first teacher, where its layers were not kept and must be asked for again."""
        self._outputs = len(data.subject.outputs)
        self._told = [(one, [_Opened(work, said, one) for said in one.views]) for one in knowledge.told]
        self._asked = asked
        first = knowledge.told[0]
        if asked is not None:
            preprocessing = first.teacher.preprocessing
            self._viewer = viewer_of(work, data, "train", preprocessing, views, seed)
            self._tap = Tap(asked, first.layers)

    def outputs(self, shown: Shown) -> list[Tensor | None]:
        """For each output of the subject the mean of what its teachers say; None where none teaches it."""
        said: list[list[Tensor]] = [[] for _ in range(self._outputs)]
        for told, views in self._told:
            view = views[shown.epoch % len(views)]
            for output, array in zip(told.outputs, view.outputs, strict=True):
                said[output].append(_taken(array, shown.indices))
        return [torch.stack(one).mean(0) if one else None for one in said]

    def layers(self, shown: Shown) -> dict[str, Tensor]:
        """What the first teacher's layers answer, by their paths; of shape (batch, ...)."""
        told, views = self._told[0]
        if self._asked is not None:
            with evaluating(self._asked):
                self._asked(self._viewer.batch(shown.indices, shown.epoch % len(views)))
            return self._tap.found
        view = views[shown.epoch % len(views)]
        return {path: _taken(array, shown.indices) for path, array in zip(told.layers, view.layers, strict=True)}


class _Opened:
    """What a teacher says about a view, mapped into memory."""

    def __init__(self, work: Work, said: Said, told: Told) -> None:
        self.outputs = _open(work, said.outputs)
        self.layers = _open(work, said.layers if told.kept else ())


def _open(work: Work, files: Sequence[File]) -> list[NDArray[Any]]:
    return [np.load(work.path(file), mmap_mode="r", allow_pickle=False) for file in files]


def _taken(array: NDArray[Any], indices: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(array[indices].astype(np.float32))
