"""`edgekd run RECIPE --target T`: the main job."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgekd.cli._common import AsJson, MeasureMode, On, Require, progress_bars, show

Until = Literal["teach", "plan", "distil", "export", "verify", "climb", "measure", "report"]


def command(
    recipe: Annotated[
        str, typer.Argument(help="Name of a shipped recipe (`edgekd recipes`), or path of a .toml file.")
    ],
    target: Annotated[
        list[str],
        typer.Option(
            "--target", "-t", help="Name of a shipped target (`edgekd targets`) or path of a .toml; repeatable."
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; runs/<recipe> by default.")] = None,
    until: Annotated[Until, typer.Option(help="Stop after this step.")] = "report",
    on: On = None,
    require: Require = None,
    mode: MeasureMode = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**31 - 1, help="Of the student alone; teacher, its knowledge and the plan stay."),
    ] = None,
    scale: Annotated[
        str, typer.Option(metavar="NAME", help="Another size of the job, that the recipe names: small.")
    ] = "",
    processes: Annotated[
        int,
        typer.Option(
            min=0, help="That each training has, on GPUs where there are some (Accelerate); 0: one, on the processor."
        ),
    ] = 0,
    rounds: Annotated[
        int,
        typer.Option(
            min=0,
            max=10,
            help="How often at most a student is planned anew, where a device shows that it breaks the budget, or that "
            "a larger one has room.",
        ),
    ] = 1,
    json: AsJson = False,
) -> None:
    """Take a recipe to one or more targets: plan, distil, export, verify, measure, report.

    Run the same command again after a stop of any kind: it goes on from there.
    """
    import msgspec

    from edgekd.crew import launched

    processes = processes or launched()

    from edgekd.api import run_all
    from edgekd.shipped import load_recipe
    from edgekd.workers import crew

    wanted = load_recipe(recipe, scale)
    if seed is not None:
        wanted = msgspec.structs.replace(wanted, student_seed=seed)
    with progress_bars(), crew(processes):
        results = run_all(
            wanted, list(target), out=out, until=until, mode=mode, on=on or (), require=require, rounds=rounds
        )
    raise typer.Exit(show(results, json))
