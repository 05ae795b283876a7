"""What verbs share: their arguments, progress, and how results are shown."""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.errors import BUDGET_BROKEN
from edgekd.files import dumps
from edgekd.progress import listening
from edgekd.specs import Comparison, Counted, Firmware, Mode, Required

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgekd.api import Result
    from edgekd.pipeline import Step

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as `edgekd run -o RUN` made it.")]
MeasureMode = Annotated[
    Mode | None,
    typer.Option(
        "--mode", help="How long to time: rapid (6 s), quick (10 s) or gate (60 s, 1024 queries) an artifact."
    ),
]
On = Annotated[
    list[str] | None,
    typer.Option(
        "--on",
        metavar="[TARGET=]DEVICE",
        help="Where to measure: host, ssh://user@host, qemu:cortex-a72; repeatable; TARGET= means one target alone. "
        "Without it: this machine, and the target's emulator where it is prepared.",
    ),
]
Require = Annotated[
    Required | None,
    typer.Option(
        "--require", help="Break the budget where latency or memory was not at least emulated, or measured on a device."
    ),
]


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    print(dumps(value))


@contextmanager
def progress_bars() -> Iterator[None]:
    """Show how far long work is, where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        with listening(show):
            yield


def show(results: "list[Result]", as_json: bool) -> int:
    """Print what a run made for each target; the exit code."""
    if as_json:
        print_json(as_plain(results))
    else:
        from edgekd.cli._tables import print_result

        for result in results:
            print_result(result)
    reported = [result for result in results if result.made.report is not None]
    agree = all(result.made.matrix.ok for result in results if result.made.matrix is not None)
    return 0 if agree and all(result.ok for result in reported) else BUDGET_BROKEN


def as_plain(results: "list[Result]") -> dict[str, Any]:
    """The documented keys: of the first target at the top, of all of them below `targets`."""
    import msgspec

    plain = [result.summary() or msgspec.to_builtins(result.made) for result in results]
    for one, result in zip(plain, results, strict=True):
        if result.made.matrix is not None:
            one["pairs"] = msgspec.to_builtins(result.made.matrix.pairs)
    return {**plain[0], "run": str(results[0].folder), "targets": plain}


def is_run(folder: str) -> bool:
    """True for a folder that `edgekd run -o` made."""
    return (Path(folder) / "inputs" / "recipe.json").is_file()


def go_on(
    folder: Path,
    until: "Step",
    as_json: bool,
    mode: Mode | None = None,
    crosswise: bool = False,
    on: Sequence[str] = (),
    require: Required | None = None,
) -> None:
    """Take a run folder up to a step and show what there is then."""
    from edgekd.api import resume

    with progress_bars():
        results = resume(folder, until=until, mode=mode, crosswise=crosswise, on=on, require=require)
    raise typer.Exit(show(results, as_json))


def table(*headings: str) -> "Table":
    """An empty table without a frame."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        made.add_column(heading, overflow="fold", no_wrap=index == 0)
    return made


def console() -> "Console":
    """Standard output; wide where it is not a terminal, so that a file or a log has whole lines."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def size(count: float) -> str:
    """Bytes for people, in powers of 1000.

    >>> size(1_234_567), size(999_800), size(950), size(float("inf"))
    ('1.23 MB', '1 MB', '950 B', 'no limit')
    """
    if math.isinf(count):
        return "no limit"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * factor:  # what three digits round up to it
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def shapes_of(given: Sequence[str] | None) -> dict[str, tuple[int, ...]]:
    """Shapes of inputs as they are written: image=1,3,224,224."""
    return dict(map(_shape, given or ()))


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.partition("=")
    try:
        return name, tuple(int(one) for one in sizes.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not like image=1,3,224,224") from None


def plain(text: str) -> str:
    """Text of a file for a table: no markup, and nothing that a terminal would obey."""
    from rich.markup import escape

    return escape("".join(character if character.isprintable() else "?" for character in text))


def print_counts(counts: Sequence[Counted]) -> None:
    """What artifacts execute where times would tell nothing."""
    if not counts:
        return
    columns = ("device", "instructions", "cache misses", "touched", "latency", "memory", "against this machine")
    shown = table("counted", "engine", *columns)
    for one in counts:
        where = f"\\[{one.provenance}]"
        misses = ", ".join(f"{cache} {number:,.0f}" for cache, number in one.cache_misses.items())
        shown.add_row(
            plain(one.artifact),
            plain(f"{one.engine} {one.engine_version}"),
            plain(one.device),
            f"{one.instructions['total'] / 1e6:,.2f} M {where}" if one.instructions else "not counted",
            f"{misses} {where}" if misses else "",
            f"{size(one.touched_bytes)} {where}" if one.instructions else "",
            f"{_modelled(one)} {where}" if one.latency_ms else "no model",
            f"{size(one.memory.peak_rss_bytes)} {where}",
            one.against_host,
        )
    console().print(shown)
    for model in dict.fromkeys(one.latency_model for one in counts if one.latency_model):
        console().print(f"- latency: {plain(model)}")


def print_firmware(made: Sequence[Firmware]) -> None:
    """What artifacts take of a microcontroller, and what its neural processor's compiler says of them."""
    if not made:
        return
    shown = table("firmware", "arena", "compiled", "SRAM", "flash", "cycles", "latency", "operators")
    for one in made:
        arena, compiled = one.arena, one.compiled
        where = f"\\[{compiled.provenance}]" if compiled else ""
        shown.add_row(
            plain(one.artifact),
            f"{size(arena.arena_bytes)} \\[{arena.provenance}]" if arena else "not known",
            plain(compiled.source) if compiled else "",
            f"{size(compiled.sram_bytes)} {where}" if compiled else "",
            f"{size(compiled.model.size_bytes)}" if compiled else "",
            f"{compiled.cycles:,} {where}" if compiled else "",
            f"{compiled.latency_ms:.3g} ms {where}" if compiled else "",
            f"{compiled.npu_operators} there, {len(compiled.cpu_operators)} on the CPU" if compiled else "",
        )
    console().print(shown)
    for one in made:
        if one.compiled and one.compiled.cpu_operators:
            console().print(f"- left to the CPU: {plain(', '.join(one.compiled.cpu_operators))}")


def print_compared(rows: Sequence[Comparison]) -> None:
    """What had been estimated, beside what was found."""
    if not rows:
        return
    shown = table("found", "engine", "device", "estimated", "found", "found / estimated", "interval", "rests on")
    for one in rows:
        where = f"{one.provenance}{'' if one.valid else ', not valid'}"
        shown.add_row(
            plain(one.artifact),
            plain(f"{one.engine}, {one.threads} thread{'s' * (one.threads != 1)}"),
            plain(one.device),
            f"{one.estimated_ms:.3g} ms ({one.low_ms:.3g} to {one.high_ms:.3g}) \\[estimated]",
            f"{one.found_ms:.3g} ms \\[{where}]",
            f"{one.ratio:.3g}",
            "holds it" if one.inside else "misses it",
            plain(f"{one.tier}{'; fitted on this net' if one.fitted else ''}"),
        )
    console().print(shown)


def print_notes(notes: Sequence[str]) -> None:
    """Sentences, one a line."""
    for note in notes:
        console().print(f"- {plain(note)}")


def _modelled(one: Counted) -> str:
    assert one.latency_ms is not None
    threads = f", {one.threads} threads" if one.threads > 1 else ""
    return f"{one.latency_ms.value:.3g} ms ({one.latency_ms.low:.3g} to {one.latency_ms.high:.3g}{threads})"
