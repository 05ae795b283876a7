"""What had been estimated, beside what was found of the same file; and profiles of the user's own, which learn from it.

All estimates are made before any profile learns, and kept: a report says what was estimated when it was measured,
whatever a profile learns later.
"""

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from edgekd import cost, fitted
from edgekd.errors import ConfigError, EdgekdError, PluginUnavailable, StorageError
from edgekd.files import content
from edgekd.fitted import CONTRADICTORY, Evidence, Place, Profile
from edgekd.places import place_name
from edgekd.runs import Run, Work
from edgekd.specs import Artifact, Comparison, Comparisons, Counted, Interval, Measurement, Spec, Target
from edgekd.verdicts import speaks

VERSION = 1

Found = Measurement | Counted
HARMLESS: Final[tuple[type[EdgekdError], ...]] = (ConfigError, PluginUnavailable, StorageError)
"""Of an estimate or a profile: what was measured stands without them."""


class Told(Spec, frozen=True, kw_only=True):
    """What was estimated."""

    latency_ms: Interval
    tier: str
    fitted: bool
    """As of a Comparison."""


class Lesson(Spec, frozen=True, kw_only=True):
    """What a profile learnt from a measurement, in a sentence; "" where that is nothing new."""

    note: str


class Case(NamedTuple):
    """Something that was found, what tells the estimate for it, and what lets a profile learn from it."""

    found: Found
    tell: Callable[[], Told]
    learn: Callable[[], Lesson]


def compare(run: Run, target: Target, artifacts: Sequence[Artifact], found: Sequence[Found]) -> Comparisons:
    """All that was found in a run, beside what had been estimated; profiles learn from what is measured."""
    by_export, cases = {one.export: one for one in artifacts}, []
    for one in found:
        artifact, place = by_export[one.artifact], f"{one.artifact}@{one.engine}@{place_name(one.device)}"
        at = f"{target.name}/5-measure"
        tell = partial(run.step, f"{at}/estimated/{place}", foretell, artifact, target, one.engine, one.threads)
        cases.append(Case(one, tell, partial(run.step, f"{at}/learnt/{place}", refine, artifact, target, one)))
    return _compared(target, cases)


def compare_files(target: Target, found: Sequence[tuple[Path, Found]]) -> Comparisons:
    """The same of files from anywhere, whose precision is what most of their arithmetic has."""
    cases = []
    for model, one in found:
        tell = partial(_told, model, None, target, one.engine, one.threads)
        cases.append(Case(one, tell, partial(_learn, model, None, target, one)))
    return _compared(target, cases)


def _compared(target: Target, cases: Sequence[Case]) -> Comparisons:
    rows, notes = list[Comparison](), list[str]()
    telling = [case for case in cases if speaks(case.found, target, "latency_ms")]
    for case in telling:
        try:
            rows.append(_row(case.found, case.tell()))
        except HARMLESS as error:
            notes.append(f"No latency was estimated for {case.found.artifact}: {error}.")
    for case in telling:
        if not _teaches(case.found):
            continue
        try:
            notes.append(case.learn().note)
        except HARMLESS as error:
            notes.append(_unlearnt(target.cost_profile, case.found, str(error)))
    return Comparisons(rows=tuple(rows), notes=tuple(dict.fromkeys(filter(None, notes))))


def _row(found: Found, told: Told) -> Comparison:
    return Comparison(
        artifact=found.artifact,
        engine=found.engine,
        device=found.device,
        threads=found.threads,
        provenance=found.provenance,
        estimated_ms=told.latency_ms.value,
        low_ms=told.latency_ms.low,
        high_ms=told.latency_ms.high,
        tier=told.tier,
        found_ms=_found_ms(found),
        fitted=told.fitted,
        valid=found.valid if isinstance(found, Measurement) else True,
    )


def _found_ms(found: Found) -> float:
    if isinstance(found, Measurement):
        return found.latency_ms.p50
    assert found.latency_ms is not None
    return found.latency_ms.value


def _teaches(found: Found) -> bool:
    return isinstance(found, Measurement) and found.provenance == "measured" and found.valid


# --- what had been estimated


def foretell(work: Work, artifact: Artifact, target: Target, engine: str, threads: int) -> Told:
    """The latency that is estimated for an artifact's own file.

    Raises:
        ConfigError, PluginUnavailable: as `cost.estimate`.
    """
    return _told(work.path(artifact.model), artifact.precision, target, engine, threads)


