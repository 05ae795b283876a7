"""The whole flow, top to bottom; each `run.step` is done once and kept."""

import platform
import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal, TypeVar

import msgspec

from edgekd.agree import agree, foresee
from edgekd.converters import families, split
from edgekd.data import load
from edgekd.distil import distil
from edgekd.engines import able, timed
from edgekd.export import export
from edgekd.files import dumps, write_text
from edgekd.fitness import newest_set, unfit
from edgekd.ladder import Slope, agreement_after, artifact_after, climb, falls_short, unfit_after
from edgekd.lessons import Lesson
from edgekd.matrix import Matrix, cross
from edgekd.measure import measure
from edgekd.plan import Shortlist, choose, shortlist
from edgekd.plugins import fingerprint
from edgekd.report import Evidence, effective_budget, report
from edgekd.runs import Run
from edgekd.slowness import explain, slow_pairs
from edgekd.specs import (
    Agreement,
    Artifact,
    Choice,
    Climb,
    Data,
    Knowledge,
    Measurement,
    Mode,
    Plan,
    Recipe,
    Report,
    Slowness,
    Spec,
    Student,
    Target,
    Teacher,
)
from edgekd.teach import Curriculum, know, teach
from edgekd.verify import engine_for, verify
from edgekd.workers import cores, sharing, together

R = TypeVar("R")

Step = Literal["teach", "plan", "distil", "export", "verify", "climb", "measure", "report"]
THREADS: Final = 1
"""Of a timing on this machine: one thread is what is the same on all machines."""
PACKAGES: Final = (
    "edgekd",
    "torch",
    "numpy",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "onnx",
    "onnxruntime",
)


class Shared(Spec, frozen=True, kw_only=True):
    """What all targets of a run have in common."""

    data: Data
    teacher: Teacher
    knowledge: Knowledge


