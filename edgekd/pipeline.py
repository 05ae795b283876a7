"""The whole flow, top to bottom; each `run.step` is done once and kept."""

import platform
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

import msgspec

from edgekd.agree import agree, foresee
from edgekd.data import load
from edgekd.distil import distil
from edgekd.export import export
from edgekd.files import dumps, write_text
from edgekd.lessons import Lesson
from edgekd.measure import measure
from edgekd.plan import Shortlist, choose, shortlist
from edgekd.plugins import fingerprint
from edgekd.report import Evidence, effective_budget, report
from edgekd.runs import Run
from edgekd.specs import Choice, Data, Knowledge, Mode, Plan, Recipe, Report, Spec, Student, Target, Teacher
from edgekd.teach import Curriculum, know, teach
from edgekd.verify import engine_for, verify
from edgekd.workers import cores, together

Step = Literal["teach", "plan", "distil", "export", "verify", "measure", "report"]
STEPS: Final[tuple[Step, ...]] = ("teach", "plan", "distil", "export", "verify", "measure", "report")
PACKAGES: Final = ("edgekd", "torch", "numpy", "litert-torch", "ai-edge-litert", "ai-edge-quantizer", "onnx", "onnxruntime")


class Made(Spec):
    """What a run has made for a target, as far as it was asked to go."""

    target: str
    plan: Plan | None = None
    student: Student | None = None
    evidence: Evidence | None = None
    report: Report | None = None


def build(
    run: Run,
    recipe: Recipe,
    targets: Sequence[Target],
    *,
    until: Step = "report",
    device: str = "host",
    mode: Mode | None = None,
) -> list[Made]:
    """Take a recipe to each target; the teacher and its knowledge are made once and shared by all.

    Raises:
        EdgekdError: what went wrong; everything finished before it is kept, and the same call goes on from there.
    """
    for target in targets:
        foresee(recipe, target)
    _write_inputs(run, recipe, targets)
    sources = tuple(fingerprint(name) for name in (recipe.dataset.name, recipe.teacher.name, recipe.student.name))
    data = run.step("data", load, recipe.dataset, recipe.task, sources[0])
    run.step("agreed", agree, recipe.teacher, recipe.student, recipe.losses, data, sources)
    lists = [
        run.step(f"{target.name}/1-plan/fitting", shortlist, recipe.student, target, data, sources[2])
        for target in targets
    ]
    curriculum = Curriculum(
        teacher=recipe.teacher,
        task=recipe.task,
        views=recipe.views,
        seed=recipe.seed,
        source=sources[1],
        threads=cores(),
    )
    teacher = run.step("teacher", teach, curriculum, data)
    knowledge = run.step("knowledge", know, teacher, data, recipe.views, recipe.seed, cores())
    lesson = Lesson(
        student=Choice(name=recipe.student.name),
        training=recipe.student.training,
        losses=recipe.losses,
        task=recipe.task,
        views=recipe.views,
        seed=recipe.seed,
        source=sources[2],
    )
    return [
        _for_target(run, recipe, target, listed, lesson, data, teacher, knowledge, until, device, mode or recipe.measure)
        for target, listed in zip(targets, lists, strict=True)
    ]


def _for_target(
    run: Run,
    recipe: Recipe,
    target: Target,
    listed: Shortlist,
    lesson: Lesson,
    data: Data,
    teacher: Teacher,
    knowledge: Knowledge,
    until: Step,
    device: str,
    mode: Mode,
) -> Made:
    last = STEPS.index(until)
    at = target.name
    made = Made(target=at)
    if last < STEPS.index("plan"):
        return made
    floor = effective_budget(recipe, target).accuracy_floor
    probing = msgspec.structs.replace(recipe.student.training, epochs=recipe.probe_epochs)
    probe = msgspec.structs.replace(lesson, training=probing)
    plan = run.step(f"{at}/1-plan/choice", choose, recipe.prefer, floor, listed, at, probe, data, knowledge)
    made = msgspec.structs.replace(made, plan=plan)
    if last < STEPS.index("distil"):
        return made
    student = run.step(f"{at}/2-distil", distil, lesson, plan, data, knowledge)
    made = msgspec.structs.replace(made, student=student)
    if last < STEPS.index("export"):
        return made
    exports = [
        partial(run.step, f"{at}/3-export/{wanted}", export, student, data, wanted) for wanted in target.exports
    ]
    artifacts = tuple(together(exports, at_once=cores()))
    evidence = Evidence(
        run=run.folder.name,
        recipe=recipe,
        target=target,
        data=data,
        teacher=teacher,
        plan=plan,
        student=student,
        artifacts=artifacts,
        agreements=(),
        measurements=(),
        environment=environment(),
    )
    executable = [(artifact, engine) for artifact in artifacts if (engine := engine_for(artifact, target.engines))]
    if last >= STEPS.index("verify"):
        verifying = [
            partial(
                run.step, f"{at}/4-verify/{artifact.export}@{engine}", verify, student, data, artifact, engine, recipe.task
            )
            for artifact, engine in executable
        ]
        evidence = msgspec.structs.replace(evidence, agreements=tuple(together(verifying, at_once=cores())))
    if last >= STEPS.index("measure"):  # one after the other: two timings at once would disturb each other
        measurements = tuple(
            run.step(
                f"{at}/5-measure/{artifact.export}@{engine}@{device.replace(':', '-')}",
                measure,
                artifact,
                engine,
                device,
                mode,
                1 if device == "host" else target.threads,
            )
            for artifact, engine in executable
        )
        evidence = msgspec.structs.replace(evidence, measurements=measurements)
    made = msgspec.structs.replace(made, evidence=evidence)
    if last < STEPS.index("report"):
        return made
    return msgspec.structs.replace(made, report=run.step(f"{at}/6-report", report, evidence))


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
