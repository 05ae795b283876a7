"""A picture of its own, as a file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.errors import PluginUnavailable
from edgekd.files import storage_errors
from edgekd.page._pictures import styled, svg


def saved(draw: Callable[[], Any], path: Path) -> None:
    """Write the chart that `draw` makes as PNG or SVG, by the file's ending.

    Raises:
        PluginUnavailable: altair or vl-convert is not installed.
        StorageError: the file cannot be written.
    """
    try:
        chart = draw()
        content = png(chart) if path.suffix.lower() == ".png" else svg(chart).encode()
    except ModuleNotFoundError as missing:
        hint = "pip install 'edgekd[report]'"
        raise PluginUnavailable(f"a picture needs the package {missing.name!r}", hint=hint) from missing
    with storage_errors(path):
        path.write_bytes(content)


def png(chart: Any) -> bytes:
    """A chart as PNG on white, twice as large as on the page."""
    import vl_convert

    plain, version = styled(chart, background="white")
    made: bytes = vl_convert.vegalite_to_png(plain, vl_version=version, scale=2)
    return made
