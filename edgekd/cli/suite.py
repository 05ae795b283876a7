"""`edgekd suite NAME --on DEVICE` and `edgekd suite --compare A B`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli._common import AsJson, MeasureMode, console, plain, print_json, progress_bars, table
from edgekd.errors import BUDGET_BROKEN, ConfigError, MeasureError
from edgekd.files import load_toml, write_text

if TYPE_CHECKING:
    from edgekd.standings import Change
    from edgekd.suite import Results


def command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SUITE | A B]", help="A shipped suite or a .toml file; with --compare two results."),
    ] = None,
    on: Annotated[str, typer.Option("--on", metavar="DEVICE", help="Where to measure.")] = "host",
    mode: MeasureMode = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Results as JSON; what stands there already is not done again.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Hold two results against each other.")] = False,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write a table.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML, for CI.")] = None,
    json: AsJson = False,
) -> None:
    """Measure a suite of models on a device, or compare two results; without a name, list the suites."""
    from edgekd import standings

    wanted = names or []
    changed: tuple[Change, ...] = ()
    if compare:
        from edgekd.suite import load_results

        if len(wanted) != 2:
            raise ConfigError("compare which two results?", hint="edgekd suite --compare A.json B.json")
        before, results = (load_results(Path(name)) for name in wanted)
        changed = standings.changes(before, results)
        if not changed:
            raise ConfigError("the two results have no row in common that both measured, or both counted")
    elif wanted:
        results = _run(wanted, on, mode, out)
    else:
        _list(json)
        return
    for path, text in ((markdown, standings.markdown), (html, standings.html)):
        if path:
            write_text(path, text(results))
    if junit:
        write_text(junit, standings.junit(results, changed))
    _show(results, changed, compare, json)
    worse = any(change.worse for change in changed)
    raise typer.Exit(BUDGET_BROKEN if worse else 0 if results.ok or compare else MeasureError.exit_code)


def _run(wanted: list[str], on: str, mode: MeasureMode, out: Path | None) -> "Results":
    from edgekd.shipped import suite_file
    from edgekd.suite import Row, Suite, default_out, run_suite

    if len(wanted) > 1:
        raise ConfigError("one suite at a time")
    path = suite_file(wanted[0])
    suite = load_toml(Suite, path)
    written = out or default_out(suite, on)

    def told(row: Row) -> None:
        if sys.stderr.isatty():
            typer.echo(f"{row.title}: {f'failed: {row.error}' if row.error else 'done'}", err=True)

    with progress_bars():
        return run_suite(suite, path.resolve().parent, on, written, mode, told)


def _list(as_json: bool) -> None:
    import msgspec

    from edgekd.shipped import suite_file, suite_names
    from edgekd.suite import Suite

    suites = [load_toml(Suite, suite_file(name)) for name in suite_names()]
    if as_json:
        print_json({"schema": 1, "suites": msgspec.to_builtins(suites)})
        return
    shown = table("suite", "what it measures", "models")
    for suite in suites:
        shown.add_row(suite.name, plain(suite.title), ", ".join(entry.name for entry in suite.models))
    console().print(shown)


def _show(results: "Results", changed: "tuple[Change, ...]", compared: bool, as_json: bool) -> None:
    import msgspec

    from edgekd import standings

    if as_json:
        print_json({**msgspec.to_builtins(results), **({"changes": msgspec.to_builtins(changed)} if compared else {})})
    elif compared:
        shown = table("model", "export", "engine", "threads", "a", "b", "b / a", "")
        for one in changed:
            what = map(plain, (one.model, one.export, one.engine, str(one.threads)))
            shown.add_row(*what, *standings.sides(one), one.verdict)
        console().print(shown)
    else:
        shown = table(*standings.headings(results))
        for row in results.rows:
            shown.add_row(*map(plain, standings.cells(row)))
        console().print(shown)
