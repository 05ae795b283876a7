"""What the candidates of a search cost: nets of one family by the thousand."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from edgekd import cost, repeats, students
from edgekd.nets import Anatomy, anatomy_executed
from edgekd.plugins import find, options
from edgekd.progress import tell
from edgekd.remembered import Remembering
from edgekd.specs import Cost, StudentChoice, Subject, Target
from edgekd.students import StudentFamily
from edgekd.workers import call, cores, together

Costs = dict[str, Cost]
"""Export of the target -> cost."""

TIMEOUT_S: Final = 86_400.0
"""A function of a user's own may take a second for each candidate of the largest space."""
BATCH: Final = 256
"""Nets that are estimated at once."""
WORTH_A_WORKER: Final = 8192
"""Candidates that take longer to cost than a process takes to begin."""


def costs(
    student: StudentChoice, points: Sequence[Mapping[str, Any]], subject: Subject, target: Target, log: Path
) -> list[Costs]:
    """What each candidate, given by its options, costs; what candidates have in common is looked at once.

    A large space is shared among processes on all cores, which print into `log`.

    Raises:
        ConfigError: options are not of this family.
        Disagreement: the family makes no net for such a subject.
    """
    count = max(1, min(cores(), len(points) // WORTH_A_WORKER))
    mine, *others = [points[part::count] for part in range(count)]
    here = partial(_costs, student, mine, subject, target, count)
    there = [
        partial(call, _costs, student, part, subject, target, 0, threads=1, log=log, timeout_s=TIMEOUT_S)
        for part in others
    ]
    found = together([here, *there], at_once=count) if there else [here()]
    tell("costing candidates", len(points), len(points))
    return [found[index % count][index // count] for index in range(len(points))]


def _costs(
    student: StudentChoice, points: Sequence[Mapping[str, Any]], subject: Subject, target: Target, tells: int
) -> list[Costs]:
    """As `costs`, in this process; tells that each candidate done is so many."""
    model, family = cost.model_of(target), find(students, student.name)
    listed: list[Costs] = []
    with repeats.sharing(), _few_collections():
        for first in range(0, len(points), BATCH):
            anatomies = []
            for index, point in enumerate(points[first : first + BATCH], start=first):
                if tells and index % 16 == 0:
                    tell("costing candidates", index * tells, len(points) * tells)
                anatomies.append(_examine(family, _table(family, student, point), subject))
            found = [model.estimate_all(anatomies, target, one.rpartition("-")[2]) for one in target.exports]
            listed += [dict(zip(target.exports, each, strict=True)) for each in zip(*found, strict=True)]
    return listed


@contextmanager
def _few_collections() -> Iterator[None]:
    """Garbage is looked for among what is new alone: torch has a million objects that stay."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _table(family: StudentFamily, student: StudentChoice, point: Mapping[str, Any]) -> Any:
    return options(family.Options, dict(point), f"options of student {student.name}")


def _examine(family: StudentFamily, table: Any, subject: Subject) -> Anatomy:
    try:
        with torch.device("meta"), Remembering():  # shapes alone are wanted
            net = family.build(table, subject)
    except (NotImplementedError, RuntimeError):  # a user's function may compute with its weights
        with repeats.sharing(False):
            net = family.build(table, subject)
    return anatomy_executed(net, subject)
