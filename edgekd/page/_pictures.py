"""What the page shows in pictures: altair draws them, and they stand in the page as SVG."""

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from edgekd.page._numbers import (
    Show,
    Summary,
    chosen_first,
    count,
    drawable,
    mappings,
    milliseconds,
    number,
    percent,
    reach,
    size,
)
from edgekd.page._words import PROVENANCES, candidates, metric_of, spoken, trimmed

MOST_PICTURED: Final = 12
"""Artifacts in the picture of how latency is spread."""

MOST_LABELS: Final = 60
"""Points of a picture that a label is looked for."""

MOST_PLACES: Final = 3
"""Pairs of device and provenance that get pictures of their own."""


COLOURS: Final = {
    "ink": ("#1c2530", "#e8edf2"),
    "muted": ("#5d6977", "#9fadbb"),
    "faint": ("#c3ccd5", "#4a5765"),
    "grid": ("#e6eaee", "#29333d"),
    "limit": ("#b3261e", "#ff8f86"),
    "blue": ("#0b68b3", "#62b3f2"),
    "orange": ("#b8560f", "#f2a057"),
    "green": ("#1a7a48", "#53c88f"),
    "purple": ("#7446b8", "#b99af2"),
    "pink": ("#b0367a", "#f08cc0"),
    "teal": ("#0f7b83", "#52c4cc"),
}
"""Name -> colour on light paper and on dark. Pictures are drawn in the light ones, which the page's CSS swaps."""

FORMATS: Final = (
    ("blue", "circle", "●"),
    ("orange", "square", "■"),
    ("green", "triangle-up", "▲"),
    ("purple", "diamond", "◆"),
    ("pink", "triangle-down", "▼"),
    ("teal", "triangle-right", "▶"),
)
"""Colour, shape and letter that the formats of a report take in turn."""

WIDTH: Final = 350
WIDTH_ALONE: Final = 410
"""Where there is no axis at the left."""
HEIGHT: Final = 240
"""Of a plot in pixels, without its axes: small enough for a phone to show it with legible text."""
TEXT: Final = 13
ROW: Final = 48
"""Height in pixels of one artifact in a latency picture."""


@dataclass(frozen=True)
class Picture:
    """A chart and the words around it."""

    title: str
    chart: Any
    caption: str
    provenances: tuple[str, ...]
    keys: tuple[tuple[str, str, str], ...] = ()
    """Colour, letter and name of each format in the chart."""


@dataclass(frozen=True)
class Axis:
    """Where values lie in a picture. Pixels count from the left or the top edge."""

    title: str
    start: float
    end: float
    """In powers of ten where the axis is logarithmic."""
    log: bool
    length: int
    show: Show
    upwards: bool = False
    """True where large values lie at the top."""

    def pixel(self, value: float) -> float:
        """Where a value lies."""
        share = (_bent(value, self.log) - self.start) / (self.end - self.start)
        return self.length * (1 - share if self.upwards else share)

    def value(self, pixel: float) -> float:
        """What lies at a pixel."""
        share = 1 - pixel / self.length if self.upwards else pixel / self.length
        return _unbent(self.start + share * (self.end - self.start), self.log)

    def holds(self, value: float | None) -> bool:
        """Whether a value is in view."""
        return value is not None and (value > 0 or not self.log) and self.start <= _bent(value, self.log) <= self.end

    def altair(self, channel: Literal["X", "Y"]) -> Any:
        """The channel that draws this axis."""
        import altair as alt

        ticks = _ticks(self)
        labels = json.dumps([self.show(tick) for tick in ticks])
        ends = [_unbent(self.start, self.log), _unbent(self.end, self.log)]
        return getattr(alt, channel)(
            f"{channel.lower()}:Q",
            scale=alt.Scale(type="log" if self.log else "linear", domain=ends, nice=False, zero=False),
            axis=alt.Axis(
                title=self.title,
                values=ticks,
                labelExpr=f"{labels}[indexof({json.dumps(ticks)}, datum.value)]",
                labelOverlap="greedy",
            ),
        )


