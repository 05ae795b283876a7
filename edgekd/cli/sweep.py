"""`edgekd sweep SWEEP.toml`: many runs, one table."""

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli._common import AsJson, console, plain, print_json, progress_bars, table


def command(
    sweep: Annotated[Path, typer.Argument(help="A .toml file of recipes, targets, seeds and options.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; sweeps/<name> by default.")] = None,
    ray: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Of a Ray cluster; `local` starts one here, `none` does without.")
    ] = "local",
    json: AsJson = False,
) -> None:
    """Run recipes x targets x seeds x options, and tell what distillation brings in the mean.

    Run the same command again after a stop of any kind: it goes on from there.
    """
    from edgekd.sweep import groups, load_sweep, run_sweep, spread, verdict

    wanted = load_sweep(sweep)
    folder = out or Path("sweeps") / wanted.name
    with progress_bars():
        swept = run_sweep(wanted, folder, ray)
    code = next((row.exit_code for row in swept.rows if row.error), 0)
    if json:
        print_json(swept)
        raise typer.Exit(code)
    shown = table("recipe", "target", *wanted.options, "teacher \\[host]", "student", "without teacher", "distillation")
    for group in groups(swept):
        gains = group.values("gain")
        told = f"{verdict(gains)} {spread(gains)}" if gains else ""
        options = [plain(str(value)) for value in group.options.values()]
        scores = [spread(group.values(what)) for what in ("teacher", "student", "twin")]
        shown.add_row(plain(group.recipe), plain(group.target), *options, *scores, told)
    console().print(shown)
    for row in swept.rows:
        if row.error:
            console().print(f"- {plain(row.recipe)} for {plain(row.target)}, seed {row.seed}: {plain(row.error)}")
    console().print(f"{len(swept.rows)} rows: {folder / 'sweep.md'}")
    raise typer.Exit(code)
