"""Results as tables for a terminal; every number with its provenance."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from edgekd.api import Result
from edgekd.cli._common import console, plain, print_compared, print_counts, print_firmware, print_notes, size, table
from edgekd.finals import ends_early
from edgekd.matrix import Matrix, Pair
from edgekd.pipeline import Made
from edgekd.specs import Climb, Plan, Quantization, Student, Verdict


def print_result(result: Result) -> None:
    """What a run made for a target, as far as it went."""
    out = console()
    made = result.made
    out.print(f"\n[bold]{escape(made.target)}[/bold]  {escape(str(result.folder))}")
    _print_nets(out, made)
    if made.plan:
        _print_plan(out, made.plan)
    if made.artifacts:
        _print_artifacts(out, made)
    if made.measurements:
        _print_measurements(out, made)
    print_counts(made.counted)
    print_compared(made.compared.rows)
    print_firmware(made.firmware)
    if made.matrix:
        print_matrix(made.matrix)
    for climb in made.climbs:
        _print_climb(out, climb)
    if made.report:
        _print_verdicts(out, result)
        return
    for line in (line for one in made.firmware for line in one.lacking):
        out.print(f"- {plain(line)}")
    print_notes(made.compared.notes)
    for failure in made.failures:  # a report says it among its findings
        what = f"{failure.artifact} was not measured on {failure.device}: {failure.error}"
        out.print(f"- {plain('; '.join(filter(None, (what, failure.hint))))}")


def _print_nets(out: Console, made: Made) -> None:
    shown = table("net", "metric \\[host]", "parameters", "MACs")
    teacher, student = made.teacher, made.student
    if teacher:
        shown.add_row("teacher", _metrics(teacher.metrics, student), f"{teacher.parameters:,}", f"{teacher.macs:,}")
    if student:
        shown.add_row("student", _metrics(student.metrics, student), f"{student.parameters:,}", f"{student.macs:,}")
        shown.add_row("the same without teacher", _metrics(student.twin_metrics, student), "", "")
    if shown.rows:
        out.print(shown)


def _print_plan(out: Console, plan: Plan) -> None:
    options = _options(plan.student.options)
    latency = plan.predicted.latency_ms
    out.print(f"student: {escape(plan.student.name)} ({escape(options)}): {escape(plan.reason)}")
    out.print(
        f"{plan.considered} considered, {plan.fitting} within the budget; {latency.value:.3g} ms "
        f"({latency.low:.2g} to {latency.high:.2g}) [dim]estimated; {escape(plan.predicted.tier)}[/dim]"
    )
    _print_finalists(out, plan)


def _print_finalists(out: Console, plan: Plan) -> None:
    """What was made before any training, and what it was found to take."""
    shown = table("made untrained", "latency", "memory", "file", "budget")
    for one in plan.finalists:
        if one.failed:
            shown.add_row(plain(_options(one.options)), f"failed: {plain(one.failed)}", "", "", "")
            continue
        found = {verdict.limit: verdict for verdict in one.verdicts}
        cells = [_found(found.get(limit)) for limit in ("latency_ms", "peak_memory_bytes", "file_bytes")]
        shown.add_row(plain(_options(one.options)), *cells, _mark(one.fits))
    if shown.rows:
        out.print(shown)


def _found(verdict: Verdict | None) -> str:
    return f"{_amount(verdict)} \\[{verdict.provenance}]" if verdict else "no limit"


def _amount(verdict: Verdict) -> str:
    """What was found, with the upper end that counts where there is one."""
    at_most = f" (at most {_quantity(verdict, verdict.high)})" if verdict.high is not None else ""
    return f"{_quantity(verdict, verdict.found)}{at_most}"


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items())


def print_plans(results: Sequence[Result]) -> None:
    """All targets of a plan in one table, and what was made for each."""
    out = console()
    columns = (
        "student",
        "latency \\[estimated]",
        "memory \\[estimated]",
        "file \\[estimated]",
        "MACs",
        "considered",
        "fit",
        "front",
    )
    shown = table("target", "export", *columns)
    plans = [result.made.plan for result in results if result.made.plan]
    for plan in plans:
        cost, latency = plan.predicted, plan.predicted.latency_ms
        shown.add_row(
            plain(plan.target),
            plan.export,
            plain(f"{plan.student.name}: {_options(plan.student.options)}"),
            f"{latency.value:.3g} ms ({latency.low:.2g} to {latency.high:.2g})",
            size(cost.peak_memory_bytes),
            size(cost.file_bytes),
            f"{cost.macs:,}",
            f"{plan.considered:,}",
            f"{plan.fitting:,}",
            f"{len(plan.front):,}",
        )
    out.print(shown)
    for plan in plans:
        out.print(
            f"[bold]{plain(plan.target)}[/bold]: {plain(plan.reason)}; the estimate: {plain(plan.predicted.tier)}"
        )
        _print_finalists(out, plan)
        if ends_early(plan):
            out.print("  the space ends there, with half of every limit left: `--whole` searches all of the family's")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _metrics(metrics: dict[str, float], student: Student | None = None) -> str:
    """The headline metrics, of several outputs the mean first; everything where it is not known which those are."""
    outputs = student.subject.outputs if student else ()
    wanted = ["mean", *(f"{output.name}.{output.metric}" for output in outputs)]
    shown = [name for name in wanted if name in metrics] if len(outputs) > 1 else list(metrics)
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in shown)


def _print_artifacts(out: Console, made: Made) -> None:
    shown = table("artifact", "file", "metric \\[host]", "SQNR", "top-1")
    for artifact in made.artifacts:
        agreement = next((one for one in made.agreements if one.artifact == artifact.export), None)
        shown.add_row(
            artifact.export,
            size(artifact.file_bytes),
            _metrics(agreement.metrics, made.student) if agreement else "",
            f"{agreement.sqnr_db:.1f} dB" if agreement else "",
            _share(agreement.top1_agreement) if agreement else "",
        )
    out.print(shown)


def _print_measurements(out: Console, made: Made) -> None:
    shown = table("measured", "engine", "device", "threads", "p50 / p90 ms", "memory", "stable")
    for one in made.measurements:
        shown.add_row(
            one.artifact,
            one.engine,
            plain(one.device),
            str(one.threads),
            f"{one.latency_ms.p50:.3f} / {one.latency_ms.p90:.3f} \\[{one.provenance}]",
            f"{size(one.memory.peak_rss_bytes)} \\[{one.provenance}]",
            "yes" if one.valid else "no",
        )
    out.print(shown)


def _print_climb(out: Console, climb: Climb) -> None:
    shown = table(f"{climb.export}, tried", "how", "file", "metric \\[host]", "drop", "SQNR", "accuracy", "budget")
    for rung in climb.rungs:
        artifact, agreement = rung.tried.artifact, rung.agreement
        if artifact is None or agreement is None:
            failed = next((trial.failed for trial in rung.tried.trials if trial.failed), "")
            shown.add_row(rung.name, f"failed: {plain(failed)}", "", "", "", "", "", "")
            continue
        shown.add_row(
            f"{rung.name} \\[chosen]" if rung.name == climb.chosen else rung.name,
            plain(_way(artifact.quantization)),
            size(artifact.file_bytes),
            _metrics(agreement.metrics),
            f"{agreement.metric_drop:+.4f}",
            f"{agreement.sqnr_db:.1f} dB",
            _mark(rung.holds_accuracy),
            _mark(rung.holds_budget),
        )
    out.print(shown)


def _way(way: Quantization) -> str:
    """How integers were chosen."""
    parts = [f"{way.ranges} ranges"]
    parts += ["channels equalized"] * way.equalization + ["biases corrected"] * way.bias_correction
    return ", ".join(parts + [f"in float: {', '.join(way.in_float)}"] * bool(way.in_float))


def _mark(ok: bool) -> str:
    return "[green]holds[/green]" if ok else "[red]broken[/red]"


def _print_verdicts(out: Console, result: Result) -> None:
    assert result.made.report is not None
    shown = table("limit", "allowed", "found", "provenance", "", "note")
    for verdict in result.verdicts:
        shown.add_row(
            verdict.limit,
            _quantity(verdict, verdict.allowed),
            _amount(verdict),
            verdict.provenance,
            _mark(verdict.ok),
            escape(verdict.note),
        )
    out.print(shown)
    for finding in result.made.report.findings:
        out.print(f"- {escape(finding)}")
    outcome = "[green]holds the budget[/green]" if result.ok else "[red]breaks the budget[/red]"
    out.print(f"{result.made.report.artifact} {outcome}: {escape(_near(result.artifact))}")
    out.print(f"report: {escape(_near(result.report))}")


def _parting(pair: Pair) -> str:
    where = pair.first_divergence
    if where is None:
        return ""
    module = f" of {where.layer}" if where.layer else ""
    return f"part at {where.kind} {where.name!r}{module}: {where.before_db:.0f} dB before it, {where.sqnr_db:.0f} after"


def print_matrix(found: Matrix) -> None:
    """The pairs as a table, worst first, and what could not be executed."""
    out = console()
    shown = table("a", "b", "SQNR", "max error", "top-1", "", "note")
    for pair in sorted(found.pairs, key=lambda pair: (pair.ok, pair.sqnr_db)):
        shown.add_row(
            plain(pair.a),
            plain(pair.b),
            f"{pair.sqnr_db:.1f} dB \\[{pair.provenance}]",
            f"{pair.max_abs:.3g}",
            _share(pair.top1_agreement),
            "[green]agree[/green]" if pair.ok else "[red]differ[/red]",
            plain("; ".join(filter(None, (pair.reason, _parting(pair), pair.note)))),
        )
    out.print(shown)
    for side in found.sides:
        if side.error:
            out.print(f"[red]{plain(side.name)} was not executed:[/red] {plain(side.error)}")
    out.print(f"{found.examples} examples; {len(found.sides)} executions, {len(found.pairs)} pairs")


def _quantity(verdict: Verdict, value: float) -> str:
    if verdict.limit.endswith("_bytes"):
        return size(value)
    if verdict.limit.endswith("_ms"):
        return f"{value:.3g} ms"
    return f"{value:.4g}"


def _near(path: Path | None) -> str:
    """A path from here where it is below, else whole."""
    if path is None:
        return ""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
