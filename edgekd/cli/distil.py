"""`edgekd distil RUN`."""

from edgekd.cli._common import AsJson, RunFolder, go_on


def command(run: RunFolder, json: AsJson = False) -> None:
    """Train the student, and beside it its twin that never hears of the teacher."""
    go_on(run, "distil", json)
