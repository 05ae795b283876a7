"""The report as one page that opens offline: report.json in, HTML out.

page.html.jinja lays out words and tables; pictures are drawn by altair and stand in the page as SVG. All text of the
summary is untrusted: Jinja and the SVG writer escape it. Any part of the summary may be missing.
"""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from edgekd.errors import PluginUnavailable
from edgekd.examples import Example
from edgekd.page._numbers import (
    Summary,
    chosen_first,
    count,
    fact,
    mappings,
    milliseconds,
    number,
    percent,
    points,
    size,
)
from edgekd.page._pictures import (
    COLOURS,
    accuracy_kinds,
    latency_pictures,
    plan_picture,
    size_picture,
    spread_pictures,
    svg,
)
from edgekd.page._words import (
    badge,
    basis,
    candidates,
    commands,
    compared,
    comparison,
    counts,
    device_facts,
    finalists,
    firmware,
    ladders,
    machines,
    metric_of,
    slower,
    spoken,
    verdict,
)
from edgekd.specs import Provenance

if TYPE_CHECKING:
    import jinja2


LEGEND: Final[dict[Provenance, str]] = {
    "measured": "on the device itself",
    "emulated": "the artifact's own machine code, run under emulation of the device's processor",
    "estimated": "by a cost model, with an interval that holds it in nine of ten cases where one is shown",
    "host": "on the machine that ran edgekd, which is not the device",
}
MOST_ROWS: Final = 100
"""Of a table."""

MOST_CLASSES: Final = 40


def render(summary: Summary, examples: Sequence[Example] = ()) -> str:
    """One self-contained HTML document of what `report.json` holds, and of test images where there are some.

    Raises:
        PluginUnavailable: jinja2, altair or vl-convert is not installed.
    """
    for package in ("jinja2", "altair", "vl_convert"):
        if find_spec(package) is None:
            raise PluginUnavailable(f"the report page needs {package}", hint="pip install 'edgekd[report]'")
    return _template().render(page(summary, examples))


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
    template = resources.files("edgekd.page").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template)


def page(summary: Summary, examples: Sequence[Example] = ()) -> dict[str, Any]:
    """What the template lays out: the summary, and what is worked out from it."""
    from markupsafe import Markup

    from edgekd.page._examples import drawn

    metric = metric_of(summary)
    chosen = next((one for one in mappings(summary, "artifacts") if one.get("export") == summary.get("artifact")), {})
    verdicts = [verdict(one) for one in mappings(summary, "verdicts")]
    parities = [one for artifact in mappings(summary, "artifacts") for one in mappings(artifact, "parity")]
    pictures = {
        "artifacts": [*size_picture(summary), *latency_pictures(summary)],
        "spreads": spread_pictures(summary),
        "plan": plan_picture(summary),
    }
    return {
        "summary": summary,
        "metric": metric,
        "metric_title": spoken(metric),
        "accuracy_kinds": accuracy_kinds(summary),
        "chosen": chosen,
        "badge": badge(summary),
        "basis": basis(summary),
        "verdicts": verdicts,
        "compared": compared(summary),
        "artifacts": chosen_first(summary, "export", mappings(summary, "artifacts")),
        "parities": chosen_first(summary, "artifact", parities),
        "ladders": ladders(summary),
        "measurements": chosen_first(summary, "artifact", mappings(summary, "measurements")),
        "counts": counts(summary),
        "firmware": firmware(summary),
        "failures": chosen_first(summary, "artifact", mappings(summary, "failures")),
        "slower": slower(summary),
        "most_rows": MOST_ROWS,
        "pictures": {
            section: [(picture, Markup(svg(picture.chart))) for picture in drawn]  # vl-convert has escaped all text
            for section, drawn in pictures.items()
        },
        "examples": [drawn(example, summary.get("classes") or ()) for example in examples],
        "comparison": comparison(summary, chosen),
        "candidates": candidates(summary),
        "finalists": finalists(summary),
        "machines": machines(summary),
        "device_facts": device_facts(summary),
        "commands": commands(summary, chosen),
        "legend": LEGEND,
        "colours": COLOURS,
        "most_classes": MOST_CLASSES,
    }
