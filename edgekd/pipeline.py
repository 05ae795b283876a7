"""The whole flow, top to bottom; each `run.step` is done once and kept."""

import platform
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from edgekd.agree import agree, for_job, foresee, heads_of, losses_of, teachers_of
from edgekd.attempts import Attempt, attempt_there, failed
from edgekd.converters import families
from edgekd.data import load
from edgekd.distil import distil
from edgekd.engines import able
from edgekd.errors import BudgetInfeasible, MeasureError
from edgekd.exported import Exported, exported
from edgekd.files import content, digest, dumps, read_text, write_text
from edgekd.finals import Experience, at_hand, experience, finals, has_experience, keep_experience, learned
from edgekd.firmware import firmware_of
from edgekd.know import know
from edgekd.ladder import Slope, agreement_after, artifact_after, climb, falls_short, unfit_after
from edgekd.lessons import Lesson
from edgekd.matrix import Matrix, cross
from edgekd.measure import measure, modelled
from edgekd.oracles import files_named
from edgekd.places import Place, ask, devices_of, place_name, remember
from edgekd.plan import Finals, Shortlist, choose, most_capable, shortlist
from edgekd.plugins import fingerprint
from edgekd.refine import compare
from edgekd.relabel import Relabelled, relabel
from edgekd.report import Evidence, effective_budget, report
from edgekd.runs import Run
from edgekd.slowness import explain, slow_pairs
from edgekd.specs import (
    Agreement,
    Artifact,
    Choice,
    Climb,
    Comparisons,
    Counted,
    Data,
    Failure,
    Finalist,
    Firmware,
    Knowledge,
    Measurement,
    Mode,
    Plan,
    Recipe,
    Report,
    Required,
    Slowness,
    Spec,
    Stage,
    Student,
    Target,
    Teacher,
    TeacherChoice,
    Told,
)
from edgekd.teach import Curriculum, taught_by, teach
from edgekd.verify import engine_for, verify
from edgekd.workers import cores, sharing, together

R = TypeVar("R")

Step = Literal["teach", "plan", "distil", "export", "verify", "climb", "measure", "report"]
MEASURED: Final = ("measure", "report")
"""Steps that need what was measured."""
WITHOUT_TRAINING: Final = ("most capable within the budget",)
"""What a student can be chosen by before there is a teacher."""
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
    lessons: Relabelled
    """What students and twins learn from: the data, where the teacher writes no labels."""
    teacher: Teacher
    knowledge: Knowledge


