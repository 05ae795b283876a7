"""What to do when integers cost too much: one remedy after the other, cheapest for the user first, until one holds.

Every rung is kept as a step of the run. Variants of a rung are told apart on training examples; whether a rung holds is
decided as for every artifact, on the test split.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import msgspec

from edgekd.errors import ConvertError, MeasureError, TrainingDiverged, WorkerDied
from edgekd.fitness import newest_set, unfit
from edgekd.lessons import Lesson
from edgekd.parity import least_db, most_drop
from edgekd.qat import train_rounded
from edgekd.runs import Run
from edgekd.sensitivity import Room, mix
from edgekd.specs import (
    Agreement,
    Artifact,
    Budget,
    Climb,
    Cost,
    Data,
    Knowledge,
    Plan,
    Quantization,
    Rung,
    Student,
    Target,
    Trial,
    Tried,
)
from edgekd.trials import Aim, try_out
from edgekd.verify import verify

CLIMBS: Final = frozenset({"int8"})
"""Precisions with a ladder: integers whose ranges calibration sets."""
FIRST: Final = "first try"


@dataclass(frozen=True)
class Slope:
    """What all rungs of one export share."""

    run: Run
    target: Target
    budget: Budget
    plan: Plan
    lesson: Lesson
    data: Data
    knowledge: Knowledge
    student: Student
    first: Artifact
    engine: str

    @property
    def rungs(self) -> str:
        """Name of the folder in which rungs are kept."""
        return f"{self.target.name}/3-export/{self.first.export}.rungs"

    @property
    def metric(self) -> float:
        """Of the student in float32, on the test split."""
        return self.student.metrics[self.data.subject.metric]

    @property
    def predicted(self) -> Cost:
        """Of the export, as the plan has it."""
        return self.plan.by_export.get(self.first.export, self.plan.predicted)

    @property
    def most_drop(self) -> float:
        """Largest loss of the metric that is allowed: no more than the precision explains, and not below the floor.

        A floor that the student in float32 misses is no matter of integers.
        """
        explained = most_drop(self.first.precision)
        above = self.metric - self.budget.accuracy_floor
        return min(explained, above) if above >= 0 else explained

    def aim(self, student: Student) -> Aim:
        """What is tried out."""
        return Aim(
            student=student,
            data=self.data,
            export=self.first.export,
            engine=self.engine,
            newest_set=newest_set(self.first.format, self.target),
        )


@dataclass(frozen=True)
class Remedy:
    """A rung: what it is called, and how it is tried."""

    name: str
    attempt: Callable[[Slope, str, Quantization], tuple[Student, Tried]]
    """(what all share, name of the step, the best way so far) -> (whose weights, what came of it)."""


def _calibrate(slope: Slope, step: str, so_far: Quantization) -> tuple[Student, Tried]:
    ways = [msgspec.structs.replace(so_far, ranges=rule) for rule in ("full", "percentile", "mse", "entropy")]
    return slope.student, slope.run.step(step, try_out, slope.aim(slope.student), tuple(ways))


def _correct(slope: Slope, step: str, so_far: Quantization) -> tuple[Student, Tried]:
    ways = [
        msgspec.structs.replace(so_far, equalization=equalization, bias_correction=bias_correction)
        for equalization, bias_correction in product((False, True), repeat=2)
    ]
    return slope.student, slope.run.step(step, try_out, slope.aim(slope.student), tuple(ways))


def _mix(slope: Slope, step: str, so_far: Quantization) -> tuple[Student, Tried]:
    room = Room(
        target=slope.target,
        budget=slope.budget,
        predicted=slope.predicted,
        most_drop=slope.most_drop,
        least_db=least_db(slope.first.precision),
    )
    return slope.student, slope.run.step(step, mix, slope.aim(slope.student), so_far, room)


def _train(slope: Slope, step: str, so_far: Quantization) -> tuple[Student, Tried]:
    at = f"{slope.target.name}/2-distil.int8"  # one training for all exports of the target
    student = slope.run.step(at, train_rounded, slope.lesson, slope.student, slope.data, slope.knowledge)
    ways = [Quantization(ranges=rule) for rule in ("full", "percentile", "mse", "entropy")]
    return student, slope.run.step(step, try_out, slope.aim(student), tuple(ways))


REMEDIES: Final = (
    # First, for it changes neither weights nor what the device computes.
    Remedy("calibration", _calibrate),
    # Then, for weights change, but not what they compute in float, and the device is as fast as before.
    Remedy("corrections", _correct),
    # Before training, for it takes a minute; but it costs bytes and time on the device, so after what costs none.
    Remedy("mixed precision", _mix),
    # Last, for it takes as long as a fifth of the distillation, and the student is another one afterwards.
    Remedy("quantization-aware training", _train),
)


def falls_short(slope: Slope, agreement: Agreement) -> bool:
    """Whether an export needs the ladder: integers cost it more accuracy than is allowed, or it does not agree."""
    if slope.first.precision not in CLIMBS or slope.data.subject.beside:  # remedies follow nets of one input
        return False
    return not agreement.ok or _drop(slope, agreement) > slope.most_drop + 1e-9


def climb(slope: Slope, agreement: Agreement, remedies: Sequence[Remedy] = REMEDIES) -> Climb:
    """Try remedies until one holds accuracy and budget; every one that was tried is told."""
    if slope.first.steps:  # the others follow a net from one input to its outputs, which a step with its state is not
        remedies = remedies[:1]
    rungs = [_rung(slope, FIRST, Tried(artifact=slope.first), agreement)]
    way = slope.first.quantization
    for number, remedy in enumerate(remedies, start=1):
        rungs.append(_try(slope, number, remedy, way))
        if rungs[-1].holds_accuracy and rungs[-1].holds_budget:
            break
        if rungs[-1].tried.artifact is not None:
            way = rungs[-1].tried.artifact.quantization
    return Climb(
        export=slope.first.export,
        floor=slope.budget.accuracy_floor,
        most_drop=slope.most_drop,
        rungs=tuple(rungs),
        chosen=_chosen(rungs, slope.data.subject.metric).name,
    )


def artifact_after(climbs: Iterable[Climb], artifact: Artifact) -> Artifact:
    """What an export's climb has chosen in an artifact's place; the artifact itself where there was none."""
    return next((one.best.tried.artifact or artifact for one in climbs if one.export == artifact.export), artifact)


def unfit_after(climbs: Iterable[Climb], unfit: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Why the target executes an export not at all, with what the climbs have chosen."""
    return {**unfit, **{one.export: one.best.unfit for one in climbs if one.best.unfit}}


