"""`edgekd bench MODEL... --on DEVICE`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli._common import (
    AsJson,
    Require,
    console,
    plain,
    print_compared,
    print_counts,
    print_json,
    print_notes,
    progress_bars,
    size,
    table,
)
from edgekd.errors import BUDGET_BROKEN, ConfigError, MeasureError
from edgekd.specs import Comparisons, Counted, Failure, Fits, Measurement, Mode, Summary, Verdict

if TYPE_CHECKING:
    from edgekd.bench import Profiled

Found = Measurement | Summary | Counted
MOST_OPERATORS = 12
MOST_KINDS = 6
"""Classes of instructions that are named."""


def command(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Model files of any format, from anywhere.")],
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", help="Runtime; may be given several times. Else the usual one of the format."),
    ] = None,
    on: Annotated[str, typer.Option("--on", metavar="DEVICE", help="Where to measure.")] = "host",
    target: Annotated[
        str, typer.Option("--target", "-t", help="Hold what is measured against this device's budget.")
    ] = "",
    require: Require = None,
    mode: Annotated[
        Mode, typer.Option("--mode", help="How long to time: rapid (6 s), quick (10 s) or gate (60 s, 1024 queries).")
    ] = "quick",
    threads: Annotated[int, typer.Option("--threads", min=1, max=256, help="Of the runtime.")] = 1,
    rounds: Annotated[
        int,
        typer.Option("--rounds", min=1, max=100, help="Fresh processes; from two on their medians tell the noise."),
    ] = 1,
    inputs: Annotated[
        str, typer.Option("--inputs", help="What to execute on: .npz, .npy, or `module:function`; else random numbers.")
    ] = "",
    ram: Annotated[
        str,
        typer.Option(
            "--ram",
            metavar="SIZE",
            help="Execute on an emulated machine with so much RAM, 512MB, and tell whether the model runs there.",
        ),
    ] = "",
    profile: Annotated[
        bool, typer.Option("--profile", help="Say where the time goes, operator by operator, in a run of its own.")
    ] = False,
    benchmark_model: Annotated[
        str,
        typer.Option(
            "--benchmark-model",
            metavar="FILE",
            help="Google's program of that name, of the device's kind: copied there, its own statistics are told.",
        ),
    ] = "",
    json: AsJson = False,
) -> None:
    """Measure latency and memory of model files on a device."""
    import msgspec

    from edgekd.bench import Bench, Profiled, hold, jobs, measured
    from edgekd.ram import read_size
    from edgekd.refine import compare_files
    from edgekd.report import compared
    from edgekd.shipped import load_target

    if require and not target:
        raise ConfigError("--require is of a budget", hint="name whose with --target")
    aim = load_target(target) if target else None
    bench = Bench(
        models=tuple(models),
        engines=tuple(engine or ()),
        device=on,
        mode=mode,
        threads=threads,
        rounds=rounds,
        ram_bytes=read_size(ram) if ram else 0,
        by_operator=profile,
        benchmark_model=benchmark_model,
        inputs=inputs,
    )
    with progress_bars():
        done_by = [(job, list(measured(bench, [job]))) for job in jobs(bench)]
    done = [one for _, some in done_by for one in some]
    found = [one for one in done if isinstance(one, Measurement)]
    summaries = [one for one in done if isinstance(one, Summary)]
    counts = [one for one in done if isinstance(one, Counted)]
    proofs = [one for one in done if isinstance(one, Fits)]
    profiles = [one for one in done if isinstance(one, Profiled)]
    failures = [one for one in done if isinstance(one, Failure)]
    verdicts = [hold(one, aim, require) if aim else () for one in found]
    of_summaries = [hold(one, aim, require) if aim else () for one in summaries]
    of_counts = [hold(one, aim, require) if aim else () for one in counts]
    files = [(job.model, one) for job, some in done_by for one in some if isinstance(one, Measurement | Counted)]
    beside = compare_files(aim, files) if aim else Comparisons()
    if json:
        told = {"measurements": _rows(found, verdicts), "counts": _rows(counts, of_counts)}
        told["summaries"] = _rows(summaries, of_summaries)
        told["estimates_against_measurements"] = [compared(one) for one in beside.rows]
        lists = {"fits": proofs, "profiles": profiles, "failures": failures}
        print_json(
            {
                "schema": 1,
                **told,
                "notes": beside.notes,
                **{name: msgspec.to_builtins(some) for name, some in lists.items()},
            }
        )
    else:
        _print(found)
        _print_summaries(summaries)
        print_counts(counts)
        _print_kinds(counts)
        _print_verdicts([*found, *summaries, *counts], [*verdicts, *of_summaries, *of_counts])
        print_compared(beside.rows)
        print_notes(beside.notes)
        _print_proofs(proofs)
        for one in profiles:
            _print_profile(one)
        for failure in failures:
            console().print(f"[red]failed[/red] {plain(f'{failure.artifact} on {failure.engine}: {failure.error}')}")
    if failures:
        raise typer.Exit(MeasureError.exit_code)
    held = [verdict for some in (*verdicts, *of_summaries, *of_counts) for verdict in some]
    holds = all(verdict.ok for verdict in held) and all(one.ran for one in proofs)
    raise typer.Exit(0 if holds else BUDGET_BROKEN)


def _rows(found: Sequence[Found], verdicts: Sequence[tuple[Verdict, ...]]) -> list[dict[str, Any]]:
    import msgspec

    return [
        {**msgspec.to_builtins(one), "verdicts": msgspec.to_builtins(held)}
        for one, held in zip(found, verdicts, strict=True)
    ]


def _print(found: list[Measurement]) -> None:
    if not found:
        return
    out = console()
    shown = table("model", "engine", "p50 ms", "p90 ms (95%)", "p99 ms", "load ms", "memory", "stable")
    for one in found:
        latency, where = one.latency_ms, f"\\[{one.provenance}]"
        arena = f", arena {size(one.memory.arena_bytes)}" if one.memory.arena_bytes is not None else ""
        shown.add_row(
            plain(one.artifact),
            plain(f"{one.engine} {one.engine_version}"),
            f"{latency.p50:.3f} {where}",
            f"{latency.p90:.3f} ({latency.p90_low:.3f} to {latency.p90_high:.3f}) {where}",
            f"{latency.p99:.3f} {where}",
            f"{one.load_ms:.1f} {where}",
            f"{size(one.memory.peak_rss_bytes)}{arena} {where}",
            "yes" if one.valid else "no",
        )
    out.print(shown)
    for one in found:
        for note in _notes(one):
            out.print(f"- {plain(one.artifact)}: {plain(note)}")


def _print_summaries(found: list[Summary]) -> None:
    """Statistics that a program printed; what it does not print stays open."""
    if not found:
        return
    out = console()
    shown = table("model", "program", "inferences", "mean ms", "p50 / p95 ms", "most ms", "load ms", "memory", "stable")
    for one in found:
        where = f"\\[{one.provenance}]"
        middle = "not told" if one.p50_ms is None else f"{one.p50_ms:.3f} / {one.p95_ms:.3f} {where}"
        shown.add_row(
            plain(one.artifact),
            plain(f"{one.engine} {one.engine_version}"),
            f"{one.inferences:,}",
            f"{one.mean_ms:.3f} {where}",
            middle,
            f"{one.max_ms:.3f} {where}",
            f"{one.load_ms:.1f} {where}",
            f"{size(one.memory.peak_rss_bytes)} {where}",
            "yes" if one.valid else "no",
        )
    out.print(shown)
    for one in found:
        for reason in one.reasons:
            out.print(f"- {plain(one.artifact)}: not stable: {plain(reason)}")


def _print_verdicts(found: Sequence[Found], verdicts: Sequence[tuple[Verdict, ...]]) -> None:
    out = console()
    for one, held in zip(found, verdicts, strict=True):
        for verdict in held:
            mark = "[green]holds[/green]" if verdict.ok else "[red]breaks[/red]"
            out.print(f"{plain(one.artifact)} {mark} {verdict.limit}: {_quantities(verdict)}; {plain(verdict.note)}")


def _print_kinds(counts: Sequence[Counted]) -> None:
    out = console()
    for one in counts:
        kinds = sorted(((share, kind) for kind, share in one.instructions.items() if kind != "total"), reverse=True)
        most = ", ".join(
            f"{share / one.instructions['total']:.0%} {kind}" for share, kind in kinds[:MOST_KINDS] if share
        )
        if most:
            out.print(f"- {plain(one.artifact)} on {plain(one.device)}: {most}")


def _print_proofs(proofs: list[Fits]) -> None:
    if not proofs:
        return
    out = console()
    shown = table("model", "engine", "RAM", "runs", "Linux", "Python and runtime", "model", "left free")
    for one in proofs:
        parts = (one.system_bytes, one.runtime_rss_bytes, one.peak_rss_bytes, one.free_bytes)
        shown.add_row(
            plain(one.artifact),
            plain(f"{one.engine} {one.engine_version}"),
            f"{one.ram_bytes >> 20} MB",
            f"{'yes' if one.ran else 'no'} \\[{one.provenance}]",
            *("" if part is None else size(part) for part in parts),
        )
    out.print(shown)
    for one in proofs:
        if not one.ran:
            out.print(f"- {plain(one.artifact)} ended in the stage {one.during}, {one.ended_by}: {plain(one.why)}")


def _print_profile(one: "Profiled") -> None:
    found, out = one.profile, console()
    where = f"\\[{found.provenance}]"
    shown = table(f"{plain(one.artifact)} on {plain(one.engine)}", "operators", "ms", "share")
    most = sorted(found.times, key=lambda time: -time.ms)[:MOST_OPERATORS]
    for time in most:
        name = time.layer or " ".join(time.operators).split(";")[0] or "the runtime's own"  # fused ones have many names
        shown.add_row(plain(time.kind), plain(name), f"{time.ms:.3f} {where}", f"{time.ms / found.sum_ms:.0%}")
    out.print(shown)
    left = len(found.times) - len(most)
    rest = (
        f"; {left} more take {sum(time.ms for time in found.times) - sum(time.ms for time in most):.3f} ms"
        if left
        else ""
    )
    out.print(
        f"- {found.how}: {found.sum_ms:.3f} ms together, {found.total_ms:.3f} ms without a profiler {where}{rest}"
    )


def _notes(one: Measurement) -> list[str]:
    notes = [f"not stable: {reason}" for reason in one.reasons]
    if one.planned:
        shares: dict[str, float] = {}
        for operation in one.planned:
            place = operation.device or "nowhere told"
            shares[place] = shares.get(place, 0.0) + operation.cost
        notes.append("planned on " + ", ".join(f"{place} {share:.0%}" for place, share in sorted(shares.items())))
    if one.noise is not None:
        notes.append(f"the medians of fresh processes differ by {one.noise:.1%}: less than that is no difference")
    return notes


def _quantities(verdict: Verdict) -> str:
    if verdict.limit.endswith("_bytes"):
        return f"{size(verdict.found)} of {size(verdict.allowed)} \\[{verdict.provenance}]"
    return f"{verdict.found:.3f} of {verdict.allowed:g} ms \\[{verdict.provenance}]"