class Made(Spec, frozen=True, kw_only=True):
    """What a run has made for a target, as far as it was asked to go."""

    target: str
    teacher: Teacher | None = None
    plan: Plan | None = None
    student: Student | None = None
    artifacts: tuple[Artifact, ...] = ()
    unfit: dict[str, tuple[str, ...]] = {}
    """Export -> why no runtime of the target executes it rightly."""
    agreements: tuple[Agreement, ...] = ()
    matrix: Matrix | None = None
    climbs: tuple[Climb, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    counted: tuple[Counted, ...] = ()
    """Where times tell nothing."""
    firmware: tuple[Firmware, ...] = ()
    """Of a microcontroller."""
    failures: tuple[Failure, ...] = ()
    """What could not be measured."""
    slow: tuple[Slowness, ...] = ()
    """Artifacts that are slower than their float twins."""
    compared: Comparisons = Comparisons()
    """What had been estimated, beside what was found."""
    report: Report | None = None


class Found(NamedTuple):
    """What was measured of a target's artifacts, place after place."""

    measurements: tuple[Measurement, ...]
    counted: tuple[Counted, ...]
    failures: tuple[Failure, ...]


def build(
    run: Run,
    recipe: Recipe,
    targets: Sequence[Target],
    *,
    until: Step = "report",
    on: Sequence[str] = (),
    mode: Mode | None = None,
    crosswise: bool = False,
    required: Required | None = None,
    afresh: bool = True,
    rounds: int = 0,
) -> list[Made]:
    """Take a recipe to each target; the teacher and its knowledge are made once and shared by all.

    `on` are the devices to measure on, "DEVICE" or "TARGET=DEVICE"; without it artifacts are timed here, and counted on
    the target's emulator where that is prepared. `crosswise` verifies on every engine that is installed here, not on
    the target's alone, and each against each. Latency and memory of less provenance than `required` break the budget.
    Where `on` is what the run was made with, and not named `afresh`, what failed there is not tried again. A student
    that a device shows to break its budget, or to take less than half of it, is planned anew at most `rounds` times.

    Raises:
        EdgekdError: what went wrong; everything finished before it is kept, and the same call goes on from there.
    """
    targets = [for_job(recipe, target) for target in targets]
    for target in targets:
        foresee(recipe, target)
    named = devices_of(on, targets)
    places = {target.name: _places(run, recipe, target, named[target.name], until, afresh) for target in targets}
    _write_inputs(run, recipe, targets)
    remember(run, named)
    teachers = teachers_of(recipe)
    sources = _sources(recipe, teachers)
    with sharing():  # what these need loads once
        data = run.step("data", load, recipe.dataset, heads_of(recipe), sources["dataset"])
        agreed = run.step("agreed", agree, _what_is_agreed(recipe), data, sources)
        lists = [
            run.step(f"{target.name}/1-plan/fitting", shortlist, recipe.student, target, data, sources["student"])
            for target in targets
        ]
        jobs = []
        if until != "teach":
            jobs = [
                _proved(run, recipe, target, listed, places[target.name], data, sources["student"])
                for target, listed in zip(targets, lists, strict=True)
            ]
        if until == "plan" and recipe.prefer in WITHOUT_TRAINING:
            return [Made(target=job.target.name, plan=job.plan(recipe)) for job in jobs]
        shared = _teach(run, recipe, teachers, agreed.layers, data, sources)
        if until == "teach":
            return [Made(target=target.name, teacher=shared.teacher) for target in targets]
    lesson = Lesson(
        student=Choice(name=recipe.student.name),
        training=recipe.student.training,
        losses=recipe.losses,
        stages=recipe.stages,
        weighting=recipe.weighting,
        initialise=recipe.student.initialise,
        views=recipe.views,
        seed=recipe.seed if recipe.student_seed is None else recipe.student_seed,
        views_seed=recipe.seed,
        source=sources["student"],
    )
    order = Order(until, lesson, shared, mode or recipe.measure, crosswise, required, rounds)
    return [_made(run, recipe, job, order) for job in jobs]


def _sources(recipe: Recipe, teachers: Mapping[str, TeacherChoice]) -> dict[str, str]:
    """Fingerprints of a user's own code and files, by who rests on them; "" where there is none."""
    tasks = [head.task for head in heads_of(recipe).values()]
    losses = [loss.name for loss in losses_of(recipe)]
    start = {"weights": recipe.student.initialise.weights}
    taught = {place: _source([one.name, *tasks], one.options) for place, one in teachers.items()}
    return {
        "dataset": _source([recipe.dataset.name, *tasks], recipe.dataset.options),
        "student": _source([recipe.student.name, *tasks, *losses], start),
        **taught,
    }


def _source(names: Iterable[str], options: Mapping[str, Any]) -> str:
    """Of what names stand for, and of the files that options name."""
    code = map(fingerprint, dict.fromkeys(names))
    found = [one for one in (*code, *(content(path)[1] for path in files_named(options))) if one]
    return found[0] if len(found) == 1 else digest(found) if found else ""


class Job(NamedTuple):
    """A target, and what is known of its candidates before any training."""

    target: Target
    places: Sequence[Place]
    listed: Shortlist
    known: Experience
    finals: Finals

    def plan(self, recipe: Recipe) -> Plan:
        """The most capable candidate that holds the budget."""
        return most_capable(self.listed, self.finals, self.target.name, recipe.student.name)


class Order(NamedTuple):
    """What is the same for every target."""

    until: Step
    lesson: Lesson
    shared: Shared
    mode: Mode
    crosswise: bool
    required: Required | None
    rounds: int


def _proved(
    run: Run, recipe: Recipe, target: Target, listed: Shortlist, places: Sequence[Place], data: Data, source: str
) -> Job:
    known = experience(run, target.name, listed, places)
    return Job(target, places, listed, known, finals(run, target, recipe.student.name, listed, data, source, known))


def _made(run: Run, recipe: Recipe, job: Job, order: Order) -> Made:
    """What a target comes to, planned anew where its student turns out to be of the wrong size."""
    made = _to(order.until, _take(run, recipe, job, order))
    while made.plan and made.report and len(job.known.trained) < order.rounds:
        larger = recipe.prefer in WITHOUT_TRAINING
        found = learned(made.plan, made.report, larger)
        again = found and _again(run, recipe, job, order, found)
        if not again:
            break
        job = again
        made = _to(order.until, _take(run, recipe, job, order))
    return made


def _to(until: Step, steps: Iterator[tuple[Step, Made]]) -> Made:
    return next(so_far for step, so_far in steps if step == until)


def _again(run: Run, recipe: Recipe, job: Job, order: Order, found: Finalist) -> Job | None:
    """The job with what its student has shown; None where that changes nothing."""
    known = at_hand(msgspec.structs.replace(job.known, trained=(*job.known.trained, found)), job.places)
    source, data = order.lesson.source, order.shared.data
    try:
        proved = finals(run, job.target, recipe.student.name, job.listed, data, source, known)
    except BudgetInfeasible as error:
        run.log(step=f"{job.target.name}/1-plan", event="not planned again", error=str(error))
        return None
    if proved.front[-1].options == found.options:
        return None
    run.log(step=f"{job.target.name}/1-plan", event="planned again", found=msgspec.to_builtins(found.verdicts))
    keep_experience(run, job.target.name, known)
    return job._replace(known=known, finals=proved)


def _what_is_agreed(recipe: Recipe) -> Recipe:
    """The recipe without what nothing must be agreed on, so that a new title or seed is no new work."""
    of_no_matter: dict[str, Any] = {
        "student_seed": None,
        "top_k": 0,
        "instead": {},
        "scales": {},
        "minutes": 0.0,
        "memory_bytes": 0,
    }
    return msgspec.structs.replace(recipe, title="-", seed=0, measure="rapid", **of_no_matter)


def _teach(
    run: Run,
    recipe: Recipe,
    teachers: Mapping[str, TeacherChoice],
    layers: tuple[str, ...],
    data: Data,
    sources: Mapping[str, str],
) -> Shared:
    """Each teacher, and what it says; students look at layers of the first one alone."""
    trained, told, lessons = list[Teacher](), list[Told](), Relabelled(taught=data, given=data)
    for place, choice in teachers.items():
        curriculum = Curriculum(
            teacher=choice, views=recipe.views, seed=recipe.seed, source=sources[place], threads=cores()
        )
        teacher = run.step(place, teach, curriculum, data)
        outputs = taught_by(choice, data.subject)
        if recipe.pseudo_labels and not trained:  # the first teacher writes them
            wanted = recipe.pseudo_labels
            lessons = run.step("pseudo-labels", relabel, teacher, data, wanted, sources[place], cores())
        looked = layers if choice is recipe.teacher else ()
        what = place.replace("teacher", "knowledge", 1)
        of_views = (recipe.views, recipe.seed, recipe.top_k)
        told.append(run.step(what, know, teacher, lessons.taught, outputs, looked, *of_views, sources[place], cores()))
        trained.append(teacher)
    return Shared(data=data, lessons=lessons, teacher=trained[0], knowledge=Knowledge(told=tuple(told)))


def _take(run: Run, recipe: Recipe, job: Job, order: Order) -> Iterator[tuple[Step, Made]]:
    """The steps of one target, each with what there is after it."""
    target, lesson, shared = job.target, order.lesson, order.shared
    at, data, knowledge = target.name, shared.data, shared.knowledge
    taught, given = shared.lessons.taught, shared.lessons.given
    budget = effective_budget(recipe, target)

    plan = _planned(run, recipe, job, order, budget.accuracy_floor)
    made = Made(target=at, teacher=shared.teacher, plan=plan)
    yield "plan", made

    lesson = msgspec.structs.replace(lesson, student=plan.student)
    student = run.step(f"{at}/2-distil", distil, lesson, taught, given, knowledge)
    made = msgspec.structs.replace(made, student=student)
    yield "distil", made

    exports = _exports(run, target, student, data)
    artifacts = tuple({one.export: one for one, _ in exports}.values())
    doubts = {one.export: reasons for one, reasons in exports if reasons}
    made = msgspec.structs.replace(made, artifacts=artifacts, unfit=doubts)
    yield "export", made

    executable = [(artifact, engine) for artifact in artifacts if (engine := engine_for(artifact, target.engines))]
    agreements = _in_lanes(
        partial(run.step, f"{at}/4-verify/{one.export}@{engine}", verify, student, data, one, engine)
        for one, engine in executable
    )
    made = msgspec.structs.replace(made, agreements=agreements)
    if order.crosswise:
        made = msgspec.structs.replace(made, matrix=_cross(run, made, data))
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

    small = target.device.flash_bytes
    firmware = tuple(firmware_of(run, f"{at}/3-export/{one.export}", target, one) for one in artifacts if small)
    made = msgspec.structs.replace(made, firmware=firmware)
    found = _measure(run, at, artifacts, job.places, order.mode)
    slow = tuple(
        run.step(_by_operator(at, one.measurement), explain, one, twin)
        for one, twin in slow_pairs(artifacts, found.measurements)
    )
    compared = compare(run, target, artifacts, [*found.measurements, *found.counted])
    made = msgspec.structs.replace(made, **found._asdict(), slow=slow, compared=compared)
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
        **found._asdict(),
        firmware=firmware,
        slow=slow,
        compared=compared,
        required=order.required,
        environment=environment(),
    )
    yield "report", msgspec.structs.replace(made, report=run.step(f"{at}/6-report", report, evidence))


