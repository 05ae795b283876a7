"""Results of suites held against each other, and shown: text tables, HTML, JUnit XML.

Times differ by chance, so a difference of them is one beyond chance and noise. Counts repeat, so they are held against
each other as they are.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final
from xml.sax.saxutils import escape as xml_escape
from xml.sax.saxutils import quoteattr

import numpy as np

from edgekd.specs import Counted, Measurement, Spec
from edgekd.suite import Results, Row

RESAMPLED: Final = 1000
COUNTS_REPEAT: Final = 0.001
"""Where something beside the model changed, as the path of a folder; on one machine they repeat to the instruction."""
LEAST_CHANGE: Final = 0.02
"""Of the median, where no noise floor was measured; what differs by less is the same."""


class Change(Spec, frozen=True, kw_only=True):
    """How a row's median latency, or the instructions that it executes, differ between two results."""

    model: str
    export: str
    engine: str
    threads: int
    a_ms: float | None
    """Of counts what the cycle model makes of them; null where there is none for the core."""
    b_ms: float | None
    a_instructions: float | None = None
    b_instructions: float | None = None
    ratio: float
    """b / a: of medians, or of instructions."""
    low: float
    high: float
    """95% bootstrap interval of the ratio; of counts the ratio itself."""
    verdict: str
    """"same", "faster", "slower", of counts "fewer" or "more"; or "not comparable" where the two are of different
    provenance, machines or emulated devices."""

    @property
    def worse(self) -> str:
        """What became worse, in words, so that CI should fail; "" where nothing did."""
        if self.verdict == "more" and self.ratio > 1 + COUNTS_REPEAT:
            return f"{self.ratio:.6f} times as many instructions as before"
        return f"{self.ratio:.3f} times as slow as before" if self.verdict == "slower" else ""


def changes(a: Results, b: Results) -> tuple[Change, ...]:
    """Every row that both measured, or both counted.

    A difference of times is one where its interval lies beyond the noise that either run found in itself, 2% at least;
    of counts, any that is more than inferences of one run differ by, which is nothing for most models.
    """
    mine = {row.key: row for row in a.rows}
    found = []
    for row in b.rows:
        before = mine.get(row.key)
        if before and before.measurement and row.measurement:
            found.append(_change(row, before.measurement, row.measurement))
        elif before and before.counted and row.counted and before.counted.instructions and row.counted.instructions:
            found.append(_counts_change(row, before.counted, row.counted))
    return tuple(found)


def _counts_change(row: Row, before: Counted, after: Counted) -> Change:
    a, b = before.instructions["total"], after.instructions["total"]
    alike = abs(b / a - 1) <= max(before.spread, after.spread)
    verdict = "same" if alike else "more" if b > a else "fewer"
    if (before.provenance, before.device) != (after.provenance, after.device):
        verdict = "not comparable"
    return Change(
        model=row.model,
        export=row.export,
        engine=row.engine,
        threads=row.threads,
        a_ms=before.latency_ms.value if before.latency_ms else None,
        b_ms=after.latency_ms.value if after.latency_ms else None,
        a_instructions=a,
        b_instructions=b,
        ratio=b / a,
        low=b / a,
        high=b / a,
        verdict=verdict,
    )


def _change(row: Row, before: Measurement, after: Measurement) -> Change:
    low, high = ratio_interval(before.samples_ms, after.samples_ms)
    noise = max(LEAST_CHANGE, before.noise or 0.0, after.noise or 0.0)
    verdict = "slower" if low > 1 + noise else "faster" if high < 1 / (1 + noise) else "same"
    if before.provenance != after.provenance or before.machine.cpu != after.machine.cpu:
        verdict = "not comparable"
    return Change(
        model=row.model,
        export=row.export,
        engine=row.engine,
        threads=row.threads,
        a_ms=before.latency_ms.p50,
        b_ms=after.latency_ms.p50,
        ratio=after.latency_ms.p50 / before.latency_ms.p50,
        low=low,
        high=high,
        verdict=verdict,
    )


def sides(change: Change) -> tuple[str, str, str]:
    """Both quantities with their unit, and their ratio."""
    if change.a_instructions is not None and change.b_instructions is not None:
        a, b = (f"{count:,.0f} instructions" for count in (change.a_instructions, change.b_instructions))
        return a, b, f"{change.ratio:.6f}"
    return (
        f"{change.a_ms:.4g} ms",
        f"{change.b_ms:.4g} ms",
        f"{change.ratio:.3f} ({change.low:.3f} to {change.high:.3f})",
    )


def ratio_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """95% bootstrap interval of median(b) / median(a); seeded, so equal samples give equal intervals."""
    random = np.random.default_rng(0)
    medians = [
        np.median(random.choice(np.asarray(samples), size=(RESAMPLED, len(samples))), axis=1) for samples in (a, b)
    ]
    low, high = np.percentile(medians[1] / medians[0], [2.5, 97.5])
    return float(low), float(high)


