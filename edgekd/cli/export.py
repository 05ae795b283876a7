"""`edgekd export RUN`."""

from edgekd.cli._common import AsJson, RunFolder, go_on


def command(run: RunFolder, json: AsJson = False) -> None:
    """Write the student in the device's formats."""
    go_on(run, "export", json)
