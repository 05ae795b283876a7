"""What the page says in words and tables."""

import math
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, get_args

from edgekd.page._numbers import (
    NBSP,
    NOTHING,
    Summary,
    chosen_first,
    count,
    drawable,
    fact,
    mappings,
    milliseconds,
    number,
    percent,
    points,
    reach,
    size,
    with_unit,
)
from edgekd.specs import Provenance

PROVENANCES: Final[tuple[Provenance, ...]] = get_args(Provenance)
MOST_KINDS: Final = 4
"""Of instructions, that are named."""
MOST_CANDIDATES: Final = 60
"""Of the plan's front, in its picture and its table."""


def metric_of(summary: Summary) -> str:
    """The metric that the report is about; in a summary of an older version the first that a net has."""
    if isinstance(summary.get("metric"), str):
        return str(summary["metric"])
    owners = [summary.get("teacher"), summary.get("student"), *mappings(summary, "artifacts")]
    return next((str(name) for owner in owners for name in reach(owner, "metrics") or {}), "accuracy")


def badge(summary: Summary) -> dict[str, str]:
    """The verdict in two words; no limit at all is not a pass."""
    verdicts = mappings(summary, "verdicts")
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
    kinds = Counter(str(one.get("provenance")) for one in mappings(summary, "verdicts"))
    parts = [f"{kinds[kind]} {kind}" for kind in PROVENANCES if kinds[kind]]
    if not parts:
        return ""
    *most, last = parts
    listed = f"{', '.join(most)} and {last}" if most else last
    noun = "number" if last.startswith("1 ") else "numbers"
    return f"Rests on {listed} {noun}{'' if kinds['measured'] else '; none was measured on the device'}."


LEAST_OFF: Final = 0.2
"""Of a found latency to an estimated one, in log units, that the axis reaches."""


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
        "Energy", "of one inference", lambda value, digits: with_unit(value, number(value, digits), "mJ")
    ),
    "accuracy_floor": Limit("Accuracy", "of the artifact, on the test split", percent, least=True),
    "runtimes": Limit(
        "Runtimes", "that the device executes it", lambda value, _: "executes" if value else "does not", least=True
    ),
    "parity": Limit(
        "Parity", "artifact against the float student", lambda value, _: "agrees" if value else "differs", least=True
    ),
}


MUSTS: Final = {"parity": "must agree", "runtimes": "must execute"}
BY_PROVENANCE: Final = {
    ("latency_ms", "emulated"): "of one inference, batch 1, by a cycle model",
    ("peak_memory_bytes", "host"): "arena, planned by the device's runtime",
    ("peak_memory_bytes", "measured"): "resident above the imported runtime",
    ("peak_memory_bytes", "emulated"): "resident above the imported runtime",
}
"""What a number of a limit is, where its provenance makes it another one."""


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
        "what": BY_PROVENANCE.get((name, str(row.get("provenance"))), limit.what),
        "allowed": MUSTS.get(name) or f"{'at least' if limit.least else 'at most'} {allowed}",
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
        if found == allowed or trimmed(pair[0]) != trimmed(pair[1]):
            break
    return pair


def trimmed(text: str) -> str:
    """`33 ms` of `33.00 ms`."""
    value, gap, unit = text.partition(NBSP)
    return (value.rstrip("0").rstrip(".") if "." in value else value) + gap + unit


def _used(found: Any, allowed: Any) -> float | None:
    """Share of a limit that is used up."""
    worst, most = drawable(found), drawable(allowed)
    return worst / most if worst is not None and most else None


def _margin(row: dict[str, Any]) -> str:
    found, allowed = drawable(row.get("found")), drawable(row.get("allowed"))
    if found is None or allowed is None:
        return ""
    return f"{points(abs(found - allowed)).lstrip('+')} {'above' if found >= allowed else 'below'}"


def compared(summary: Summary) -> list[dict[str, Any]]:
    """What had been estimated beside what was found, the chosen artifact's first.

    On their common axis, logarithmic and in percent of its length, every estimate lies at 50: `low` and `width` are of
    its interval, `mark` of what was found.
    """
    rows = chosen_first(summary, "artifact", mappings(summary, "estimates_against_measurements"))
    spans = [[_off(one, key) for key in ("low_ms", "found_ms", "high_ms")] for one in rows]
    farthest = max((abs(off) for span in spans for off in span if off is not None), default=0.0)
    found = []
    for one, span in zip(rows, spans, strict=True):
        ends = [50 + 46 * off / max(farthest, LEAST_OFF) for off in span if off is not None]
        threads = one.get("threads")
        found.append(
            {
                **one,
                "with": f"{one.get('engine')}, {number(threads)} thread{'' if threads == 1 else 's'}",
                "interval": _between(milliseconds(one.get("low_ms")), milliseconds(one.get("high_ms"))),
                "axis": {"low": ends[0], "mark": ends[1], "width": ends[2] - ends[0]} if len(ends) == len(span) else {},
            }
        )
    return found


