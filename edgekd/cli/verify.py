"""`edgekd verify RUN`."""

from edgekd.cli._common import AsJson, RunFolder, go_on


def command(run: RunFolder, json: AsJson = False) -> None:
    """Hold every artifact, on its own runtime, against the student."""
    go_on(run, "verify", json)
