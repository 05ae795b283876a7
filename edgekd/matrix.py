"""The parity matrix: every execution of a net held against every other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd import engines, heads, parity
from edgekd.divergence import Divergence
from edgekd.errors import EdgekdError
from edgekd.lessons import build
from edgekd.nets import load
from edgekd.parting import part
from edgekd.progress import tell
from edgekd.runs import Work
from edgekd.sides import TORCH, Side, execute, same_order
from edgekd.specs import Agreement, Data, Provenance, Spec, Student, Subject
from edgekd.tensors import Tensors
from edgekd.training import labels_of, predict, viewer_of
from edgekd.workers import call

VERSION = 1

Array = NDArray[Any]

MOST_EXPLAINED = 4
"""Pairs that do not agree for which the operator is looked for: each takes as long as many executions."""
EXAMPLES = 8
"""Random examples where no inputs are given."""


class Pair(Spec, frozen=True, kw_only=True):
    """Two executions on the same examples."""

    a: str
    b: str
    provenance: Provenance = "host"
    """Of the one that was not executed on this machine, if there is such."""
    max_abs: float
    sqnr_db: float
    top1_agreement: float | None
    ok: bool
    """True when they are as close as the coarser precision of the two explains."""
    reason: str = ""
    note: str = ""
    """How outputs were matched where no names told."""
    metric_drop: float | None = None
    """Metric of a minus metric of b, where labels are known, with its 95% bootstrap interval."""
    metric_drop_low: float | None = None
    metric_drop_high: float | None = None
    first_divergence: Divergence | None = None
    """Where they part, of a pair that does not agree."""


class Player(Spec, frozen=True, kw_only=True):
    """One that was executed, or was to be."""

    name: str
    model: str
    engine: str
    precision: str
    error: str = ""
    """Why it could not be executed; "" where it could."""


class Matrix(Spec, frozen=True, kw_only=True):
    """All of them."""

    sides: tuple[Player, ...]
    pairs: tuple[Pair, ...]
    examples: int

    @property
    def ok(self) -> bool:
        """True when every side could be executed and every pair agrees."""
        return all(pair.ok for pair in self.pairs) and not any(one.error for one in self.sides)


@dataclass(frozen=True)
class Answer:
    """What one answered: arrays of (examples, *shape) in an order that all answers share."""

    name: str
    precision: str
    outputs: tuple[Array, ...]
    note: str = ""
    doubt: str = ""
    """Why it agrees with nothing, however close its outputs are."""
    provenance: Provenance = "host"


def matrix(sides: Sequence[Side], inputs: Tensors | None = None, examples: int = EXAMPLES) -> Matrix:
    """Execute every side on the same inputs, and hold each against each.

    Without `inputs`, seeded random ones of the shapes that the most exact side declares.
    """
    errors: dict[str, str] = {}
    with TemporaryDirectory(prefix="edgekd-") as scratch:
        answers, inputs = _execute(sides, inputs, examples, errors, Path(scratch))
        found = pairs([answers[side.name] for side in sides if side.name in answers])
        if inputs:
            found = _explained(found, {side.name: side for side in sides}, inputs, Path(scratch))
    players = (
        Player(
            name=one.name, model=one.model, engine=one.engine, precision=one.precision, error=errors.get(one.name, "")
        )
        for one in sides
    )
    return Matrix(sides=tuple(players), pairs=found, examples=len(inputs.arrays[0]) if inputs else 0)


def _execute(
    sides: Sequence[Side], inputs: Tensors | None, examples: int, errors: dict[str, str], scratch: Path
) -> tuple[dict[str, Answer], Tensors | None]:
    """Answers by name, the most exact first, and the inputs that all were given; why one has none is in `errors`."""
    answers: dict[str, Answer] = {}
    first: Tensors | None = None
    for index, side in enumerate(sorted(sides, key=lambda side: -parity.least_db(side.precision))):
        tell("executing", index, len(sides))
        try:
            taken, found, provenance = execute(side, inputs, examples, scratch)
            inputs, first = inputs or taken, first or found
            ordered, note = same_order(first, found, side.name)
            answers[side.name] = Answer(side.name, side.precision, ordered, note, side.doubt, provenance)
        except EdgekdError as error:
            errors[side.name] = str(error)
    tell("executing", len(sides), len(sides))
    return answers, inputs


def _explained(found: tuple[Pair, ...], sides: dict[str, Side], inputs: Tensors, scratch: Path) -> tuple[Pair, ...]:
    """The pairs, the worst of those that do not agree with the operator at which they part."""
    here = {name for name, side in sides.items() if side.device == "host"}  # where tensors within can be looked at
    apart = (pair for pair in found if not pair.ok and {pair.a, pair.b} <= here)
    worst = sorted(apart, key=lambda pair: pair.sqnr_db)[:MOST_EXPLAINED]
    where = {}
    for pair in worst:
        finer, coarser = sorted((sides[pair.a], sides[pair.b]), key=lambda side: -parity.least_db(side.precision))
        if coarser.engine == TORCH:
            finer, coarser = coarser, finer
        if coarser.engine != TORCH:
            where[pair.a, pair.b] = part(coarser, finer, inputs, scratch)
    return tuple(msgspec.structs.replace(pair, first_divergence=where.get((pair.a, pair.b))) for pair in found)


def cross(work: Work, student: Student, data: Data, agreements: tuple[Agreement, ...]) -> Matrix:
    """The student and all that its artifacts answered on the test split, each against each."""
    return call(_cross, work, student, data, agreements, threads=1, log=work.out / "worker.log")


def _cross(work: Work, student: Student, data: Data, agreements: tuple[Agreement, ...]) -> Matrix:
    net = build(student.choice, data.subject)
    load(net.module, work.path(student.weights))
    outputs = predict(net.module, viewer_of(work, data, "test", student.preprocessing))
    answers = [Answer("student", "fp32", outputs)]
    for one in agreements:
        if one.outputs:
            found = tuple(np.load(work.path(file), allow_pickle=False) for file in one.outputs)
            answers.append(Answer(f"{one.artifact}@{one.engine}", _precision(one), found))

    players = [
        Player(name=one.name, model="", engine=one.name.partition("@")[2] or "torch", precision=one.precision)
        for one in answers
    ]
    return Matrix(
        sides=tuple(players),
        # What is kept was answered to the same texts, and says nothing of the texts that each would write.
        pairs=pairs(answers, data.subject, labels_of(work, data, "test"))
        if data.subject.written is None
        else pairs(answers),
        examples=len(outputs[0]),
    )


def _precision(agreement: Agreement) -> str:
    return engines.arithmetic(agreement.engine) or agreement.artifact.rpartition("-")[2]


def pairs(answers: Sequence[Answer], subject: Subject | None = None, labels: Sequence[Array] = ()) -> tuple[Pair, ...]:
    """Every answer against every later one; with the `labels` of a subject the drop of its metric."""
    return tuple(_pair(a, b, subject, labels) for a, b in combinations(answers, 2))


def _pair(a: Answer, b: Answer, subject: Subject | None, labels: Sequence[Array]) -> Pair:
    close = parity.closeness(a.outputs, b.outputs)
    least = parity.least_db(a.precision, b.precision)
    coarser = min((a.precision, b.precision), key=parity.least_db)
    drop = low = high = None
    reasons = [f"{one.name}: {one.doubt}" for one in (a, b) if one.doubt]
    if close.sqnr_db < least:
        reasons.append(f"SQNR {close.sqnr_db:.1f} dB is below the {least:.0f} dB that {coarser} explains")
    top1 = close.top1_agreement
    if subject:
        score = partial(heads.score, subject)
        first, second = (heads.counts(subject, one.outputs, labels) for one in (a, b))
        drop = score(first) - score(second)
        low, high = parity.drop_interval(score, first, second)
        top1 = heads.top1_agreement(subject, a.outputs, b.outputs)
        most = parity.most_drop(coarser, len(first[0]))
        if abs(drop) > most + 1e-9:
            reasons.append(f"the metric differs by {abs(drop):.4f}, more than {most:.3g}")
    return Pair(
        a=a.name,
        b=b.name,
        provenance=b.provenance if a.provenance == "host" else a.provenance,
        max_abs=close.max_abs,
        sqnr_db=close.sqnr_db,
        top1_agreement=top1,
        ok=not reasons,
        reason="; ".join(reasons),
        note=b.note or a.note,
        metric_drop=drop,
        metric_drop_low=low,
        metric_drop_high=high,
    )
