"""The report as one page that opens offline: report.json in, HTML out.

page.html.jinja lays out words and tables; pictures are drawn by altair and stand in the page as SVG. All text of the
summary is untrusted: Jinja and the SVG writer escape it. Any part of the summary may be missing.
"""

import json
import math
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from edgekd.errors import PluginUnavailable
from edgekd.specs import Provenance

if TYPE_CHECKING:
    import jinja2

Summary = dict[str, Any]
"""What `edgekd.report.summary` returns."""
Show = Callable[[Any], str]
"""A number as people read it."""

PROVENANCES: Final[tuple[Provenance, ...]] = get_args(Provenance)

LEGEND: Final[dict[Provenance, str]] = {
    "measured": "on the device itself",
    "emulated": "the artifact's own machine code, run under emulation of the device's processor",
    "estimated": "by a cost model, with an interval that holds it in nine of ten cases where one is shown",
    "host": "on the machine that ran edgekd, which is not the device",
}

NOTHING: Final = "\N{EN DASH}"
"""Stands where there is no number."""
NBSP: Final = "\N{NO-BREAK SPACE}"

MOST_ROWS: Final = 100
"""Of a table."""
MOST_PICTURED: Final = 12
"""Artifacts in the picture of how latency is spread."""
MOST_LABELS: Final = 60
"""Points of a picture that a label is looked for."""
MOST_PLACES: Final = 3
"""Pairs of device and provenance that get pictures of their own."""
MOST_CANDIDATES: Final = 60
"""Of the plan's front, in its picture and its table."""
MOST_CLASSES: Final = 40


def render(summary: Summary) -> str:
    """One self-contained HTML document of what `report.json` holds.

    Raises:
        PluginUnavailable: jinja2, altair or vl-convert is not installed.
    """
    for package in ("jinja2", "altair", "vl_convert"):
        if find_spec(package) is None:
            raise PluginUnavailable(f"the report page needs {package}", hint="pip install 'edgekd[report]'")
    return _template().render(page(summary))


@cache
def _template() -> "jinja2.Template":
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "ms": milliseconds,
        "bytes": size,
        "count": count,
        "number": number,
        "share": percent,
        "points": points,
        "fact": fact,
    }
    template = resources.files("edgekd").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template)


def page(summary: Summary) -> dict[str, Any]:
    """What the template lays out: the summary, and what is worked out from it."""
    from markupsafe import Markup

    metric = metric_of(summary)
    chosen = next((one for one in _all(summary, "artifacts") if one.get("export") == summary.get("artifact")), {})
    verdicts = [verdict(one) for one in _all(summary, "verdicts")]
    parities = [one for artifact in _all(summary, "artifacts") for one in _all(artifact, "parity")]
    pictures = {
        "artifacts": [*size_picture(summary), *latency_pictures(summary)],
        "spreads": spread_pictures(summary),
        "plan": plan_picture(summary),
    }
    return {
        "summary": summary,
        "metric": metric,
        "metric_title": _spoken(metric),
        "accuracy_kinds": accuracy_kinds(summary),
        "chosen": chosen,
        "badge": badge(summary),
        "basis": basis(summary),
        "verdicts": verdicts,
        "artifacts": _chosen_first(summary, "export", _all(summary, "artifacts")),
        "parities": _chosen_first(summary, "artifact", parities),
        "measurements": _chosen_first(summary, "artifact", _all(summary, "measurements")),
        "most_rows": MOST_ROWS,
        "pictures": {
            section: [(picture, Markup(_svg(picture.chart))) for picture in drawn]  # vl-convert has escaped all text
            for section, drawn in pictures.items()
        },
        "comparison": comparison(summary, chosen),
        "candidates": candidates(summary),
        "machines": machines(summary),
        "device_facts": device_facts(summary),
        "commands": commands(summary, chosen),
        "legend": LEGEND,
        "colours": COLOURS,
        "most_classes": MOST_CLASSES,
    }


def _all(tree: Any, *path: str) -> list[dict[str, Any]]:
    """The mappings in the list at the end of the path; none where it is missing."""
    found = _at(tree, *path)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list | tuple) else []


