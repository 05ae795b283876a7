"""`edgekd measure RUN`."""

from edgekd.cli._common import AsJson, MeasureMode, On, Require, RunFolder, go_on


def command(
    run: RunFolder, on: On = None, require: Require = None, mode: MeasureMode = None, json: AsJson = False
) -> None:
    """Time every artifact and weigh its memory; with --require, also write the report."""
    go_on(run, "report" if require else "measure", json, mode, on=on or (), require=require)
