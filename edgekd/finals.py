"""Build, convert and measure a few candidates before any is trained, and keep of the front what holds the budget.

The cost model says which to try; what is found of those tried says how far it is off for their neighbours. The students
of earlier rounds are known in the same way.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from edgekd import engines
from edgekd.attempts import Attempt, attempt_there
from edgekd.distil import untrained
from edgekd.errors import BudgetInfeasible, ConvertError
from edgekd.exported import exported
from edgekd.files import decode_json, digest, dumps, read_text, storage_errors, write_text
from edgekd.firmware import firmware_of
from edgekd.measure import modelled
from edgekd.places import Place, place_name
from edgekd.plan import LIMITS, Finals, Shortlist, capacity, infeasible, needs
from edgekd.runs import Run
from edgekd.specs import Artifact, Budget, Candidate, Choice, Cost, Data, Finalist, Plan, Report, Spec, Target, Verdict
from edgekd.verdicts import RANKS, Found, best_known, file_size, finite, shipped_bytes
from edgekd.workers import sharing

MOST_FINALISTS: Final = 8
MOST_FAILED: Final = 3
"""Candidates that could not be converted or executed, after which none is expected to."""
AIM: Final = 0.97
"""Share of a limit that a candidate may be expected to take, so that what it is found to take stays below the limit."""
HALF: Final = 0.5
"""Share of each limit below which a student is small enough to try a larger one."""


class Experience(Spec, frozen=True, kw_only=True):
    """What a run knows of a target's candidates beyond the cost model, kept for who goes on with it."""

    listed: str
    """Digest of the shortlist that it is of."""
    device: str = ""
    """Where finalists are measured; "" where there was no device at hand when they were chosen."""
    engines: tuple[str, ...] = ()
    threads: int = 1
    trained: tuple[Finalist, ...] = ()
    """The students of earlier rounds."""


def experience(run: Run, target: str, listed: Shortlist, places: Sequence[Place]) -> Experience:
    """What the run knows; of a new shortlist nothing but where its finalists are to be measured.

    A plan that was made stays as it is when a run is gone on with where other devices are.
    """
    path = _kept(run, target)
    if path.is_file():
        known = decode_json(Experience, read_text(path), str(path))
        if known.listed == digest(listed):
            return known
    made = at_hand(Experience(listed=digest(listed)), places)
    keep_experience(run, target, made)
    return made


def at_hand(known: Experience, places: Sequence[Place]) -> Experience:
    """With the best device that there is."""
    able = [one for one in places if one.provenance in RANKS[:2] and one.engines]
    best = min(able, key=lambda one: RANKS.index(one.provenance), default=None)
    if best is None:
        return known
    return msgspec.structs.replace(known, device=best.device, engines=best.engines, threads=best.threads)


def has_experience(run: Run, target: str) -> bool:
    """Whether candidates of a target were tried before."""
    return _kept(run, target).is_file()


def keep_experience(run: Run, target: str, known: Experience) -> None:
    """Write it down for who goes on with the run."""
    path = _kept(run, target)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, dumps(known))


def learned(plan: Plan, report: Report, grows: bool) -> Finalist | None:
    """What a trained student has shown of its cost, where that asks for another one: it breaks the budget, and not by
    an estimate alone, or it `grows` and a device has it below half of every limit. None where the artifact is of
    another export.
    """
    verdicts = tuple(one for one in report.verdicts if one.limit in LIMITS)
    breaks = any(one.share > 1 and one.provenance != "estimated" for one in verdicts)
    told = any(one.limit == "latency_ms" and one.provenance in RANKS[:2] for one in verdicts)
    roomy = grows and told and all(one.share < HALF for one in verdicts)
    if report.artifact != plan.export or not (breaks or roomy):
        return None
    return Finalist(options=plan.student.options, predicted=plan.predicted, verdicts=verdicts, trained=True)


