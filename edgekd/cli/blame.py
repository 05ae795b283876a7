"""`edgekd blame ARTIFACT`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli._common import AsJson, console, plain, print_json, progress_bars, table

if TYPE_CHECKING:
    from rich.console import Console

    from edgekd.blame import Blame, LayerBlame

LONGEST_NAME = 44
MOST_SLOWER = 8


def command(
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="ARTIFACT", help="A model file of any format, or RUN/EXPORT such as runs/digits/tflite-int8."
        ),
    ],
    against: Annotated[
        str,
        typer.Option("--against", metavar="MODEL", help="A float model of the same net: a file, or module:function."),
    ] = "",
    inputs: Annotated[
        str,
        typer.Option(
            "--inputs",
            metavar="INPUTS",
            help="A .npz or .npy file, or module:function that returns an array for each input, of shape "
            "(examples, *input shape). Else a run's test data, or random numbers.",
        ),
    ] = "",
    examples: Annotated[int, typer.Option("--examples", min=1, max=10_000, help="How many to compare on.")] = 64,
    engine: Annotated[str, typer.Option("--engine", help="What executes the artifact; else the first that can.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**31 - 1, help="Of random inputs.")] = 0,
    least_db: Annotated[
        float | None,
        typer.Option("--least-db", help="SQNR below which the two have parted; else what the precision explains."),
    ] = None,
    timed: Annotated[bool, typer.Option("--time/--no-time", help="Whether to time each layer.")] = True,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw it as well: a .png or .svg file.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Say what each layer of an artifact costs: error, what that does to outputs and accuracy, and time."""
    import msgspec

    from edgekd.blame import blame
    from edgekd.cases import Request
    from edgekd.errors import ConfigError

    if picture is not None and picture.suffix.lower() not in {".png", ".svg"}:
        raise ConfigError(f"{picture} is neither a .png nor a .svg file")
    request = Request(
        artifact=artifact,
        against=against,
        engine=engine,
        inputs=inputs,
        examples=examples,
        seed=seed,
        least_db=least_db,
        timed=timed,
    )
    with progress_bars():
        found = blame(request)
    summary: dict[str, Any] = {"schema": 1, **msgspec.to_builtins(found)}
    if picture is not None:
        from edgekd.page.blame import save

        save(summary, picture)
    if json:
        print_json(summary)
    else:
        _print(found)


def _print(found: "Blame") -> None:
    out = console()
    of = f", against {found.against} on {found.examples} examples: {found.inputs}" if found.against else ""
    out.print(f"\n[bold]{plain(found.artifact)}[/bold]  {plain(found.format)} on {plain(found.engine)}{plain(of)}")
    compared = [one for one in found.outputs_db if one is not None]
    if compared:
        out.print(f"SQNR of the outputs: {', '.join(f'{one:.1f} dB' for one in compared)} [dim]host[/dim]")
    if found.total_ms is not None:
        out.print(f"{found.total_ms:.4g} ms an inference; layers: {found.how} [dim]host[/dim]")
    _print_layers(out, found)
    _print_findings(out, found)


def _print_layers(out: "Console", found: "Blame") -> None:
    columns = [one for one in _COLUMNS if any(getattr(layer, one[0]) is not None for layer in found.layers)]
    shown = table("layer", "operators", "type", *(title for _, title, _ in columns))
    for layer in found.layers:
        cells = [show(getattr(layer, name)) if getattr(layer, name) is not None else "" for name, _, show in columns]
        shown.add_row(plain(_short(layer.layer or "between layers")), plain(_kinds(layer)), plain(layer.dtype), *cells)
    out.print(shown)


_COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("sqnr_db", "SQNR up to here", lambda value: f"{value:.1f} dB"),
    ("local_db", "alone", lambda value: f"{value:.1f} dB"),
    ("output_db", "at the outputs", lambda value: f"{value:.1f} dB"),
    ("metric_drop", "metric", lambda value: f"{-value:+.4f}" if value else "0"),
    ("latency_ms", "ms", lambda value: f"{value:.4f}"),
    ("share", "share", lambda value: f"{value:.1%}"),
)


def _print_findings(out: "Console", found: "Blame") -> None:
    if found.divergence is not None:
        one = found.divergence
        where = one.layer or one.name
        out.print(
            f"they part at [bold]{plain(where)}[/bold] ({plain(one.kind)}): SQNR {one.before_db:.1f} dB before, "
            f"{one.sqnr_db:.1f} dB there; its precision explains {one.least_db:.0f} dB"
        )
    elif found.against:
        out.print(f"they part nowhere: every operator is above {found.least_db:.0f} dB")
    for slower in found.slower[:MOST_SLOWER]:
        out.print(
            f"- slower than in float: {plain(_short(slower.what))}, {slower.quantized_ms:.4f} against "
            f"{slower.float_ms:.4f} ms ({plain(', '.join(slower.kinds))})"
        )
    for note in found.notes:
        out.print(f"- {plain(note)}")


def _kinds(layer: "LayerBlame") -> str:
    return ", ".join(layer.kinds)


def _short(name: str) -> str:
    """Of a name of several, as TensorFlow makes them, the first; of a long one its end, which says more."""
    one = name.partition(";")[0]
    return one if len(one) <= LONGEST_NAME else f"…{one[1 - LONGEST_NAME :]}"