def _off(one: dict[str, Any], key: str) -> float | None:
    """Logarithm of a latency over the estimated one."""
    value, estimated = drawable(one.get(key)), drawable(one.get("estimated_ms"))
    return math.log(value / estimated) if value and estimated and value > 0 and estimated > 0 else None


def ladders(summary: Summary) -> list[dict[str, Any]]:
    """What was tried for each export that lost too much in integers, and which layers were to blame."""
    found = []
    for artifact in mappings(summary, "artifacts"):
        ladder = artifact.get("ladder")
        if not isinstance(ladder, dict):
            continue
        rungs = mappings(ladder, "rungs")
        blame = [one for rung in rungs for one in mappings(rung, "blame")]
        found.append(
            {
                "export": artifact.get("export"),
                "held": ladder.get("held"),
                "floor": ladder.get("floor"),
                "most_drop": ladder.get("most_drop"),
                "rungs": [
                    {**rung, **_tried(rung), "chosen": rung.get("name") == ladder.get("chosen")} for rung in rungs
                ],
                "blame": [{**one, "layers": _listed_names(one.get("layers"))} for one in blame],
            }
        )
    return found


def _tried(rung: dict[str, Any]) -> dict[str, str]:
    trials = mappings(rung, "trials")
    failures = [str(one["failed"]) for one in trials if one.get("failed")]
    way = rung.get("quantization")
    how = quantized(way) if isinstance(way, dict) else f"failed: {failures[0]}" if failures else NOTHING
    refused = _listed_names(rung.get("unfit"))
    return {
        "title": str(rung.get("name")).capitalize(),
        "how": how,
        "trials": str(len(trials) or 1),
        "refused": refused,
    }


def slower(summary: Summary) -> list[dict[str, Any]]:
    """Artifacts that take longer than their float twins, and which parts of them."""
    return [
        {
            **slow,
            "operators": [{**one, "kinds": _listed_names(one.get("kinds"))} for one in mappings(slow, "operators")],
        }
        for slow in mappings(summary, "slower")
    ]


def counts(summary: Summary) -> list[dict[str, Any]]:
    """What was counted under emulation, the chosen artifact's first."""
    return [
        {**one, "misses": _misses(one), "kinds": _kinds(one), "against_host": _against_host(one)}
        for one in chosen_first(summary, "artifact", mappings(summary, "counts"))
    ]


def firmware(summary: Summary) -> list[dict[str, Any]]:
    """What each artifact takes of a microcontroller, the chosen one's first."""
    found = []
    for one in chosen_first(summary, "artifact", mappings(summary, "firmware")):
        left = reach(one, "compiled", "cpu_operators")
        files = [reach(one, *path) for path in (("compiled", "model"), ("c", "header"), ("c", "source"))]
        found.append(
            {
                "artifact": one.get("artifact"),
                "arena": size(reach(one, "arena", "arena_bytes")),
                "arena_by": reach(one, "arena", "engine"),
                "arena_provenance": reach(one, "arena", "provenance"),
                "compiled": isinstance(one.get("compiled"), dict),
                "compiler": " ".join(
                    str(reach(one, "compiled", key) or "") for key in ("compiler", "compiler_version")
                ),
                "processor": reach(one, "compiled", "processor"),
                "provenance": reach(one, "compiled", "provenance"),
                "latency": number(reach(one, "compiled", "latency_ms")),
                "cycles": count(reach(one, "compiled", "cycles")),
                "sram": size(reach(one, "compiled", "sram_bytes")),
                "operators": number(reach(one, "compiled", "npu_operators")),
                "left": _listed_names(left),
                "left_count": len(left) if isinstance(left, list | tuple) else 0,
                "files": [str(path) for file in files if (path := reach(file, "path"))],
                "reserved": size(reach(one, "c", "arena_bytes")),
            }
        )
    return found


def _misses(one: dict[str, Any]) -> str:
    found = one.get("cache_misses")
    return ", ".join(f"{name} {count(value)}" for name, value in found.items()) if isinstance(found, dict) else ""


def _kinds(one: dict[str, Any]) -> str:
    """The classes that most instructions are of: `40% load, 22% dot`."""
    found = one.get("instructions")
    total = drawable(reach(one, "instructions", "total"))
    if not isinstance(found, dict) or not total:
        return ""
    shares = [(share / total, str(name)) for name, value in found.items() if (share := drawable(value))]
    most = sorted(((share, name) for share, name in shares if name != "total"), reverse=True)[:MOST_KINDS]
    return ", ".join(f"{100 * share:.0f}% {name}" for share, name in most)


def _against_host(one: dict[str, Any]) -> str:
    if drawable(one.get("host_sqnr_db")) is None:
        return "not executed here"
    return "equal to the bit" if one.get("host_max_abs") == 0 else with_unit(0, number(one["host_sqnr_db"]), "dB")


