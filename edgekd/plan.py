"""Choose the student for a target: which candidates fit its budget by the cost model, and which of them to make."""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from edgekd.costing import costs
from edgekd.errors import BudgetInfeasible, ConfigError
from edgekd.files import digest, dumps, write_text
from edgekd.lessons import Learned, Lesson, learn
from edgekd.runs import Work
from edgekd.specs import (
    Budget,
    Candidate,
    Choice,
    Cost,
    Count,
    Data,
    Knowledge,
    Plan,
    Prefer,
    Spec,
    StudentChoice,
    Target,
)
from edgekd.workers import call, cores, together

VERSION = 2

LARGEST_SPACE = 100_000
HELD_OUT = 0.125
"""Share of the training split that probes are examined on."""

_LIMITS = ("latency_ms", "peak_memory_bytes", "file_bytes")


class Shortlist(Spec, frozen=True, kw_only=True):
    """The candidates within a budget."""

    export: str
    """The target's first, unless another is clearly faster there."""
    considered: Count
    fitting: Count
    front: tuple[Candidate, ...]
    """Those that no other beats in cost and capacity at once; cheapest first."""


def shortlist(work: Work, student: StudentChoice, target: Target, data: Data, source: str) -> Shortlist:
    """Cost every candidate for every export of the target, and keep the front of those within the budget.

    Raises:
        BudgetInfeasible: none is; says which limit the nearest one breaks, and by how much.
    """
    return call(_shortlist, work, student, target, data, threads=1, log=work.out / "worker.log")


def choose(
    work: Work,
    prefer: Prefer,
    floor: float,
    listed: Shortlist,
    target: str,
    lesson: Lesson,
    data: Data,
    knowledge: Knowledge,
) -> Plan:
    """The candidate of the front that the recipe prefers.

    "smallest above the accuracy floor" tells candidates apart by probes: short distillations, examined on a part of
    the training split that they did not see. What holds the floor after a probe holds it after a whole training.
    """
    if prefer == "most capable within the budget":
        front, chosen, reason = listed.front, len(listed.front) - 1, "the most capable of the front"
    else:
        front, chosen, reason = _probe(work, floor, listed.front, lesson, data, knowledge)
    return Plan(
        target=target,
        export=listed.export,
        student=Choice(name=lesson.student.name, options=front[chosen].options),
        predicted=front[chosen].cost,
        by_export=front[chosen].by_export,
        considered=listed.considered,
        fitting=listed.fitting,
        front=front,
        reason=reason,
    )


def _shortlist(work: Work, student: StudentChoice, target: Target, data: Data) -> Shortlist:
    points = candidates(student)
    listed = costs(student, points, data.subject, target, work.out / "worker.log")
    export = preferred(listed, target.exports)
    found = [
        Candidate(options=options, cost=by_export[export], by_export=by_export)
        for options, by_export in zip(points, listed, strict=True)
    ]
    fitting = [candidate for candidate in found if not excess(candidate.cost, target.budget)]
    if not fitting:
        raise _infeasible(found, target)
    return Shortlist(export=export, considered=len(found), fitting=len(fitting), front=_front(fitting))


def preferred(costs: Sequence[Mapping[str, Cost]], exports: Sequence[str]) -> str:
    """The export to plan for: the first, unless every candidate is faster with another beyond both intervals.

    On some devices integers are slower than floats: what is named first is then not what should be shipped.
    """
    first = exports[0]
    for other in exports[1:]:
        if all(one[other].latency_ms.high < one[first].latency_ms.low for one in costs):
            return other
    return first


def candidates(student: StudentChoice) -> list[dict[str, Any]]:
    """Every combination of the space, with the fixed options added.

    Raises:
        ConfigError: there are more than LARGEST_SPACE, or an option is both fixed and free.
    """
    both = student.options.keys() & student.space.keys()
    if both:
        raise ConfigError(f"student option {min(both)!r} is in options and in space", hint="leave it in one of them")
    size = math.prod(len(values) for values in student.space.values())
    if size > LARGEST_SPACE:
        raise ConfigError(f"the student's space has {size} candidates, at most {LARGEST_SPACE}", hint="fewer values")
    return [
        {**student.options, **dict(zip(student.space, point, strict=True))}
        for point in itertools.product(*student.space.values())
    ]


def excess(cost: Cost, budget: Budget) -> dict[str, float]:
    """The limits that a candidate breaks -> how many times what is allowed. Latency counts at its interval's end."""
    found = _found(cost)
    shares = {limit: found[limit] / getattr(budget, limit) for limit in _LIMITS}
    return {limit: share for limit, share in shares.items() if share > 1}