_ROW: Final = ("model", "export", "engine", "threads")
TIMED: Final = (*_ROW, "p50 ms", "p90 ms", "p99 ms", "memory MB", "stable", "where")
COUNTED: Final = (*_ROW, "M instructions", "ms (low to high)", "cache misses", "memory MB", "outputs here", "where")


def headings(results: Results) -> tuple[str, ...]:
    """Of a table of what was timed, or of what was counted: a device does one of the two."""
    return COUNTED if any(row.counted for row in results.rows) else TIMED


def cells(row: Row) -> tuple[str, ...]:
    """A row of a table, each number with where it is from at the end."""
    if row.measurement:
        engine, found = row.measurement.engine_version, _times(row.measurement)
    elif row.counted:
        engine, found = row.counted.engine_version, _counts(row.counted)
    else:
        engine, found = "", (f"failed: {row.error}", "", "", "", "", "")
    return row.model, row.export, f"{row.engine} {engine}".strip(), str(row.threads), *found


def _times(found: Measurement) -> tuple[str, ...]:
    latency = found.latency_ms
    return (
        *(f"{value:.4g}" for value in (latency.p50, latency.p90, latency.p99)),
        f"{found.memory.peak_rss_bytes / 1e6:.3g}",
        "yes" if found.valid else "no",
        found.provenance,
    )


def _counts(found: Counted) -> tuple[str, ...]:
    total, latency = found.instructions.get("total"), found.latency_ms
    return (
        "not counted" if total is None else f"{total / 1e6:,.3f}",
        f"{latency.value:.3g} ({latency.low:.3g} to {latency.high:.3g})" if latency else "no model",
        ", ".join(f"{cache} {number:,.0f}" for cache, number in found.cache_misses.items()),
        f"{found.memory.peak_rss_bytes / 1e6:.3g}",
        found.against_host,
        found.provenance,
    )


def markdown(results: Results) -> str:
    """A table for a README."""
    lines = [f"# {results.suite} on {results.device}", "", _origin(results), ""]
    lines += [_line(headings(results)), _line(["---"] * len(headings(results)))]
    lines += [_line(cells(row)) for row in results.rows]
    return "\n".join(lines) + "\n"


def html(results: Results) -> str:
    """One page that loads nothing."""
    head = "".join(f"<th>{escape(one)}</th>" for one in headings(results))
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(one)}</td>' for one in cells(row))}</tr>" for row in results.rows)
    title = escape(f"{results.suite} on {results.device}")
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color-scheme: light dark }}
table {{ border-collapse: collapse }}
th, td {{ padding: .35rem .8rem; text-align: left; border-bottom: 1px solid #8884 }}
td:nth-child(n+5):nth-child(-n+8) {{ text-align: right; font-variant-numeric: tabular-nums }}
</style>
<h1>{title}</h1><p>{escape(_origin(results))}</p>
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table></html>
"""


def junit(results: Results, changed: Iterable[Change] = ()) -> str:
    """JUnit XML: a test case a row; one that failed, or became worse, is a failure."""
    worse = {(one.model, one.export, one.engine, one.threads): one.worse for one in changed}
    parts, failures = [], 0
    for row in results.rows:
        why = row.error or worse.get(row.key, "")
        failures += bool(why)
        inner = f"<failure message={quoteattr(why)}>{xml_escape(row.hint)}</failure>" if why else ""
        seconds = _latency_ms(row) / 1000
        parts.append(
            f'  <testcase classname={quoteattr(results.suite)} name={quoteattr(row.title)} time="{seconds:.6f}">'
            f"{inner}</testcase>"
        )
    top = f'<testsuite name={quoteattr(results.suite)} tests="{len(parts)}" failures="{failures}">'
    whole = "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', top, *parts, "</testsuite>"]) + "\n"
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in whole)  # XML has no control characters


def _latency_ms(row: Row) -> float:
    if row.measurement:
        return row.measurement.latency_ms.p50
    return row.counted.latency_ms.value if row.counted and row.counted.latency_ms else 0.0


def _origin(results: Results) -> str:
    machines = {
        f"{row.measurement.machine.cpu}, {row.measurement.machine.system}" for row in results.rows if row.measurement
    }
    machines |= {f"counted on {row.counted.device}" for row in results.rows if row.counted}
    models = {row.counted.latency_model for row in results.rows if row.counted and row.counted.latency_model}
    found = [*sorted(machines), *(f"latency: {model}" for model in sorted(models))]
    return f"{'; '.join(found) or 'nothing measured'}; started {results.started}, edgekd {results.edgekd}"


def _line(values: Iterable[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"
