"""`edgekd export RUN` and `edgekd export MODEL --to tflite-int8,coreml-fp16`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli._common import AsJson, console, go_on, is_run, plain, print_json, progress_bars, shapes_of, size, table
from edgekd.errors import ConvertError

if TYPE_CHECKING:
    from edgekd.api import Export


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A run folder, or a model: `module:function`, `file.py:function`, .pt2, .onnx, .keras, .h5 ...",
        ),
    ],
    to: Annotated[
        list[str] | None, typer.Option("--to", help="Formats and precisions: tflite-int8,onnx-fp32,coreml-fp16 ...")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Its exports, held against the runtimes that it has.")
    ] = None,
    calibration: Annotated[
        str,
        typer.Option("--calibration", help="Examples for int8: .npz, .npy, or `module:function` that returns arrays."),
    ] = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the files and of edgekd.json.")] = Path("exports"),
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="Shape of an input that the model leaves open: image=1,3,224,224"),
    ] = None,
    ranges: Annotated[
        str, typer.Option("--ranges", help="Rule for the ranges of int8 activations: full, percentile, mse, entropy.")
    ] = "full",
    licence: Annotated[str, typer.Option("--licence", help="Of the model; written into every file.")] = "",
    labels: Annotated[
        Path | None, typer.Option("--labels", help="A text file, a class a line; written into every file.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Write a student, or any model of yours, in the formats of devices, each held against the original."""
    if is_run(model):
        go_on(Path(model), "export", json)
    from edgekd.api import export_model

    with progress_bars():
        made = export_model(
            model,
            to or (),
            target=target,
            calibration=calibration,
            out=out,
            shapes=shapes_of(shape),
            ranges=ranges,
            licence=licence,
            labels=_lines(labels),
        )
    if json:
        print_json(made.summary())
    else:
        _print(made)
    if made.failed:
        raise ConvertError(f"{len(made.failed)} of {len(made.artifacts)} exports failed", hint="each says why above")
    raise typer.Exit(0 if made.ok else 5)


def _lines(path: Path | None) -> tuple[str, ...]:
    from edgekd.files import read_text

    return tuple(line for line in read_text(path).splitlines() if line) if path else ()


def _print(made: "Export") -> None:
    shown = table("export", "file", "size", "SQNR \\[host]", "top-1", "engine", "")
    for one in made.artifacts:
        if one.error:
            shown.add_row(one.export, "", "", "", "", "", f"[red]failed[/red]: {plain(one.error)}")
            continue
        pair = made.parity.get(one.export)
        shown.add_row(one.export, plain(str(made.folder / one.file)), size(one.file_bytes), *_closeness(pair))
    console().print(shown)
    for one in made.artifacts:
        if one.instead_of:
            console().print(f"{one.export} stands in for {one.instead_of}, as the target says", markup=False)
        for line in one.unfit:
            console().print(f"{one.export}: {plain(line)}", markup=False)
        if one.hint:
            console().print(f"hint: {one.export}: {plain(one.hint)}", markup=False)


def _closeness(pair: Any) -> tuple[str, ...]:
    if pair is None:
        return "", "", "", "not verified: no engine here executes it"
    verdict = "[green]agrees[/green]" if pair.ok else f"[red]differs[/red]: {plain(pair.reason)}"
    top1 = "" if pair.top1_agreement is None else f"{pair.top1_agreement:.4f}"
    return f"{pair.sqnr_db:.1f} dB", top1, pair.b.rpartition("@")[2], verdict
