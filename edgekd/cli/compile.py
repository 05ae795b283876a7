"""`edgekd compile MODEL --target T`: a .tflite for a microcontroller."""

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli._common import AsJson, console, plain, print_firmware, print_json, progress_bars, size
from edgekd.errors import BUDGET_BROKEN


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A .tflite file, from anywhere.")],
    target: Annotated[str, typer.Option("--target", "-t", help="A microcontroller: stm32h7, corstone-300, a .toml.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the files.")] = Path("firmware"),
    json: AsJson = False,
) -> None:
    """Make a model ready for a microcontroller's firmware, as C, and hold its memory against the budget.

    Where the target has a neural processor, the model is compiled for that, and the compiler says how long it takes.
    """
    import msgspec

    from edgekd import formats
    from edgekd.firmware import firmware_of_file
    from edgekd.shipped import load_target

    formats.format_of(model)
    with progress_bars():
        made, verdicts = firmware_of_file(model, load_target(target), out)
    if json:
        print_json(
            {"schema": 1, "folder": str(out), **msgspec.to_builtins(made), "verdicts": msgspec.to_builtins(verdicts)}
        )
    else:
        print_firmware([made])
        for one in verdicts:
            mark = "[green]holds[/green]" if one.ok else "[red]breaks[/red]"
            unit = "{:.3g} ms".format if one.limit == "latency_ms" else size
            most = f" (at most {unit(one.high)})" if one.high is not None else ""
            where = f"\\[{one.provenance}]"
            quantities = f"{unit(one.found)}{most} of {unit(one.allowed)} {where}"
            console().print(f"{mark} {one.limit}: {quantities}; {plain(one.note)}")
        assert made.c is not None
        console().print(f"written to {plain(str(out))}: model.h, model.cc", markup=False)
    raise typer.Exit(0 if all(one.ok for one in verdicts) else BUDGET_BROKEN)
