"""`edgekd report RUN`."""

from edgekd.cli._common import AsJson, Require, RunFolder, go_on


def command(run: RunFolder, require: Require = None, json: AsJson = False) -> None:
    """Hold what was found against the budget; write report.html and report.json."""
    go_on(run, "report", json, require=require)
