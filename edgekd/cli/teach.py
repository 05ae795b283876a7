"""`edgekd teach RUN`."""

from edgekd.cli._common import AsJson, RunFolder, go_on


def command(run: RunFolder, json: AsJson = False) -> None:
    """Adapt the teacher of a run to its data."""
    go_on(run, "teach", json)
