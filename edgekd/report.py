"""Hold what was found against the budget, and show it: report.json for machines, report.html for people."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekd import devices, page, parity
from edgekd.examples import Example, examples
from edgekd.files import dumps, write_text
from edgekd.pieces import spelled
from edgekd.runs import Work
from edgekd.specs import (
    Agreement,
    Artifact,
    Budget,
    Climb,
    Comparison,
    Comparisons,
    Compiled,
    Context,
    Cost,
    Counted,
    Data,
    Failure,
    Firmware,
    Measurement,
    Plan,
    Recipe,
    Report,
    Required,
    Rung,
    Slowness,
    Spec,
    Student,
    Subject,
    Target,
    Teacher,
    Verdict,
)
from edgekd.verdicts import (
    Found,
    best_known,
    file_size,
    finite,
    mention,
    require,
    shipped_bytes,
    speaking,
)

VERSION = 6

SCHEMA = 1
"""Of report.json and of what --json prints."""

MOST_BLAMED = 3
"""Operators that a sentence names."""


class Evidence(Spec, frozen=True, kw_only=True):
    """All that a report is made of."""

    recipe: Recipe
    target: Target
    data: Data
    teacher: Teacher
    plan: Plan
    student: Student
    artifacts: tuple[Artifact, ...]
    unfit: dict[str, tuple[str, ...]] = {}
    agreements: tuple[Agreement, ...] = ()
    climbs: tuple[Climb, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    counted: tuple[Counted, ...] = ()
    firmware: tuple[Firmware, ...] = ()
    """Of a microcontroller."""
    failures: tuple[Failure, ...] = ()
    """What a device could not execute, or not be asked to."""
    slow: tuple[Slowness, ...] = ()
    compared: Comparisons = Comparisons()
    """What had been estimated, beside what was found."""
    required: Required | None = None
    """Least provenance of latency and memory; what has less fails."""
    environment: dict[str, str]
    """Packages and system that the run was made with."""


def report(work: Work, evidence: Evidence) -> Report:
    """The verdicts of the artifact to ship: of those that hold every limit the first in the target's order, unless
    one is faster on the device itself, or as it is emulated; if none holds them, of the first that is executed."""
    budget = effective_budget(evidence.recipe, evidence.target)
    judged = {artifact.export: judge(evidence, artifact, budget) for artifact in evidence.artifacts}
    good = [export for export, verdicts in judged.items() if all(verdict.ok for verdict in verdicts)]
    executed = [export for export, verdicts in judged.items() if all(one.limit != "runtimes" for one in verdicts)]
    chosen = _fastest(evidence, good) if good else next(iter(executed or judged))
    found = (*_guessing(work, evidence), *findings(evidence))
    plain = summary(evidence, chosen, judged[chosen], found)
    as_json, as_html = work.out / "report.json", work.out / "report.html"
    write_text(as_json, dumps(plain))
    write_text(as_html, page.render(plain, _examples(work, evidence, chosen)))
    return Report(
        target=evidence.target.name,
        artifact=chosen,
        verdicts=judged[chosen],
        findings=found,
        html=work.keep(as_html),
        json=work.keep(as_json),
    )


def _examples(work: Work, evidence: Evidence, chosen: str) -> tuple[Example, ...]:
    """Test images with what the chosen artifact answers, where that was kept and can be drawn."""
    answers = next((one.outputs for one in evidence.agreements if one.artifact == chosen), ())
    return examples(work, evidence.data, answers) if answers else ()


def _fastest(evidence: Evidence, good: Sequence[str]) -> str:
    """The first of the exports, or the one that the device which took the first's time shows to be faster than it."""
    spans = _spans(evidence, good[0])
    if good[0] not in spans:
        return good[0]
    least = spans[good[0]][0]
    faster = [export for export in good if export in spans and spans[export][1] < least]
    return min(faster, key=lambda export: spans[export], default=good[0])