def quantized(way: dict[str, Any]) -> str:
    """How integers were chosen.

    >>> quantized({"ranges": "mse", "equalization": True, "in_float": ["stem"]})
    'ranges by mse, channels equalized, in float: stem'
    """
    parts = [f"ranges by {way['ranges']}" if way.get("ranges", "full") != "full" else "full ranges"]
    parts += ["channels equalized"] if way.get("equalization") else []
    parts += ["biases corrected"] if way.get("bias_correction") else []
    in_float = _listed_names(way.get("in_float"))
    return ", ".join(parts + ([f"in float: {in_float}"] if in_float else []))


def _listed_names(names: Any) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list | tuple) else ""


def comparison(summary: Summary, chosen: dict[str, Any]) -> list[dict[str, str]]:
    """Teacher, student and the student's twin, a quantity a row."""
    teacher, student, twin = (summary.get(who) or {} for who in ("teacher", "student", "student_without_distillation"))
    rows = []
    for name in dict.fromkeys([*(teacher.get("metrics") or {}), *(student.get("metrics") or {})]):
        a, b, c = (reach(one, "metrics", name) for one in (teacher, student, twin))
        known = drawable(a) is not None and drawable(b) is not None
        shares = all(drawable(one) is None or one <= 1 for one in (a, b, c))  # what others, as perplexity, begin with
        ratio = f"{points(b - a)} for the student" if shares and known else _ratio(a, b) if known else NOTHING
        theirs, ours, alone = map(percent if shares else number, (a, b, c))
        rows.append(_compared(name, "test split, float32", theirs, ours, alone, ratio))
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
    a, b = drawable(teacher), drawable(student)
    return f"{number(a / b)} : 1" if a is not None and b else NOTHING


def candidates(summary: Summary) -> list[dict[str, Any]]:
    """The plan's front, thinned to a readable number; what was chosen or probed always stays."""
    front = mappings(summary, "plan", "front")
    made = reach(summary, "plan", "student", "options")
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


def finalists(summary: Summary) -> list[dict[str, Any]]:
    """What was made before any training, with its verdicts by their limits."""
    names = {"latency": "latency_ms", "memory": "peak_memory_bytes", "file": "file_bytes"}
    rows = []
    for one in mappings(summary, "plan", "finalists"):
        found = {str(verdict.get("limit")): verdict for verdict in mappings(one, "verdicts")}
        fits = not one.get("failed") and all(map(_within, found.values()))
        kept = {name: found.get(limit) for name, limit in names.items()}
        rows.append({**one, **kept, "options": _listed(one.get("options") or {}), "fits": fits})
    return rows


def _within(verdict: dict[str, Any]) -> bool:
    found, allowed = drawable(verdict.get("high") or verdict.get("found")), drawable(verdict.get("allowed"))
    return found is not None and (allowed is None or found <= allowed)


def _listed(options: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def machines(summary: Summary) -> list[dict[str, Any]]:
    """Each machine that something was measured on, once."""
    seen: list[dict[str, Any]] = []
    for one in mappings(summary, "measurements"):
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
        (spoken(name), text, str(reach(sources, name) or ""))
        for name, value in device.items()
        if name != "sources"
        for text in (", ".join(map(_cluster, value)) if name == "clusters" and value else fact(value, name),)
    ]


def spoken(name: str) -> str:
    """`memory_bandwidth_bytes_s` as `Memory bandwidth`."""
    words = name.removesuffix("_bytes_s").removesuffix("_bytes").replace("_", " ")
    return words.upper() if len(words) <= 3 else words[:1].upper() + words[1:]


def _cluster(cluster: dict[str, Any]) -> str:
    shared = " shared" if cluster.get("l2_shared") else ""
    sizes = (("l1d_bytes", " L1d"), ("l2_bytes", f" L2{shared}"))
    caches = ", ".join(f"{size(cluster[name])}{what}" for name, what in sizes if cluster.get(name))
    what = f"{number(cluster.get('count'))} × {cluster.get('core')} at {fact(cluster.get('clock_mhz'), 'clock_mhz')}"
    return f"{what} ({caches})" if caches else what


def commands(summary: Summary, chosen: dict[str, Any]) -> list[tuple[str, str]]:
    """What to type, and what it does."""
    recipe, target = (shlex.quote(str(summary.get(name) or name.upper())) for name in ("recipe", "target"))
    lines = [
        (f"edgekd run {recipe} --target {target}", "makes the student again, and this report"),
        ("edgekd verify .", "in the run folder: holds the artifacts against the student again"),
    ]
    if chosen.get("file"):
        lines.append((f"sha256sum {shlex.quote(str(chosen['file']))}", "in the run folder: prints the hash above"))
    return lines
