"""`edgekd compare RUN RUN`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli._common import AsJson, console, print_json, table


def command(
    a: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with a report.")],
    b: Annotated[Path, typer.Argument(metavar="RUN", help="Another one.")],
    json: AsJson = False,
) -> None:
    """Show two runs side by side: accuracy, size and latency of each target that both have."""
    import msgspec

    from edgekd.compare import compare
    from edgekd.errors import ConfigError

    differences = compare(_summaries(a), _summaries(b))
    if not differences:
        raise ConfigError(f"{a} and {b} have no target in common")
    if json:
        print_json({"schema": 1, "differences": [msgspec.to_builtins(one) for one in differences]})
        return
    shown = table("target", "quantity", "a", "b", "b - a", "provenance", "note")
    for one in differences:
        change = f"{one.b - one.a:+.5g}" if one.comparable and one.a is not None and one.b is not None else ""
        shown.add_row(one.target, one.quantity, _number(one.a), _number(one.b), change, one.provenance, one.note)
    console().print(shown)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _summaries(folder: Path) -> list[dict[str, Any]]:
    """Each target's report.json, checked as any finished step's file is."""
    import json

    from edgekd.errors import ConfigError
    from edgekd.runs import Run
    from edgekd.specs import Report

    names = sorted(path.parent.parent.name for path in folder.glob("*/6-report/result.json"))
    if not names:
        raise ConfigError(f"{folder} has no report", hint=f"edgekd report {folder}")
    run = Run(folder)
    files = [run.result(f"{name}/6-report", Report).json for name in names]
    return [json.loads((run.folder / file.path).read_text(encoding="utf-8")) for file in files]