def _spans(evidence: Evidence, first: str) -> dict[str, tuple[float, float]]:
    """Export -> what its latency lies between, all of the best provenance and of one device: the first that knows it
    of the export `first`. Of a valid measurement both are the median."""
    found: list[Measurement | Counted] = [*evidence.measurements, *evidence.counted]
    known = speaking(found, evidence.target, "latency_ms")
    spans = [(one, span) for one in known if (span := _span(one))]
    device = next((one.device for one, _ in spans if one.artifact == first), None)
    return {one.artifact: span for one, span in spans if one.device == device}


def _span(one: Measurement | Counted) -> tuple[float, float] | None:
    if isinstance(one, Measurement):
        return (one.latency_ms.p50, one.latency_ms.p50) if one.valid else None
    return (one.latency_ms.low, one.latency_ms.high) if one.latency_ms else None


def effective_budget(recipe: Recipe, target: Target) -> Budget:
    """The target's budget, with the recipe's accuracy floor where it has one."""
    floor = recipe.accuracy_floor or target.budget.accuracy_floor
    return msgspec.structs.replace(target.budget, accuracy_floor=floor)


def judge(evidence: Evidence, artifact: Artifact, budget: Budget) -> tuple[Verdict, ...]:
    """An artifact against every finite limit.

    Latency and memory are held against what was measured on the device; where nothing was, against what was emulated;
    else against the estimate, the upper end of its latency.
    """
    agreement = next((one for one in evidence.agreements if one.artifact == artifact.export), None)
    firmware = _firmware(evidence, artifact)
    verdicts = [*_cost(evidence, artifact, budget), file_size(shipped_bytes(artifact, firmware), budget)]
    if agreement:
        verdicts.append(_accuracy(evidence, agreement, budget))
        verdicts.append(
            Verdict(
                limit="parity",
                allowed=1.0,
                found=1.0 if agreement.ok else 0.0,
                provenance=agreement.provenance,
                ok=agreement.ok,
                note=agreement.reason or f"SQNR {agreement.sqnr_db:.1f} dB on {agreement.engine}",
            )
        )
    return finite(verdicts + _refused(evidence, artifact))


def _cost(evidence: Evidence, artifact: Artifact, budget: Budget) -> list[Verdict]:
    """Latency and memory, each by the best that is known of it."""
    target, export = evidence.target, artifact.export
    all_found: list[Found] = [*evidence.measurements, *evidence.counted]
    found = [one for one in all_found if one.artifact == export]
    failures = [one for one in evidence.failures if one.artifact == export]
    cost, what = _predicted(evidence, artifact)
    verdicts = best_known(found, target, _firmware(evidence, artifact), cost, what)
    how = how_to(evidence.required, target, "edgekd measure RUN") if evidence.required else ""
    return [require(mention(verdict, failures), evidence.required, how) for verdict in verdicts]


def how_to(required: Required, target: Target, command: str) -> str:
    """What to type for numbers of a provenance."""
    if target.device.flash_bytes:
        return "nothing here reaches a microcontroller"
    if required == "measured" or not target.emulator:
        return f"{command} --on ssh://USER@HOST"
    return f"edgekd device prepare qemu:{target.emulator}, then {command} --on qemu:{target.emulator}"


def _refused(evidence: Evidence, artifact: Artifact) -> list[Verdict]:
    """That no runtime of the target executes an artifact, or that the device itself did not; nothing where all do."""
    said = list(evidence.unfit.get(artifact.export, ()))
    there = [
        f"{one.engine} on {one.device}: {one.error}"
        for one in evidence.failures
        if one.artifact == artifact.export and one.engine and one.provenance == "measured"
    ]
    if not said and not there:
        return []
    return [
        Verdict(
            limit="runtimes",
            allowed=1.0,
            found=0.0,
            provenance="measured" if there else "estimated",
            ok=False,
            note="; ".join(said + there),
        )
    ]


def _firmware(evidence: Evidence, artifact: Artifact) -> Firmware | None:
    return next((one for one in evidence.firmware if one.artifact == artifact.export), None)


