"""The fronts of a plan's targets as one picture."""

from functools import partial
from pathlib import Path
from typing import Any

from edgekd.page._pictures import plan_picture
from edgekd.page._saved import saved

COLUMNS = 2
"""Fronts beside each other."""


def save(plans: dict[str, Any], path: Path) -> None:
    """Write what `edgekd plan --json` prints as PNG or SVG, by the file's ending.

    Raises:
        PluginUnavailable: altair or vl-convert is not installed.
        StorageError: the file cannot be written.
    """
    saved(partial(picture, plans), path)


def picture(plans: dict[str, Any]) -> Any:
    """A panel for each target: latency against capacity."""
    import altair as alt

    panels = []
    for one in plans["targets"]:
        for made in plan_picture({"plan": one, "limits": one["limits"]}):
            panels.append(made.chart.properties(title=one["target"]))
    rows = [alt.hconcat(*panels[at : at + COLUMNS]) for at in range(0, len(panels), COLUMNS)]
    return alt.vconcat(*rows)