def _planned(run: Run, recipe: Recipe, job: Job, order: Order, floor: float) -> Plan:
    """The student to make, told by probes where the recipe wants it."""
    if recipe.prefer in WITHOUT_TRAINING:
        return job.plan(recipe)
    lesson, shared, at = order.lesson, order.shared, job.target.name
    short = msgspec.structs.replace(recipe.student.training, epochs=recipe.probe_epochs)
    stages = tuple(map(partial(_short, recipe), lesson.stages))
    # Whatever the student's seed: seeds are compared on the same student.
    probe = msgspec.structs.replace(lesson, training=short, stages=stages, seed=recipe.seed)
    of_job, told = (recipe.prefer, floor, job.listed, job.finals, at), (shared.lessons.taught, shared.knowledge)
    return run.step(f"{at}/1-plan/choice", choose, *of_job, probe, *told)


def _short(recipe: Recipe, stage: Stage) -> Stage:
    """A stage as a probe has it."""
    epochs = min(stage.training.epochs, recipe.probe_epochs)
    return msgspec.structs.replace(stage, training=msgspec.structs.replace(stage.training, epochs=epochs))


def _places(
    run: Run, recipe: Recipe, target: Target, named: Sequence[str], until: Step, afresh: bool
) -> tuple[Place, ...]:
    """Where a target is measured; nowhere, and nothing is asked, where the run ends before and has its plan."""
    if until not in MEASURED and (until == "teach" or has_experience(run, target.name)):
        return ()
    kept = _inputs(run, recipe, [target])
    changed = any(not path.is_file() or read_text(path) != dumps(noun) for path, noun in kept.items())
    return ask(run, target, named, afresh, changed)


