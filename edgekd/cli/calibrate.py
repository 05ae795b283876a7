"""`edgekd calibrate --on DEVICE` and `edgekd calibrate --from rows.csv`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli._common import AsJson, console, plain, print_json, progress_bars, table
from edgekd.errors import ConfigError
from edgekd.specs import Mode

if TYPE_CHECKING:
    from edgekd.calibrate import Calibration


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the profile is called: `estimate --profile NAME`.")],
    on: Annotated[
        str, typer.Option("--on", metavar="DEVICE", help="Measure probes there: host, ssh://..., adb://...")
    ] = "",
    rows: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="CSV",
            help="Measurements that you have: columns model and latency_ms; engine, precision, threads where needed.",
        ),
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="Runtime of the probes.")] = "litert",
    precision: Annotated[str, typer.Option("--precision", help="Of the probes: fp32, int8 ...")] = "fp32",
    threads: Annotated[int, typer.Option("--threads", min=1, max=256, help="Of the runtime.")] = 1,
    mode: Annotated[Mode, typer.Option("--mode", help="How long to time each probe: rapid, quick or gate.")] = "rapid",
    json: AsJson = False,
) -> None:
    """Fit a latency profile of your own device, for `edgekd estimate --profile` and a target's `cost_profile`."""
    import msgspec

    from edgekd.calibrate import calibrate, measure, rows_of

    if bool(on) == bool(rows):
        raise ConfigError("calibrate takes --on DEVICE or --from CSV", hint="one of them")
    check_name(name)
    with progress_bars():
        found = calibrate(name, rows_of(rows)) if rows else measure(name, on, engine, precision, threads, mode)
    if json:
        print_json({"schema": 1, **msgspec.to_builtins(found)})
    else:
        _print(found)


def check_name(name: str) -> None:
    """Refuse what cannot be a file's name, or is that of a shipped cost model."""
    import re

    from edgekd import cost
    from edgekd.plugins import names

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", name):
        raise ConfigError(f"{name!r} is no name", hint="letters, digits, '.', '_' and '-', at most 41")
    if name in names(cost):
        raise ConfigError(f"{name!r} is a cost model of edgekd", hint="choose another name")


def _print(found: "Calibration") -> None:
    out = console()
    shown = table("engine", "precision", "threads", "nets", "tier", "each net from the others")
    for one in found.profiles:
        off = "" if one.held is None else f"{one.held.mape:.1%} off, {one.held.within_10:.0%} within 10%"
        shown.add_row(plain(one.runtime), plain(one.precision), str(one.threads), str(one.rows), plain(one.tier), off)
    out.print(shown)
    out.print(f"kept as {plain(found.name)}: {plain(found.path)}")
    for failure in found.failures:
        out.print(f"- {plain(failure.artifact)} was not measured: {plain(failure.error)}")
    for note in found.notes:
        out.print(f"- {plain(note)}")