def _told(model: Path, precision: str | None, target: Target, engine: str, threads: int) -> Told:
    found = cost.estimate(model, target, engine=engine, precision=precision, threads=threads)
    profile = _own(target, _place(engine, found.precision, threads))
    return Told(
        latency_ms=Interval(value=found.latency_ms, low=found.low_ms, high=found.high_ms),
        tier=found.tier,
        fitted=profile is not None and profile.has(_net(model, profile, model.name, found.latency_ms)),
    )


# --- what a profile learns


def refine(work: Work, artifact: Artifact, target: Target, found: Found) -> Lesson:
    """Let the profile of the user's own that a measured artifact belongs to learn from it.

    Raises:
        ConfigError: the profile is damaged.
        StorageError: it cannot be written.
    """
    if artifact.quantization.in_float:
        return Lesson(note=f"{artifact.export} is partly in float: no profile learns from it.")
    return _learn(work.path(artifact.model), artifact.precision, target, found)


def _learn(model: Path, precision: str | None, target: Target, found: Found) -> Lesson:
    name, place = target.cost_profile, _place(found.engine, precision or cost.seen(str(model))[2], found.threads)
    if _own(target, place) is None:
        return Lesson(note=_how_to(target, found, place))
    with fitted.revising(name) as profiles:
        at = [one.place for one in profiles].index(place)
        net = _net(model, profiles[at], found.artifact, _found_ms(found))
        if profiles[at].has(net):
            return Lesson(note="")
        if why := _absurd(profiles[at], net):
            return Lesson(note=_unlearnt(name, found, f"{why}; if that is right, calibrate the device anew"))
        profiles[at] = fitted.refined(profiles[at], net)
        tier = profiles[at].tier
    return Lesson(note=f"Profile {name} has learnt from {found.artifact}: for {_spelled(place)} it is {tier}.")


def _place(engine: str, precision: str, threads: int) -> Place:
    runtime, unit = cost.runtime_of(engine)
    return runtime, unit, cost.costed_as(runtime, precision), threads if unit == "cpu" else 0


def _own(target: Target, place: Place) -> Profile | None:
    """The profile that numbers of a place belong to, where the target names one of the user's own."""
    if target.cost_profile not in fitted.own_names():
        return None
    return next((one for one in fitted.own(target.cost_profile) if one.place == place), None)


def _net(model: Path, profile: Profile, name: str, milliseconds: float) -> Evidence:
    _, kernels, _ = cost.seen(str(model))
    (totals,) = fitted.of_profile(profile).family.totals([kernels])
    return fitted.evidence(name, milliseconds, totals, content(model)[1])


def _absurd(profile: Profile, net: Evidence) -> str:
    """Why a latency cannot be, by all that the profile knows; "" where it can."""
    expected = fitted.of_profile(profile).predict(np.array([net.totals]))
    ms, low, high = (float(one[0]) for one in (expected.ms, expected.low, expected.high))
    if low <= net.ms <= high or 1 / CONTRADICTORY <= net.ms / ms <= CONTRADICTORY:
        return ""
    span = f"{ms:.3g} ms ({low:.3g} to {high:.3g}) [estimated]"
    return f"{net.ms:.3g} ms [measured] is {net.ms / ms:.2g} times the {span} that it expects"


def _unlearnt(profile: str, found: Found, why: str) -> str:
    return f"Profile {profile} has not learnt from {found.artifact} on {found.device}: {why}."


def _how_to(target: Target, found: Found, place: Place) -> str:
    own = target.cost_profile in fitted.own_names()
    name, precision = target.cost_profile if own else "NAME", place[2]
    words = ["edgekd", "calibrate", name, "--on", found.device, "--engine", found.engine, "--precision", precision]
    command = shlex.join([*words, "--threads", str(found.threads)])
    then = "" if own else f'; then say `cost_profile = "{name}"` in the target'
    return f"No profile of yours for {_spelled(place)} learns from what was measured: `{command}` makes one{then}."


def _spelled(place: Place) -> str:
    runtime, _, precision, threads = place
    return f"{runtime} {precision}" + (f" with {threads} thread{'s' * (threads != 1)}" if threads else "")