def ends_early(plan: Plan) -> bool:
    """Whether the most capable candidate of all was chosen, and takes less than half of every limit."""
    made = next((one for one in plan.finalists if one.options == plan.student.options and not one.failed), None)
    largest = plan.front[-1].options == plan.student.options and plan.fitting == plan.considered
    return largest and made is not None and all(one.share < HALF for one in made.verdicts)


def _kept(run: Run, target: str) -> Path:
    return run.folder / target / "1-plan" / "experience.json"


def finals(
    run: Run, target: Target, student: str, listed: Shortlist, data: Data, source: str, known: Experience
) -> Finals:
    """Try the most capable candidate that is expected to hold the budget, and again with what that shows, until the
    most capable one has been tried.

    Raises:
        BudgetInfeasible: none holds it.
        ConvertError: none of the first three could be converted.
    """
    pool = sorted((*listed.front, *listed.beyond), key=capacity)
    tried: list[Finalist] = []
    with sharing():  # each needs the same libraries
        while len(tried) < MOST_FINALISTS:
            seen = _Seen.of((*tried, *known.trained))
            best = _most_capable(pool, seen, target.budget, bool(known.device))
            best = best or pool[0]  # before it is said that none holds the budget, the least of them is made
            if seen.of_options(best):
                break
            choice = Choice(name=student, options=best.options)
            tried.append(_tried(run, target, choice, best.cost, listed.export, data, source, known))
            if sum(bool(one.failed) for one in tried) == MOST_FAILED:
                break
    if tried and all(one.failed for one in tried):
        return _by_estimate(tuple(tried), listed, target)
    return _finals(pool, tuple(tried), known, listed, target)


def _finals(
    pool: Sequence[Candidate], tried: tuple[Finalist, ...], known: Experience, listed: Shortlist, target: Target
) -> Finals:
    seen = _Seen.of((*tried, *known.trained))
    holding = [(one, own) for one in pool if (own := seen.of_options(one)) and own.fits]
    if not holding:
        raise _none_holds(tried, listed, target)
    best, last = holding[-1]
    front = [one for one in pool if capacity(one) < capacity(best) and _holds(seen.expected(one), target.budget, 1)]
    return Finals(front=(*front, best), finalists=tried, shown=_shown(last, known.device))


def _by_estimate(tried: tuple[Finalist, ...], listed: Shortlist, target: Target) -> Finals:
    """The front as the cost model has it, where the device executes none of its own export; others may be executed.

    Raises:
        ConvertError: it is the converter that gave up.
        BudgetInfeasible: the model has all above the budget.
    """
    if not tried[-1].verdicts:
        raise ConvertError(tried[-1].failed, hint="other options in the recipe's student.space")
    if not listed.front:
        raise infeasible(listed.beyond, listed.considered, target)
    return Finals(front=listed.front, finalists=tried)


def _shown(last: Finalist, device: str) -> str:
    """How a finalist was seen to hold the budget; "" where no device told its latency."""
    told = [one for one in last.verdicts if one.limit == "latency_ms" and one.provenance in RANKS[:2]]
    what = "trained" if last.trained else "untrained"
    return f"{what} it holds the budget on {device} [{told[0].provenance}]" if told else ""


def _most_capable(pool: Sequence[Candidate], seen: "_Seen", budget: Budget, device: bool) -> Candidate | None:
    """The one with most capacity that holds the budget by what is known, or is expected to."""
    for candidate in reversed(pool):
        own = seen.of_options(candidate)
        if own:
            holds = own.fits
        elif seen.found:
            holds = _holds(seen.expected(candidate), budget, AIM if device else 1)
        else:
            holds = device or _holds(needs(candidate.cost), budget, 1)
        if holds:
            return candidate
    return None


def _holds(cost: Mapping[str, float], budget: Budget, share: float) -> bool:
    return all(cost[limit] <= share * getattr(budget, limit) for limit in LIMITS)


