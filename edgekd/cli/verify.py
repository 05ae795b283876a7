"""`edgekd verify RUN`, `edgekd verify DIR` and `edgekd verify A B ...`."""

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli._common import AsJson, go_on, is_run, print_json, progress_bars
from edgekd.errors import BUDGET_BROKEN, ConfigError


def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|DIR|MODEL...",
            help="A run folder; a folder that `edgekd export -o` wrote; or models of any format, against each other.",
        ),
    ],
    inputs: Annotated[
        str, typer.Option("--inputs", help="What to execute on: .npz, .npy, or `module:function`; else random numbers.")
    ] = "",
    engine: Annotated[
        list[str] | None, typer.Option("--engine", help="On these engines alone; may be given several times.")
    ] = None,
    examples: Annotated[int, typer.Option("--examples", min=1, help="How many random examples.")] = 8,
    on: Annotated[
        str, typer.Option("--on", metavar="DEVICE", help="Execute files there too: ssh://me@mac, qemu:cortex-a72.")
    ] = "",
    json: AsJson = False,
) -> None:
    """Hold every artifact, on every runtime that can execute it here, against the student and each other."""
    if len(models) == 1 and is_run(models[0]):
        if on:
            raise ConfigError("a run is verified here", hint="name files: RUN/TARGET/3-export/*/model.*")
        go_on(Path(models[0]), "verify", json, crosswise=True)
    from edgekd.api import verify_models

    with progress_bars():
        found = verify_models(models, inputs=inputs, engines=engine or (), examples=examples, on=on)
    if json:
        import msgspec

        print_json({"schema": 1, "ok": found.ok, **msgspec.to_builtins(found)})
    else:
        from edgekd.cli._tables import print_matrix

        print_matrix(found)
    raise typer.Exit(0 if found.ok else BUDGET_BROKEN)