class Made(Spec, frozen=True, kw_only=True):
    """What a run has made for a target, as far as it was asked to go."""

    target: str
    teacher: Teacher
    plan: Plan | None = None
    student: Student | None = None
    artifacts: tuple[Artifact, ...] = ()
    unfit: dict[str, tuple[str, ...]] = {}
    """Export -> why no runtime of the target executes it rightly."""
    agreements: tuple[Agreement, ...] = ()
    matrix: Matrix | None = None
    climbs: tuple[Climb, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    slow: tuple[Slowness, ...] = ()
    """Artifacts that are slower than their float twins."""
    report: Report | None = None


def build(
    run: Run,
    recipe: Recipe,
    targets: Sequence[Target],
    *,
    until: Step = "report",
    device: str = "host",
    mode: Mode | None = None,
    crosswise: bool = False,
) -> list[Made]:
    """Take a recipe to each target; the teacher and its knowledge are made once and shared by all.

    `crosswise` verifies on every engine that is installed here, not on the target's alone, and each against each.

    Raises:
        EdgekdError: what went wrong; everything finished before it is kept, and the same call goes on from there.
    """
    for target in targets:
        foresee(recipe, target)
    _write_inputs(run, recipe, targets)
    sources = {part: fingerprint(getattr(recipe, part).name) for part in ("dataset", "teacher", "student")}
    data = run.step("data", load, recipe.dataset, recipe.task, sources["dataset"])
    run.step("agreed", agree, recipe.teacher, recipe.student, recipe.losses, data, sources)
    lists = [
        run.step(f"{target.name}/1-plan/fitting", shortlist, recipe.student, target, data, sources["student"])
        for target in targets
    ]
    shared = _teach(run, recipe, data, sources["teacher"])
    lesson = Lesson(
        student=Choice(name=recipe.student.name),
        training=recipe.student.training,
        losses=recipe.losses,
        task=recipe.task,
        views=recipe.views,
        seed=recipe.seed,
        source=sources["student"],
    )
    made = []
    for target, listed in zip(targets, lists, strict=True):
        for step, so_far in _take(
            run, recipe, target, listed, lesson, shared, device, mode or recipe.measure, crosswise
        ):
            if step == until:
                made.append(so_far)
                break
    return made


def _teach(run: Run, recipe: Recipe, data: Data, source: str) -> Shared:
    curriculum = Curriculum(
        teacher=recipe.teacher, task=recipe.task, views=recipe.views, seed=recipe.seed, source=source, threads=cores()
    )
    teacher = run.step("teacher", teach, curriculum, data)
    knowledge = run.step("knowledge", know, teacher, data, recipe.views, recipe.seed, cores())
    return Shared(data=data, teacher=teacher, knowledge=knowledge)


def _take(
    run: Run,
    recipe: Recipe,
    target: Target,
    listed: Shortlist,
    lesson: Lesson,
    shared: Shared,
    device: str,
    mode: Mode,
    crosswise: bool,
) -> Iterator[tuple[Step, Made]]:
    """The steps of one target, each with what there is after it."""
    at, data, knowledge = target.name, shared.data, shared.knowledge
    made = Made(target=at, teacher=shared.teacher)
    yield "teach", made

    budget = effective_budget(recipe, target)
    short = msgspec.structs.replace(recipe.student.training, epochs=recipe.probe_epochs)
    probe = msgspec.structs.replace(lesson, training=short)
    plan = run.step(
        f"{at}/1-plan/choice", choose, recipe.prefer, budget.accuracy_floor, listed, at, probe, data, knowledge
    )
    made = msgspec.structs.replace(made, plan=plan)
    yield "plan", made

    student = run.step(f"{at}/2-distil", distil, lesson, plan, data, knowledge)
    made = msgspec.structs.replace(made, student=student)
    yield "distil", made

    exports = _exports(run, target, student, data)
    artifacts = tuple({one.export: one for one, _ in exports}.values())
    doubts = {one.export: reasons for one, reasons in exports if reasons}
    made = msgspec.structs.replace(made, artifacts=artifacts, unfit=doubts)
    yield "export", made

    executable = [(artifact, engine) for artifact in artifacts if (engine := engine_for(artifact, target.engines))]
    agreements = _at_once(
        partial(run.step, f"{at}/4-verify/{one.export}@{engine}", verify, student, data, one, engine, recipe.task)
        for one, engine in executable
    )
    made = msgspec.structs.replace(made, agreements=agreements)
    if crosswise:
        made = msgspec.structs.replace(made, matrix=_cross(run, made, recipe.task, data))
    yield "verify", made

    climbs = []
    for (one, engine), agreement in zip(executable, agreements, strict=True):
        slope = Slope(run, target, budget, plan, lesson, data, knowledge, student, one, engine)
        if one.export not in doubts and falls_short(slope, agreement):
            climbs.append(climb(slope, agreement))
    artifacts = tuple(map(partial(artifact_after, climbs), artifacts))
    agreements = tuple(map(partial(agreement_after, climbs), agreements))
    executable = [(artifact_after(climbs, one), engine) for one, engine in executable]
    made = msgspec.structs.replace(
        made,
        artifacts=artifacts,
        agreements=agreements,
        climbs=tuple(climbs),
        unfit=unfit_after(climbs, made.unfit),
    )
    yield "climb", made

    # One after the other: two timings at once would disturb each other.
    place = re.sub(r"[^A-Za-z0-9.]+", "-", device).strip("-.")
    measurements = tuple(
        run.step(f"{at}/5-measure/{one.export}@{engine}@{place}", measure, one, engine, device, mode, THREADS)
        for one, engine in executable
        if timed(engine)
    )
    by_operator = f"{at}/5-measure/by-operator"
    slow = tuple(
        run.step(f"{by_operator}/{one.artifact.export}@{one.measurement.engine}@{place}", explain, one, twin)
        for one, twin in slow_pairs(artifacts, measurements)
    )
    made = msgspec.structs.replace(made, measurements=measurements, slow=slow)
    yield "measure", made

    evidence = Evidence(
        recipe=recipe,
        target=target,
        data=data,
        teacher=shared.teacher,
        plan=plan,
        student=student,
        artifacts=artifacts,
        unfit=made.unfit,
        agreements=agreements,
        climbs=tuple(climbs),
        measurements=measurements,
        slow=slow,
        environment=environment(),
    )
    yield "report", msgspec.structs.replace(made, report=run.step(f"{at}/6-report", report, evidence))


def _exports(run: Run, target: Target, student: Student, data: Data) -> list[tuple[Artifact, tuple[str, ...]]]:
    """All exports in their order, each with why no runtime of the target executes it rightly."""

    def family(exports: Sequence[str]) -> dict[str, tuple[Artifact, tuple[str, ...]]]:
        with sharing():
            return {wanted: _export(run, target, student, data, wanted) for wanted in exports}

    found = ChainMap(*_at_once(partial(family, exports) for exports in families(target.exports)))
    return [found[wanted] for wanted in target.exports]


def _export(run: Run, target: Target, student: Student, data: Data, wanted: str) -> tuple[Artifact, tuple[str, ...]]:
    """An export, or what the target says stands in for it where its runtimes do not execute it; and what they say."""
    artifact = _write(run, target, student, data, wanted)
    reasons = unfit(run.folder / artifact.model.path, artifact.precision, target)
    if not reasons or wanted not in target.fallbacks:
        return artifact, reasons
    instead = target.fallbacks[wanted]
    run.log(step=f"{target.name}/3-export/{wanted}", event="replaced", by=instead, reasons=list(reasons))
    artifact = _write(run, target, student, data, instead)
    return artifact, unfit(run.folder / artifact.model.path, artifact.precision, target)


def _write(run: Run, target: Target, student: Student, data: Data, wanted: str) -> Artifact:
    newest = newest_set(split(wanted)[0], target)
    return run.step(f"{target.name}/3-export/{wanted}", export, student, data, wanted, newest)


def _cross(run: Run, made: Made, task: str, data: Data) -> Matrix:
    assert made.student is not None
    done = {(one.artifact, one.engine) for one in made.agreements}
    more = _at_once(
        partial(
            run.step, f"{made.target}/4-verify/{one.export}@{engine}", verify, made.student, data, one, engine, task
        )
        for one in made.artifacts
        for engine in able(one.model.path)
        if (one.export, engine) not in done
    )
    return run.step(f"{made.target}/4-verify/matrix", cross, made.student, data, made.agreements + more, task)


def _at_once(steps: Iterable[Callable[[], R]]) -> tuple[R, ...]:
    return tuple(together(list(steps), at_once=cores()))


def environment() -> dict[str, str]:
    """Versions of what numbers depend on."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _write_inputs(run: Run, recipe: Recipe, targets: Sequence[Target]) -> None:
    nouns: dict[str, Any] = {"recipe": recipe, **{f"target-{target.name}": target for target in targets}}
    folder = run.folder / "inputs"
    folder.mkdir(exist_ok=True)
    for name, noun in nouns.items():
        write_text(folder / f"{name}.json", dumps(noun))
    write_text(run.folder / "env.json", dumps(environment()))