def _measure(run: Run, at: str, artifacts: Sequence[Artifact], places: Sequence[Place], mode: Mode) -> Found:
    """Each artifact at each place; one that fails does not stop the others.

    Raises:
        DeviceUnreachable: a device does not answer any more; what was measured is kept.
    """
    # One after the other: two timings at once would disturb each other.
    tried = [
        _attempt(run, at, one, engine, place, mode) if engine else _unable(one, place)
        for place in places
        for one in artifacts
        if (engine := place.engine_for(one)) or place.wanted
    ]
    return Found(
        tuple(one.measurement for one in tried if one.measurement),
        tuple(modelled(one.counted) for one in tried if one.counted),
        tuple(one.failure for one in tried if one.failure),
    )


def _attempt(run: Run, at: str, artifact: Artifact, engine: str, place: Place, mode: Mode) -> Attempt:
    name, device = _at(at, artifact.export, engine, place.device), place.device
    if place.provenance == "host":
        return _timed_here(run, name, artifact, engine, place, mode)

    def do() -> Attempt:
        return attempt_there(run, name, artifact, engine, device, mode, place.threads)

    before = (run.folder / name / "result.json").exists()
    found = do()
    if before and found.failure and place.afresh:
        run.forget(name)
        found = do()
    return found


def _timed_here(run: Run, name: str, artifact: Artifact, engine: str, place: Place, mode: Mode) -> Attempt:
    try:
        return Attempt(measurement=run.step(name, measure, artifact, engine, place.device, mode, place.threads))
    except MeasureError as error:
        run.log(step=name, event="failed", error=str(error), hint=error.hint)
        return failed(artifact, engine, place.device, str(error))