def _predicted(evidence: Evidence, artifact: Artifact) -> tuple[Cost, str]:
    """The cost that is predicted for an artifact, and what exactly it is for."""
    climbed = next((one.best.tried.predicted for one in evidence.climbs if one.export == artifact.export), None)
    by_export = evidence.plan.by_export
    export = artifact.export if artifact.export in by_export else evidence.plan.export
    if climbed:
        layers = len(artifact.quantization.in_float)
        return climbed, f"{export} with {layers} module{'s' * (layers != 1)} in float"
    return by_export.get(export, evidence.plan.predicted), export


def _accuracy(evidence: Evidence, agreement: Agreement, budget: Budget) -> Verdict:
    metric = evidence.data.subject.metric
    value = agreement.metrics[metric]
    whose = "recipe" if evidence.recipe.accuracy_floor else "target"
    return Verdict(
        limit="accuracy_floor",
        allowed=budget.accuracy_floor,
        found=value,
        provenance=agreement.provenance,
        ok=value >= budget.accuracy_floor,
        note=f"{metric} of the artifact on the test split; the floor is the {whose}'s",
    )


def _guessing(work: Work, evidence: Evidence) -> list[str]:
    outputs = evidence.data.subject.outputs
    if len(outputs) != 1 or outputs[0].task != "classification":
        return []
    labels = np.load(work.path(evidence.data.test_labels[0]), allow_pickle=False)
    nets = {"teacher": evidence.teacher.metrics, "student": evidence.student.metrics}
    return guessing({who: metrics["accuracy"] for who, metrics in nets.items()}, labels, outputs[0].classes)


def guessing(accuracies: Mapping[str, float], labels: NDArray[np.int64], classes: Sequence[str]) -> list[str]:
    """Of which nets it is to be said that whoever always answers the commonest class is as good."""
    counts = np.bincount(labels[labels >= 0], minlength=1)
    commonest, chance = classes[int(counts.argmax())], float(counts.max() / max(1, counts.sum()))
    return [
        f"The {who} is no better than chance: accuracy {accuracy:.4f}, where {commonest!r} is always "
        f"worth {chance:.4f}. Look at epochs and learning_rate of its training, and `clip` its gradients."
        for who, accuracy in accuracies.items()
        if accuracy <= chance
    ]


def findings(evidence: Evidence) -> list[str]:
    """What a reader should know that no limit says."""
    found = []
    metric = evidence.data.subject.metric
    student, twin = evidence.student.metrics[metric], evidence.student.twin_metrics[metric]
    gain = student - twin
    if gain > 0:
        found.append(f"Distillation helped: {metric} {student:.4f} with the teacher, {twin:.4f} without ({gain:+.4f}).")
    elif gain < 0:
        found.append(f"Distillation hurt: {metric} {student:.4f} with the teacher, {twin:.4f} without ({gain:+.4f}).")
    else:
        found.append(f"Distillation changed nothing: {metric} {student:.4f} with and without the teacher.")
    teacher = evidence.teacher.metrics.get(metric)  # not of one that teaches some of the heads
    if teacher is not None and student >= teacher:
        times = evidence.teacher.parameters / max(1, evidence.student.parameters)
        found.append(f"Bigger is not better: the teacher, {times:.0f} times as big, scores {metric} {teacher:.4f}.")
    found += [_climbed(one, evidence.data.subject.metric) for one in evidence.climbs]
    found += [_slower_than_float(one) for one in evidence.slow]
    found += [
        f"The timing of {one.artifact} on {one.device} is not valid: {'; '.join(one.reasons)}."
        for one in evidence.measurements
        if not one.valid
    ]
    found += evidence.compared.notes
    found += [_writes(one, evidence.student.subject) for one in evidence.measurements if one.writing]
    found += [_not_measured(one) for one in evidence.failures]
    found += [_left_to_the_cpu(one.compiled) for one in evidence.firmware if one.compiled]
    found += [f"{line}." for one in evidence.firmware for line in one.lacking]
    found += [_differs(one) for one in evidence.counted if _surprises(evidence, one)]
    found += _silent(evidence)
    verified = {one.artifact for one in evidence.agreements}
    found += [
        f"{one.export} was not verified: no engine of {evidence.target.name} that executes it is installed here."
        for one in evidence.artifacts
        if one.export not in verified
    ]
    return found


