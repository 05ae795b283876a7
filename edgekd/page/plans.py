"""The fronts of a plan's targets as one picture."""

from pathlib import Path
from typing import Any

from edgekd.errors import PluginUnavailable
from edgekd.files import storage_errors
from edgekd.page._pictures import plan_picture, svg
from edgekd.page.blame import png

COLUMNS = 2
"""Fronts beside each other."""


def save(plans: dict[str, Any], path: Path) -> None:
    """Write what `edgekd plan --json` prints as PNG or SVG, by the file's ending.

    Raises:
        PluginUnavailable: altair or vl-convert is not installed.
        StorageError: the file cannot be written.
    """
    try:
        chart = picture(plans)
        content = png(chart) if path.suffix.lower() == ".png" else svg(chart).encode()
    except ModuleNotFoundError as missing:
        hint = "pip install 'edgekd[report]'"
        raise PluginUnavailable(f"a picture needs the package {missing.name!r}", hint=hint) from missing
    with storage_errors(path):
        path.write_bytes(content)


def picture(plans: dict[str, Any]) -> Any:
    """A panel for each target: latency against capacity."""
    import altair as alt

    panels = []
    for one in plans["targets"]:
        for made in plan_picture({"plan": one, "limits": one["limits"]}):
            panels.append(made.chart.properties(title=one["target"]))
    rows = [alt.hconcat(*panels[at : at + COLUMNS]) for at in range(0, len(panels), COLUMNS)]
    return alt.vconcat(*rows)