def agreement_after(climbs: Iterable[Climb], agreement: Agreement) -> Agreement:
    """The agreement of what `artifact_after` returns."""
    return next((one.best.agreement or agreement for one in climbs if one.export == agreement.artifact), agreement)


def _try(slope: Slope, number: int, remedy: Remedy, way: Quantization) -> Rung:
    step = f"{number}-{remedy.name.replace(' ', '-')}"
    try:
        student, tried = remedy.attempt(slope, f"{slope.rungs}/{step}", way)
    except (ConvertError, MeasureError, TrainingDiverged, WorkerDied) as error:
        return Rung(name=remedy.name, tried=Tried(trials=(Trial(quantization=way, failed=str(error)),)))
    if tried.artifact is None:
        return Rung(name=remedy.name, tried=tried)
    place = f"{slope.target.name}/4-verify/{slope.first.export}@{slope.engine}.rungs/{step}"
    found = slope.run.step(place, verify, student, slope.data, tried.artifact, slope.engine)
    if student != slope.student:
        found = _against_the_first(slope, found)
    refused = unfit(slope.run.folder / tried.artifact.model.path, tried.artifact.precision, slope.target)
    return _rung(slope, remedy.name, tried, found, refused)


def _against_the_first(slope: Slope, agreement: Agreement) -> Agreement:
    """The agreement of an artifact of retrained weights, held against the student that was asked for.

    Its ratio of signal and noise is no reason: weights that learned to be rounded mean something else unrounded.
    """
    drop = _drop(slope, agreement)
    most = most_drop(slope.first.precision)
    ok = drop <= most + 1e-9
    moved = drop - agreement.metric_drop
    return msgspec.structs.replace(
        agreement,
        metric_drop=drop,
        metric_drop_low=agreement.metric_drop_low + moved,
        metric_drop_high=agreement.metric_drop_high + moved,
        ok=ok,
        reason="" if ok else f"{slope.data.subject.metric} drops by {drop:.4f}, more than {most}",
    )


def _rung(slope: Slope, name: str, tried: Tried, agreement: Agreement, refused: tuple[str, ...] = ()) -> Rung:
    predicted = tried.predicted or slope.predicted
    budget = slope.budget
    assert tried.artifact is not None
    return Rung(
        name=name,
        tried=tried,
        agreement=agreement,
        holds_accuracy=agreement.ok and _drop(slope, agreement) <= slope.most_drop + 1e-9,
        holds_budget=not refused
        and tried.artifact.file_bytes <= budget.file_bytes
        and predicted.latency_ms.high <= budget.latency_ms
        and predicted.peak_memory_bytes <= budget.peak_memory_bytes,
        unfit=refused,
    )


def _drop(slope: Slope, agreement: Agreement) -> float:
    return slope.metric - agreement.metrics[slope.data.subject.metric]


def _chosen(rungs: list[Rung], metric: str) -> Rung:
    """The last where it holds, which ended the climb; else the most accurate within the budget, or of all."""
    if rungs[-1].holds_accuracy and rungs[-1].holds_budget:
        return rungs[-1]
    executed = [rung for rung in rungs if rung.agreement is not None]
    affordable = [rung for rung in executed if rung.holds_budget] or executed
    return max(affordable, key=lambda rung: rung.agreement.metrics[metric] if rung.agreement else 0.0)