def _writes(measured: Measurement, subject: Subject) -> str:
    writing = measured.writing
    assert writing is not None
    asked, said = (
        " ".join(spelled(subject.vocabulary[token] for token in tokens).split())
        for tokens in (writing.question, writing.answer)
    )
    where = f"{measured.device} ({measured.engine}, {measured.threads} thread{'s' * (measured.threads != 1)})"
    once = f", behind {measured.once_ms:.0f} ms for what is executed once a text" if measured.once_ms else ""
    return (
        f"{measured.artifact} writes {writing.tokens_s:.0f} tokens/s on {where} [{measured.provenance}]; "
        f"the first comes after {writing.first_token_ms:.0f} ms{once}. "
        f"{f'Given {asked!r} it' if asked else 'It'} writes {said!r}."
    )


def _not_measured(failure: Failure) -> str:
    what = f"{failure.artifact} was not measured on {failure.device}: {failure.error}"
    return f"{what}; {failure.hint}." if failure.hint else f"{what}."


def _left_to_the_cpu(compiled: Compiled) -> str:
    count, left = compiled.npu_operators, compiled.cpu_operators
    processor = compiled.processor.partition(" ")[0]
    if not left:
        return f"{compiled.artifact}: {processor} executes all {count} operators."
    return f"{compiled.artifact}: {processor} executes {count} of {count + len(left)} operators, not {', '.join(left)}."


def _surprises(evidence: Evidence, counted: Counted) -> bool:
    """Whether outputs of one file differ between two processors by more than its precision explains."""
    precision = next((one.precision for one in evidence.artifacts if one.export == counted.artifact), "fp32")
    return counted.host_sqnr_db is not None and counted.host_sqnr_db < parity.least_db(precision)


def _differs(counted: Counted) -> str:
    return (
        f"{counted.artifact} answers otherwise on {counted.device} than on this machine, by the same {counted.engine}: "
        f"{counted.host_sqnr_db:.1f} dB."
    )


def _silent(evidence: Evidence) -> list[str]:
    """Why what was emulated decides no limit, where it does not."""
    told = {
        f"What {one.device} says of {_plainly(limit)} decides nothing for {evidence.target.name}: {why}."
        for one in evidence.counted
        for limit, why in devices.unlike(one.device, evidence.target).items()
        if limit != "latency_ms" or one.latency_ms is not None
    }
    return sorted(told)


def _plainly(limit: str) -> str:
    return {"latency_ms": "latency", "peak_memory_bytes": "memory"}.get(limit, limit)


def _climbed(climb: Climb, metric: str) -> str:
    first, best = climb.rungs[0], climb.best
    assert first.agreement is not None and best.agreement is not None
    before, after = first.agreement.metrics[metric], best.agreement.metrics[metric]
    if climb.held:
        return f"{climb.export} lost too much in integers ({metric} {before:.4f}); {best.name} mended it ({after:.4f})."
    tried = ", ".join(rung.name for rung in climb.rungs[1:])
    return (
        f"{climb.export} loses too much in integers, and nothing that was tried holds accuracy and budget: {tried}. "
        f"The most accurate within the budget is kept: {best.name} ({metric} {after:.4f})."
    )


def _slower_than_float(slow: Slowness) -> str:
    medians = f"{slow.quantized_ms:.3f} and {slow.float_ms:.3f} ms"
    most = ", ".join(
        f"{one.what} ({one.quantized_ms:.3f} and {one.float_ms:.3f} ms)" for one in slow.operators[:MOST_BLAMED]
    )
    whose = f"; most of it is {most}" if most else ""
    return f"{slow.artifact} is slower than {slow.twin} on {slow.device}: {medians}{whose}."


