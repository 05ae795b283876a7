"""Teachers as students hear them: their nets, and what they say about each view of the training split."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgekd import teachers
from edgekd.files import content, digest
from edgekd.heads import restricted
from edgekd.layers import Tap
from edgekd.nets import Net, answers_of, code_digest, evaluating, load
from edgekd.plugins import find, options
from edgekd.rows import Rows
from edgekd.runs import Work
from edgekd.specs import Choice, Data, Knowledge, Subject, Teacher, TeacherChoice, Told, Views
from edgekd.topk import unpack
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


def identity(teacher: TeacherChoice | Choice, net: Net) -> str:
    """SHA-256 of what a teacher computes, besides its weights: its code, its options, and the files that those name."""
    files = [content(path) for path in files_named(teacher.options)]
    return digest([teacher.name, teacher.options, files, code_digest(net.module), net.preprocessing])


def files_named(options: Any) -> list[Path]:
    """Files, and SavedModels' folders, that some of the options are the paths of."""
    if isinstance(options, dict | list):
        below = options.values() if isinstance(options, dict) else options
        return [path for one in below for path in files_named(one)]
    try:
        path = Path(options)
        return [path] if path.is_file() or (path / "saved_model.pb").is_file() else []
    except (TypeError, ValueError, OSError):  # no text, or none that could be a path
        return []


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
        self,
        work: Work,
        data: Data,
        knowledge: Knowledge,
        views: Views,
        seed: int,
        asked: nn.Module | None = None,
        live: "Live | None" = None,
        *,
        autocast: bool = False,
    ) -> None:
        """`asked` is the first teacher, where its layers were not kept and must be asked for again, in bfloat16 with
        `autocast`; `live` are all of them, where they shall speak about what a student writes itself."""
        self._subject, self._autocast = data.subject, autocast
        self._told = [_Opened(work, one) for one in knowledge.told]
        self._asked, self._live = asked, live
        first = knowledge.told[0]
        if asked is not None:
            preprocessing = first.teacher.preprocessing
            self._viewer = viewer_of(work, data, "train", preprocessing, views, seed)
            self._tap = Tap(asked, first.layers)

    def outputs(self, shown: Shown) -> list[Tensor | None]:
        """For each output of the subject the mean of what its teachers say; None where none teaches it."""
        if shown.labels is not None:
            assert self._live is not None
            return self._live.outputs(shown.inputs[0])
        said: list[list[Tensor]] = [[] for _ in self._subject.outputs]
        for opened in self._told:
            for output, rows in zip(opened.told.outputs, opened.outputs(shown.epoch), strict=True):
                said[output].append(_logits(rows[shown.indices], self._subject.outputs[output].shape))
        return _means(said)

    def layers(self, shown: Shown) -> dict[str, Tensor]:
        """What the first teacher's layers answer, by their paths; of shape (batch, ...)."""
        if shown.labels is not None:
            assert self._live is not None
            return self._live.layers(shown.inputs[0])
        first = self._told[0]
        if self._asked is not None:
            inputs = self._viewer.inputs(shown.indices, shown.epoch % len(first.told.views))
            with evaluating(self._asked), torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
                self._asked(*inputs)
            return self._tap.found
        found = zip(first.told.layers, first.layers(shown.epoch), strict=True)
        return {path: torch.from_numpy(rows[shown.indices].astype(np.float32)) for path, rows in found}


class Live:
    """Teachers that are asked while a student learns."""

    def __init__(self, work: Work, data: Data, knowledge: Knowledge, *, autocast: bool) -> None:
        self._subject, self._autocast = data.subject, autocast
        self._nets = [
            (told.outputs, trained(work, told.teacher, restricted(data.subject, told.outputs)).module.eval())
            for told in knowledge.told
        ]
        self._tap = Tap(self._nets[0][1], knowledge.told[0].layers)
        self._last: Tensor | None = None

    def outputs(self, inputs: Tensor) -> list[Tensor | None]:
        """As `Oracle.outputs`, of inputs that nobody has seen before."""
        said: list[list[Tensor]] = [[] for _ in self._subject.outputs]
        with torch.no_grad(), torch.autocast(inputs.device.type, torch.bfloat16, enabled=self._autocast):
            for outputs, module in self._nets:
                for output, answer in zip(outputs, answers_of(module.to(inputs.device)(inputs)), strict=True):
                    said[output].append(answer.float())
        self._last = inputs
        return _means(said)

    def layers(self, inputs: Tensor) -> dict[str, Tensor]:
        """As `Oracle.layers`; the outputs are asked for first, and the same pass tells both."""
        assert self._last is inputs
        return self._tap.found


class _Opened:
    """What a teacher says, read as it is wanted; the files of one view are open at a time."""

    def __init__(self, work: Work, told: Told) -> None:
        self.told = told
        self._work = work
        self._view = -1
        self._rows: list[Rows] = []

    def outputs(self, epoch: int) -> list[Rows]:
        """Of the view of an epoch."""
        return self._at(epoch)[: len(self.told.outputs)]

    def layers(self, epoch: int) -> list[Rows]:
        """Of the view of an epoch."""
        return self._at(epoch)[len(self.told.outputs) :]

    def _at(self, epoch: int) -> list[Rows]:
        view = epoch % len(self.told.views)
        if view != self._view:
            said = self.told.views[view]
            self._rows = [Rows(self._work.path(file)) for file in (*said.outputs, *said.layers)]
            self._view = view
        return self._rows


def _means(said: list[list[Tensor]]) -> list[Tensor | None]:
    return [torch.stack(one).mean(0) if one else None for one in said]


def _logits(rows: NDArray[Any], shape: tuple[int, ...]) -> Tensor:
    """Dense, where the largest alone were kept."""
    return torch.from_numpy(unpack(rows, shape[0]) if rows.dtype.names else rows.astype(np.float32))
