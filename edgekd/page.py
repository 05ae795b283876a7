"""The report as one page that opens offline: report.json in, HTML out."""

import html
import json
from typing import Any


def render(summary: dict[str, Any]) -> str:
    """One self-contained HTML document of what `report.json` holds."""
    return f"<pre>{html.escape(json.dumps(summary, indent=1))}</pre>"