def summary(evidence: Evidence, chosen: str, verdicts: Sequence[Verdict], found: Sequence[str]) -> dict[str, Any]:
    """What `edgekd run --json` prints for a target; keys are documented in docs/json.md."""
    student = evidence.student
    parity: dict[str, list[Any]] = {artifact.export: [] for artifact in evidence.artifacts}
    metrics: dict[str, dict[str, float]] = {}
    ladders = {climb.export: ladder(climb) for climb in evidence.climbs}
    for agreement in evidence.agreements:
        parity[agreement.artifact].append(_plain(agreement))
        metrics.setdefault(agreement.artifact, agreement.metrics)
    return {
        "schema": SCHEMA,
        "recipe": evidence.recipe.name,
        "target": evidence.target.name,
        "ok": all(verdict.ok for verdict in verdicts),
        "metric": evidence.data.subject.metric,
        "teacher": {
            "name": evidence.teacher.choice.name,
            "metrics": evidence.teacher.metrics,
            "parameters": evidence.teacher.parameters,
            "macs": evidence.teacher.macs,
            "file_bytes": evidence.teacher.file_bytes,
        },
        "student": {
            "name": student.choice.name,
            "options": student.choice.options,
            "metrics": student.metrics,
            "parameters": student.parameters,
            "macs": student.macs,
        },
        "student_without_distillation": {"metrics": student.twin_metrics},
        "plan": _plain(evidence.plan),
        "artifact": chosen,
        "artifacts": [
            {
                "export": artifact.export,
                "file": artifact.model.path,
                "file_bytes": artifact.file_bytes,
                "sha256": artifact.model.sha256,
                "metrics": metrics.get(artifact.export, {}),
                "inputs": _plain(artifact.inputs),
                "outputs": _plain(artifact.outputs),
                **({"context": _context(artifact.context)} if artifact.context else {}),
                "parity": parity[artifact.export],
                **({"ladder": ladders[artifact.export]} if artifact.export in ladders else {}),
            }
            for artifact in evidence.artifacts
        ],
        "classes": student.subject.classes,
        "preprocessing": _plain(student.preprocessing),
        "limits": _plain(effective_budget(evidence.recipe, evidence.target)),
        "device": _plain(evidence.target.device),
        "measurements": [_plain(measurement) for measurement in evidence.measurements],
        "counts": _plain(evidence.counted),
        "firmware": _plain(evidence.firmware),
        "failures": _plain(evidence.failures),
        "slower": _plain(evidence.slow),
        "estimates_against_measurements": [compared(one) for one in evidence.compared.rows],
        "required": evidence.required,
        "verdicts": [_plain(verdict) for verdict in verdicts],
        "findings": list(found),
        "environment": evidence.environment,
    }


def compared(one: Comparison) -> dict[str, Any]:
    """A row of `estimates_against_measurements`."""
    return {"fitted": False, "valid": True, **_plain(one), "ratio": one.ratio, "inside": one.inside}


def _context(context: Context) -> dict[str, Any]:
    return {
        "file": context.model.path,
        "sha256": context.model.sha256,
        "inputs": _plain(context.inputs),
        "outputs": _plain(context.outputs),
    }


def ladder(climb: Climb) -> dict[str, Any]:
    """What was tried when an export lost too much in integers."""
    return {
        "floor": climb.floor,
        "most_drop": climb.most_drop,
        "chosen": climb.chosen,
        "held": climb.held,
        "rungs": [_rung(rung) for rung in climb.rungs],
    }


def _rung(rung: Rung) -> dict[str, Any]:
    artifact, agreement, predicted = rung.tried.artifact, rung.agreement, rung.tried.predicted
    return {
        "name": rung.name,
        "file": artifact.model.path if artifact else None,
        "file_bytes": artifact.model.size_bytes if artifact else None,
        "quantization": _plain(artifact.quantization) if artifact else None,
        "metrics": agreement.metrics if agreement else {},
        "metric_drop": agreement.metric_drop if agreement else None,
        "sqnr_db": agreement.sqnr_db if agreement else None,
        "provenance": agreement.provenance if agreement else None,
        "latency_ms": _plain(predicted.latency_ms) if predicted else None,
        "holds_accuracy": rung.holds_accuracy,
        "holds_budget": rung.holds_budget,
        "unfit": rung.unfit,
        "trials": _plain(rung.tried.trials),
        "blame": _plain(rung.tried.blame),
    }


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)
