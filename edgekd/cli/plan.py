"""`edgekd plan RUN`."""

from edgekd.cli._common import AsJson, RunFolder, go_on


def command(run: RunFolder, json: AsJson = False) -> None:
    """Choose the student of each target: what fits the budget, and which of it to make."""
    go_on(run, "plan", json)