def _at(tree: Any, *path: str) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _chosen_first(summary: Summary, key: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order given, but for the chosen artifact's."""
    return sorted(rows, key=lambda one: one.get(key) != summary.get("artifact"))


def _real(value: Any) -> float | None:
    """The value as a float that can be drawn; None where it is not one."""
    if isinstance(value, int | float) and abs(value) < 1e300:
        return float(value)
    return None


# --- numbers, as people read them


def number(value: Any, digits: int = 3) -> str:
    """With so many significant digits.

    >>> number(0.0499537), number(33.0), number(1234567)
    ('0.0500', '33', '1,234,567')
    """
    if not isinstance(value, int | float):
        return str(value) if isinstance(value, str) and value else NOTHING
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞" if value < 0 else NOTHING
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e9:
        factor, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{factor} × 10{str(int(power)).translate(_RAISED)}".replace(" ", NBSP)
    if float(value).is_integer():
        return f"{value:,.0f}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of what is shown: 0.9999 is shown as 1.00
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


_RAISED: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def milliseconds(value: Any, digits: int = 3) -> str:
    """A time in milliseconds: `0.0500 ms`."""
    return _with_unit(value, number(value, digits), "ms")


def size(value: Any, digits: int = 3) -> str:
    """Bytes in powers of 1000: 81312 is `81.3 kB`."""
    return _scaled(value, digits, ("B", "kB", "MB", "GB", "TB"), NBSP)


def count(value: Any, digits: int = 3) -> str:
    """Things in powers of 1000: 20834 is `20.8k`."""
    return _scaled(value, digits, ("", "k", "M", "G", "T"), "")


def percent(value: Any, digits: int = 3) -> str:
    """A share in percent: 0.979 is `97.9%`; what is not a share is shown as it is."""
    if _real(value) is None or abs(value) > 10:
        return number(value, digits)
    whole, _, decimals = f"{100 * value:.{digits - 1}f}".partition(".")
    return f"{whole}.{decimals.rstrip('0') or '0'}%"


def points(value: Any) -> str:
    """A difference of shares in percentage points, with its sign."""
    if _real(value) is None or abs(value) > 10:
        return number(value)
    text = f"{100 * value:+.2f}".replace("-", "−")
    return f"{'0.00' if text[1:] == '0.00' else text}{NBSP}points"


def fact(value: Any, name: str) -> str:
    """A value by the unit in its field's name: `ram_bytes`, `clock_mhz`."""
    units: dict[str, Show] = {
        "_ms": milliseconds,
        "_bytes_s": lambda given: _with_unit(given, size(given), "/s").replace(f"{NBSP}/s", "/s"),
        "_bytes": size,
        "_mhz": lambda given: _with_unit(given, number(given, 4), "MHz"),
        "_mj": lambda given: _with_unit(given, number(given), "mJ"),
        "_floor": percent,
    }
    show = next((show for ending, show in units.items() if name.endswith(ending)), number)
    return show(value)


def _with_unit(value: Any, text: str, unit: str) -> str:
    return f"{text}{NBSP}{unit}" if isinstance(value, int | float) else text


def _scaled(value: Any, digits: int, units: Sequence[str], gap: str) -> str:
    if _real(value) is None:
        return number(value)
    scaled, power = float(value), 0
    while abs(scaled) >= 999.5 and power < len(units) - 1:
        scaled, power = scaled / 1000, power + 1
    return f"{number(scaled, digits)}{gap}{units[power]}"


# --- words and tables


def metric_of(summary: Summary) -> str:
    """The metric that the report is about: the first that teacher, student or an artifact has."""
    owners = [summary.get("teacher"), summary.get("student"), *_all(summary, "artifacts")]
    return next((str(name) for owner in owners for name in _at(owner, "metrics") or {}), "accuracy")


def badge(summary: Summary) -> dict[str, str]:
    """The verdict in two words; no limit at all is not a pass."""
    verdicts = _all(summary, "verdicts")
    if not verdicts:
        return {"kind": "none", "text": "NOTHING TO HOLD IT AGAINST"}
    if summary.get("ok", True) and all(one.get("ok") for one in verdicts):
        return {"kind": "good", "text": "PASS"}
    return {"kind": "bad", "text": "BREAKS THE BUDGET"}


def basis(summary: Summary) -> str:
    """What kind of numbers the verdict rests on.

    >>> basis({"verdicts": [{"provenance": "host"}, {"provenance": "estimated"}]})
    'Rests on 1 estimated and 1 host number; none was measured on the device.'
    """
    kinds = Counter(str(one.get("provenance")) for one in _all(summary, "verdicts"))
    parts = [f"{kinds[kind]} {kind}" for kind in PROVENANCES if kinds[kind]]
    if not parts:
        return ""
    *most, last = parts
    listed = f"{', '.join(most)} and {last}" if most else last
    noun = "number" if last.startswith("1 ") else "numbers"
    return f"Rests on {listed} {noun}{'' if kinds['measured'] else '; none was measured on the device'}."


@dataclass(frozen=True)
class Limit:
    """How a limit is called and shown."""

    title: str
    what: str
    show: Callable[[Any, int], str]
    least: bool = False
    """True where the limit is a floor."""


LIMITS: Final = {
    "latency_ms": Limit("Latency", "p90 of one inference, batch 1", milliseconds),
    "peak_memory_bytes": Limit("Peak memory", "weights and planned arena", size),
    "file_bytes": Limit("File size", "of the artifact", size),
    "energy_mj": Limit(
        "Energy", "of one inference", lambda value, digits: _with_unit(value, number(value, digits), "mJ")
    ),
    "accuracy_floor": Limit("Accuracy", "of the artifact, on the test split", percent, least=True),
    "parity": Limit(
        "Parity", "artifact against the float student", lambda value, _: "agrees" if value else "differs", least=True
    ),
}


def verdict(row: dict[str, Any]) -> dict[str, Any]:
    """A line of the verdict table."""
    name = str(row.get("limit"))
    limit = LIMITS.get(name) or Limit(name.replace("_", " ").capitalize(), "", lambda value, _: fact(value, name))
    found, allowed = _apart(limit.show, row.get("found"), row.get("allowed"))
    low, high = row.get("low"), row.get("high")
    given = low is not None and high is not None
    used = None if limit.least else _used(high if given else row.get("found"), row.get("allowed"))
    return {
        **row,
        "title": limit.title,
        "what": limit.what,
        "allowed": "must agree" if name == "parity" else f"{'at least' if limit.least else 'at most'} {allowed}",
        "found": found,
        "interval": _between(limit.show(low, 3), limit.show(high, 3)) if given else "",
        "exact": row.get("found"),
        "used": "" if used is None else f"{number(100 * used, 4 if 0.995 < used < 1.05 else 2)}%",
        "bar": round(100 * min(used or 0.0, 1.0), 1),
        "margin": _margin(row) if name == "accuracy_floor" else "",
    }


def _between(low: str, high: str) -> str:
    """`0.02 to 0.125 ms`: the unit once, where it is the same."""
    value, gap, unit = low.partition(NBSP)
    return f"{value if gap and high.endswith(gap + unit) else low} to {high}"


def _apart(show: Callable[[Any, int], str], found: Any, allowed: Any) -> tuple[str, str]:
    """Both with as many digits as it takes to tell them apart, so that no row breaks a limit of 33 with 33."""
    for digits in (3, 4, 5, 7, 9, 12):
        pair = show(found, digits), show(allowed, digits)
        if found == allowed or _trimmed(pair[0]) != _trimmed(pair[1]):
            break
    return pair


def _trimmed(text: str) -> str:
    """`33 ms` of `33.00 ms`."""
    value, gap, unit = text.partition(NBSP)
    return (value.rstrip("0").rstrip(".") if "." in value else value) + gap + unit


def _used(found: Any, allowed: Any) -> float | None:
    """Share of a limit that is used up."""
    worst, most = _real(found), _real(allowed)
    return worst / most if worst is not None and most else None


def _margin(row: dict[str, Any]) -> str:
    found, allowed = _real(row.get("found")), _real(row.get("allowed"))
    if found is None or allowed is None:
        return ""
    return f"{points(abs(found - allowed)).lstrip('+')} {'above' if found >= allowed else 'below'}"


def comparison(summary: Summary, chosen: dict[str, Any]) -> list[dict[str, str]]:
    """Teacher, student and the student's twin, a quantity a row."""
    teacher, student, twin = (summary.get(who) or {} for who in ("teacher", "student", "student_without_distillation"))
    rows = []
    for name in dict.fromkeys([*(teacher.get("metrics") or {}), *(student.get("metrics") or {})]):
        a, b, c = (_at(one, "metrics", name) for one in (teacher, student, twin))
        known = _real(a) is not None and _real(b) is not None
        ratio = f"{points(b - a)} for the student" if known else NOTHING
        rows.append(_compared(name, "test split, float32", percent(a), percent(b), percent(c), ratio))
    for name, title in (("parameters", "Parameters"), ("macs", "MACs of one inference")):
        a, b = teacher.get(name), student.get(name)
        rows.append(_compared(title, "", count(a), count(b), count(b), _ratio(a, b)))
    a, b = teacher.get("file_bytes"), chosen.get("file_bytes")
    named = f"{size(b)} ({chosen.get('export', '')})" if b is not None else NOTHING
    rows.append(
        _compared("Size", "", f"{size(a)} (float32)" if a is not None else NOTHING, named, "not exported", _ratio(a, b))
    )
    return rows


def _compared(title: str, what: str, teacher: str, student: str, twin: str, ratio: str) -> dict[str, str]:
    return {
        "title": title[:1].upper() + title[1:],
        "what": what,
        "teacher": teacher,
        "student": student,
        "twin": twin,
        "ratio": ratio,
    }


def _ratio(teacher: Any, student: Any) -> str:
    """How many times as big: `19.2 : 1`."""
    a, b = _real(teacher), _real(student)
    return f"{number(a / b)} : 1" if a is not None and b else NOTHING


def candidates(summary: Summary) -> list[dict[str, Any]]:
    """The plan's front, thinned to a readable number; what was chosen or probed always stays."""
    front = _all(summary, "plan", "front")
    made = _at(summary, "plan", "student", "options")
    options = [one.get("options") or {} for one in front]
    fixed = {name: value for name, value in (options or [{}])[0].items() if all(o.get(name) == value for o in options)}
    rows = [
        {
            **one,
            "chosen": one.get("options") == made,
            "fixed": _listed(fixed),
            "varied": _listed({name: value for name, value in own.items() if name not in fixed}),
        }
        for one, own in zip(front, options, strict=True)
    ]
    step = math.ceil(len(rows) / MOST_CANDIDATES) or 1

    def rank(index: int) -> tuple[bool, bool, bool]:
        return not rows[index]["chosen"], rows[index].get("probe_accuracy") is None, index % step != 0

    return [rows[index] for index in sorted(sorted(range(len(rows)), key=rank)[:MOST_CANDIDATES])]


def _listed(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def machines(summary: Summary) -> list[dict[str, Any]]:
    """Each machine that something was measured on, once."""
    seen: list[dict[str, Any]] = []
    for one in _all(summary, "measurements"):
        if isinstance(one.get("machine"), dict):
            row = {"device": one.get("device"), "provenance": one.get("provenance"), **one["machine"]}
            seen += [row] if row not in seen else []
    return seen


def device_facts(summary: Summary) -> list[tuple[str, str, str]]:
    """Name, value and source of each fact."""
    device = summary.get("device")
    if not isinstance(device, dict):
        return []
    sources = device.get("sources") or {}
    return [
        (_spoken(name), text, str(_at(sources, name) or ""))
        for name, value in device.items()
        if name != "sources"
        for text in (", ".join(map(_cluster, value)) if name == "clusters" and value else fact(value, name),)
    ]


def _spoken(name: str) -> str:
    """`memory_bandwidth_bytes_s` as `Memory bandwidth`."""
    words = name.removesuffix("_bytes_s").removesuffix("_bytes").replace("_", " ")
    return words.upper() if len(words) <= 3 else words[:1].upper() + words[1:]


def _cluster(cluster: dict[str, Any]) -> str:
    shared = " shared" if cluster.get("l2_shared") else ""
    return (
        f"{number(cluster.get('count'))} × {cluster.get('core')} at {fact(cluster.get('clock_mhz'), 'clock_mhz')}"
        f" ({size(cluster.get('l1d_bytes'))} L1d, {size(cluster.get('l2_bytes'))} L2{shared})"
    )


def commands(summary: Summary, chosen: dict[str, Any]) -> list[tuple[str, str]]:
    """What to type, and what it does."""
    recipe, target, run = (shlex.quote(str(summary.get(name) or name.upper())) for name in ("recipe", "target", "run"))
    lines = [
        (f"edgekd run {recipe} --target {target}", "makes the student again, and this report"),
        (f"edgekd verify {run}", "holds the artifacts against the student again"),
    ]
    if chosen.get("file"):
        lines.append((f"sha256sum {shlex.quote(str(chosen['file']))}", "in the run folder: prints the hash above"))
    return lines


# --- pictures

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
    span = max(high - low, least, 0.0 if high > low else abs(high) * 0.2) or 1.0
    low, high = (low + high - span) / 2, (low + high + span) / 2
    for mark in marks:
        if mark is not None and (mark > 0 or not log):
            at = _bent(mark, log)
            if max(high, at) - min(low, at) <= 2 * span:
                low, high = min(low, at), max(high, at)
    room = 0.08 * (high - low)
    start = low - room if log or found[0] < 0 or low >= room else min(low, 0.0)
    return Axis(title, start, high + room, log, length, lambda value: _trimmed(show(value, 4)), upwards)


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


def _svg(chart: Any) -> str:
    import altair as alt
    import vl_convert

    grey = {"labelColor": _light("muted"), "titleColor": _light("ink"), "gridColor": _light("grid")}
    plain = (
        chart.configure(
            aria=False,
            background="transparent",
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
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    svg: str = vl_convert.vegalite_to_svg(plain, vl_version=version)
    return svg


def _formats(summary: Summary) -> dict[str, tuple[str, str, str]]:
    """Format -> colour, shape and letter, in the order of the artifacts."""
    names = dict.fromkeys(
        _format(str(one.get(key)))
        for key, rows in (("export", _all(summary, "artifacts")), ("artifact", _all(summary, "measurements")))
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
    found = (one.get("provenance") for artifact in _all(summary, "artifacts") for one in _all(artifact, "parity")[:1])
    return tuple(dict.fromkeys(str(one) for one in found)) or ("host",)


def size_picture(summary: Summary) -> list[Picture]:
    """Accuracy against file size: the artifacts, and the teacher in float32."""
    limit = _real(_at(summary, "limits", "file_bytes"))
    found = [
        (str(one.get("export")), str(one.get("export")), one.get("file_bytes")) for one in _all(summary, "artifacts")
    ]
    teacher = _real(_at(summary, "teacher", "file_bytes"))
    caption = "Files as they lie in the run folder; the teacher's is float32."
    return _against_accuracy(summary, "file size", "host", found, size, limit, caption, teacher)


def latency_pictures(summary: Summary) -> list[Picture]:
    """Accuracy against p90 latency, a picture for each place where latency was taken."""
    pictures = []
    for provenance, device, rows in _places(summary):
        on_device = provenance == "measured"
        limit = _real(_at(summary, "limits", "latency_ms")) if on_device else None
        own = "" if on_device else "The budget is the device's, so it is not drawn against these times."
        found = [(str(one.get("artifact")), _name(one, rows), _at(one, "latency_ms", "p90")) for one in rows]
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
    accuracy = {str(one.get("export")): _real(_at(one, "metrics", metric)) for one in _all(summary, "artifacts")}
    dots, keys = [], {}
    for export, label, cost in sorted(found, key=lambda one: one[0] != summary.get("artifact")):
        x, y = _real(cost), accuracy.get(export)
        if x is not None and y is not None:
            colour, shape, letter = formats[_format(export)]
            dots.append(Dot(x, y, label, colour, shape, export == summary.get("artifact")))
            keys[_format(export)] = (colour, letter, _short(_format(export)))
    if not dots:
        return []
    best = _real(_at(summary, "teacher", "metrics", metric))
    if teacher is not None and best is not None:
        dots.insert(1, Dot(teacher, best, "teacher", "muted", "cross"))
        keys["the teacher"] = ("muted", "✚", "teacher")
    floor = _real(_at(summary, "limits", "accuracy_floor")) or None
    across = axis_over(f"{what} ({provenance})", [dot.x for dot in dots], [limit], show, length=WIDTH)
    title, values = f"{metric} ({', '.join(kinds)})", [dot.y for dot in dots]
    up = axis_over(title, values, [floor], percent, length=HEIGHT, upwards=True, least=0.01)
    lines = [Line(f"floor {percent(floor)}", y=floor)] if floor is not None else []
    lines += [Line(f"budget {show(limit, 3)}", x=limit)] if limit is not None else []
    chart, missed = scatter(dots, lines, across, up)
    beyond = _out_of_view("The budget", limit, across), _out_of_view("The floor", floor, up)
    return [
        Picture(
            f"{_spoken(metric)} against {what}",
            chart,
            _words(caption, *beyond, _missed(missed)),
            tuple(dict.fromkeys((provenance, *kinds))),
            tuple(keys.values()),
        )
    ]


def _places(summary: Summary) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Provenance, device and measurements that may be compared, and so share a picture; the device's own first."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in _chosen_first(summary, "artifact", _all(summary, "measurements")):
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
    found = map(_real, given) if isinstance(given, list | tuple) else ()
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
        middle, ninety = (_real(_at(one, "latency_ms", name)) for name in ("p50", "p90"))
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
    """The candidates of the front: estimated latency against capacity, with what probes found."""
    drawn = sorted(candidates(summary), key=lambda one: not one["chosen"])
    dots = [dot for one in drawn if (dot := _candidate_dot(one))]
    if not dots:
        return []
    limit = _real(_at(summary, "limits", "latency_ms"))
    ends = [end for dot in dots for end in (dot.x, dot.low, dot.high) if end is not None]
    title = f"p90 latency of {_short(str(_at(summary, 'plan', 'export') or 'the artifact'))} (estimated)"
    across = axis_over(title, ends, [limit], milliseconds, length=WIDTH)
    up = axis_over("capacity (estimated)", [dot.y for dot in dots], [], count, length=HEIGHT, upwards=True)
    lines = [Line(f"budget {milliseconds(limit)}", x=limit)] if limit is not None else []
    chart, missed = scatter(dots, lines, across, up)
    caption = _words(
        "Capacity is the geometric mean of parameters and MACs. Grey lines are the estimates' intervals.",
        "Percentages are what probes, short distillations on the host, reached.",
        _out_of_view("The budget", limit, across),
        _missed(missed),
    )
    return [Picture("The front", chart, caption, ("estimated", "host"))]


def _candidate_dot(one: dict[str, Any]) -> Dot | None:
    x, low, high = (_real(_at(one, "cost", "latency_ms", key)) for key in ("value", "low", "high"))
    parameters, macs = (_real(_at(one, "cost", key)) for key in ("parameters", "macs"))
    if x is None or parameters is None or macs is None or parameters < 0:
        return None
    capacity = math.sqrt(parameters) * math.sqrt(max(1.0, macs))  # as edgekd.plan ranks by
    probe = _real(one.get("probe_accuracy"))
    words = (["chosen"] if one["chosen"] else []) + ([] if probe is None else [percent(probe)])
    colour = "blue" if words else "muted"
    if low is None or high is None:
        low = high = None
    return Dot(x, capacity, ", ".join(words), colour, chosen=one["chosen"], low=low, high=high)