class _Seen:
    """What was found of candidates, to know others by."""

    def __init__(self, found: Mapping[str, Finalist]) -> None:
        self.found = found

    @staticmethod
    def of(found: Sequence[Finalist]) -> "_Seen":
        """Of several that are of the same candidate the last counts."""
        return _Seen({dumps(one.options): one for one in found})

    def of_options(self, candidate: Candidate) -> Finalist | None:
        """What was found of this very candidate."""
        return self.found.get(dumps(candidate.options))

    def expected(self, candidate: Candidate) -> dict[str, float]:
        """What a candidate is expected to be found to take: as far off its prediction as the one most like it."""
        able = [one for one in self.found.values() if not one.failed]
        if not able:
            return needs(candidate.cost)
        like = min(able, key=lambda one: abs(math.log(_ratio(candidate.cost, one.predicted))))
        found = {one.limit: one.upper for one in like.verdicts}
        cost, theirs = candidate.cost, like.predicted
        return {
            "latency_ms": found.get("latency_ms", 0) * _ratio(cost, theirs),
            # What a runtime takes for itself is the same for both.
            "peak_memory_bytes": found.get("peak_memory_bytes", 0) + cost.peak_memory_bytes - theirs.peak_memory_bytes,
            "file_bytes": found.get("file_bytes", 0) * cost.file_bytes / max(1, theirs.file_bytes),
        }


def _ratio(cost: Cost, other: Cost) -> float:
    return cost.latency_ms.value / other.latency_ms.value


def _tried(
    run: Run, target: Target, choice: Choice, cost: Cost, export: str, data: Data, source: str, known: Experience
) -> Finalist:
    at = f"{target.name}/1-plan/finalists/{digest(choice)[:12]}"
    made = Finalist(options=choice.options, predicted=cost)
    try:
        student = run.step(f"{at}/student", untrained, choice, data, source)
        artifact = exported(run, at, target, student, data, export).artifact
    except ConvertError as error:
        run.log(step=at, event="failed", error=str(error), hint=error.hint)
        return msgspec.structs.replace(made, failed=str(error))
    attempt = _measured(run, at, artifact, known)
    found = [one for one in (attempt.measurement, attempt.counted and modelled(attempt.counted)) if one]
    verdicts = _verdicts(run, at, target, artifact, found, cost)
    failed = f"{attempt.failure.device}: {attempt.failure.error}" if attempt.failure else ""
    return msgspec.structs.replace(made, verdicts=verdicts, failed=failed)


def _measured(run: Run, at: str, artifact: Artifact, known: Experience) -> Attempt:
    able = engines.fitting(artifact.model.path)
    engine = next((name for name in known.engines if name in able), None)
    if engine is None:
        return Attempt()
    name = f"{at}/{artifact.export}@{engine}@{place_name(known.device)}"
    return attempt_there(run, name, artifact, engine, known.device, "rapid", known.threads)


def _verdicts(
    run: Run, at: str, target: Target, artifact: Artifact, found: Sequence[Found], cost: Cost
) -> tuple[Verdict, ...]:
    firmware = firmware_of(run, f"{at}/{artifact.export}", target, artifact) if target.device.flash_bytes else None
    told = best_known(found, target, firmware, cost, artifact.export)
    return finite([*told, file_size(shipped_bytes(artifact, firmware), target.budget)])


def _none_holds(tried: Sequence[Finalist], listed: Shortlist, target: Target) -> BudgetInfeasible:
    """What to say where all that was tried breaks the budget."""
    made = [one for one in tried if one.verdicts]
    if not made:
        return infeasible((*listed.front, *listed.beyond), listed.considered, target)
    nearest = min(made, key=lambda one: max(verdict.share for verdict in one.verdicts))
    parts = [
        f"{one.limit} {one.upper:.4g} where {one.allowed:.4g} is allowed [{one.provenance}]"
        for one in nearest.verdicts
        if one.share > 1
    ]
    return BudgetInfeasible(
        f"no student of {listed.considered} fits {target.name}: of {len(tried)} that were made the nearest needs "
        f"{' and '.join(parts)}",
        hint="add smaller values to the recipe's student.space, or allow more in the target's budget",
    )