def _found(cost: Cost) -> dict[str, float]:
    return {
        "latency_ms": cost.latency_ms.high,
        "peak_memory_bytes": cost.peak_memory_bytes,
        "file_bytes": cost.file_bytes,
    }


def capacity(candidate: Candidate) -> float:
    """How much a student can learn, for ranking: the geometric mean of its parameters and its arithmetic."""
    return math.sqrt(candidate.cost.parameters * max(1, candidate.cost.macs))


def _front(fitting: list[Candidate]) -> tuple[Candidate, ...]:
    """Cheapest first; a candidate stays when it has more capacity than every one that is as fast and as small."""
    front: list[Candidate] = []
    ordered = sorted(
        fitting, key=lambda c: (c.cost.latency_ms.value, c.cost.file_bytes, -capacity(c), dumps(c.options))
    )
    for candidate in ordered:
        if all(
            capacity(other) < capacity(candidate)
            for other in front
            if other.cost.file_bytes <= candidate.cost.file_bytes
        ):
            front.append(candidate)
    return tuple(sorted(front, key=capacity))


def _infeasible(found: list[Candidate], target: Target) -> BudgetInfeasible:
    nearest = min(found, key=lambda candidate: max(excess(candidate.cost, target.budget).values()))
    broken = excess(nearest.cost, target.budget)
    needs = _found(nearest.cost)
    parts = [
        f"{limit} {needs[limit]:.4g} where {getattr(target.budget, limit):.4g} is allowed ({share:.1f}x)"
        for limit, share in sorted(broken.items(), key=lambda item: -item[1])
    ]
    would_fit = ", ".join(f"{limit} = {_rounded_up(needs[limit])}" for limit in broken)
    return BudgetInfeasible(
        f"no student of {len(found)} fits {target.name}: the nearest needs {' and '.join(parts)} [estimated]",
        hint=f"it would fit a budget of {would_fit}; or add smaller values to the recipe's student.space",
    )


def _rounded_up(value: float) -> str:
    """With three digits, never below the value."""
    step = 10.0 ** (math.floor(math.log10(value)) - 2) if value > 0 else 1.0
    return f"{math.ceil(value / step) * step:.10g}"


# --- probes


def _probe(
    work: Work, floor: float, front: tuple[Candidate, ...], lesson: Lesson, data: Data, knowledge: Knowledge
) -> tuple[tuple[Candidate, ...], int, str]:
    """The front with what was probed, the chosen index and why: a search by halves (by thirds on two cores)."""
    seen: dict[int, float] = {}
    low, high = 0, len(front)  # everything below `low` misses the floor, `high` and above hold it
    while low < high:
        asked = _spread(low, high, cores())
        scores = together(
            [partial(_one_probe, work, front[i], lesson, data, knowledge) for i in asked], at_once=cores()
        )
        seen |= {index: score.score for index, score in zip(asked, scores, strict=True)}
        holding = [index for index in asked if seen[index] >= floor]
        missing = [index for index in asked if seen[index] < floor]
        high = min([high, *holding])
        low = max([low, *(index + 1 for index in missing if index < high)])
    probed = tuple(
        msgspec.structs.replace(candidate, probe_accuracy=seen.get(index)) for index, candidate in enumerate(front)
    )
    if high < len(front):
        return (
            probed,
            high,
            f"the smallest whose probe of {lesson.training.epochs} epochs reaches the floor of {floor:.3f}",
        )
    best = max(seen, key=lambda index: (seen[index], -index))
    return (
        probed,
        best,
        f"no probe of {lesson.training.epochs} epochs reaches the floor of {floor:.3f}; the best one of the front",
    )


def _spread(low: int, high: int, parts: int) -> list[int]:
    """Up to `parts` indices that cut low..high-1 into equal pieces."""
    count = min(parts, high - low)
    return sorted({low + (high - low) * (part + 1) // (count + 1) for part in range(count)})


def _one_probe(work: Work, candidate: Candidate, lesson: Lesson, data: Data, knowledge: Knowledge) -> Learned:
    name = f"probe-{digest(candidate.options)[:12]}"
    done = work.out / f"{name}.json"
    probe = msgspec.structs.replace(
        lesson, student=Choice(name=lesson.student.name, options=candidate.options), held_out=HELD_OUT
    )
    if not done.exists():  # a killed try's finished probes are kept
        learned = call(learn, work, probe, data, knowledge, name, threads=1, log=work.out / f"{name}.log", trains=True)
        write_text(done, dumps(learned))
        for left in (*work.out.glob(f"{name}*.checkpoint"), work.out / learned.weights):
            left.unlink(missing_ok=True)
    return msgspec.json.decode(done.read_bytes(), type=Learned)
