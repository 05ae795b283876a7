"""Results of suites held against each other, and shown: text tables, HTML, JUnit XML."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final
from xml.sax.saxutils import escape as xml_escape
from xml.sax.saxutils import quoteattr

import numpy as np

from edgekd.specs import Measurement, Spec
from edgekd.suite import Results, Row

RESAMPLED: Final = 1000
LEAST_CHANGE: Final = 0.02
"""Of the median, where no noise floor was measured; what differs by less is the same."""


class Change(Spec, frozen=True, kw_only=True):
    """How a row's median latency differs between two results."""

    model: str
    export: str
    engine: str
    threads: int
    a_ms: float
    b_ms: float
    ratio: float
    """b / a."""
    low: float
    high: float
    """95% bootstrap interval of the ratio."""
    verdict: str
    """"same", "faster", "slower", or "not comparable" where the two are of different provenance."""


def changes(a: Results, b: Results) -> tuple[Change, ...]:
    """Every row that both have.

    A difference is one where its interval lies beyond the noise that either run found in itself, 2% at least.
    """
    mine = {row.key: row.measurement for row in a.rows if row.measurement}
    found = []
    for row in b.rows:
        before = mine.get(row.key)
        if before and row.measurement:
            found.append(_change(row, before, row.measurement))
    return tuple(found)


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


def ratio_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """95% bootstrap interval of median(b) / median(a); seeded, so equal samples give equal intervals."""
    random = np.random.default_rng(0)
    medians = [
        np.median(random.choice(np.asarray(samples), size=(RESAMPLED, len(samples))), axis=1) for samples in (a, b)
    ]
    low, high = np.percentile(medians[1] / medians[0], [2.5, 97.5])
    return float(low), float(high)


HEADINGS: Final = ("model", "export", "engine", "threads", "p50 ms", "p90 ms", "p99 ms", "memory MB", "stable", "where")


def cells(row: Row) -> tuple[str, ...]:
    """A row of a table, each number with where it is from at the end."""
    found = row.measurement
    if found is None:
        return (row.model, row.export, row.engine, str(row.threads), f"failed: {row.error}", "", "", "", "", "")
    latency = found.latency_ms
    return (
        row.model,
        row.export,
        f"{row.engine} {found.engine_version}",
        str(row.threads),
        *(f"{value:.4g}" for value in (latency.p50, latency.p90, latency.p99)),
        f"{found.memory.peak_rss_bytes / 1e6:.3g}",
        "yes" if found.valid else "no",
        found.provenance,
    )


def markdown(results: Results) -> str:
    """A table for a README."""
    lines = [f"# {results.suite} on {results.device}", "", _origin(results), ""]
    lines += [_line(HEADINGS), _line(["---"] * len(HEADINGS))]
    lines += [_line(cells(row)) for row in results.rows]
    return "\n".join(lines) + "\n"


def html(results: Results) -> str:
    """One page that loads nothing."""
    head = "".join(f"<th>{escape(one)}</th>" for one in HEADINGS)
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
    """JUnit XML: a test case a row; one that failed, or became slower, is a failure."""
    slower = {(one.model, one.export, one.engine, one.threads): one for one in changed if one.verdict == "slower"}
    parts, failures = [], 0
    for row in results.rows:
        worse = slower.get(row.key)
        why = row.error or (f"{worse.ratio:.3f} times as slow as before" if worse else "")
        failures += bool(why)
        inner = f"<failure message={quoteattr(why)}>{xml_escape(row.hint)}</failure>" if why else ""
        seconds = row.measurement.latency_ms.p50 / 1000 if row.measurement else 0.0
        parts.append(
            f'  <testcase classname={quoteattr(results.suite)} name={quoteattr(row.title)} time="{seconds:.6f}">'
            f"{inner}</testcase>"
        )
    top = f'<testsuite name={quoteattr(results.suite)} tests="{len(parts)}" failures="{failures}">'
    whole = "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', top, *parts, "</testsuite>"]) + "\n"
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in whole)  # XML has no control characters


def _origin(results: Results) -> str:
    machines = {
        f"{row.measurement.machine.cpu}, {row.measurement.machine.system}" for row in results.rows if row.measurement
    }
    return f"{'; '.join(sorted(machines)) or 'nothing measured'}; started {results.started}, edgekd {results.edgekd}"


def _line(values: Iterable[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"
