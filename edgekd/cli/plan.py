"""`edgekd plan RECIPE --target T`, `edgekd plan RUN`."""

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli._common import AsJson, On, print_json, progress_bars


def command(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|RUN", help="A shipped recipe or a .toml file, with --target; or a run folder that has both."
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="A shipped target, or a .toml file; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; runs/<recipe> by default.")] = None,
    on: On = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Search all of the student family's space, not the recipe's part of it.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Rank by short distillations, the worse half given up again and again.")
    ] = False,
    scale: Annotated[str, typer.Option(metavar="NAME", help="Another size of the job, that the recipe names.")] = "",
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Draw the fronts: a .png or .svg file.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Choose the student of each target: what fits the budget, and which of it to make.

    A few candidates are made with random weights, converted, and measured where a device is at hand, before any is
    trained. `edgekd report RUN` goes on with the plan, to the end.
    """
    from edgekd.api import plan_all, plans
    from edgekd.errors import ConfigError

    if picture is not None and picture.suffix.lower() not in {".png", ".svg"}:
        raise ConfigError(f"{picture} is neither a .png nor a .svg file")
    with progress_bars():
        results = plan_all(recipe, target or (), out=out, on=on or (), whole=whole, probe=probe, scale=scale)
    if picture is not None:
        from edgekd.page.plans import save

        save(plans(results), picture)
    if json:
        print_json(plans(results))
        return
    from edgekd.cli._tables import print_plans

    print_plans(results)
