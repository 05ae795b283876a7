"""An export that a target's runtimes execute: as it was asked for, or what the target says stands in for it."""

from typing import NamedTuple

from edgekd.converters import split
from edgekd.export import export
from edgekd.fitness import newest_set, unfit
from edgekd.runs import Run
from edgekd.specs import Artifact, Data, Student, Target


class Exported(NamedTuple):
    """An artifact, and what is said against it."""

    artifact: Artifact
    reasons: tuple[str, ...]
    """Why no runtime of the target executes it rightly; () where one does."""


def exported(run: Run, at: str, target: Target, student: Student, data: Data, wanted: str) -> Exported:
    """An export below the folder `at`, or what stands in for it.

    Raises:
        ConvertError: the converter gave up.
    """
    made = _written(run, at, target, student, data, wanted)
    if not made.reasons or wanted not in target.fallbacks:
        return made
    instead = target.fallbacks[wanted]
    run.log(step=f"{at}/{wanted}", event="replaced", by=instead, reasons=list(made.reasons))
    return _written(run, at, target, student, data, instead)


def _written(run: Run, at: str, target: Target, student: Student, data: Data, wanted: str) -> Exported:
    newest = newest_set(split(wanted)[0], target)
    artifact = run.step(f"{at}/{wanted}", export, student, data, wanted, newest)
    models = [artifact.model, *([artifact.context.model] if artifact.context else [])]
    reasons = [line for one in models for line in unfit(run.folder / one.path, artifact.precision, target)]
    return Exported(artifact, tuple(reasons))
