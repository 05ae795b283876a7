"""Choose the student for a target: which candidates fit its budget by the cost model, and which of them to make."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from edgekd import students
from edgekd.costing import TIMEOUT_S, costs
from edgekd.errors import BudgetInfeasible, ConfigError
from edgekd.files import dumps
from edgekd.lessons import Lesson
from edgekd.plugins import find
from edgekd.probing import best_of_halves, smallest_above
from edgekd.runs import Work
from edgekd.specs import (
    Budget,
    Candidate,
    Choice,
    Cost,
    Count,
    Data,
    Finalist,
    Interval,
    Knowledge,
    Plan,
    Prefer,
    Size,
    Spec,
    StudentChoice,
    Subject,
    Target,
)
from edgekd.workers import call

VERSION = 3

LARGEST_SPACE = 100_000
LEAST_FILE = 0.5
"""Share of the estimate that a file may have."""
MOST_BEYOND = 64
"""Candidates kept that the estimate has above the budget, and a device may have below it."""

LIMITS = ("latency_ms", "peak_memory_bytes", "file_bytes")


class Shortlist(Spec, frozen=True, kw_only=True):
    """The candidates within a budget."""

    export: str
    """The target's first, unless another is clearly faster there."""
    considered: Count
    fitting: Size
    front: tuple[Candidate, ...]
    """Those that no other beats in cost and capacity at once; cheapest first."""
    beyond: tuple[Candidate, ...] = ()
    """What would go on with the front, were the truth at the lower end of the estimates."""


class Finals(Spec, frozen=True, kw_only=True):
    """The front after some of it were built and converted, and measured where a device was at hand."""

    front: tuple[Candidate, ...]
    """Those that hold the budget by all that is known; cheapest first, and the last was made."""
    finalists: tuple[Finalist, ...]
    shown: str = ""
    """In words, how the last one was seen to hold the budget."""


def shortlist(work: Work, student: StudentChoice, target: Target, data: Data, source: str) -> Shortlist:
    """Cost every candidate for every export of the target, and keep the front of those within the budget, and of those
    that may be.

    Raises:
        BudgetInfeasible: none may be; says which limit the nearest one breaks, and by how much.
    """
    log = work.out / "worker.log"
    return call(_shortlist, work, student, target, data, threads=1, log=log, timeout_s=TIMEOUT_S)


def most_capable(listed: Shortlist, finals: Finals, target: str, student: str) -> Plan:
    """The last of the front, without any training."""
    shown = f", and {finals.shown}" if finals.shown else ""
    return _plan(
        listed, finals, finals.front, len(finals.front) - 1, f"the most capable of the front{shown}", target, student
    )


def choose(
    work: Work,
    prefer: Prefer,
    floor: float,
    listed: Shortlist,
    finals: Finals,
    target: str,
    lesson: Lesson,
    data: Data,
    knowledge: Knowledge,
) -> Plan:
    """The candidate of the front that short distillations prefer, examined on a part of the training split that they
    did not see.

    "smallest above the accuracy floor": what holds the floor after a probe holds it after a whole training.
    "best by probes within the budget": the best of several whose worse half was given up again and again.
    """
    if prefer == "smallest above the accuracy floor":
        found = smallest_above(work, floor, finals.front, lesson, data, knowledge)
    else:
        found = best_of_halves(work, finals.front, lesson, data, knowledge)
    return _plan(listed, finals, *found, target, lesson.student.name)


def _plan(
    listed: Shortlist,
    finals: Finals,
    front: tuple[Candidate, ...],
    chosen: int,
    reason: str,
    target: str,
    student: str,
) -> Plan:
    return Plan(
        target=target,
        export=listed.export,
        student=Choice(name=student, options=front[chosen].options),
        predicted=front[chosen].cost,
        by_export=front[chosen].by_export,
        considered=listed.considered,
        fitting=listed.fitting,
        front=front,
        finalists=finals.finalists,
        reason=reason,
    )


def _shortlist(work: Work, student: StudentChoice, target: Target, data: Data) -> Shortlist:
    points = candidates(student, data.subject)
    listed = costs(student, points, data.subject, target, work.out / "worker.log")
    export = preferred(listed, target.exports)
    found = [
        Candidate(options=options, cost=by_export[export], by_export=by_export)
        for options, by_export in zip(points, listed, strict=True)
    ]
    fitting = [candidate for candidate in found if not excess(candidate.cost, target.budget)]
    may_fit = [candidate for candidate in found if not excess(_at_best(candidate.cost), target.budget)]
    if not may_fit:
        raise infeasible(found, len(found), target)
    return Shortlist(
        export=export,
        considered=len(found),
        fitting=len(fitting),
        front=front_of(fitting),
        beyond=_beyond(fitting, may_fit),
    )


def _at_best(cost: Cost) -> Cost:
    """What it costs where the truth is far below the estimate."""
    low = cost.latency_ms.low
    latency = Interval(value=low, low=low, high=low)
    return msgspec.structs.replace(cost, latency_ms=latency, file_bytes=math.floor(cost.file_bytes * LEAST_FILE))