def _bent(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _unbent(value: float, log: bool) -> float:
    return 10.0**value if log else value


def axis_over(
    title: str,
    values: Iterable[float],
    marks: Iterable[float | None],
    show: Callable[[Any, int], str],
    *,
    length: int,
    upwards: bool = False,
    least: float = 0.0,
) -> Axis:
    """An axis with all values in view, logarithmic where they span a factor of 5 or more, and `least` long or longer.

    A mark, such as a limit, is in view as well where that does not squeeze the values into less than half of it.
    """
    found = sorted(values)
    log = found[0] > 0 and found[-1] / found[0] >= 5
    low, high = _bent(found[0], log), _bent(found[-1], log)
    alike = high <= low and least < abs(high) * 1e-6  # too little to be told apart
    span = max(high - low, least, abs(high) * 0.2 if alike else 0.0) or 1.0
    low, high = (low + high - span) / 2, (low + high + span) / 2
    for mark in marks:
        if mark is not None and (mark > 0 or not log):
            at = _bent(mark, log)
            if max(high, at) - min(low, at) <= 2 * span:
                low, high = min(low, at), max(high, at)
    room = 0.08 * (high - low)
    start = low - room if log or found[0] < 0 or low >= room else min(low, 0.0)
    return Axis(title, start, high + room, log, length, lambda value: trimmed(show(value, 4)), upwards)


def _ticks(axis: Axis) -> list[float]:
    """Round values, three to seven of them where the axis allows."""
    if axis.log:
        first, last = math.floor(axis.start), math.ceil(axis.end)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            ticks = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
            ticks = [tick for tick in ticks if axis.holds(tick)]
            if len(ticks) <= 6:
                return ticks
        return ticks[:: math.ceil(len(ticks) / 6)]
    rough = (axis.end - axis.start) / 6.5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(nice for nice in (1, 2, 5, 10) if power * nice >= rough * 0.999)
    first, last = math.ceil(axis.start / step), math.floor(axis.end / step)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


@dataclass(frozen=True)
class Dot:
    """A point of a picture; the first ones are labelled first."""

    x: float
    y: float
    label: str
    colour: str
    shape: str = "circle"
    chosen: bool = False
    low: float | None = None
    high: float | None = None
    """Interval of x."""


@dataclass(frozen=True)
class Line:
    """A limit across a picture: down it at `x`, or along it at `y`."""

    label: str
    x: float | None = None
    y: float | None = None


@dataclass(frozen=True)
class Label:
    """Text at a point in pixels."""

    x: float
    y: float
    align: Literal["left", "center", "right"]
    text: str
    bold: bool = False
    colour: str = "ink"

    @property
    def box(self) -> "Box":
        """What it covers."""
        width = sum(1.05 if unicodedata.east_asian_width(c) in "WF" else 0.58 for c in self.text) * TEXT
        left = self.x - {"left": 0.0, "center": width / 2, "right": width}[self.align]
        return Box(left, self.y - TEXT * 0.5, left + width, self.y + TEXT * 0.5)


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def hits(self, other: "Box") -> bool:
        """Whether the two overlap."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def within(self, other: "Box") -> bool:
        """Whether no part is outside of the other."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


def scatter(dots: Sequence[Dot], lines: Sequence[Line], across: Axis, up: Axis) -> tuple[Any, int]:
    """A chart of labelled points, and how many labels had no room."""
    import altair as alt

    drawn = [line for line in lines if across.holds(line.x) or up.holds(line.y)]
    labels, missed = _labels(dots, drawn, across, up)
    x, y = alt.X("x:Q"), alt.Y("y:Q")
    rows = [{"x": d.x, "y": d.y, "colour": _light(d.colour), "shape": d.shape} for d in reversed(dots)]
    colour, shape = alt.Color("colour:N", scale=None), alt.Shape("shape:N", scale=None)
    layers = [
        _layer(rows)
        .mark_point(filled=True, opacity=1, size=80)
        .encode(x=across.altair("X"), y=up.altair("Y"), color=colour, shape=shape)
    ]
    for field, along in (("x", {"x": x}), ("y", {"y": y})):
        if rows := [{field: getattr(line, field)} for line in drawn if getattr(line, field) is not None]:
            layers.insert(0, _layer(rows).mark_rule(color=_light("limit"), strokeDash=[5, 4]).encode(**along))
    if rows := [{"x": dot.low, "x2": dot.high, "y": dot.y} for dot in dots if dot.low is not None]:
        rules = _layer(rows).mark_rule(color=_light("faint"), strokeWidth=1.5)
        layers.insert(0, rules.encode(x=x, x2=alt.X2("x2:Q"), y=y))
    if rows := [{"x": dot.x, "y": dot.y} for dot in dots if dot.chosen]:
        layers.append(_layer(rows).mark_point(size=260, color=_light("ink"), strokeWidth=1.6).encode(x=x, y=y))
    chart = alt.layer(*layers, _texts(labels, across, up))
    return chart.properties(width=across.length, height=up.length), missed


def _labels(dots: Sequence[Dot], lines: Sequence[Line], across: Axis, up: Axis) -> tuple[list[Label], int]:
    """Labels where they cover neither each other nor a point nor a line."""
    frame = Box(0, 0, across.length, up.length)
    places = [(across.pixel(dot.x), up.pixel(dot.y)) for dot in dots]
    taken = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    labels: list[Label] = []
    wanted = [_beside(line, across, up) for line in lines]
    wanted += [_around(dot, x, y) for dot, (x, y) in zip(dots, places, strict=True) if dot.label]
    for line in lines:
        x, y = (across.pixel(line.x or 0), 0.0) if line.x is not None else (0.0, up.pixel(line.y or 0))
        taken.append(Box(x - 1, 0, x + 1, up.length) if line.x is not None else Box(0, y - 1, across.length, y + 1))
    for spots in wanted[:MOST_LABELS]:
        inside = [(spot, spot.box) for spot in spots if spot.box.within(frame)]
        free = [(spot, box) for spot, box in inside if not any(box.hits(other) for other in taken)]
        for spot, box in free[:1] or [(spot, box) for spot, box in inside[:1] if spot.bold]:
            labels.append(spot)
            taken.append(box)
    return labels, len(wanted) - len(labels)


def _around(dot: Dot, x: float, y: float) -> list[Label]:
    gap = 13.0 if dot.chosen else 9.0
    spots: list[tuple[float, float, Literal["left", "center", "right"]]] = [
        (gap, 0, "left"),
        (-gap, 0, "right"),
        (0, -gap - 6, "center"),
        (0, gap + 6, "center"),
        (-6, -gap - 6, "left"),
        (-6, gap + 6, "left"),
        (6, -gap - 6, "right"),
        (6, gap + 6, "right"),
    ]
    text = _short(dot.label)
    return [Label(x + right, y + down, align, text, bold=dot.chosen) for right, down, align in spots]


def _beside(line: Line, across: Axis, up: Axis) -> list[Label]:
    if line.x is not None:
        x = across.pixel(line.x)
        return [
            Label(x + side, y, "right" if side < 0 else "left", line.label, colour="limit")
            for y in (10, up.length - 10, up.length / 2)
            for side in (-6, 6)
        ]
    y = up.pixel(line.y or 0)
    return [
        Label(x, y + side, "left" if x < across.length / 2 else "right", line.label, colour="limit")
        for x in (across.length - 4, 4)
        for side in (-9, 10)
    ]


def _texts(labels: Sequence[Label], across: Axis, down: Axis) -> Any:
    import altair as alt

    rows = [
        {
            "x": across.value(one.x),
            "y": down.value(one.y),
            "text": one.text,
            "align": one.align,
            "weight": "bold" if one.bold else "normal",
            "colour": _light(one.colour),
        }
        for one in labels
    ]
    return (
        _layer(rows)
        .mark_text(align=alt.ExprRef("datum.align"), fontWeight=alt.ExprRef("datum.weight"))
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"), text=alt.Text("text:N"), color=alt.Color("colour:N", scale=None))
    )


def _layer(rows: list[dict[str, Any]]) -> Any:
    import altair as alt

    # as text, for altair copies and checks a chart's data at every turn
    return alt.Chart(alt.InlineData(values=json.dumps(rows), format=alt.JsonDataFormat(type="json")))


def _light(colour: str) -> str:
    return COLOURS[colour][0]


def _short(text: str, most: int = 26) -> str:
    """On one line, and no longer than a picture has room for."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def svg(chart: Any) -> str:
    """A chart as SVG."""
    import vl_convert

    plain, version = styled(chart)
    drawn: str = vl_convert.vegalite_to_svg(plain, vl_version=version)
    return drawn


def styled(chart: Any, background: str = "transparent") -> tuple[dict[str, Any], str]:
    """A chart in the page's style, as vl-convert takes it, and the version of Vega-Lite that it is of."""
    import altair as alt

    grey = {"labelColor": _light("muted"), "titleColor": _light("ink"), "gridColor": _light("grid")}
    plain: dict[str, Any] = (
        chart.configure(
            aria=False,
            background=background,
            font="system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
            text=alt.MarkConfig(fontSize=TEXT),
            padding=4,
        )
        .configure_axis(
            **grey,
            domain=False,
            ticks=False,
            labelFontSize=TEXT,
            labelPadding=6,
            titleFontSize=TEXT,
            titleFontWeight="normal",
            titlePadding=8,
        )
        .configure_view(stroke=_light("grid"))
        .to_dict(validate=False)
    )
    return plain, ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def _formats(summary: Summary) -> dict[str, tuple[str, str, str]]:
    """Format -> colour, shape and letter, in the order of the artifacts."""
    names = dict.fromkeys(
        _format(str(one.get(key)))
        for key, rows in (("export", mappings(summary, "artifacts")), ("artifact", mappings(summary, "measurements")))
        for one in rows
    )
    return {name: _style(index) for index, name in enumerate(names)}


def _style(index: int) -> tuple[str, str, str]:
    """Each colour with its own shape first, then with the next one's."""
    colour, _, _ = FORMATS[index % len(FORMATS)]
    _, shape, letter = FORMATS[(index + index // len(FORMATS)) % len(FORMATS)]
    return colour, shape, letter


def _format(export: str) -> str:
    """`tflite` of `tflite-int8`."""
    return export.rpartition("-")[0] or export


def _words(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


def _missed(labels: int) -> str:
    if labels == 0:
        return ""
    return f"{labels} label{' has' if labels == 1 else 's have'} no room and {'is' if labels == 1 else 'are'} left out."


def _out_of_view(what: str, limit: float | None, axis: Axis) -> str:
    if limit is None or axis.holds(limit):
        return ""
    where = ("below", "above") if axis.upwards else ("to the left of", "to the right of")
    return f"{what}, {axis.show(limit)}, lies {where[limit > axis.value(axis.length / 2)]} what is in view."


def accuracy_kinds(summary: Summary) -> tuple[str, ...]:
    """Provenances of the artifacts' accuracy."""
    found = (
        one.get("provenance") for artifact in mappings(summary, "artifacts") for one in mappings(artifact, "parity")[:1]
    )
    return tuple(dict.fromkeys(str(one) for one in found)) or ("host",)


def size_picture(summary: Summary) -> list[Picture]:
    """Accuracy against file size: the artifacts, and the teacher in float32."""
    limit = drawable(reach(summary, "limits", "file_bytes"))
    found = [
        (str(one.get("export")), str(one.get("export")), one.get("file_bytes"))
        for one in mappings(summary, "artifacts")
    ]
    teacher = drawable(reach(summary, "teacher", "file_bytes"))
    caption = "Files as they lie in the run folder; the teacher's is float32."
    return _against_accuracy(summary, "file size", "host", found, size, limit, caption, teacher)


def latency_pictures(summary: Summary) -> list[Picture]:
    """Accuracy against p90 latency, a picture for each place where latency was taken."""
    pictures = []
    for provenance, device, rows in _places(summary):
        on_device = provenance == "measured"
        limit = drawable(reach(summary, "limits", "latency_ms")) if on_device else None
        own = "" if on_device else "The budget is the device's, so it is not drawn against these times."
        found = [(str(one.get("artifact")), _name(one, rows), reach(one, "latency_ms", "p90")) for one in rows]
        place = "p90 latency" if device == provenance else f"p90 latency on {_short(device)}"
        caption = _words("One inference at batch 1.", own)
        pictures += _against_accuracy(summary, place, provenance, found, milliseconds, limit, caption)
    return pictures


def _against_accuracy(
    summary: Summary,
    what: str,
    provenance: str,
    found: Sequence[tuple[str, str, Any]],
    show: Callable[[Any, int], str],
    limit: float | None,
    caption: str,
    teacher: float | None = None,
) -> list[Picture]:
    """The metric against a cost; `found` holds the export, the label and the cost of each point."""
    metric, kinds, formats = metric_of(summary), accuracy_kinds(summary), _formats(summary)
    accuracy = {
        str(one.get("export")): drawable(reach(one, "metrics", metric)) for one in mappings(summary, "artifacts")
    }
    dots, keys = [], {}
    for export, label, cost in sorted(found, key=lambda one: one[0] != summary.get("artifact")):
        x, y = drawable(cost), accuracy.get(export)
        if x is not None and y is not None:
            colour, shape, letter = formats[_format(export)]
            dots.append(Dot(x, y, label, colour, shape, export == summary.get("artifact")))
            keys[_format(export)] = (colour, letter, _short(_format(export)))
    if not dots:
        return []
    best = drawable(reach(summary, "teacher", "metrics", metric))
    if teacher is not None and best is not None:
        dots.insert(1, Dot(teacher, best, "teacher", "muted", "cross"))
        keys["the teacher"] = ("muted", "✚", "teacher")
    floor = drawable(reach(summary, "limits", "accuracy_floor")) or None
    across = axis_over(f"{what} ({provenance})", [dot.x for dot in dots], [limit], show, length=WIDTH)
    title, values = f"{metric} ({', '.join(kinds)})", [dot.y for dot in dots]
    up = axis_over(title, values, [floor], percent, length=HEIGHT, upwards=True, least=0.01)
    lines = [Line(f"floor {percent(floor)}", y=floor)] if floor is not None else []
    lines += [Line(f"budget {show(limit, 3)}", x=limit)] if limit is not None else []
    chart, missed = scatter(dots, lines, across, up)
    beyond = _out_of_view("The budget", limit, across), _out_of_view("The floor", floor, up)
    return [
        Picture(
            f"{spoken(metric)} against {what}",
            chart,
            _words(caption, *beyond, _missed(missed)),
            tuple(dict.fromkeys((provenance, *kinds))),
            tuple(keys.values()),
        )
    ]


def _places(summary: Summary) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Provenance, device and measurements that may be compared, and so share a picture; the device's own first."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in chosen_first(summary, "artifact", mappings(summary, "measurements")):
        found.setdefault((str(one.get("provenance")), str(one.get("device"))), []).append(one)
    ranks: dict[str, int] = {name: rank for rank, name in enumerate(PROVENANCES)}
    ordered = sorted(found.items(), key=lambda item: ranks.get(item[0][0], len(ranks)))
    return [(provenance, device, rows) for (provenance, device), rows in ordered[:MOST_PLACES]]


def _name(one: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The artifact, with its engine where it was measured on several."""
    twice = sum(other.get("artifact") == one.get("artifact") for other in rows) > 1
    return f"{one.get('artifact')} on {one.get('engine')}" if twice else str(one.get("artifact"))


def spread_pictures(summary: Summary) -> list[Picture]:
    """How latency was spread, a picture for each place where it was taken."""
    return [
        _spread(summary, provenance, device, rows, taken)
        for provenance, device, rows in _places(summary)
        if (taken := [(one, samples) for one in rows[:MOST_PICTURED] if (samples := _samples(one))])
    ]


def _samples(one: dict[str, Any]) -> list[float]:
    """In order of size."""
    given = one.get("samples_ms")
    found = map(drawable, given) if isinstance(given, list | tuple) else ()
    return sorted(sample for sample in found if sample is not None)


def _spread(
    summary: Summary,
    provenance: str,
    device: str,
    rows: Sequence[dict[str, Any]],
    taken: Sequence[tuple[dict[str, Any], list[float]]],
) -> Picture:
    """A histogram a row, all on one axis that ends where the slowest row's 99.5th percentile lies."""
    ends = [samples[math.ceil(0.995 * len(samples)) - 1] for _, samples in taken]
    starts = [samples[0] for _, samples in taken]
    across = axis_over(f"latency ({provenance})", [*starts, *ends], [], milliseconds, length=WIDTH_ALONE)
    edge = across.value(across.length)
    beyond = sum(sample > edge for _, samples in taken for sample in samples)
    caption = _words(
        "Histograms of equal height; the tall mark is the median, the short one p90.",
        "The axis is logarithmic." if across.log else "",
        f"The axis ends near the slowest row's 99.5th percentile: {beyond:,} slower samples are not drawn, the slowest"
        f" of {milliseconds(max(samples[-1] for _, samples in taken))}."
        if beyond
        else "",
        f"{len(taken)} of {len(rows)} are drawn." if len(rows) > len(taken) else "",
    )
    place = "" if device == provenance else f" on {_short(device)}"
    return Picture(
        f"Latency of one inference{place}", _histograms(summary, rows, taken, across), caption, (provenance,)
    )


def _histograms(
    summary: Summary,
    rows: Sequence[dict[str, Any]],
    taken: Sequence[tuple[dict[str, Any], list[float]]],
    across: Axis,
) -> Any:
    import altair as alt

    formats = _formats(summary)
    areas: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    labels = []
    for index, (one, samples) in enumerate(taken):
        base, tall = ROW * (index + 1), ROW - 20
        colour = _light(formats[_format(str(one.get("artifact")))][0])
        areas += [
            {"row": index, "x": x, "y": base, "y2": base - tall * share, "colour": colour}
            for x, share in _histogram(samples, across)
        ]
        middle, ninety = (drawable(reach(one, "latency_ms", name)) for name in ("p50", "p90"))
        marks += [
            {"x": x, "y": base, "y2": base - height, "width": width}
            for x, height, width in ((middle, tall + 2, 2.4), (ninety, tall * 0.65, 1.2))
            if across.holds(x)
        ]
        name = f"{_short(_name(one, rows))}{'' if one.get('valid', True) else ' (not valid)'}"
        numbers = f"p50 {number(middle)} · p90 {milliseconds(ninety)}"
        top = base - ROW + 10
        labels += [
            Label(4, top, "left", name),
            Label(across.length - 4, top, "right", numbers, colour="muted"),
        ]
    height = ROW * len(taken)
    down = Axis("", 0, height, False, height, str)
    bases = alt.Axis(values=list(range(ROW, height + 1, ROW)), labels=False, title=None)
    y, y2 = alt.Y("y:Q", scale=alt.Scale(domain=[height, 0], nice=False), axis=bases), alt.Y2("y2:Q")
    colours, widths = alt.Color("colour:N", scale=None), alt.StrokeWidth("width:Q", scale=None)
    return alt.layer(
        _layer(areas)
        .mark_area(opacity=0.55, interpolate="step-after")
        .encode(x=across.altair("X"), y=y, y2=y2, detail=alt.Detail("row:N"), color=colours),
        _layer(marks).mark_rule(color=_light("ink")).encode(x=alt.X("x:Q"), y=y, y2=y2, strokeWidth=widths),
        _texts(labels, across, down).encode(y=y),
    ).properties(width=across.length, height=height)


def _histogram(samples: Sequence[float], across: Axis, bins: int = 100) -> list[tuple[float, float]]:
    """Left edge and height, in 0..1, of each bin from the first that is not empty to the end of the last."""
    width = across.length / bins
    found = Counter(min(bins - 1, int(across.pixel(one) / width)) for one in samples if across.holds(one))
    highest = max(found.values(), default=1)
    return [
        (across.value(index * width), found[index] / highest)
        for index in range(min(found, default=0), max(found, default=0) + 2)
    ]


def plan_picture(summary: Summary) -> list[Picture]:
    """The candidates of the front: estimated latency against capacity, with what probes found, and what was found of
    those that were made before any training."""
    drawn = sorted(candidates(summary), key=lambda one: not one["chosen"])
    finalists = [dot for one in mappings(summary, "plan", "finalists") if (dot := _finalist_dot(one))]
    dots = finalists + [dot for one in drawn if (dot := _candidate_dot(one))]
    if not dots:
        return []
    limit = drawable(reach(summary, "limits", "latency_ms"))
    ends = [end for dot in dots for end in (dot.x, dot.low, dot.high) if end is not None]
    title = f"p90 latency of {_short(str(reach(summary, 'plan', 'export') or 'the artifact'))} (estimated)"
    across = axis_over(title, ends, [limit], milliseconds, length=WIDTH)
    up = axis_over("capacity (estimated)", [dot.y for dot in dots], [], count, length=HEIGHT, upwards=True)
    lines = [Line(f"budget {milliseconds(limit)}", x=limit)] if limit is not None else []
    chart, missed = scatter(dots, lines, across, up)
    caption = _words(
        "Capacity is the geometric mean of parameters and MACs. Grey lines are the estimates' intervals.",
        "Percentages are what probes, short distillations on the host, reached.",
        "Diamonds are what was found of candidates that were made with random weights." if finalists else "",
        _out_of_view("The budget", limit, across),
        _missed(missed),
    )
    found = {str(verdict["provenance"]) for verdict in _told(summary)}
    return [Picture("The front", chart, caption, ("estimated", "host", *sorted(found)))]


def _told(summary: Summary) -> list[dict[str, Any]]:
    """What devices said of the latency of finalists."""
    verdicts = [verdict for one in mappings(summary, "plan", "finalists") for verdict in mappings(one, "verdicts")]
    return [
        one
        for one in verdicts
        if one.get("limit") == "latency_ms" and one.get("provenance") in {"measured", "emulated"}
    ]


def _finalist_dot(one: dict[str, Any]) -> Dot | None:
    """Where a device has a candidate that was made before any training."""
    told = next(iter(_told({"plan": {"finalists": [one]}})), {})
    x, y = drawable(told.get("high") or told.get("found")), _capacity(one.get("predicted"))
    if x is None or y is None:
        return None
    return Dot(x, y, f"{milliseconds(x)} {told['provenance']}", "green", shape="diamond")


def _capacity(cost: Any) -> float | None:
    parameters, macs = (drawable(reach(cost, key)) for key in ("parameters", "macs"))
    if parameters is None or macs is None or parameters < 0:
        return None
    return math.sqrt(parameters) * math.sqrt(max(1.0, macs))  # as edgekd.plan ranks by


def _candidate_dot(one: dict[str, Any]) -> Dot | None:
    x, low, high = (drawable(reach(one, "cost", "latency_ms", key)) for key in ("value", "low", "high"))
    capacity = _capacity(one.get("cost"))
    if x is None or capacity is None:
        return None
    probe = drawable(one.get("probe_accuracy"))
    words = (["chosen"] if one["chosen"] else []) + ([] if probe is None else [percent(probe)])
    colour = "blue" if words else "muted"
    if low is None or high is None:
        low = high = None
    return Dot(x, capacity, ", ".join(words), colour, chosen=one["chosen"], low=low, high=high)