def _unable(artifact: Artifact, place: Place) -> Attempt:
    why = place.why_not(artifact)
    return failed(artifact, "", place.device, str(why), why.hint)


def _at(at: str, export: str, engine: str, device: str) -> str:
    return f"{at}/5-measure/{export}@{engine}@{place_name(device)}"


def _by_operator(at: str, of: Measurement) -> str:
    return f"{at}/5-measure/by-operator/{of.artifact}@{of.engine}@{place_name(of.device)}"


def _exports(run: Run, target: Target, student: Student, data: Data) -> list[Exported]:
    """All exports in their order."""

    def family(exports: Sequence[str]) -> dict[str, Exported]:
        at = f"{target.name}/3-export"
        with sharing():
            return {wanted: exported(run, at, target, student, data, wanted) for wanted in exports}

    found = ChainMap(*_at_once(partial(family, exports) for exports in families(target.exports)))
    return [found[wanted] for wanted in target.exports]


def _cross(run: Run, made: Made, data: Data) -> Matrix:
    assert made.student is not None
    done = {(one.artifact, one.engine) for one in made.agreements}
    more = _in_lanes(
        partial(run.step, f"{made.target}/4-verify/{one.export}@{engine}", verify, made.student, data, one, engine)
        for one in made.artifacts
        for engine in able(one.model.path)
        if (one.export, engine) not in done
    )
    return run.step(f"{made.target}/4-verify/matrix", cross, made.student, data, made.agreements + more)


def _in_lanes(steps: Iterable[Callable[[], R]]) -> tuple[R, ...]:
    """As `_at_once`, for steps that load the same libraries: those of a lane are done by one process."""
    wanted = list(steps)

    def lane(first: int) -> list[R]:
        with sharing():
            return [step() for step in wanted[first :: cores()]]

    done = together([partial(lane, first) for first in range(cores())], at_once=cores())
    return tuple(done[index % cores()][index // cores()] for index in range(len(wanted)))


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


def _inputs(run: Run, recipe: Recipe, targets: Sequence[Target]) -> Mapping[Path, Any]:
    """File of a run folder -> what the user wrote."""
    folder = run.folder / "inputs"
    return {folder / "recipe.json": recipe} | {folder / f"target-{target.name}.json": target for target in targets}


def _write_inputs(run: Run, recipe: Recipe, targets: Sequence[Target]) -> None:
    (run.folder / "inputs").mkdir(exist_ok=True)
    for path, noun in _inputs(run, recipe, targets).items():
        write_text(path, dumps(noun))
    write_text(run.folder / "env.json", dumps(environment()))