def _beyond(fitting: list[Candidate], may_fit: list[Candidate]) -> tuple[Candidate, ...]:
    """The rest of the front of what may fit, next to the budget."""
    inside = {dumps(one.options) for one in fitting}
    rest = [one for one in front_of(may_fit) if dumps(one.options) not in inside]
    return tuple(sorted(rest, key=lambda one: one.cost.latency_ms.value)[:MOST_BEYOND])


def preferred(costs: Sequence[Mapping[str, Cost]], exports: Sequence[str]) -> str:
    """The export to plan for: the first, unless every candidate is faster with another beyond both intervals.

    On some devices integers are slower than floats: what is named first is then not what should be shipped.
    """
    first = exports[0]
    for other in exports[1:]:
        if all(one[other].latency_ms.high < one[first].latency_ms.low for one in costs):
            return other
    return first


def candidates(student: StudentChoice, subject: Subject) -> list[dict[str, Any]]:
    """Every combination of the space, with the fixed options added.

    Raises:
        ConfigError: there are more than LARGEST_SPACE, an option is fixed and free, or nobody knows the whole space.
    """
    space = space_of(student, subject)
    size = math.prod(len(values) for values in space.values())
    if size > LARGEST_SPACE:
        raise ConfigError(f"the student's space has {size} candidates, at most {LARGEST_SPACE}", hint="fewer values")
    return [{**student.options, **dict(zip(space, point, strict=True))} for point in itertools.product(*space.values())]


def space_of(student: StudentChoice, subject: Subject) -> Mapping[str, Sequence[Any]]:
    """What may vary, with its values.

    Raises:
        ConfigError: an option is both fixed and free, or nobody knows the whole space.
    """
    if student.space == "whole":
        whole = find(students, student.name).space(subject)
        return {name: values for name, values in whole.items() if name not in student.options}
    both = student.options.keys() & student.space.keys()
    if both:
        raise ConfigError(f"student option {min(both)!r} is in options and in space", hint="leave it in one of them")
    return student.space


def excess(cost: Cost, budget: Budget) -> dict[str, float]:
    """The limits that a candidate breaks -> how many times what is allowed. Latency counts at its interval's end."""
    found = needs(cost)
    shares = {limit: found[limit] / getattr(budget, limit) for limit in LIMITS}
    return {limit: share for limit, share in shares.items() if share > 1}


def needs(cost: Cost) -> dict[str, float]:
    """What a candidate is predicted to take of each limit; of latency the upper end."""
    return {
        "latency_ms": cost.latency_ms.high,
        "peak_memory_bytes": cost.peak_memory_bytes,
        "file_bytes": cost.file_bytes,
    }


def capacity(candidate: Candidate) -> float:
    """How much a student can learn, for ranking: the geometric mean of its parameters and its arithmetic."""
    return math.sqrt(candidate.cost.parameters * max(1, candidate.cost.macs))


def front_of(some: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Cheapest first; a candidate stays when it has more capacity than every one that is as fast and takes as little
    memory and file."""
    front: list[Candidate] = []
    kept = np.empty((0, 3))  # memory, file and negative capacity of the front, which compares all of it at once
    ordered = sorted(some, key=_cheapest_first)
    for candidate in ordered:
        row = np.array([candidate.cost.peak_memory_bytes, candidate.cost.file_bytes, -capacity(candidate)])
        if not (kept <= row).all(axis=1).any():
            front.append(candidate)
            kept = np.vstack([kept, row])
    return tuple(sorted(front, key=capacity))


def _cheapest_first(one: Candidate) -> tuple[float, int, float, int, str]:
    cost = one.cost
    return cost.latency_ms.value, cost.file_bytes, -capacity(one), cost.peak_memory_bytes, dumps(one.options)


def infeasible(found: Sequence[Candidate], considered: int, target: Target) -> BudgetInfeasible:
    """What to say where no candidate fits."""
    nearest = min(found, key=lambda candidate: max(excess(candidate.cost, target.budget).values()))
    broken = excess(nearest.cost, target.budget)
    takes = needs(nearest.cost)
    parts = [
        f"{limit} {takes[limit]:.4g} where {getattr(target.budget, limit):.4g} is allowed ({share:.1f}x)"
        for limit, share in sorted(broken.items(), key=lambda item: -item[1])
    ]
    would_fit = ", ".join(f"{limit} = {_rounded_up(takes[limit])}" for limit in broken)
    return BudgetInfeasible(
        f"no student of {considered} fits {target.name}: the nearest needs {' and '.join(parts)} [estimated]",
        hint=f"it would fit a budget of {would_fit}; or add smaller values to the recipe's student.space",
    )


def _rounded_up(value: float) -> str:
    """With three digits, never below the value."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2) if value > 0 else 1.0
    return f"{math.ceil(value / step) * step:.10g}"
