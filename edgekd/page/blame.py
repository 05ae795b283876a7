"""What `edgekd blame` says, as one picture: a row a layer, errors on the left and time on the right."""

from functools import partial
from pathlib import Path
from typing import Any, Final

from edgekd.page._numbers import drawable, mappings, milliseconds, number, percent, reach
from edgekd.page._pictures import COLOURS
from edgekd.page._saved import saved

MOST_ROWS: Final = 60
ROW: Final = 20
"""Height in pixels of a layer."""
PANEL: Final = 260
NAMES: Final = 36
"""Characters of a layer's name that are shown."""

HIGHEST_DB: Final = 200.0
"""Stands for no difference at all."""


def _db(value: float) -> str:
    return f"{number(value, 3)} dB" if value < HIGHEST_DB else "exact"


_PANELS: Final = (
    ("local_db", "error of the layer alone: SQNR (host)", "blue", _db),
    ("sqnr_db", "error up to here: SQNR (host)", "teal", _db),
    ("output_db", "what it costs at the outputs: SQNR (host)", "purple", _db),
    ("metric_drop", "what it costs in accuracy (host)", "pink", lambda value: percent(value, 2)),
    ("latency_ms", "time (host)", "orange", milliseconds),
)
"""Key of a layer, title, colour and how a value is written; panels without a value are left out."""


def save(summary: dict[str, Any], path: Path) -> None:
    """Write the picture of what `edgekd blame --json` prints, as PNG or SVG by the file's ending.

    Raises:
        PluginUnavailable: altair or vl-convert is not installed.
        StorageError: the file cannot be written.
    """
    saved(partial(picture, summary), path)


def picture(summary: dict[str, Any]) -> Any:
    """The chart; the worst of each panel is in the strong colour, layers stand in the order of execution."""
    import altair as alt

    layers = mappings(summary, "layers")[:MOST_ROWS]
    names = [f"{index:03}\t{_short(_name(layer))}" for index, layer in enumerate(layers)]
    panels: list[Any] = []
    for key, title, colour, show in _PANELS:
        values = [drawable(reach(layer, key)) for layer in layers]
        if any(value is not None for value in values):
            panels.append(_panel(key, title, colour, show, names, values, first=not panels))
    if not panels:
        return alt.Chart(alt.InlineData(values=[])).mark_bar()
    return alt.hconcat(*panels, spacing=14)


def _panel(
    key: str, title: str, colour: str, show: Any, names: list[str], values: list[float | None], *, first: bool
) -> Any:
    import altair as alt

    known = [value for value in values if value is not None]
    ratios = key.endswith("_db")
    inexact = [value for value in known if not ratios or value < HIGHEST_DB] or known
    worst = min(known) if ratios else max(known)
    rows = [
        {"layer": name, "value": min(value, max(inexact)), "text": show(value), "strong": value == worst}
        for name, value in zip(names, values, strict=True)
        if value is not None
    ]
    reachable = max(*inexact, 0.0) or 1.0
    across = alt.X("value:Q", title=title, scale=alt.Scale(domain=[min(0.0, *inexact), 1.28 * reachable], nice=False))
    labels = alt.Axis(labelExpr="split(datum.label, '\t')[1]", title=None, labelLimit=330) if first else None
    down = alt.Y("layer:N", sort=None, scale=alt.Scale(domain=names), axis=labels)
    shade = alt.condition("datum.strong", alt.value(COLOURS[colour][0]), alt.value(COLOURS["faint"][0]))
    base = alt.Chart(alt.InlineData(values=rows))
    bars = base.mark_bar(height=ROW - 7).encode(x=across, y=down, color=shade)
    text = base.mark_text(align="left", dx=4, fontSize=11, color=COLOURS["muted"][0]).encode(
        x=across, y=down, text=alt.Text("text:N")
    )
    return alt.layer(bars, text).properties(width=PANEL, height=ROW * len(names))


def _name(layer: dict[str, Any]) -> str:
    return str(layer.get("layer") or "between layers")


def _short(text: str) -> str:
    """On one line; of a name of several the first, of a long one its end, which says more."""
    line = "".join(one if one.isprintable() else "?" for one in " ".join(text.partition(";")[0].split()))
    return line if len(line) <= NAMES else f"…{line[1 - NAMES :]}"
