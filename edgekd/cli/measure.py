"""`edgekd measure RUN`."""

from edgekd.cli._common import AsJson, MeasureMode, RunFolder, go_on


def command(run: RunFolder, mode: MeasureMode = None, json: AsJson = False) -> None:
    """Time every artifact and weigh its memory."""
    go_on(run, "measure", json, mode)
